"""The facts: what has been seen of each path and inode, and what it counts for. Pure: no I/O, no clock, no labels.

It imports nothing of the agent; publication, state and the tracker import it.
"""
