"""Writes a scrape: rows of files kept as text and gzip blocks, families of the library, the agent's own metrics.

It imports `config` and `ledger`, and `collector` the tracker too; only the scraper imports it.
"""
