"""Which files the configuration means, and which labels a file gets. Pure: no I/O.

It imports nothing of the agent. `config` checks patterns with `globs`; discovery and the tracker use the rest.
"""
