"""Who may ask: the web configuration file, TLS, passwords.

It imports `config`, `ops` and the streams of `web`; the server, its guard and those who start it import it.
"""
