"""What is shown of the ledger beyond its books: so far, the growth of the last quarter of an hour.

It imports `ledger`; the scraper and the status page import it.
"""
