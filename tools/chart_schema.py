"""The JSON Schema of the Helm chart's values: ``python -m tools.chart_schema`` prints it.

The file is written by hand, but for ``config``: that is the schema of exporter.yml, less the keys that the chart sets.
"""

import json
from pathlib import Path
from typing import Any

from exporter.config.schema import generate as generate_for_agent

PATH = Path(__file__).resolve().parent.parent / "config" / "helm" / "fstat-exporter" / "values.schema.json"
SET_BY_THE_CHART = ("state", "web")


def without_lookahead(node: dict[str, Any]) -> dict[str, Any]:
    """Remove a pattern that Helm's regular expressions, those of Go, cannot express; the agent itself checks it."""
    return {key: value for key, value in node.items() if key != "pattern" or not ("(?=" in value or "(?!" in value)}


def generate() -> str:
    """Return the schema, as values.schema.json has it."""
    config = json.loads(generate_for_agent(), object_hook=without_lookahead)
    for name in ("$schema", "title"):
        del config[name]
    for name in SET_BY_THE_CHART:
        del config["properties"][name]
    schema = json.loads(PATH.read_text())
    schema["properties"]["config"] = config
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(generate(), end="")
