"""docs/scaling.md is true: how many series there are, and how servers share the nodes."""

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from exporter.config.groups import DEFAULT_FILE_METRICS, FILE_METRICS
from tests.support import StartAgent, document_table, fenced_blocks, program


def promtool(*arguments: str | Path) -> str:
    """Run it, with success, and return what it printed."""
    done = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_each_node_has_one_shard(tmp_path: Path) -> None:
    """As many servers as the configuration says, each with a number of its own, share the nodes between them."""
    (block,) = [block for block in fenced_blocks() if "hashmod" in block.text]
    config = yaml.safe_load(block.text)
    (job,) = config["scrape_configs"]
    del job["kubernetes_sd_configs"]
    nodes = [f"node-{number}" for number in range(60)]
    running = {"__meta_kubernetes_pod_label_app_kubernetes_io_name": "fstat-exporter"}
    job["static_configs"] = [
        {"targets": ["192.0.2.1:10943"], "labels": {"__meta_kubernetes_pod_node_name": node, **running}}
        for node in nodes
    ]
    modulus = next(rule["modulus"] for rule in job["relabel_configs"] if rule.get("action") == "hashmod")
    shares = []
    for shard in range(modulus):
        keep = job["relabel_configs"][-1]
        assert keep["action"] == "keep"
        keep["regex"] = str(shard)
        path = tmp_path / "prometheus.yml"
        path.write_text(json.dumps(config))
        found = json.loads(promtool("check", "service-discovery", "--timeout=500ms", path, job["job_name"]))
        shares.append([target["labels"]["instance"] for target in found if target["labels"]])
    assert sorted(node for share in shares for node in share) == sorted(nodes)
    assert all(len(share) > len(nodes) / modulus / 3 for share in shares)


def series_each() -> Iterator[int]:
    """The table of what a node's series are made of."""
    return (int(count) for (count,) in document_table("docs/scaling.md", "Series of a node").values())


def test_series(tmp_path: Path, start_agent: StartAgent) -> None:
    """The table of what a node's series are made of is what the agent publishes."""
    configurations: dict[str, dict[str, object]] = {
        "files": {"aggregate_by": []},
        "every metric of files": {"aggregate_by": [], "metrics": list(FILE_METRICS)},
        "sums": {"per_file": False},
        "all": {},
        "bounded": {"max_series": 2},
        "nothing": {"per_file": False, "aggregate_by": []},
        "three patterns": {"per_file": False, "aggregate_by": []},
        "shipped": {"per_file": False},
        "unread": {"aggregate_by": [], "metrics": ["unread"]},
    }
    patterns = {"three patterns": ["[0-2].log", "3.log", "*.log"]}
    files, sums = 6, 3
    paths = [
        tmp_path / name / f"shop_app-{number % sums}_0123/main" / f"{number}.log"
        for name in configurations
        for number in range(files)
    ]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    logs = [
        {
            "preset": "kubernetes-pods",
            "group": name,
            "paths": [f"{tmp_path}/{name}/*/*/{last}" for last in patterns.get(name, ["*.log"])],
            **keys,
        }
        for name, keys in configurations.items()
    ]
    (tmp_path / "log.pos").write_text("".join(f"{path}\t{0:016x}\t{path.stat().st_ino:016x}\n" for path in paths))
    shipper = {"name": "a", "type": "fluentd", "path": f"{tmp_path}/log.pos", "groups": ["shipped", "unread"]}
    agent = start_agent(config=json.dumps({"logs": logs, "shippers": [shipper]}))
    samples = [dict(labels) for _, labels in agent.scrape().samples]
    series = Counter(labels.get("group") for labels in samples)
    shippers = sum("shipper" in labels and "group" not in labels for labels in samples)

    of_agent, of_group, of_pattern, of_file, of_disk_of_group, of_sum, *of_shippers = series_each()
    of_shipper, of_shipped_group, of_shipped_sum = of_shippers
    assert of_group + of_pattern == series["nothing"]
    assert of_group + 3 * of_pattern == series["three patterns"]
    assert of_file == len(DEFAULT_FILE_METRICS)
    assert series["nothing"] + files * of_file == series["files"]
    assert series["nothing"] + files * len(FILE_METRICS) + of_disk_of_group == series["every metric of files"]
    assert series["nothing"] + sums * of_sum == series["sums"]
    assert series["nothing"] + files * of_file + sums * of_sum == series["all"]
    assert series["nothing"] + 2 * of_file + 2 * of_sum == series["bounded"]
    assert series["sums"] + of_shipped_group + sums * of_shipped_sum == series["shipped"]
    assert series["nothing"] + of_shipped_group + files == series["unread"]
    assert of_shipper == shippers
    of_prometheus = 5  # up, scrape_duration_seconds and so on
    of_all = series[None] - shippers + of_prometheus
    assert of_all == pytest.approx(of_agent, abs=10)  # the agent gets new ones now and then


def test_examples_of_series() -> None:
    """The examples are what the table above them gives."""
    of_agent, of_group, of_pattern, of_file, _, of_sum, of_shipper, of_shipped_group, of_shipped_sum = series_each()
    fixed = of_agent + of_group + of_pattern
    assert [int(series.replace(",", "")) for series, _ in document_table("docs/scaling.md", "Examples").values()] == [
        fixed + 300 * of_sum,
        fixed + 300 * of_sum + of_shipper + of_shipped_group + 300 * of_shipped_sum,
        fixed + 300 * 4,
        fixed + 20 * of_sum,
        fixed + 300 * (of_file + of_sum),
        fixed + 300 * of_file,
        fixed + 300,
        fixed + 100 * (of_file + of_sum),
        fixed,
    ]
