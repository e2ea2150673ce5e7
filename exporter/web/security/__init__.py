"""Access control: the web configuration file, TLS, passwords, the tokens of Kubernetes.

It imports `config` and `ops`; the server, its guard, the agent and the command line import it.
"""
