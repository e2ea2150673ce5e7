"""The JSON Schema of the configuration, made of what reads it: ``python -m exporter.config.schema`` prints it.

It lets an editor complete and check the file. Whatever the agent takes is valid by it; what only the agent can tell,
such as a name that comes twice, it leaves to ``fstat-exporter --config.check``.
"""

from __future__ import annotations

import json

from exporter.config.fields.sections import Section
from exporter.config.model import Config


def generate() -> str:
    """Return the schema, as config/exporter.schema.json has it."""
    schema = {
        # Draft 7 is what the language servers for YAML know best.
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "fstat-exporter",
        "description": "The configuration of fstat-exporter.",
        **Section(Config).schema(),
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(generate(), end="")
