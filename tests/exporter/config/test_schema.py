"""config/exporter.schema.json: what the code generates, valid itself, and of one mind with the agent."""

import json
import re
from functools import cache
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from exporter.config.errors import ConfigError
from exporter.config.model import parse
from exporter.config.schema import generate
from tests.support import REPOSITORY, fenced_blocks

BAD_CONFIG = Path(__file__).parent / "bad_config"

# What no schema can refuse, and why.
BEYOND_A_SCHEMA = {
    "two keys of one name are one when it is asked": ["duplicate-key-of-a-group", "duplicate-label"],
    "it compares nothing with anything": [
        "aggregate_by-misspelt",
        "aggregate_by-unknown",
        "aggregate_by-without-labels",
        "expression-clash",
        "group-twice",
        "group-twice-by-merge",
        "group-twice-by-preset",
        "metrics-mode-and-label",
        "preset-clash",
        "preset-twice",
        "preset-without-its-labels",
        "shipper-group-misspelt",
        "shipper-group-unknown",
        "shipper-twice",
        "zero_for-missing",
        "zero_for-without-zero",
        "zero_for-of-a-group",
    ],
    "it does not calculate": ["stale_grace-too-long"],
    "it knows numbers, not how they are written": ["max_files-hexadecimal", "max_files-with-an-underscore-at-its-end"],
    "it compiles no expression": [
        "expression-group-twice",
        "expression-in-lines",
        "expression-nested",
        "expression-position",
        "expression-repeats-nothing",
        "expression-repeats-too-often",
    ],
    "it compiles no pattern": ["pattern-class", "pattern-dates", "pattern-explodes", "pattern-nested", "pattern-range"],
}


@cache
def validator() -> Draft7Validator:
    """Of the schema that is published."""
    return Draft7Validator(json.loads((REPOSITORY / "config" / "exporter.schema.json").read_text()))


def refuses(text: str) -> bool:
    """Whether the schema refuses the configuration, or it is not even read."""
    try:
        config = yaml.safe_load(text)
    except (yaml.constructor.ConstructorError, KeyError):  # a key that is a list, !!bool x
        return True
    return not validator().is_valid(config)


def test_the_schema_is_the_code_s() -> None:
    """The file in the repository is what `make schema` writes."""
    assert (REPOSITORY / "config" / "exporter.schema.json").read_text() == generate(), "run `make schema`"


def test_the_schema_is_valid() -> None:
    """It is a JSON Schema of the draft it names."""
    Draft7Validator.check_schema(validator().schema)
    assert validator().schema["$schema"] == Draft7Validator.META_SCHEMA["$schema"]


def test_every_key_is_described() -> None:
    """With a sentence, and what holds without it, unless that is nothing."""

    def keys(schema: dict[str, dict], path: str) -> list[str]:
        return [
            f"{path}{name}"
            for name, key in schema.get("properties", {}).items()
            if not re.fullmatch("[A-Z].*[.]", key["description"])
            or ("default" not in key and name not in without and key.get("type") != "object")
        ] + [bad for name, key in schema.get("properties", {}).items() for bad in keys(key, f"{path}{name}.")]

    without = (
        *("logs", "preset", "group", "paths", "path_regex", "max_series", "path", "authorization"),
        *("name", "type", "match", "flush_interval"),
        *("first_sample", "zero_for"),
    )
    assert keys(validator().schema, "") == []
    for section in ("logs", "shippers"):
        assert keys(validator().schema["properties"][section]["items"], f"{section}.") == []


def test_defaults_are_those_of_the_agent() -> None:
    """Writing every default into a file changes nothing."""
    schema = validator().schema

    def defaults(section: dict[str, dict]) -> dict[str, object]:
        return {name: key["default"] for name, key in section["properties"].items() if "default" in key}

    group = {"group": "a", "paths": ["/a"]}
    shipper = {"name": "a", "type": "vector", "path": "/a"}
    sections = {name: defaults(key) for name, key in schema["properties"].items() if key.get("type") == "object"}
    full = {**sections, **defaults(schema), "logs": [{**group, **defaults(schema["properties"]["logs"]["items"])}]}
    assert full["shippers"] == []
    full["shippers"] = [{**shipper, **defaults(schema["properties"]["shippers"]["items"])}]
    assert full["cache"] == {"max_files": 100_000, "cpu_budget": "1%", "audit_interval": "5m"}
    assert not refuses(json.dumps(full))
    assert parse(json.dumps(full), "x.yml") == parse(json.dumps({"logs": [group], "shippers": [shipper]}), "x.yml")


