"""Fields of a YAML file: each kind reads a node to a value, and says in JSON Schema what it reads.

`nodes` <- `scalars` <- `sections`. Errors name the place, the key, the fault and what was expected; they quote the
value unless its kind has the flag `is_secret`. It imports `config.errors` only.
"""
