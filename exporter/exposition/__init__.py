"""Writes a scrape: rows of files kept as text and gzip blocks, the catalogue of families, families of the library.

It imports `config` and `publication`; the collector and the scraper import it.
"""
