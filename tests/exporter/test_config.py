"""The configuration: what is read, and what is said of each mistake."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.config import (
    CacheConfig,
    Config,
    ConfigError,
    ListenAddress,
    LogGroup,
    StateConfig,
    WebConfig,
    from_patterns,
    load,
    parse,
    parse_duration,
    parse_listen_address,
)
from exporter.patterns import PathMatcher

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
        rescan_interval: 1m30s
        web: {listen_address: "[::1]:9000", telemetry_path: /m}
        logs:
          - group: system
            paths: ["/var/log/**/*.log", /var/log/syslog]
            exclude: ["*.old"]
            labels: {team: infra}
            path_regex: '/(?P<name>[^/]+)$'
            aggregate_by: [team, name]
            max_series: 5_000
            metrics: [rotations, size]
          - {group: sums, paths: [/a], per_file: no}
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
                metrics=frozenset({"rotations", "size"}),
            ),
            LogGroup("sums", ("/a",), per_file=False),
        ),
    )


def test_defaults() -> None:
    """Only `logs` is needed."""
    config = parse(LOGS, "x.yml")
    assert (config.cache.max_files, config.rescan_interval_s, config.web.telemetry_path) == (100_000, 300, "/metrics")
    assert (config.cache.cpu_budget, config.cache.audit_interval_s) == (0.01, 300)
    assert str(config.web.listen_address) == ":10943"
    assert (config.state.path, config.stale_grace_s) == (None, 60)
    (group,) = config.logs
    assert (group.aggregate_by, group.per_file, group.max_series) == ((), True, None)
    assert group.metrics == {"size", "mtime", "changes", "appended_bytes"}


def test_default_file_is_valid() -> None:
    """The file that is shipped is valid and says the defaults, and so is it with all that is commented out."""
    text = (Path(__file__).parents[2] / "config" / "exporter.yml").read_text()
    shipped = parse(text, "x.yml")
    assert [group.group for group in shipped.logs] == ["system", "applications"]
    assert shipped == Config(shipped.logs)
    keys = "state|path|stale_grace|labels|metrics|max_series|- preset"
    full = parse(re.sub(f"(?m)^( *)# ( *(?:{keys}):)", r"\1\2", text), "x.yml")
    assert [group.group for group in full.logs] == ["system", "applications", "pods"]
    assert full == Config(full.logs, state=StateConfig("/var/lib/fstat-exporter/state.db"))
    assert full.logs[0] == replace(shipped.logs[0], labels={"team": "infra"}, max_series=5000)


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
    """The preset alone finds the containers' logs and takes them apart."""
    (group,) = parse("logs: [{preset: kubernetes-pods}]", "x.yml").logs
    assert (group.group, group.aggregate_by) == ("pods", ("namespace", "pod", "container"))
    assert PathMatcher([(group.paths, group.exclude)]).groups_of(f"/var/log/pods/{path}") == (0,)
    assert group.path_regex is not None
    match = group.path_regex.search(f"/var/log/pods/{path}")
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


