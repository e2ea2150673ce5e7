"""Which files the configuration means, and which labels a file gets. Pure: no I/O.

It imports `config.globs` only; discovery and the tracker use it.
"""
