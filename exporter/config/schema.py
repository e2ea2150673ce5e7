"""The JSON Schema of the configuration, generated from its readers: ``python -m exporter.config.schema`` prints it.

It lets an editor complete and check the file. It accepts everything that the agent accepts. What a schema cannot
express, such as a name that is used twice, ``fstat-exporter --config.check`` finds.
"""

from __future__ import annotations

import json

from exporter.config.fields.sections import Section
from exporter.config.model import Config


def generate() -> str:
    """Return the schema, as config/exporter.schema.json has it."""
    schema = {
        # Draft 7 has the best support in the language servers for YAML.
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "fstat-exporter",
        "description": "The configuration of fstat-exporter.",
        **Section(Config).schema(),
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(generate(), end="")
