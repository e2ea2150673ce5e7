"""How far log shippers have read: one module for each format of their state files, and a table of all types.

A parser is pure: it takes the content of a state file, or the path of a database, and returns positions. It imports
nothing of the agent.
"""
