"""The configuration: YAML nodes to frozen values, or all mistakes with their places; and its JSON schema.

`errors` <- `fields`, `globs` <- `groups` <- `shippers` <- `model` <- `schema`. It imports nothing else of the agent.
"""
