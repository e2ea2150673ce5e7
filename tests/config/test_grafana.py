"""The dashboard of config/grafana/: what it is made of, and that every query finds data in a real Prometheus."""

import contextlib
import json
import string
import subprocess
import time
import urllib.parse
import xml.etree.ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import (
    REPOSITORY,
    Agent,
    Prometheus,
    StartAgent,
    StartPrometheus,
    complaints_of_types,
    program,
    wait_until,
)
from tools.dashboard import SHIPPERS, dashboard
from tools.picture import SHOWN, picture
from tools.workload import Workload

PATH = REPOSITORY / "config" / "grafana" / "log-growth.json"
DASHBOARD: dict[str, Any] = json.loads(PATH.read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}

# What Grafana puts in place of the variables at first: all jobs by name, "All" of the others as they say.
VALUES = {
    "__rate_interval": "5s",
    "__range": "15s",
    "job": "(fstat)",
    **{name: variable["allValue"] for name, variable in VARIABLES.items() if "allValue" in variable},
}
# In these every query must have had something to count in the workload of the test; nothing else may be zero for ever.
MUST_HAPPEN = {
    "Growth",
    "Size",
    "Files",
    "Growth by group",
    "Growth by namespace",
    "Growth by container",
    "Top growers",
    "Size by group",
    "Biggest files",
    "Silence by group",
    "Silent the longest",
    "Rotations and truncations",
    "Files appearing and vanishing",
    "Unread by shipper and group",
    "Oldest unread",
    "Read against appended",
    "Lost in the last day",
    "Unread by namespace",
    "Lost in the last day, by namespace",
    "Cache hit ratio",
    "Room in the cache",
    "Duration of a scrape",
    "CPU of the agent",
    "Memory of the agent",
    "Series of the agent",
}


def filled_in(expression: str, **values: str) -> str:
    """The expression with values in place of the variables; an unknown variable fails."""
    return string.Template(expression).substitute(VALUES | values)


def query_of(title: str, **values: str) -> str:
    """The only query of a panel."""
    (target,) = next(panel["targets"] for panel in PANELS if panel["title"] == title)
    return filled_in(target["expr"], **values)


def expressions() -> Iterator[tuple[str, str, str]]:
    """Title, legend and expression of each query."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel["title"], target["legendFormat"], filled_in(target["expr"])


def test_is_what_the_script_prints() -> None:
    """The committed JSON is that of tools/dashboard.py."""
    assert dashboard() == DASHBOARD


def test_is_a_dashboard_to_grafana(tmp_path: Path) -> None:
    """It has the types of Grafana's own package, the options of each kind of panel too; a broken copy has not."""
    copy = json.loads(PATH.read_text())
    copy["refreshh"] = "5s"
    copy["panels"][0]["gridPos"]["w"] = "wide"
    copy["panels"][0]["options"]["graphMode"] = "aera"
    del copy["schemaVersion"]
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(copy))
    complaints = complaints_of_types(PATH, broken)
    assert [line for line in complaints if not line.startswith(str(broken))] == []
    mistakes = ("refreshh", "/panels/0/gridPos/w", "options/graphMode", "schemaVersion")
    assert [mistake for mistake in mistakes if not any(mistake in line for line in complaints)] == []


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_panel_explains_itself(panel: dict[str, Any]) -> None:
    """Each panel has a unit, a description, a legend for each query, and the chosen data source."""
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["description"].endswith(".")
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert all(target["legendFormat"] and target["datasource"] == panel["datasource"] for target in panel["targets"])
    if panel["type"] == "timeseries":
        assert panel["options"]["legend"]["showLegend"]


def test_panels_have_their_places() -> None:
    """No two panels overlap, none is wider than the screen, no two have the same title or number."""
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not taken & cells
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    titles = [(panel["type"], panel["title"]) for panel in DASHBOARD["panels"]]
    assert len(set(titles)) == len(titles)


