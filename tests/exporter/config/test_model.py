"""The configuration: what is read, and what is said of each mistake."""

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.config.errors import ConfigError
from exporter.config.fields.scalars import ListenAddress, parse_duration, parse_listen_address
from exporter.config.globs import Include
from exporter.config.groups import LogGroup
from exporter.config.model import (
    CacheConfig,
    Config,
    StateConfig,
    WebConfig,
    from_patterns,
    parse,
)
from exporter.config.shippers import SHIPPER_TYPES, ShipperConfig
from exporter.matching.automaton import PathMatcher, number_groups

LOGS = "logs: [{group: a, paths: [/a]}]\n"


def mistakes(text: str) -> list[str]:
    """What is said of a bad text, line by line."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "x.yml")
    return str(caught.value).splitlines()


def test_everything_is_read() -> None:
    """Each key ends up in its field."""
    config = parse(
        """
        cache: {max_files: 1_000, cpu_budget: 0.5%, audit_interval: 2m}
        state: {path: /var/lib/a.db}
        stale_grace: 0s
        first_sample: zero
        zero_for: 15s
        rescan_interval: 1m30s
        web: {listen_address: "[::1]:9000", telemetry_path: /m}
        logs:
          - group: system
            paths: ["/var/log/**/*.log", /var/log/syslog]
            exclude: ["*.old"]
            follow_symlinks: true
            labels: {team: infra}
            path_regex: '/(?P<name>[^/]+)$'
            aggregate_by: [team, name]
            max_series: 5_000
            metrics: [rotations, size, unread]
            first_sample: actual
          - {group: sums, paths: [/a], per_file: no}
        shippers:
          - name: fluent-bit
            type: fluent-bit
            path: /var/log/flb_*.db
            groups: [sums]
            paths: [/var/log/pods/*/*/*.log]
            exclude: ["*_debug.log", /var/log/pods/*/istio-proxy]
            complete: true
            flush_interval: 60s
            path_map: {/var/log: /host/var/log, /: /host}
          - {name: otel, type: process, match: "otelcol*", flush_interval: 0s}
        """,
        "x.yml",
    )
    group = config.logs[0]
    assert group.path_regex is not None
    assert group.path_regex.pattern == "/(?P<name>[^/]+)$"
    assert config == Config(
        cache=CacheConfig(1000, cpu_budget=0.005, audit_interval_s=120),
        state=StateConfig("/var/lib/a.db"),
        stale_grace_s=0,
        first_sample="zero",
        zero_for_s=15,
        rescan_interval_s=90,
        web=WebConfig(ListenAddress("::1", 9000), "/m"),
        logs=(
            LogGroup(
                "system",
                ("/var/log/**/*.log", "/var/log/syslog"),
                ("*.old",),
                {"team": "infra"},
                group.path_regex,
                aggregate_by=("team", "name"),
                max_series=5000,
                metrics=frozenset({"rotations", "size", "unread"}),
                first_sample="actual",
                follow_symlinks=True,
            ),
            LogGroup("sums", ("/a",), per_file=False),
        ),
        shippers=(
            ShipperConfig(
                "fluent-bit",
                "fluent-bit",
                "/var/log/flb_*.db",
                groups=("sums",),
                paths=("/var/log/pods/*/*/*.log",),
                exclude=("*_debug.log", "/var/log/pods/*/istio-proxy"),
                complete=True,
                flush_interval_s=60,
                path_map={"/var/log": "/host/var/log", "/": "/host"},
            ),
            ShipperConfig("otel", "process", match="otelcol*", flush_interval_s=0),
        ),
    )


def test_first_sample() -> None:
    """The keys of a group override the global ones."""
    groups = "[{group: a, paths: [/a], first_sample: zero}, {group: b, paths: [/b], first_sample: actual}"
    text = f"zero_for: 15s\nlogs: {groups}, {{group: c, paths: [/c]}}]\n"
    assert parse(text, "x.yml").zeros == {0: 15}
    assert parse(f"first_sample: zero\n{text}", "x.yml").zeros == {0: 15, 2: 15}
    text = "logs: [{group: a, paths: [/a], first_sample: zero, zero_for: 5s}]"
    assert parse(text, "x.yml").zeros == {0: 5}


