"""How far log shippers have read: one module for each format of their state files, not used by the agent yet.

A parser is pure: it takes the content of a state file, or the path of a database, and returns positions. It imports
nothing of the agent.
"""
