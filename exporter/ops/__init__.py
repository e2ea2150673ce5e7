"""Services for a daemon: log, systemd, health, blocking calls, lasting faults.

All other folders may import this one; it imports nothing of the agent, only the cache for `health`.
"""
