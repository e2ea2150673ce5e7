"""Who may ask: the web configuration file, TLS, passwords.

It imports `config` and `ops`; the server, its guard and those who start it import it.
"""
