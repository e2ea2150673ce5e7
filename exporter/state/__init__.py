"""The saved state: the SQLite file with the facts and totals, and the thread that saves them.

It imports `ledger`, `publication` and `ops`; the agent and the scraper import it.
"""
