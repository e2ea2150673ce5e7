"""What config/prometheus/ promises, with the real Prometheus and its promtool."""

import functools
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import REPOSITORY, StartAgent, StartPrometheus, document_table, program, wait_until
from tools.workload import Workload

FOLDER = REPOSITORY / "config" / "prometheus"
RULES = sorted((FOLDER / "rules").glob("*.yml"))
PODMONITOR = REPOSITORY / "config/kubernetes/overlays/prometheus-operator/podmonitor.yml"
CASES = sorted((FOLDER / "tests").glob("*.yml"))


def rules(kind: str) -> dict[str, dict[str, Any]]:
    """The rules that have this key (alert or record), by its value."""
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return {rule[kind]: rule for group in groups for rule in group["rules"] if kind in rule}


def promtool(*arguments: str | Path) -> None:
    """Run it, with success."""
    command = [program("promtool"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stdout + done.stderr


def shipped_configuration(port: int, **target_labels: str) -> dict[str, Any]:
    """The configuration as it is, but for the target, the times, and where the rules are."""
    config: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(FOLDER / pattern) for pattern in config["rule_files"]]
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [f"127.0.0.1:{port}"], "labels": target_labels}]
    return config


def test_promtool_accepts_configuration_and_rules() -> None:
    """The files are valid, and the linter has nothing to say of the rules."""
    promtool("check", "config", FOLDER / "prometheus.yml")
    promtool("check", "rules", "--lint=all", "--lint-fatal", *RULES)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_rules(path: Path) -> None:
    """`promtool test rules`: what is recorded, when each alert fires, and when it does not."""
    promtool("test", "rules", path)


def test_each_rule_has_its_cases() -> None:
    """Of each alert there is a case in which it fires and one in which it does not; each record is asked for."""
    tests = [test for path in CASES for test in yaml.safe_load(path.read_text())["tests"]]
    cases = [case for test in tests for case in test.get("alert_rule_test", [])]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == set(rules("alert"))
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == set(rules("alert"))
    asked = " ".join(case["expr"] for test in tests for case in test.get("promql_expr_test", []))
    assert [name for name in rules("record") if name not in asked] == []


def test_alerts_say_what_to_do() -> None:
    """Each alert has a severity, says what is the matter and what to do, and has its section among the runbooks."""
    sections = re.findall(r"^## (\w+)$", (REPOSITORY / "docs" / "alerts.md").read_text(), re.MULTILINE)
    assert sections == list(rules("alert"))
    for name, rule in rules("alert").items():
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert set(rule["annotations"]) == {"summary", "description", "action", "runbook"}
        assert rule["annotations"]["runbook"] == f"docs/alerts.md#{name.lower()}"


def test_configuration_of_the_runbooks(tmp_path: Path, start_agent: StartAgent) -> None:
    """The one in docs/alerts.md gives a file the label that FstatLogSilent looks at."""
    (block,) = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "docs" / "alerts.md").read_text(), re.DOTALL)
    (tmp_path / "a.log").touch()
    scrape = start_agent(config=block.replace("/srv/payments", str(tmp_path))).scrape()
    assert scrape.value("fstat_file_mtime_seconds", max_silence="10m", path=str(tmp_path / "a.log"))


def test_recorded_names() -> None:
    """level:metric:operations, where the metric is one of the agent's without its _total."""
    published = {name.removesuffix("_total") for name in document_table("docs/metrics.md", "All metrics")}
    for name in rules("record"):
        level, metric, operations = name.split(":")
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", level)
        assert metric in published
        assert re.fullmatch(r"(sum|((ratio|avg|max)_)?rate\d+[mhd](_yesterday)?)", operations)


def test_rules_ask_for_what_is_published() -> None:
    """No expression has the name of a metric that the agent does not publish."""
    exprs = " ".join(rule["expr"] for rule in (*rules("alert").values(), *rules("record").values()))
    recorded = {metric for name in rules("record") for metric in name.split(":")}
    assert set(re.findall(r"\bfstat_\w+", exprs)) - recorded <= set(document_table("docs/metrics.md", "All metrics"))


