"""The configuration: YAML nodes to frozen values, or every mistake with its place; and its JSON schema.

`errors` <- `kinds` <- `values` <- `groups` <- `model` <- `schema`. It imports `matching.globs` only, to check patterns.
"""