BAD = {
    "no YAML": (
        "a: [",
        "1:5: not YAML: while parsing a flow node, expected the node content, but found '<stream end>'",
    ),
    "control character": ("a: \a", "1:4: not YAML: the character U+0007 is not allowed"),
    "NUL": ("logs: []\na: \0", "2:4: not YAML: a NUL character"),
    "two documents": (
        "a: 1\n---\nb: 2",
        "2:1: not YAML: expected a single document in the stream, but found another document",
    ),
    "too deep": ("[" * 50_000, "1:1: nested too deeply"),
    "alias loop": ("logs: &x [*x]", "1:7: an alias in it refers to itself"),
    "no mapping": ("- a", "1:1: expected a mapping, found a list"),
    "no logs": ("cache: {max_files: 1}", "1:1: logs: the key is missing, expected a list of groups"),
    "misspelt key": (LOGS + "cahe: {}", "2:1: cahe: unknown key, did you mean 'cache'?"),
    "unknown key": (
        LOGS + "x: 1",
        "2:1: x: unknown key, expected one of: cache, state, stale_grace, rescan_interval, web, logs",
    ),
    "unknown key of the cache": (
        LOGS + "cache: {colour: red}",
        "2:9: cache.colour: unknown key, expected one of: max_files, cpu_budget, audit_interval",
    ),
    "cpu_budget without a unit": (
        LOGS + "cache: {cpu_budget: 1}",
        "2:21: cache.cpu_budget: expected a percentage such as 1%, found 1 (int)",
    ),
    "cpu_budget of nothing": (
        LOGS + "cache: {cpu_budget: 0%}",
        "2:21: cache.cpu_budget: '0%' is no percentage, expected one above 0% and at most 100%, such as 1%",
    ),
    "cpu_budget of two cores": (
        LOGS + "cache: {cpu_budget: 200%}",
        "2:21: cache.cpu_budget: '200%' is no percentage, expected one above 0% and at most 100%, such as 1%",
    ),
    "audit_interval too short": (
        LOGS + "cache: {audit_interval: 10ms}",
        "2:25: cache.audit_interval: 10ms is out of range, expected 1s to 365d",
    ),
    "key that is no text": ("logs: []\n? [a]\n: b", "2:3: expected a key, found a list"),
    "duplicate key": (LOGS + "logs: []", "2:1: logs: the key is there twice, first in line 1"),
    "section without content": (LOGS + "cache:", "2:7: cache: expected a mapping, found nothing"),
    "max_files negative": (
        LOGS + "cache: {max_files: -1}",
        "2:20: cache.max_files: expected a whole number of files, 1 or more, found -1 (int)",
    ),
    "max_files quoted": (
        LOGS + "cache: {max_files: '5'}",
        "2:20: cache.max_files: expected a whole number of files, 1 or more, found the string '5'",
    ),
    "max_files as a size": (
        LOGS + "cache: {max_files: 100k}",
        "2:20: cache.max_files: expected a whole number of files, 1 or more, found the string '100k'",
    ),
    "max_files hexadecimal": (
        LOGS + "cache: {max_files: 0x10}",
        "2:20: cache.max_files: expected a whole number of files, 1 or more, found 0x10 (int)",
    ),
    "max_files with an underscore at its end": (
        LOGS + "cache: {max_files: 1_000_}",
        "2:20: cache.max_files: expected a whole number of files, 1 or more, found 1_000_ (int)",
    ),
    "duration without unit": (
        LOGS + "rescan_interval: 60",
        "2:18: rescan_interval: expected a duration such as 30s, 5m or 1h30m, found 60 (int)",
    ),
    "bad duration": (
        LOGS + "rescan_interval: 5 minutes",
        "2:18: rescan_interval: '5 minutes' is no duration, expected one such as 30s, 5m or 1h30m",
    ),
    "duration out of range": (
        LOGS + "rescan_interval: 500ms",
        "2:18: rescan_interval: 500ms is out of range, expected 1s to 365d",
    ),
    "stale_grace too short": (
        LOGS + "stale_grace: 500ms",
        "2:14: stale_grace: 500ms is out of range, expected 0s, or 1s to 365d",
    ),
    "stale_grace too long": (
        LOGS + "stale_grace: 366d",
        "2:14: stale_grace: 366d is out of range, expected 0s, or 1s to 365d",
    ),
    "rescan_interval of nothing": (
        LOGS + "rescan_interval: 0s",
        "2:18: rescan_interval: 0s is out of range, expected 1s to 365d",
    ),
    "state without a key": (LOGS + "state: /a.db", "2:8: state: expected a mapping, found the string '/a.db'"),
    "unknown key of the state": (LOGS + "state: {paht: /a}", "2:9: state.paht: unknown key, did you mean 'path'?"),
    "state path missing": (
        LOGS + "state: {path: }",
        "2:14: state.path: expected the absolute path of a file, found nothing",
    ),
    "state path NUL": (
        LOGS + 'state: {path: "/a\\0"}',
        "2:15: state.path: '/a\\x00' can not be used, "
        "expected the absolute path of a file such as /var/lib/fstat-exporter/state.db",
    ),
    **{
        f"state path {path}": (
            LOGS + f"state: {{path: {path}}}",
            f"2:15: state.path: '{path}' can not be used, "
            "expected the absolute path of a file such as /var/lib/fstat-exporter/state.db",
        )
        for path in ("a.db", "./a.db", "/", "/var/", "/var/..")
    },
    "bad address": (
        LOGS + "web: {listen_address: '10943'}",
        "2:23: web.listen_address: '10943' is no address, expected host:port, [IPv6 address]:port or :port",
    ),
    "bad port": (
        LOGS + "web: {listen_address: ':70000'}",
        "2:23: web.listen_address: ':70000' is no address, expected host:port, [IPv6 address]:port or :port",
    ),
    "bad telemetry path": (
        LOGS + "web: {telemetry_path: /-/ready}",
        "2:23: web.telemetry_path: '/-/ready' can not be used, expected a path such as /metrics, not below /-/",
    ),
    **{
        f"telemetry path {path}": (
            LOGS + f"web: {{telemetry_path: {path}}}",
            f"2:23: web.telemetry_path: '{path}' has '//', '/./' or '/../' in it, which clients leave out; "
            "write the path that is meant",
        )
        for path in ("/a/../b", "/a/./b", "/a//b", "/a/..", "/.", "//a")
    },
    "logs no list": ("logs: {}", "1:7: logs: expected a list of groups, found a mapping"),
    "logs empty": ("logs: []", "1:7: logs: is empty, expected at least one group"),
    "group missing": ("logs: [{paths: [/a]}]", "1:8: logs[0].group: the key is missing"),
    "paths missing": ("logs: [{group: a}]", "1:8: logs[0].paths: the key is missing"),
    "group empty": ("logs: [{group: '', paths: [/a]}]", "1:16: logs[0].group: is empty, expected some text"),
    "group a number": (
        "logs: [{group: 1, paths: [/a]}]",
        "1:16: logs[0].group: expected a string, found 1 (int); put it in quotes: '1'",
    ),
    "group no character": (
        'logs: [{group: "\\udc80", paths: [/a]}]',
        "1:16: logs[0].group: a surrogate is no character, expected text",
    ),
    "group with a tag": (
        "logs: [{group: !x y, paths: [/a]}]",
        "1:16: logs[0].group: expected a string, found 'y' with the tag !x; put it in quotes: 'y'",
    ),
    "group twice": (
        "logs:\n- {group: a, paths: [/a]}\n- {group: a, paths: [/b]}",
        "3:11: logs[1].group: the group 'a' is there twice, first in line 2",
    ),
    "paths no list": (
        "logs: [{group: a, paths: /a}]",
        "1:26: logs[0].paths: expected a list of patterns, found the string '/a'",
    ),
    "paths empty": ("logs: [{group: a, paths: []}]", "1:26: logs[0].paths: is empty, expected at least one pattern"),
    "pattern empty": ("logs: [{group: a, paths: ['']}]", "1:27: logs[0].paths[0]: the pattern is empty"),
    "pattern relative": (
        "logs: [{group: a, paths: [a]}]",
        "1:27: logs[0].paths[0]: bad pattern 'a': the path is not absolute",
    ),
    "pattern bracket": (
        "logs: [{group: a, paths: ['/a[b']}]",
        r"1:27: logs[0].paths[0]: bad pattern '/a[b': a '[' is never closed; write '\[' for the character itself",
    ),
    "pattern brace": (
        "logs: [{group: a, paths: ['/a{b,c']}]",
        r"1:27: logs[0].paths[0]: bad pattern '/a{b,c': a '{' is never closed; write '\{' for the character itself",
    ),
    "pattern stars": (
        "logs: [{group: a, paths: ['/a/**.log']}]",
        "1:27: logs[0].paths[0]: bad pattern '/a/**.log': '**' must be a whole component of the path, as in '/**/'",
    ),
    "pattern dots": (
        "logs: [{group: a, paths: [/a/../b]}]",
        "1:27: logs[0].paths[0]: bad pattern '/a/../b': it contains '/../'; write the path that is meant",
    ),
    "pattern directory": (
        "logs: [{group: a, paths: [/a/]}]",
        "1:27: logs[0].paths[0]: bad pattern '/a/': it ends with '/', so it can only be a directory; "
        "add '/*' or '/**' for the files in it",
    ),
    "pattern explodes": (
        "logs: [{group: a, paths: ['/{1..100000}']}]",
        "1:27: logs[0].paths[0]: bad pattern '/{1..100000}': its braces give more than 1000 patterns",
    ),
    "pattern too long": (
        f"logs: [{{group: a, paths: ['/{{{'0' * 200_000}1..1000}}']}}]",
        f"1:27: logs[0].paths[0]: bad pattern '/{{{'0' * 98}...': it has 200010 characters, expected 4096 at most",
    ),
    "pattern nested": (
        f"logs: [{{group: a, paths: ['/{'{a,' * 1000}{'}' * 1000}']}}]",
        f"1:27: logs[0].paths[0]: bad pattern '/{'{a,' * 33}...': its braces are nested too deeply",
    ),
    "pattern NUL": (
        'logs: [{group: a, paths: ["/a\\0"]}]',
        "1:27: logs[0].paths[0]: bad pattern '/a\0': a NUL character is in no file name",
    ),
    "pattern backslash": (
        "logs: [{group: a, paths: ['/a\\']}]",
        "1:27: logs[0].paths[0]: bad pattern '/a\\': it ends with a lone backslash",
    ),
    "exclude relative": (
        "logs: [{group: a, paths: [/a], exclude: [b/c]}]",
        "1:42: logs[0].exclude[0]: bad pattern 'b/c': with a '/' in it the path must be absolute",
    ),
    "label name": (
        "logs: [{group: a, paths: [/a], labels: {a-b: c}}]",
        "1:41: logs[0].labels.a-b: 'a-b' is no label name, expected letters, digits and '_', not a digit first",
    ),
    "label reserved": (
        "logs: [{group: a, paths: [/a], labels: {path: c}}]",
        "1:41: logs[0].labels.path: the label name 'path' is reserved, expected another one",
    ),
    "label of Prometheus' own": (
        "logs: [{group: a, paths: [/a], labels: {__a: c}}]",
        "1:41: logs[0].labels.__a: the label name '__a' is reserved, expected another one",
    ),
    "label value": (
        "logs: [{group: a, paths: [/a], labels: {b: yes}}]",
        "1:44: logs[0].labels.b: expected a string, found yes (bool); put it in quotes: 'yes'",
    ),
    "expression": (
        "logs: [{group: a, paths: [/a], path_regex: '('}]",
        "1:44: logs[0].path_regex: bad regular expression: missing ), unterminated subpattern at position 0",
    ),
    "expression without groups": (
        "logs: [{group: a, paths: [/a], path_regex: '(.)'}]",
        "1:44: logs[0].path_regex: no named group in it, expected at least one (?P<label>...)",
    ),
    "expression reserved": (
        "logs: [{group: a, paths: [/a], path_regex: '(?P<group>.)'}]",
        "1:44: logs[0].path_regex: the label name 'group' is reserved, expected another one",
    ),
    "expression clash": (
        "logs: [{group: a, paths: [/a], labels: {b: c}, path_regex: '(?P<b>.)'}]",
        "1:60: logs[0].path_regex: the label 'b' is in 'labels' already, expected it in one place only",
    ),
    "misspelt key of a group": (
        "logs: [{group: a, paths: [/a], per_fiel: false}]",
        "1:32: logs[0].per_fiel: unknown key, did you mean 'per_file'?",
    ),
    "aggregate_by no list": (
        "logs: [{group: a, paths: [/a], aggregate_by: b}]",
        "1:46: logs[0].aggregate_by: expected a list of labels, found the string 'b'",
    ),
    "aggregate_by a number": (
        "logs: [{group: a, paths: [/a], aggregate_by: [1]}]",
        "1:47: logs[0].aggregate_by[0]: expected a string, found 1 (int); put it in quotes: '1'",
    ),
    "aggregate_by misspelt": (
        "logs: [{group: a, paths: [/a], labels: {team: b}, aggregate_by: [taem]}]",
        "1:66: logs[0].aggregate_by[0]: unknown label 'taem', did you mean 'team'?",
    ),
    "aggregate_by unknown": (
        "logs: [{group: a, paths: [/a], labels: {b: c}, path_regex: '(?P<d>.)', aggregate_by: [d, xyz]}]",
        "1:90: logs[0].aggregate_by[1]: unknown label 'xyz', expected one of: b, d",
    ),
    "aggregate_by without labels": (
        "logs: [{group: a, paths: [/a], aggregate_by: [b]}]",
        "1:47: logs[0].aggregate_by[0]: unknown label 'b', the group has none, expected it in 'labels' or 'path_regex'",
    ),
    "aggregate_by twice": (
        "logs: [{group: a, paths: [/a], labels: {b: c}, aggregate_by: [b, b]}]",
        "1:66: logs[0].aggregate_by[1]: 'b' is there twice",
    ),
    "aggregate_by group": (
        "logs: [{group: a, paths: [/a], aggregate_by: [group]}]",
        "1:47: logs[0].aggregate_by[0]: every aggregate has the label 'group' already, expected another one",
    ),
    "aggregate_by path": (
        "logs: [{group: a, paths: [/a], aggregate_by: [path]}]",
        "1:47: logs[0].aggregate_by[0]: every file has a 'path' of its own, so there is nothing to add up, "
        "expected another label",
    ),
    "per_file no boolean": (
        "logs: [{group: a, paths: [/a], per_file: 0}]",
        "1:42: logs[0].per_file: expected true or false, found 0 (int)",
    ),
    "per_file quoted": (
        "logs: [{group: a, paths: [/a], per_file: 'false'}]",
        "1:42: logs[0].per_file: expected true or false, found the string 'false'",
    ),
    "per_file with a tag": (
        "logs: [{group: a, paths: [/a], per_file: !!bool x}]",
        "1:42: logs[0].per_file: expected true or false, found x (bool)",
    ),
    "max_series of nothing": (
        "logs: [{group: a, paths: [/a], max_series: 0}]",
        "1:44: logs[0].max_series: expected a whole number of series, 1 or more, found 0 (int)",
    ),
    "metrics without effect": (
        "logs: [{group: a, paths: [/a], metrics: [size], per_file: false}]",
        "1:41: logs[0].metrics: is about the series of single files, and with 'per_file: false' there are none",
    ),
    "metrics empty": (
        "logs: [{group: a, paths: [/a], metrics: []}]",
        "1:41: logs[0].metrics: is empty, expected at least one metric; "
        "for no series of single files there is 'per_file: false'",
    ),
    "metrics no list": (
        "logs: [{group: a, paths: [/a], metrics: size}]",
        "1:41: logs[0].metrics: expected a list of metrics, found the string 'size'",
    ),
    "metrics misspelt": (
        "logs: [{group: a, paths: [/a], metrics: [appended]}]",
        "1:42: logs[0].metrics[0]: unknown metric 'appended', did you mean 'appended_bytes'?",
    ),
    "metrics unknown": (
        "logs: [{group: a, paths: [/a], metrics: [xyz]}]",
        "1:42: logs[0].metrics[0]: unknown metric 'xyz', "
        "expected one of: size, mtime, changes, appended_bytes, truncations, rotations",
    ),
    "metrics twice": (
        "logs: [{group: a, paths: [/a], metrics: [size, mtime, size]}]",
        "1:55: logs[0].metrics[2]: 'size' is there twice",
    ),
    "preset misspelt": (
        "logs: [{preset: kubernetes-pod}]",
        "1:17: logs[0].preset: unknown preset 'kubernetes-pod', did you mean 'kubernetes-pods'?",
    ),
    "preset unknown": (
        "logs: [{preset: x}]",
        "1:17: logs[0].preset: unknown preset 'x', expected one of: kubernetes-pods",
    ),
    "preset missing": ("logs: [{preset: }]", "1:16: logs[0].preset: expected the name of a preset, found nothing"),
    "preset clash": (
        "logs: [{preset: kubernetes-pods, labels: {pod: x}}]",
        "1:17: logs[0].path_regex: the label 'pod' is in 'labels' already, expected it in one place only",
    ),
    "preset twice": (
        "logs:\n- preset: kubernetes-pods\n- preset: kubernetes-pods",
        "3:11: logs[1].group: the group 'pods' is there twice, first in line 2",
    ),
    "preset of other labels": (
        "logs: [{preset: kubernetes-pods, path_regex: '(?P<pod>.)'}]",
        "1:17: logs[0].aggregate_by[2]: unknown label 'container', expected one of: pod",
    ),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD.keys())
