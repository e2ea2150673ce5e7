"""The facts as one configuration publishes them: rows, totals, `max_series`, grace, and the growth of 15 minutes.

It imports `ledger`, `matching.labels` and the groups of `config`; state, exposition, tracker and scraper import it.
"""
