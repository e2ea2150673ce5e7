"""Prints the Grafana dashboard (make dashboard).

Totals come from the counters of the groups, which outlive the files. The counter of a file or of an aggregate begins
with the bytes that came before its first scrape, and rate() does not see those.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Json = dict[str, Any]

SCHEMA_VERSION = 42  # of @grafana/schema 13
DATA_SOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
WINDOW = "$__rate_interval"
TABLE_ROWS = 20
MOST_LINES = 10  # what one panel shows of pods or of agents; a fleet has thousands

# -- PromQL -----------------------------------------------------------------------------------------------------------

OF_AGENT = 'job=~"$job", instance=~"$instance"'
OF_GROUP = f'{OF_AGENT}, group=~"$group"'
OF_NAMESPACE = f'{OF_GROUP}, namespace=~"$namespace"'

BY_GROUP = "job, instance, group"
BY_FILE = "job, instance, group, path"
BY_CONTAINER = "namespace, pod, container"
BY_SHIPPER = "shipper, group"


def agent(metric: str) -> str:
    """The chosen agents' series of a metric."""
    return f"{metric}{{{OF_AGENT}}}"


def group(metric: str) -> str:
    """The chosen groups' series of a metric."""
    return f"fstat_group_{metric}{{{OF_GROUP}}}"


def aggregate(metric: str) -> str:
    """The chosen namespaces' series of a metric."""
    return f"fstat_aggregate_{metric}{{{OF_NAMESPACE}}}"


def shipper(metric: str) -> str:
    """The series of a metric of all shippers of the chosen groups."""
    return f"fstat_shipper_{metric}{{{OF_GROUP}}}"


def shipper_aggregate(metric: str) -> str:
    """The series of a metric of all shippers of the chosen namespaces."""
    return f"fstat_shipper_aggregate_{metric}{{{OF_NAMESPACE}}}"


def file(metric: str) -> str:
    """The chosen files' series of a metric."""
    return f"fstat_file_{metric}{{{OF_NAMESPACE}}}"


def rate(counter: str) -> str:
    """Of a counter, a second."""
    return f"rate({counter}[{WINDOW}])"


def increase(counter: str) -> str:
    """Of a counter, in the window of a point."""
    return f"increase({counter}[{WINDOW}])"


def sum_by(labels: str, expression: str) -> str:
    """Sums, one for each value of the labels."""
    return f"sum by ({labels}) ({expression})"


def top(number: int, expression: str) -> str:
    """The greatest elements at each moment."""
    return f"topk({number}, {expression})"


def files_that_came(now: str, before: str, both: str) -> str:
    """Count the series of `now` that `before` does not have, for each group that was known at `both` times."""

    def count(prefix: str, selector: str) -> str:
        new = f"({prefix}{selector}{now} unless {prefix}{selector}{before})"
        return f"count by ({BY_GROUP}) ({new} and on ({BY_GROUP}) {group('files')}{both})"

    files = count("fstat_file_mtime_seconds", f"{{{OF_GROUP}}}")
    aggregates = count("fstat_aggregate_files", f"{{{OF_GROUP}}}")
    return sum_by("group", f"{files} or on ({BY_GROUP}) {aggregates} or on ({BY_GROUP}) 0 * {group('files')}")


# -- panels -----------------------------------------------------------------------------------------------------------


def targets(queries: Mapping[str, str], **options: Any) -> list[Json]:
    """The queries of a panel: legend -> expression."""
    return [
        {"refId": chr(ord("A") + number), "datasource": DATA_SOURCE, "expr": expr, "legendFormat": legend, **options}
        for number, (legend, expr) in enumerate(queries.items())
    ]


def panel(kind: str, title: str, description: str, width: int, height: int, **rest: Any) -> Json:
    """What every panel has. `place` gives it its number and place."""
    size = {"w": width, "h": height}
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATA_SOURCE,
        "gridPos": size,
        **rest,
    }


