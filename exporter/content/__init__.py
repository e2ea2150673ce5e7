"""What is in the files: appended lines, and checksums of small files. A worker reads them within a budget.

`lines` and `checksums` are pure and import `ledger`; `opening` and `reading` import the cache; `contents` also imports
`config` and the tracker. The agent, the scraper, the collector and `state` import it.
"""
