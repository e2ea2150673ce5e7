"""What a daemon needs besides its task: log, systemd, health, blocking calls, faults that last.

Everything else may import this folder; it imports nothing of the agent, only the cache that `health` asks.
"""
