"""The facts as one configuration publishes them: rows, totals, `max_series`, zeros, grace, growth of 15 minutes.

It imports `ledger`, `matching.labels` and the groups of `config`; state, exposition, tracker and scraper import it.
"""