def test_variables() -> None:
    """What is shown can be narrowed down by these."""
    assert list(VARIABLES) == ["datasource", "job", "instance", "group", "namespace"]


def test_totals_are_of_groups() -> None:
    """What claims to be a total asks for the counters of groups, which outlive the files."""
    for title in ("Growth", "Growth by group", "Rotations and truncations"):
        (exprs,) = ([t["expr"] for t in panel["targets"]] for panel in PANELS if panel["title"] == title)
        assert all("fstat_group_" in expr and "fstat_file_" not in expr for expr in exprs)


def test_promtool_parses_every_query(tmp_path: Path) -> None:
    """`promtool check rules` takes each expression for PromQL."""
    rules = [{"record": f"panel:{number}", "expr": expr} for number, (_, _, expr) in enumerate(expressions())]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    command = [program("promtool"), "check", "rules", tmp_path / "rules.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr


# -- with a real Prometheus -------------------------------------------------------------------------------------------


@pytest.fixture
def start_scraped(
    tmp_path: Path, start_agent: StartAgent, start_prometheus: StartPrometheus
) -> Callable[[str], tuple[Agent, Prometheus]]:
    """Starts an agent with a configuration, and a Prometheus that scrapes it each second."""

    def start(config: str) -> tuple[Agent, Prometheus]:
        agent = start_agent(config=config)
        job = {"job_name": "fstat", "honor_labels": True, "static_configs": [{"targets": [f"127.0.0.1:{agent.port}"]}]}
        timing = {"scrape_interval": "1s", "scrape_timeout": "1s"}
        return agent, start_prometheus({"global": timing, "scrape_configs": [job]})

    return start


def points(prometheus: Prometheus, expression: str) -> list[float]:
    """All values of all series in the last half minute, second by second, as a panel asks for them."""
    now = time.time()
    asked = {"query": expression, "start": now - 30, "end": now, "step": 1}
    answer = json.loads(prometheus.get("/api/v1/query_range?" + urllib.parse.urlencode(asked)).body)
    assert answer["status"] == "success", (expression, answer)
    return [float(value) for series in answer["data"]["result"] for _, value in series["values"]]


def label_values(prometheus: Prometheus, query: str) -> list[str]:
    """What Grafana makes of label_values(SELECTOR, LABEL)."""
    selector, label = query.removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
    matching = urllib.parse.urlencode({"match[]": filled_in(selector)})
    answer = json.loads(prometheus.get(f"/api/v1/label/{label}/values?{matching}").body)
    assert answer["status"] == "success", answer
    values: list[str] = answer["data"]
    return values


def ship(logs: Path, state: Path) -> None:
    """What a shipper leaves that has read half of each log, and next to nothing of those of the short-lived pods."""
    lines = []
    for path in logs.rglob("*.log"):
        with contextlib.suppress(FileNotFoundError):  # its pod has gone
            status = path.stat()
            offset = 1 if "batch" in str(path) else status.st_size // 2
            lines.append(f"{path}\t{offset:016x}\t{status.st_ino:016x}\n")
    new = state.with_suffix(".new")
    new.write_text("".join(lines))
    new.replace(state)


def test_every_query_returns_data(tmp_path: Path, start_scraped: Callable[[str], tuple[Agent, Prometheus]]) -> None:
    """Now and over time, while logs grow, are rotated and truncated, and pods come and go: each query has data.

    A shipper reads them too slowly, and loses what the short-lived pods wrote.

    The picture of docs/operating.md can be drawn of it.
    """
    with Workload(tmp_path / "host", speed=8) as workload:
        state = tmp_path / "log.pos"
        shippers = f'shippers: [{{name: slow, type: fluentd, path: "{state}"}}]\n'
        ship(workload.root, state)
        agent, prometheus = start_scraped(workload.configuration() + shippers)

        def without_data() -> list[tuple[str, str]]:
            ship(workload.root, state)
            return [
                (title, legend)
                for title, legend, expr in expressions()
                if not prometheus.query(expr)
                or not (found := points(prometheus, expr))
                or (title in MUST_HAPPEN and max(found) <= 0)
            ]

        wait_until(lambda: not without_data(), 40, lambda: str(without_data()))

        assert VARIABLES["datasource"]["query"] == "prometheus"
        found = {
            name: label_values(prometheus, variable["query"]["query"])
            for name, variable in VARIABLES.items()
            if variable["type"] == "query"
        }
        assert found["job"] == ["fstat"]
        assert found["instance"] == [f"127.0.0.1:{agent.port}"]
        assert found["group"] == ["pods", "system", "web"]
        assert {"kube-system", "payments", "shop"} <= set(found["namespace"])

        by_group = prometheus.query(query_of("Growth by group"))
        assert {labels["group"] for labels, _ in by_group} == set(found["group"])
        # 17 kB a second, which checkout's containers write all the time.
        grown = prometheus.query(query_of("Growth by container", namespace="shop"))
        assert {labels["namespace"] for labels, _ in grown} == {"shop"}
        checkout = sum(value for labels, value in grown if labels["pod"] == "checkout-84c5b")
        assert checkout == pytest.approx(17_000, rel=0.3)

        drawn = xml.etree.ElementTree.fromstring(picture(prometheus.url, time.time() - 10, 10, str(workload.root)))
        words = [text for text in drawn.itertext() if text.strip()]
        assert {*SHOWN, "web", "shop", "/var/log/syslog"} <= set(words)


def test_queries_of_totals_are_zero_without_growth(
    tmp_path: Path, start_scraped: Callable[[str], tuple[Agent, Prometheus]]
) -> None:
    """A single log that nobody writes to, no pods, no shippers: what does not happen is 0, not missing."""
    (tmp_path / "quiet.log").write_bytes(b"one line\n")
    _, prometheus = start_scraped(f'logs: [{{group: quiet, paths: ["{tmp_path}/*.log"]}}]')
    # These say so themselves.
    none = {"Growth by namespace", "Growth by container", *(panel["title"] for panel in SHIPPERS)}

    def missing() -> set[str]:
        return {title for title, _, expr in expressions() if not prometheus.query(expr)}

    wait_until(lambda: missing() == none, 20, lambda: str(missing()))
    assert all("noValue" in panel["fieldConfig"]["defaults"] for panel in PANELS if panel["title"] in none)
    for title in ("Growth", "Rotations and truncations", "Files appearing and vanishing"):
        assert {value for name, _, expr in expressions() if name == title for _, value in prometheus.query(expr)} == {0}


def test_short_life_is_in_the_total_only(
    tmp_path: Path, start_scraped: Callable[[str], tuple[Agent, Prometheus]]
) -> None:
    """As docs/metrics.md says: a pod that has 5,000 bytes at its first scrape has increase() 0, its group has not."""
    logs = tmp_path / "pods"
    logs.mkdir()
    config = f"""
logs:
  - preset: kubernetes-pods
    paths: ["{logs}/*/*/*.log"]
"""
    _, prometheus = start_scraped(config)
    wait_until(lambda: prometheus.value("count_over_time(fstat_group_files[1m])") or 0)
    born = logs / "batch_job_1/main/0.log"
    born.parent.mkdir(parents=True)
    born.write_bytes(b"x" * 5_000)
    aggregate, group = "fstat_aggregate_appended_bytes_total", "fstat_group_appended_bytes_total"
    wait_until(lambda: (prometheus.value(f"count_over_time({aggregate}[1m])") or 0) >= 3)
    assert prometheus.value(aggregate) == prometheus.value(group) == 5_000
    assert prometheus.value(f"increase({aggregate}[1m])") == 0
    assert (prometheus.value(f"increase({group}[1m])") or 0) >= 5_000
