"""``fstat-exporter top``: what grows now, of a running agent or of patterns, in the terminal or as plain text.

`files`, `sources`, `writers` <- `screen` <- `command`. Only `screen` imports urwid, of the extra ``[top]``. It imports
the tracker and what the agent makes of it; only `cli` imports it.
"""
