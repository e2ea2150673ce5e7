"""Which files the configuration means, and which labels a file gets. Pure: no I/O.

It imports `config` only; discovery and the tracker use it.
"""