@pytest.fixture
def workload(tmp_path: Path) -> Iterator[Workload]:
    """Logs that are being written, eight times as fast as in the picture."""
    with Workload(tmp_path / "host", speed=8) as running:
        yield running


def test_shipped_configuration_works(
    workload: Workload, start_agent: StartAgent, start_prometheus: StartPrometheus
) -> None:
    """A real Prometheus takes the configuration with its rules, and the rules record what the agent publishes."""
    agent = start_agent(config=workload.configuration())
    prometheus = start_prometheus(shipped_configuration(agent.port))
    of_today = [name for name in rules("record") if "1d" not in name and "yesterday" not in name]
    for name in of_today:
        wait_until(functools.partial(prometheus.query, name), 20)
    growth = 'group:fstat_group_appended_bytes:rate5m{group="pods"}'
    wait_until(lambda: (prometheus.value(growth) or 0) > 0)
    ((labels, _),) = prometheus.query('group:fstat_group_appended_bytes:rate5m{group="web"}')
    assert labels["team"] == "shop"
    groups = json.loads(prometheus.get("/api/v1/rules").body)["data"]["groups"]
    assert {rule["name"] for group in groups for rule in group["rules"]} == {*rules("record"), *rules("alert")}
    assert "err" not in {rule["health"] for group in groups for rule in group["rules"]}
    assert prometheus.query('ALERTS{alertstate="firing"}') == []


def labels_of(vector: list[tuple[dict[str, str], float]]) -> list[Mapping[str, str]]:
    """What tells of the logs, and of the target."""
    wanted = ("namespace", "pod", "container", "exported_namespace", "exported_pod", "exported_container")
    return [{name: labels[name] for name in wanted if name in labels} for labels, _ in vector]


def test_labels_stay_ours(tmp_path: Path, start_agent: StartAgent, start_prometheus: StartPrometheus) -> None:
    """A target with labels pod and namespace of its own: ours stay; without honor_labels ours are renamed.

    The PodMonitor drops those of the target that end when the agent's pod is replaced.
    """
    workload = Workload(tmp_path / "host")
    log = tmp_path / "host/var/log/pods/shop_cart-6f7d9_4be8c0f2/app/0.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"x")
    agent = start_agent(config=workload.configuration())
    config = shipped_configuration(agent.port, namespace="monitoring", pod="fstat-exporter-x7k2p", container="agent")
    (shipped,) = config["scrape_configs"]
    without = {key: value for key, value in shipped.items() if key != "honor_labels"} | {"job_name": "without"}
    monitor = yaml.safe_load(PODMONITOR.read_text())
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    # As the operator does: its own target labels first, then what the PodMonitor has.
    relabelings = [
        {re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", key): value for key, value in relabeling.items()}
        for relabeling in endpoint["relabelings"]
    ]
    operator = shipped | {"job_name": "operator", "relabel_configs": relabelings}
    config["scrape_configs"] += [without, operator]
    prometheus = start_prometheus(config)
    ours = {"namespace": "shop", "pod": "cart-6f7d9", "container": "app"}
    theirs = {"namespace": "monitoring", "pod": "fstat-exporter-x7k2p", "container": "agent"}
    renamed = theirs | {f"exported_{name}": value for name, value in ours.items()}

    def labels(job: str, metric: str, selector: str) -> list[Mapping[str, str]]:
        query = f'{metric}{{job="{job}", {selector}}}'
        return labels_of(wait_until(lambda: prometheus.query(query)))

    for job, expected in (("fstat", ours), ("without", renamed)):
        assert labels(job, "fstat_aggregate_files", 'group="pods"') == [expected]
        assert labels(job, "fstat_file_size_bytes", 'group="pods"') == [expected]
        # Groups and the agent have no such labels of their own.
        assert labels(job, "fstat_group_files", 'group="pods"') == [theirs]
    # A file of no pod has no such labels either; but it is none of the pods of an aggregate.
    for job, expected in (("fstat", theirs), ("without", theirs), ("operator", {"namespace": "monitoring"})):
        assert labels(job, "fstat_file_size_bytes", 'path=~".*/boot.log"') == [expected]
        assert labels(job, "fstat_group_files", 'group="pods"') == [expected]
    assert labels("operator", "fstat_file_size_bytes", 'group="pods"') == [ours]
