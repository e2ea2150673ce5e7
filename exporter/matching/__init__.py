"""The match of a file and its labels, by the configuration. Pure: no I/O.

It imports `config` only; discovery and the tracker use it.
"""