def examples() -> dict[str, str]:
    """The configurations of the agent that people copy."""
    blocks = [block for block in fenced_blocks() if block.language == "yaml" and "scrape_configs:" not in block.text]
    return {f"{block.document}:{block.line}": block.text for block in blocks} | {
        "config/exporter.yml": (REPOSITORY / "config" / "exporter.yml").read_text()
    }


@pytest.mark.parametrize("text", examples().values(), ids=examples().keys())
def test_examples_are_valid(text: str) -> None:
    """The default file and those in the documents."""
    assert [error.message for error in validator().iter_errors(yaml.safe_load(text))] == []


def test_what_a_schema_can_refuse_is_refused() -> None:
    """Of the bad files that are YAML it passes those that are named above, and no others."""
    passed = set()
    for path in BAD_CONFIG.glob("*.yml"):
        told = path.with_suffix(".txt").read_text()
        no_document = re.search("not YAML|not UTF-8|aliases expanded|refers to itself|second document", told)
        if not no_document and not refuses(path.read_text()):
            passed.add(path.stem)
    assert passed == {name for names in BEYOND_A_SCHEMA.values() for name in names}


def durations(largest: int) -> st.SearchStrategy[str]:
    """What is a duration more often than not."""
    parts = st.lists(st.tuples(st.integers(0, largest), st.sampled_from(["w", "d", "h", "m", "s", "ms"])), max_size=3)
    return parts.map(lambda found: "".join(f"{count}{unit}" for count, unit in found))


GLOB = st.text("/ab*?[]{},!\\.-^", max_size=10)
TEXTS = {
    "rescan_interval": durations(100),
    "stale_grace": durations(2000),
    "zero_for": durations(100),
    "content_budget": st.tuples(
        st.integers(-1, 2**40), st.sampled_from(["", "B", "KB", "KiB", "MiB", "GiB", " MiB"])
    ).map(lambda size: f"{size[0]}{size[1]}"),
    "cpu_budget": st.decimals(0, 200, places=1).map(lambda number: f"{number}%"),
    "listen_address": st.tuples(st.sampled_from(["", "a.b-c", "[::1]", "[]", "::1"]), st.integers(0, 70_000)).map(
        lambda address: f"{address[0]}:{address[1]}"
    ),
    "telemetry_path": st.text("/a.-", max_size=6).map(lambda text: f"/{text}"),
    "path": st.text("/a.", max_size=6).map(lambda text: f"/{text}"),
    "paths": GLOB.map(lambda text: f"/{text}"),
    "exclude": GLOB,
    "path_regex": st.lists(st.sampled_from(["(?P<a>x)", "(?P<group>x)", "(?P<", "__>", "[", "]", "\\"])).map("".join),
    "aggregate_by": st.sampled_from(["group", "path", "team", "0", ""]),
    "shipper path": GLOB.map(lambda text: f"/{text}"),
    "flush_interval": durations(100),
    "path_map": st.text("/a.~", max_size=6),
}


@settings(max_examples=400)
@given(data=st.data(), key=st.sampled_from(sorted(TEXTS)))
def test_what_the_agent_takes_the_schema_takes(data: st.DataObject, key: str) -> None:
    """An editor never marks what is right."""
    value = data.draw(TEXTS[key])
    group: dict[str, object] = {"group": "a", "paths": ["/a"], "labels": {"team": "x"}}
    config: dict[str, object] = {"logs": [group]}
    if key == "cpu_budget":
        config["cache"] = {key: value}
    elif key in ("listen_address", "telemetry_path"):
        config["web"] = {key: value}
    elif key == "path":
        config["state"] = {key: value}
    elif key in ("rescan_interval", "stale_grace", "zero_for", "content_budget"):
        config[key] = value
        group["first_sample"] = "zero" if key == "zero_for" else "actual"
    elif key in ("shipper path", "flush_interval", "path_map"):
        shipper = {"name": "a", "type": "vector", "path": "/a"}
        change = {"path_map": {value: value}} if key == "path_map" else {key.split()[-1]: value}
        config["shippers"] = [shipper | change]
    else:
        group[key] = value if key == "path_regex" else [value]
    text = json.dumps(config)
    try:
        parse(text, "x.yml")
    except ConfigError:
        return
    assert not refuses(text)
