"""The configuration: YAML nodes to frozen values, or every mistake with its place; and its JSON schema.

`errors` <- `fields` <- `groups` <- `model` <- `schema`. It imports `matching.globs` only, to check patterns.
"""
