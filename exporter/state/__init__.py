"""What survives a restart: the SQLite file of the ledger, and the thread that saves it.

It imports `ledger` and `ops`; the agent and the scraper import it.
"""
