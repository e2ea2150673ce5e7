"""The configuration: YAML nodes to frozen values, or every mistake with its place; and its JSON schema.

`errors` <- `fields`, `globs` <- `groups` <- `model` <- `schema`. It imports nothing else of the agent.
"""
