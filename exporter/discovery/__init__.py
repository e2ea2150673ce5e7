"""Finds the files that the patterns match: the tree of directories with its symbolic links, and the remote scanner.

It imports `matching` and `ops`, and lists directories. The tracker gives it a watcher and takes what it finds.
"""
