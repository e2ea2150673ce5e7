"""Fields of a YAML file: each kind reads a node to a value, and has a JSON Schema.

`nodes` <- `scalars` <- `sections`. Errors name the place, the key, the fault and the expectation; they quote the value
unless its kind has the flag `is_secret`. It imports `config.errors` only.
"""
