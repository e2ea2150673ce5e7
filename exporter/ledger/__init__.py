"""What has been seen of each file, and whose growth it is. Pure: no I/O, no clock, no configuration.

It imports nothing of the agent; publication, state, exposition and the tracker import it.
"""