def test_each_mistake_is_told(text: str, message: str) -> None:
    """A mistake gives one line with its place, its key and what was expected."""
    assert f"x.yml:{message}" in mistakes(text)


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


def test_alias_bomb() -> None:
    """Aliases that would expand to 10^9 values are refused at once."""
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    assert mistakes("\n".join(lines)) == ["x.yml:6:5: more than 100000 values (aliases expanded)"]


def test_aliases_and_anchors_are_allowed() -> None:
    """An alias stands for what it names."""
    config = parse("logs:\n- {group: a, paths: &p [/a]}\n- {group: b, paths: *p}\n", "x.yml")
    assert [group.paths for group in config.logs] == [("/a",), ("/a",)]


def test_empty_file() -> None:
    """Nothing at all is told as that."""
    assert mistakes("# only a comment") == ["x.yml: is empty, expected at least the key 'logs'"]


def test_files(tmp_path: Path) -> None:
    """A file is read as UTF-8, with or without a byte order mark; otherwise one line says what is wrong with it."""
    path = tmp_path / "x.yml"

    def complaint() -> str:
        with pytest.raises(ConfigError) as caught:
            load(path)
        return str(caught.value)

    assert complaint() == f"{path}: can not be read: No such file or directory"
    path.write_text(LOGS, "utf-8-sig")
    assert load(path) == parse(LOGS, "")
    path.write_bytes(b"a: 1\nbc\xff")
    assert complaint() == f"{path}:2:3: not UTF-8"
    path.write_bytes(b"#" * ((1 << 20) + 1))
    assert complaint() == f"{path}: is larger than 1 MiB, so it is no configuration of this program"


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("5m", 300), ("1h30m", 5400), ("1d", 86400), ("2w", 1209600), ("1s500ms", 1.5)]
)
def test_durations(text: str, seconds: float) -> None:
    """Durations are written as in Prometheus."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "1", "1m1h", "-1s", "1.5h", "1s ", "\u0661s"])
def test_bad_durations(text: str) -> None:
    """What Prometheus would refuse is refused."""
    with pytest.raises(ValueError, match="is no duration"):
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
    with pytest.raises(ValueError, match="is no address"):
        parse_listen_address(text)


def test_patterns_of_the_command_line(tmp_path: Path) -> None:
    """Relative patterns are taken from the current directory, whatever characters its name has."""
    directory = str(tmp_path / "a[b]{c,d}*")
    config = from_patterns(["./x/*.log", "y", "/z", ".././/../w"], directory)
    (group,) = config.logs
    assert group.group == "default"
    matcher = PathMatcher([(group.paths, ())])
    assert matcher.groups_of(f"{directory}/x/1.log") == (0,)
    assert matcher.groups_of(f"{directory}/y") == (0,)
    assert matcher.groups_of("/z") == (0,)
    assert matcher.groups_of(f"{tmp_path.parent}/w") == (0,)
    assert matcher.groups_of(f"{tmp_path}/abc/y") == ()


def test_bad_patterns_of_the_command_line() -> None:
    """Every bad pattern is named as it was typed, unless that is too long."""
    with pytest.raises(ConfigError) as caught:
        from_patterns(["a[", "b", "x/../c", "{a," * 1000 + "}" * 1000], "/d")
    assert str(caught.value).splitlines() == [
        r"pattern 'a[': a '[' is never closed; write '\[' for the character itself",
        "pattern 'x/../c': it contains '/../'; write the path that is meant",
        f"pattern '{'{a,' * 33}{{...': its braces are nested too deeply",
    ]
