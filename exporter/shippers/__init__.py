"""How far log shippers have read: parsers of their state files, and the account of what is read, unread and lost.

The formats and their readers import no other part of the agent; accounts import `ledger`, and `shipper` and `shippers`
also `config`, `matching`, `ops` and the tracker. The agent, the scraper, the collector and `state` import it.
"""