def stat(title: str, description: str, unit: str, queries: Mapping[str, str]) -> Json:
    """One number, over the line of its past."""
    defaults: Json = {
        "unit": unit,
        "color": {"mode": "thresholds"},
        "thresholds": {"mode": "absolute", "steps": [{"value": None, "color": "text"}]},
    }
    options: Json = {
        "colorMode": "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "percentChangeColorMode": "standard",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showPercentChange": False,
        "textMode": "value" if len(queries) == 1 else "value_and_name",
        "wideLayout": True,
    }
    fields = {"defaults": defaults, "overrides": []}
    return panel("stat", title, description, 4, 4, fieldConfig=fields, options=options, targets=targets(queries))


def graph(
    title: str,
    description: str,
    unit: str,
    queries: Mapping[str, str],
    *,
    width: int = 12,
    calcs: Sequence[str] = (),
    custom: Mapping[str, Any] | None = None,
    overrides: Sequence[Json] = (),
    **defaults: Any,
) -> Json:
    """Lines over time; with `calcs` the legend is a table that has them as columns."""
    look = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 10, "showPoints": "never", **(custom or {})}
    options: Json = {
        "legend": {
            "showLegend": True,
            "displayMode": "table" if calcs else "list",
            "placement": "bottom",
            "calcs": list(calcs),
            **({"sortBy": "Mean", "sortDesc": True} if "mean" in calcs else {}),
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    fields = {"defaults": {"unit": unit, "custom": look, **defaults}, "overrides": list(overrides)}
    return panel(
        "timeseries", title, description, width, 8, fieldConfig=fields, options=options, targets=targets(queries)
    )


STACKED: Json = {"stacking": {"mode": "normal", "group": "A"}, "fillOpacity": 40}
BARS: Json = {"drawStyle": "bars", "fillOpacity": 60, "lineWidth": 0}


def downwards(ref: str) -> Json:
    """Draws the lines of one query below zero."""
    return of_query(ref, "custom.transform", "negative-Y")


def dashed(ref: str) -> Json:
    """Draws the lines of one query dashed."""
    return of_query(ref, "custom.lineStyle", {"fill": "dash", "dash": [8, 6]})


def of_query(ref: str, name: str, value: object) -> Json:
    """How the lines of one query look."""
    return {"matcher": {"id": "byFrameRefID", "options": ref}, "properties": [{"id": name, "value": value}]}


def table(title: str, description: str, columns: Mapping[str, tuple[str, str]]) -> Json:
    """The files with the greatest values of the first column: heading -> (unit, expression for all files)."""
    (heading, (unit, ranked)), *others = columns.items()
    best = top(TABLE_ROWS, sum_by(BY_FILE, ranked))
    queries = {heading: best} | {
        other: f"{sum_by(BY_FILE, expression)} and on ({BY_FILE}) {best}" for other, (_, expression) in others
    }
    values = {f"Value #{chr(ord('A') + number)}": name for number, name in enumerate(columns)}
    names = values | {"path": "Path", "group": "Group", "instance": "Instance"}
    organize = {
        "excludeByName": {"Time": True, "job": True},
        "indexByName": {name: place for place, name in enumerate(names)},
        "renameByName": names,
    }
    gauge = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}
    overrides = [
        column(heading, unit=unit, min=0, **{"custom.width": 160, "custom.cellOptions": gauge}),
        *(column(name, unit=unit, **{"custom.width": 110}) for name, (unit, _) in others),
        column("Path", **{"custom.minWidth": 300}),
    ]
    look = {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False}
    return panel(
        "table",
        title,
        description,
        12,
        10,
        fieldConfig={
            "defaults": {"unit": unit, "color": {"mode": "continuous-BlPu"}, "custom": look},
            "overrides": overrides,
        },
        options={
            "showHeader": True,
            "cellHeight": "sm",
            "frameIndex": 0,
            "sortBy": [{"displayName": heading, "desc": True}],
        },
        targets=targets(queries, format="table", instant=True),
        transformations=[{"id": "merge", "options": {}}, {"id": "organize", "options": organize}],
    )


def column(heading: str, **properties: Any) -> Json:
    """How one column of a table looks."""
    return {
        "matcher": {"id": "byName", "options": heading},
        "properties": [{"id": name, "value": value} for name, value in properties.items()],
    }


NOW = [
    stat(
        "Growth",
        "Bytes a second that are appended to the logs of the chosen groups, files included that are gone by now.",
        "binBps",
        {"growth": f"sum({rate(group('appended_bytes_total'))})"},
    ),
    stat(
        "Size",
        "What the logs of the chosen groups hold now, each inode once.",
        "bytes",
        {"size": f"sum({group('size_bytes')})"},
    ),
    stat("Files", "How many files the chosen groups have now.", "short", {"files": f"sum({group('files')})"}),
    stat(
        "Quietest group",
        "How long ago the last write to a group was, of the group of one agent that has been silent the longest.",
        "s",
        {"silence": f"max(time() - {group('newest_mtime_seconds')})"},
    ),
    stat(
        "Agents",
        "How many agents answered the latest scrape, and how many did not.",
        "short",
        {"up": f"sum({agent('up')})", "down": f"sum(1 - {agent('up')})"},
    ),
    stat(
        "Not watched",
        "Files that the agents stat on every scrape, because they cannot be watched; the panel Watch budget says why.",
        "short",
        {"files": f"sum({agent('fstat_cache_polled_files')})"},
    ),
]

GROWTH = [
    graph(
        "Growth by group",
        "Bytes a second that are appended to the logs of each group. The counters of groups outlive the files: nothing "
        "is missing here, however short a file's life was.",
        "binBps",
        {"{{group}}": sum_by("group", rate(group("appended_bytes_total")))},
        calcs=("mean", "max", "lastNotNull"),
        custom=STACKED,
    ),
    graph(
        "Growth by namespace",
        "Bytes a second that are appended to the logs of each namespace, for groups with namespace in aggregate_by. "
        "What a container wrote before it was scraped for the first time is not in it, but in Growth by group.",
        "binBps",
        {"{{namespace}}": sum_by("namespace", rate(aggregate("appended_bytes_total")))},
        calcs=("mean", "max", "lastNotNull"),
        custom=STACKED,
        noValue="no group has aggregate_by",
    ),
    graph(
        "Growth by container",
        f"The {MOST_LINES} containers whose logs grew most in the time shown, by namespace, pod and container, for "
        "groups with these labels in aggregate_by. What a container wrote before its first scrape is not in it.",
        "binBps",
        {
            "{{namespace}} / {{pod}} / {{container}}": sum_by(BY_CONTAINER, rate(aggregate("appended_bytes_total")))
            + f" and on ({BY_CONTAINER}) "
            + top(MOST_LINES, sum_by(BY_CONTAINER, f"rate({aggregate('appended_bytes_total')}[$__range] @ end())"))
        },
        calcs=("mean", "max", "lastNotNull"),
        noValue="no group has aggregate_by",
    ),
    table(
        "Top growers",
        f"The {TABLE_ROWS} files that grow fastest just now, of those with series of their own.",
        {"Growth": ("binBps", rate(file("appended_bytes_total"))), "Size": ("bytes", file("size_bytes"))},
    ),
]

SIZE = [
    graph(
        "Size by group",
        "What the logs of each group hold, each inode once.",
        "bytes",
        {"{{group}}": sum_by("group", group("size_bytes"))},
        calcs=("lastNotNull", "max"),
        custom=STACKED,
    ),
    graph(
        "Silence by group",
        "How long ago the last write to any file of the group was, on the agent where it was written to last.",
        "s",
        {"{{group}}": f"min by (group) (time() - {group('newest_mtime_seconds')})"},
        calcs=("lastNotNull", "max"),
    ),
    table(
        "Biggest files",
        f"The {TABLE_ROWS} biggest files now, of those with series of their own.",
        {"Size": ("bytes", file("size_bytes")), "Growth": ("binBps", rate(file("appended_bytes_total")))},
    ),
    table(
        "Silent the longest",
        f"The {TABLE_ROWS} files whose last modification is the longest ago, of those with series of their own.",
        {"Silence": ("s", f"time() - {file('mtime_seconds')}"), "Size": ("bytes", file("size_bytes"))},
    ),
]

CHANGE = [
    graph(
        "Rotations and truncations",
        "How often another file took the place of a log, and how often a log was found smaller than before, in the "
        f"window of each point ({WINDOW}).",
        "short",
        {
            "{{group}} rotated": sum_by("group", increase(group("rotations_total"))),
            "{{group}} truncated": sum_by("group", increase(group("truncations_total"))),
        },
        custom=BARS,
        width=8,
    ),
    graph(
        "Files",
        "How many files each group has.",
        "short",
        {"{{group}}": sum_by("group", group("files"))},
        width=8,
    ),
    graph(
        "Files appearing and vanishing",
        f"Files that are there and were not one window ({WINDOW}) before, and below zero those that were and are not "
        "any more. Of groups without series of single files: aggregates. What came and went within one window does "
        "not show, nor does an agent that was not there at both times.",
        "short",
        {
            "{{group}} appeared": files_that_came("", f" offset {WINDOW}", f" offset {WINDOW}"),
            "{{group}} vanished": files_that_came(f" offset {WINDOW}", "", ""),
        },
        custom=BARS,
        overrides=[downwards("B")],
        width=8,
    ),
    graph(
        "Deleted and still open",
        "Disk space of deleted files that a process still has open. It is free when the process closes them: lsof +L1 "
        "names it. Only deletions that the agents saw are in it.",
        "bytes",
        {"{{group}}": sum_by("group", group("deleted_disk_bytes"))},
        custom=STACKED,
    ),
    graph(
        "Uncertain counts",
        "How often bytes may have gone uncounted, or been counted twice, by reason, in the window of each point "
        f"({WINDOW}). Truncations right after a write are always among them.",
        "short",
        {"{{reason}}": sum_by("reason", increase(group("uncertain_total")))},
        custom=BARS,
    ),
]

NO_SHIPPERS = "no shippers are configured"
NO_NAMESPACES = "no shippers are configured, or no group has namespace in aggregate_by"

SHIPPERS = [
    graph(
        "Unread by shipper and group",
        "Bytes of the logs of each group that the shipper has not read yet, rotated logs included.",
        "bytes",
        {"{{shipper}} / {{group}}": sum_by(BY_SHIPPER, shipper("unread_bytes"))},
        calcs=("lastNotNull", "max"),
        width=8,
        noValue=NO_SHIPPERS,
    ),
    graph(
        "Oldest unread",
        "How long the oldest byte of each group has been unread, on the agent where that is longest. Unfinished lines "
        "do not count. FstatShipperBehind alerts on more than five minutes.",
        "s",
        {"{{shipper}} / {{group}}": f"max by ({BY_SHIPPER}) ({shipper('oldest_unread_seconds')})"},
        calcs=("lastNotNull", "max"),
        width=8,
        noValue=NO_SHIPPERS,
    ),
    graph(
        "Read against appended",
        "Bytes a second that the shippers read, and dashed those that are appended to the same groups on the same "
        "agents. If less is read than appended, the shipper falls behind.",
        "binBps",
        {
            "{{shipper}} / {{group}} read": sum_by(BY_SHIPPER, rate(shipper("read_bytes_total"))),
            "{{group}} appended": sum_by(
                "group",
                f"{rate(group('appended_bytes_total'))} and on ({BY_GROUP}) {shipper('read_bytes_total')}",
            ),
        },
        overrides=[dashed("B")],
        width=8,
        noValue=NO_SHIPPERS,
    ),
    graph(
        "Lost in the last day",
        "Bytes that were deleted, truncated or rotated away in the day before each point, and the shipper had not read "
        "them. What cannot be decided is not in it.",
        "bytes",
        {"{{shipper}} / {{group}}": sum_by(BY_SHIPPER, f"increase({shipper('lost_bytes_total')}[1d])")},
        calcs=("lastNotNull", "max"),
        width=8,
        min=0,
        noValue=NO_SHIPPERS,
    ),
    graph(
        "Unread by namespace",
        f"The {MOST_LINES} namespaces with the most unread bytes, for groups with namespace in aggregate_by.",
        "bytes",
        {
            "{{shipper}} / {{namespace}}": top(
                MOST_LINES, sum_by("shipper, namespace", shipper_aggregate("unread_bytes"))
            )
        },
        width=8,
        noValue=NO_NAMESPACES,
    ),
    graph(
        "Lost in the last day, by namespace",
        f"The {MOST_LINES} namespaces that lost most in the day before each point. What a container lost before its "
        "first scrape is not in it, but in Lost in the last day.",
        "bytes",
        {
            "{{shipper}} / {{namespace}}": top(
                MOST_LINES,
                sum_by("shipper, namespace", f"increase({shipper_aggregate('lost_bytes_total')}[1d])"),
            )
        },
        width=8,
        min=0,
        noValue=NO_NAMESPACES,
    ),
]

HITS, MISSES = rate(agent("fstat_cache_hits_total")), rate(agent("fstat_cache_misses_total"))
WRONG = {
    "evictions": "fstat_cache_evictions_total",
    "queue overflows": "fstat_cache_queue_overflows_total",
    "watch failures": "fstat_cache_watch_failures_total",
    "audit mismatches": "fstat_cache_audit_mismatches_total",
    "missed changes": "fstat_exporter_missed_changes_total",
}

AGENT = [
    graph(
        "Cache hit ratio",
        "Share of look-ups of files that took no os.stat; every published file is one look-up a scrape. "
        f"The {MOST_LINES} agents with the lowest ratio.",
        "percentunit",
        {
            "{{instance}}": f"bottomk({MOST_LINES}, {sum_by('job, instance', HITS)} / "
            f"({sum_by('job, instance', f'{HITS} + {MISSES}')} > 0) "
            f"or {sum_by('job, instance', agent('fstat_cache_hit_ratio'))})"
        },
        width=8,
        min=0,
        max=1,
    ),
    graph(
        "Evictions, overflows and corrections",
        f"All agents together, in the window of each point ({WINDOW}): files dropped from the cache to make room, "
        "full event queues of the kernel, files that could not be watched, and what the self-checks had to put right.",
        "short",
        {legend: f"sum({increase(agent(name))})" for legend, name in WRONG.items()},
        custom=BARS,
        width=8,
    ),
    graph(
        "Watch budget",
        "How the files and directories of all agents are followed: inotify watches held, files sampled because they "
        "are written all the time, and files polled, by the reason. Files guarded by their directory's watch or polled "
        "because of watch_limit: the budget is used up (fs.inotify.max_user_watches, less 16,384 for others).",
        "short",
        {
            "watched files": f"sum({agent('fstat_cache_watches')} - {agent('fstat_cache_directory_watches')})",
            "watched directories": f"sum({agent('fstat_cache_directory_watches')})",
            "sampled files": f"sum({agent('fstat_cache_hot_files')})",
            "guarded files": f"sum({agent('fstat_cache_guarded_files')})",
            "polled: {{reason}}": sum_by("reason", agent("fstat_cache_polled_files")),
        },
        width=8,
    ),
    graph(
        "Room in the cache",
        "Files in the cache as a share of max_files, and inotify watches as a share of those that the agent may hold. "
        "At 100 % the agent evicts files, or gets no watches, and stats the others on every scrape. "
        f"The {MOST_LINES} fullest of each.",
        "percentunit",
        {
            f"{what}: {{{{instance}}}}": top(
                MOST_LINES, f"{agent(f'fstat_cache_{what}')} / {agent(f'fstat_cache_max_{what}')}"
            )
            for what in ("files", "watches")
        },
        width=8,
        min=0,
        max=1,
    ),
    graph(
        "What is not seen, or not shown",
        "All agents together: directories that cannot be listed or watched, files of remote filesystems that do not "
        "answer, files for which max_series leaves no series, files whose path path_regex does not match.",
        "short",
        {
            "unreadable directories": f"sum({agent('fstat_exporter_unreadable_directories')})",
            "unwatched directories": f"sum({agent('fstat_exporter_unwatched_directories')})",
            "late files": f"sum({agent('fstat_cache_late_files')})",
            "files without series": f"sum({group('files_without_series')})",
            "files without labels": f"sum({group('unlabelled_files')})",
        },
        width=8,
    ),
    graph(
        "Duration of a scrape",
        f"How long Prometheus waited for the metrics. The {MOST_LINES} slowest agents.",
        "s",
        {"{{instance}}": top(MOST_LINES, agent("scrape_duration_seconds"))},
        width=8,
    ),
    graph(
        "CPU of the agent",
        f"Share of one core that an agent uses, scrapes included. The {MOST_LINES} busiest agents.",
        "percentunit",
        {"{{instance}}": top(MOST_LINES, rate(agent("process_cpu_seconds_total")))},
        width=8,
    ),
    graph(
        "Memory of the agent",
        "Resident memory of an agent. The kernel's memory for its watches (about 1.6 KiB each with the inode) is not "
        f"in it. The {MOST_LINES} greatest.",
        "bytes",
        {"{{instance}}": top(MOST_LINES, agent("process_resident_memory_bytes"))},
        width=8,
    ),
    graph(
        "Series of the agent",
        f"How many samples a scrape has, which is what it costs Prometheus. The {MOST_LINES} agents with most.",
        "short",
        {"{{instance}}": top(MOST_LINES, agent("scrape_samples_scraped"))},
        width=8,
    ),
]

ROWS = {
    "Growth": GROWTH,
    "Size and silence": SIZE,
    "Files come and go": CHANGE,
    "Shippers": SHIPPERS,
    "The agent itself": AGENT,
}


# -- the whole --------------------------------------------------------------------------------------------------------


def place(panels: Iterable[Json], top_y: int) -> tuple[list[Json], int]:
    """Set panels from left to right, and below each other where a line is full; the y below them as well."""
    placed, x, y, height = [], 0, top_y, 0
    for each in panels:
        size = each["gridPos"]
        if x + size["w"] > 24:
            x, y, height = 0, y + height, 0
        placed.append(each | {"gridPos": {"x": x, "y": y, **size}})
        x, height = x + size["w"], max(height, size["h"])
    return placed, y + height


def all_panels() -> Iterator[Json]:
    """The panels and the headings of their rows, in their places."""
    first, y = place(NOW, 0)
    yield from first
    for title, panels in ROWS.items():
        yield {
            "type": "row",
            "title": title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": y, "w": 24, "h": 1},
        }
        placed, y = place(panels, y + 1)
        yield from placed


def choice(name: str, label: str, query: str, all_value: str | None) -> Json:
    """A variable with the values of a label; all of them are chosen at first."""
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATA_SOURCE,
        "query": {"qryType": 1, "query": query, "refId": name},
        "refresh": 2,
        "regex": "",
        "sort": 1,
        "multi": True,
        "includeAll": True,
        **({"allValue": all_value} if all_value else {}),
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "options": [],
        "hide": 0,
    }


