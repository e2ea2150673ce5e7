"""The facts: the known state of each path and inode, and their counters. Pure: no I/O, no clock, no labels.

It imports nothing of the agent; publication, state and the tracker import it.
"""
