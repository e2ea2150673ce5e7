"""Writes the answer to a scrape: rows kept as text and gzip blocks, the catalogue of families, the library's families.

It imports `config` and `publication`; the collector and the scraper import it.
"""
