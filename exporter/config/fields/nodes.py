"""YAML nodes: the keys of a mapping, and how an error describes a node."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

import yaml

from exporter.config.errors import Report, shortened

STRING, INTEGER, BOOLEAN = "tag:yaml.org,2002:str", "tag:yaml.org,2002:int", "tag:yaml.org,2002:bool"
NULL, _MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"
LIST, _MAPPING = "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"
# The tags that a plain scalar may get. As a key it is still its text: `on: x` has the key "on".
_KEYS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge")}
_MAX_HINT_NAMES = 20


def entries(
    node: yaml.Node, key_path: str, report: Report, *, is_secret: bool = False
) -> dict[str, tuple[yaml.ScalarNode, yaml.Node]] | None:
    """Return the keys and values of a mapping, including those that ``<<`` merges, or None if it is not a mapping."""
    if not isinstance(node, yaml.MappingNode) or node.tag != _MAPPING:
        report.wrong(node, key_path, f"expected a mapping, found {found(node, is_secret=is_secret)}")
        return None
    pairs: dict[str, tuple[yaml.ScalarNode, yaml.Node]] = {}
    stack: list[yaml.Node] = [node]
    while stack:
        mapping = stack.pop()
        if not isinstance(mapping, yaml.MappingNode):
            what = f"expected a mapping to merge, found {found(mapping, is_secret=is_secret)}"
            report.wrong(mapping, joined(key_path, "<<"), what)
            continue
        own: dict[str, yaml.ScalarNode] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in mapping.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag not in _KEYS or not key_node.value:
                report.wrong(key_node, key_path, f"expected a key, found {found(key_node, is_secret=is_secret)}")
            elif is_secret and ":" in key_node.value:
                report.wrong(key_node, key_path, "a ':' in a key, expected a space after it")
            elif key_node.tag == _MERGE:
                merged.extend(value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node])
            elif key_node.value in own:
                what = f"the key is defined twice, first in line {own[key_node.value].start_mark.line + 1}"
                report.wrong(key_node, joined(key_path, key_node.value), what)
            else:
                own[key_node.value] = key_node
                pairs.setdefault(key_node.value, (key_node, value_node))  # a mapping's own keys override merged ones
        stack.extend(reversed(merged))
    return pairs


def made_node(value: str | Iterable[str], mark: yaml.Mark) -> yaml.Node:
    """Return a node of a string or of a list of strings, placed at the mark."""
    if isinstance(value, str):
        return yaml.ScalarNode(STRING, value, mark)
    return yaml.SequenceNode(LIST, [made_node(text, mark) for text in value], mark)


def found(node: yaml.Node, *, is_secret: bool = False) -> str:
    """Describe a value for an error; without the value and its tag if it is secret."""
    if isinstance(node, yaml.CollectionNode):
        what = "a mapping" if isinstance(node, yaml.MappingNode) else "a list"
        tag = "a tag" if is_secret else f"the tag {shortened(node.tag, 60)}"
        return what if node.tag in (_MAPPING, LIST) else f"{what} with {tag}"
    if node.tag == NULL:
        return "nothing"
    if is_secret:
        return "a string" if node.tag == STRING else "a value that is not a string"
    short = shortened(node.value, 40)
    if node.tag == STRING:
        return f"the string {short!r}"
    if node.tag.startswith("tag:yaml.org,2002:"):
        return f"{short} ({shortened(node.tag.rpartition(':')[2], 60)})"
    return f"{short!r} with the tag {shortened(node.tag, 60)}"


def hint(name: str, known: Sequence[str]) -> str:
    """Return the known name that is closest to an unknown one, or the known names."""
    close = difflib.get_close_matches(name[:100], known[:100], n=1)
    if close:
        return f"did you mean '{shortened(close[0])}'?"
    more = ", ..." if len(known) > _MAX_HINT_NAMES else ""
    return f"expected one of: {', '.join(known[:_MAX_HINT_NAMES])}{more}"


def joined(key_path: str, name: str) -> str:
    """Return the key path of a key in a section."""
    shown = name if re.fullmatch(r"[\w.@-]{1,60}", name) else repr(name[:60])
    return f"{key_path}.{shown}" if key_path else shown