def test_defaults() -> None:
    """Only `logs` is needed."""
    config = parse(LOGS, "x.yml")
    assert (config.cache.max_files, config.rescan_interval_s, config.web.telemetry_path) == (100_000, 300, "/metrics")
    assert (config.cache.cpu_budget, config.cache.audit_interval_s) == (0.01, 300)
    assert str(config.web.listen_address) == ":10943"
    assert (config.state.path, config.stale_grace_s) == (None, 60)
    assert (config.zeros, config.zero_for_s) == ({}, None)
    (group,) = config.logs
    assert (group.aggregate_by, group.per_file, group.max_series) == ((), True, None)
    assert group.metrics == {"size", "mtime", "changes", "appended_bytes"}
    assert config.shippers == ()


def test_default_file_is_valid() -> None:
    """The file that is shipped is valid and says the defaults, and so is it with all that is commented out."""
    text = (Path(__file__).parents[3] / "config" / "exporter.yml").read_text()
    shipped = parse(text, "x.yml")
    assert [group.group for group in shipped.logs] == ["system", "applications"]
    assert shipped == Config(shipped.logs)
    keys = "state|path|stale_grace|labels|metrics|max_series|follow_symlinks|- preset|shippers|- name|type|groups"
    full = parse(re.sub(f"(?m)^( *)# ( *(?:{keys}):)", r"\1\2", text), "x.yml")
    assert [group.group for group in full.logs] == ["system", "applications", "pods"]
    state = StateConfig("/var/lib/fstat-exporter/state.db")
    shipper = ShipperConfig("fluent-bit", "fluent-bit", "/var/lib/fluent-bit/tail.db", groups=("applications",))
    assert full == Config(full.logs, state=state, shippers=(shipper,))
    assert full.logs[0] == replace(shipped.logs[0], labels={"team": "infra"}, max_series=5000)
    assert full.logs[1] == replace(shipped.logs[1], follow_symlinks=True)


@pytest.mark.parametrize("kind", SHIPPER_TYPES)
def test_defaults_of_a_shipper(kind: str) -> None:
    """A shipper needs a name, a type, and the place of its positions: a path, or a match for type process."""
    place = "match" if kind == "process" else "path"
    (shipper,) = parse(f"{LOGS}shippers: [{{name: a, type: {kind}, {place}: /x}}]", "x.yml").shippers
    assert (shipper.name, shipper.type, getattr(shipper, place)) == ("a", kind, "/x")
    assert {shipper.path, shipper.match} == {"/x", None}
    assert (shipper.groups, shipper.paths, shipper.exclude, shipper.path_map) == ((), (), (), {})
    assert (shipper.complete, shipper.flush_interval_s) == (False, None)


@pytest.mark.parametrize(
    ("path", "base"),
    [
        ("/var/lib/rsyslog", "/var/lib/rsyslog"),
        ("/var/lib/rsyslog/", "/var/lib/rsyslog"),
        ("/a/{b,c}/.sincedb_*", "/a/b"),
    ],
)
def test_path_of_a_shipper(path: str, base: str) -> None:
    """The path of the positions is compiled as a pattern; a directory may end with a slash."""
    (shipper,) = parse(f"{LOGS}shippers: [{{name: a, type: rsyslog, path: '{path}'}}]", "x.yml").shippers
    assert isinstance(shipper.path, Include)
    assert shipper.path.globs[0].base == base


def test_other_shippers_are_another_configuration() -> None:
    """A change of any key of a shipper makes the configuration differ."""
    first = {"name": "a", "type": "vector", "path": "/a"}
    changes: list[dict[str, object]] = [
        {},
        {"name": "b"},
        {"type": "datadog"},
        {"path": "/b"},
        {"groups": ["a"]},
        {"paths": ["/a"]},
        {"exclude": ["a"]},
        {"complete": True},
        {"flush_interval": "1s"},
        {"path_map": {"/a": "/b"}},
    ]
    lists = [[], *([{**first, **change}] for change in changes)]
    configs, again = ([parse(f"{LOGS}shippers: {json.dumps(each)}", "x.yml") for each in lists] for _ in range(2))
    assert configs == again
    assert all(one != other for one, other in itertools.combinations(configs, 2))


