"""Finds the files that match: directories, symbolic links, renamed files, and the scanner of remote filesystems.

It imports `matching`, `ops` and `fstat_cache`. It yields findings, which the tracker performs and answers.
"""