def dashboard() -> Json:
    """The whole dashboard."""
    data_source = {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "query": "prometheus",
        "refresh": 1,
        "regex": "",
        "multi": False,
        "includeAll": False,
        "options": [],
        "hide": 0,
    }
    # "All" of job names each job, because process_cpu_seconds_total is published by others too; the rest is short.
    jobs = choice("job", "Job", "label_values(fstat_exporter_build_info, job)", None)
    instances = choice("instance", "Instance", 'label_values(fstat_exporter_build_info{job=~"$job"}, instance)', ".+")
    groups = choice("group", "Group", f"label_values(fstat_group_files{{{OF_AGENT}}}, group)", ".+")
    namespaces = choice("namespace", "Namespace", f"label_values(fstat_aggregate_files{{{OF_GROUP}}}, namespace)", ".*")
    return {
        "uid": "fstat-log-growth",
        "title": "Log growth",
        "description": "Which logs grow, how fast, and how well fstat-exporter follows them.",
        "tags": ["fstat-exporter", "logs"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timepicker": {},
        "timezone": "browser",
        "links": [],
        "annotations": {"list": []},
        "templating": {"list": [data_source, jobs, instances, groups, namespaces]},
        "panels": [each | {"id": number} for number, each in enumerate(all_panels(), 1)],
    }


if __name__ == "__main__":
    json.dump(dashboard(), sys.stdout, indent=2)
    print()
