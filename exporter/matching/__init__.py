"""Decides by the configuration which files match, and which labels they get. Pure: no I/O.

It imports `config` only; discovery and the tracker use it.
"""