@pytest.mark.parametrize(
    ("path", "labels"),
    [
        (
            "shop_web-7db6d8ff4d-abcde_01234567-89ab-cdef-0123-456789abcdef/nginx/0.log",
            {
                "namespace": "shop",
                "pod": "web-7db6d8ff4d-abcde",
                "uid": "01234567-89ab-cdef-0123-456789abcdef",
                "container": "nginx",
            },
        ),
        (  # a static pod
            "kube-system_etcd-node1_d41d8cd98f00b204e9800998ecf8427e/etcd/12.log",
            {
                "namespace": "kube-system",
                "pod": "etcd-node1",
                "uid": "d41d8cd98f00b204e9800998ecf8427e",
                "container": "etcd",
            },
        ),
    ],
)
def test_preset_for_kubernetes(path: str, labels: dict[str, str]) -> None:
    """The preset alone finds the containers' logs; below any root its expression takes them apart."""
    (group,) = parse("logs: [{preset: kubernetes-pods}]", "x.yml").logs
    assert (group.group, group.aggregate_by) == ("pods", ("namespace", "pod", "container"))
    assert PathMatcher(number_groups([group])).match(f"/var/log/pods/{path}") is not None
    assert group.path_regex is not None
    for root in ("/var/log/pods", "/mnt/the_disk_of/this_node"):
        match = group.path_regex.search(f"{root}/{path}")
        assert match is not None
        assert match.groupdict() == labels


def test_keys_beat_the_preset() -> None:
    """What is written beside a preset replaces what the preset says of that key, and nothing else."""
    (preset,) = parse("logs: [{preset: kubernetes-pods}]", "x.yml").logs
    (group,) = parse(
        "logs: [{preset: kubernetes-pods, group: a, paths: [/a], labels: {b: c}, aggregate_by: [b], per_file: false}]",
        "x.yml",
    ).logs
    assert group == LogGroup("a", ("/a",), (), {"b": "c"}, preset.path_regex, ("b",), per_file=False)


def test_all_mistakes_at_once() -> None:
    """Mistakes in different places are told together, in the order of the file."""
    found = mistakes("cache: {max_files: 0}\nweb: 1\nlogs:\n- {group: a, paths: ['']}\n- {group: a, pathes: [/a]}\n")
    assert [line.split(": ")[:2] for line in found] == [
        ["x.yml:1:20", "cache.max_files"],
        ["x.yml:2:6", "web"],
        ["x.yml:4:22", "logs[0].paths[0]"],
        ["x.yml:5:3", "logs[1].paths"],
        ["x.yml:5:11", "logs[1].group"],
        ["x.yml:5:14", "logs[1].pathes"],
    ]


def test_all_mistakes_of_shippers_at_once() -> None:
    """Unknown groups are reported beside mistakes in the same shipper and in the groups."""
    found = mistakes(
        """
logs:
- {group: a, paths: [b]}
- {group: c, paths: [/c]}
shippers:
- {name: a, type: vector, groups: [a, x, 1]}
- {<<: {groups: [y]}, name: a, type: nonsense}
"""
    )
    types = ", ".join(SHIPPER_TYPES)
    assert found == [
        "x.yml:3:22: logs[0].paths[0]: bad pattern 'b': the path is not absolute",
        "x.yml:6:19: shippers[0].type: type vector needs 'path', the file or directory of its positions",
        "x.yml:6:39: shippers[0].groups[1]: unknown group 'x', expected one of: a, c",
        "x.yml:6:42: shippers[0].groups[2]: expected a string, found 1 (int); put it in quotes: '1'",
        "x.yml:7:18: shippers[1].groups[0]: unknown group 'y', expected one of: a, c",
        "x.yml:7:29: shippers[1].name: the shipper 'a' is defined twice, first in line 6",
        f"x.yml:7:38: shippers[1].type: unknown shipper type 'nonsense', expected one of: {types}",
    ]


@pytest.mark.parametrize(
    "logs", ["{}", "a", "[]", "[a]", "[{gruop: a, paths: [/a]}, {group: b, paths: [/b]}]", "[{preset: x}]"]
)
def test_no_group_is_unknown_where_a_name_has_a_mistake(logs: str) -> None:
    """After a mistake in the name of a group, the groups of shippers are not checked: not all names are known."""
    found = mistakes(f"logs: {logs}\nshippers: [{{name: s, type: vector, path: /s, groups: [a]}}]")
    assert found
    assert "shippers" not in "".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "logs: [{preset: x, aggregate_by: [pod]}]",
        "logs: [{group: a, paths: [/a], path_regex: '(', aggregate_by: [b]}]",
        "logs: [{group: a, paths: [/a], labels: [b], aggregate_by: [b]}]",
    ],
)
def test_a_mistake_brings_no_others(text: str) -> None:
    """Where a mistake hides which labels there are, nobody is told that one of them is unknown or a key missing."""
    (only,) = mistakes(text)
    assert "logs[0].aggregate_by" not in only


