"""The HTTP side: server, guard, handlers, the JSON API and the status page.

It imports the scraper, the status page's read model, `config` and `ops`; the agent and the command line import it.
"""