def test_aliases_and_anchors_are_allowed() -> None:
    """An alias stands for what it names."""
    config = parse("logs:\n- {group: a, paths: &p [/a]}\n- {group: b, paths: *p}\n", "x.yml")
    assert [group.paths for group in config.logs] == [("/a",), ("/a",)]


def test_merged_mappings() -> None:
    """`<<` stands for the keys of other mappings; a key of one's own beats them, an earlier mapping a later one."""
    config = parse(
        """
        logs:
          - &base
            group: a
            paths: [/a]
            labels: &labels {team: x, tier: y}
          - &more
            <<: *base
            group: b
            max_series: 5
          - <<: [{group: c, per_file: no}, *more]
            labels: {<<: *labels, tier: z}
        """,
        "x.yml",
    )
    base = LogGroup("a", ("/a",), labels={"team": "x", "tier": "y"})
    assert config.logs == (
        base,
        replace(base, group="b", max_series=5),
        replace(base, group="c", max_series=5, per_file=False, labels={"team": "x", "tier": "z"}),
    )


def test_keys_are_taken_as_they_are_written() -> None:
    """A key that YAML would take for a truth value or a date is the text that is there."""
    config = parse("logs: [{group: a, paths: [/a], labels: {on: x, y: z, null: n}}]", "x.yml")
    assert config.logs[0].labels == {"on": "x", "y": "z", "null": "n"}


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("5m", 300), ("1h30m", 5400), ("1d", 86400), ("2w", 1209600), ("1s500ms", 1.5)]
)
def test_durations(text: str, seconds: float) -> None:
    """Durations are written as in Prometheus."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "1", "1m1h", "-1s", "1.5h", "1s ", "\u0661s"])
def test_bad_durations(text: str) -> None:
    """What Prometheus would refuse is refused."""
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [(":1", "", 1), ("127.0.0.1:0", "127.0.0.1", 0), ("[::1]:2", "::1", 2), ("localhost:3", "localhost", 3)],
)
def test_addresses(text: str, host: str, port: int) -> None:
    """Addresses are read and written alike."""
    assert parse_listen_address(text) == ListenAddress(host, port)
    assert str(parse_listen_address(text)) == text


@pytest.mark.parametrize("text", ["", "1", ":", "a", "a:b", "::1:2", "a b:1", "[::1]", ":-1", "http://a:1", ":123456"])
def test_bad_addresses(text: str) -> None:
    """Anything else is refused, never guessed."""
    with pytest.raises(ValueError, match=r"is not an address|has a port out of range"):
        parse_listen_address(text)


def test_patterns_of_the_command_line(tmp_path: Path) -> None:
    """Relative patterns are taken from the current directory, whatever characters its name has."""
    directory = str(tmp_path / "a[b]{c,d}*")
    config = from_patterns(["./x/*.log", "y", "/z", ".././/../w"], directory)
    (group,) = config.logs
    assert group.group == "default"
    matcher = PathMatcher(number_groups([group]))
    assert matcher.match(f"{directory}/x/1.log") is not None
    assert matcher.match(f"{directory}/y") is not None
    assert matcher.match("/z") is not None
    assert matcher.match(f"{tmp_path.parent}/w") is not None
    assert matcher.match(f"{tmp_path}/abc/y") is None


def test_bad_patterns_of_the_command_line() -> None:
    """Every bad pattern is named as it was typed, unless that is too long."""
    with pytest.raises(ConfigError) as caught:
        from_patterns(["a[", "b", "x/../c", "{a," * 1000 + "}" * 1000], "/d")
    assert str(caught.value).splitlines() == [
        r"pattern 'a[': the '[' of '[' is never closed; write '\[' for the character itself",
        "pattern 'x/../c': it contains '/../'; write the path without it",
        f"pattern '{'{a,' * 33}{{...': its braces are nested too deeply",
    ]
