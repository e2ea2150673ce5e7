"""The manifests for Kubernetes, as kubectl renders them. tests/image runs the pod."""

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from exporter import __version__
from tests.support import REPOSITORY, program

KUBERNETES = REPOSITORY / "config" / "kubernetes"
RULES = REPOSITORY / "config" / "prometheus" / "rules"
KUSTOMIZATIONS = ("base", "overlays/prometheus-operator", "overlays/tls-and-basic-auth")
OF_THE_OPERATOR = {"PodMonitor", "PrometheusRule"}  # resource definitions that come with it, not with Kubernetes


def render(kustomization: Path) -> dict[str, Any]:
    """Its resources by their kinds; those of which there are several by their names."""
    kubectl = program("kubectl", "it comes from Kubernetes, https://kubernetes.io/docs/tasks/tools/")
    done = subprocess.run([kubectl, "kustomize", kustomization], capture_output=True, text=True, check=True)
    assert not done.stderr
    resources = list(yaml.safe_load_all(done.stdout))
    kinds = Counter(resource["kind"] for resource in resources)
    return {each["kind"] if kinds[each["kind"]] == 1 else each["metadata"]["name"]: each for each in resources}


def newest_minor_versions(count: int) -> list[str]:
    """The newest minor versions of Kubernetes that the validator knows."""
    major, minor, *_ = kubernetes_validate.latest_version().split(".")
    return [f"{major}.{int(minor) - age}" for age in range(count)]


@pytest.mark.parametrize("kustomization", KUSTOMIZATIONS)
def test_kubernetes_accepts_it(kustomization: str) -> None:
    """Everything rendered is what the three newest versions define, without a property that they do not know."""
    resources = render(KUBERNETES / kustomization)
    for version in newest_minor_versions(3):
        for resource in resources.values():
            if resource["kind"] not in OF_THE_OPERATOR:
                assert kubernetes_validate.validate(resource, version, strict=True) == version


def test_everything_is_in_one_namespace() -> None:
    """Namespace, pod, service and configuration find each other by their names; the image is this version."""
    base = render(KUBERNETES / "base")
    assert set(base) == {"Namespace", "ConfigMap", "DaemonSet", "ServiceAccount", "Service", "PriorityClass"}
    namespace = base["Namespace"]["metadata"]["name"]
    namespaced = [base[kind]["metadata"] for kind in ("ConfigMap", "DaemonSet", "ServiceAccount", "Service")]
    assert {metadata["namespace"] for metadata in namespaced} == {namespace}
    template = base["DaemonSet"]["spec"]["template"]
    assert template["spec"]["containers"][0]["image"] == f"fstat-exporter:{__version__}"
    assert base["Service"]["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    assert base["Service"]["spec"]["clusterIP"] == "None"
    assert template["spec"]["serviceAccountName"] == base["ServiceAccount"]["metadata"]["name"]
    assert template["spec"]["priorityClassName"] == base["PriorityClass"]["metadata"]["name"]
    assert {"configMap": {"name": base["ConfigMap"]["metadata"]["name"]}, "name": "config"} in template["spec"][
        "volumes"
    ]


def test_configuration_is_valid() -> None:
    """The agent takes the file in the ConfigMap."""
    command = [sys.executable, "-m", "exporter", "--config.check", "--config.file"]
    subprocess.run([*command, KUBERNETES / "base" / "exporter.yml"], cwd=REPOSITORY, check=True)


def test_prometheus_rules_are_up_to_date() -> None:
    """There is a PrometheusRule for each file of config/prometheus/rules/; `make prometheus-rule` writes them again."""
    expected = [yaml.safe_load(path.read_text()) for path in sorted(RULES.glob("*.yml"))]
    rules = yaml.safe_load_all((KUBERNETES / "overlays" / "prometheus-operator" / "prometheusrule.yml").read_text())
    assert [rule["spec"] for rule in rules if rule] == expected


def test_prometheus_rules_are_rendered_right(tmp_path: Path) -> None:
    """What kubectl makes of the rules are rules still."""
    resources = render(KUBERNETES / "overlays" / "prometheus-operator")
    for name, rule in resources.items():
        if rule["kind"] == "PrometheusRule":
            (tmp_path / name).write_text(yaml.safe_dump(rule["spec"]))
            subprocess.run([program("promtool"), "check", "rules", tmp_path / name], check=True)


def test_operator_keeps_the_labels_of_the_logs() -> None:
    """The PodMonitor finds the pods and their port, and lets namespace, pod and container of the logs be."""
    resources = render(KUBERNETES / "overlays" / "prometheus-operator")
    spec, template = resources["PodMonitor"]["spec"], resources["DaemonSet"]["spec"]["template"]
    assert spec["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    (endpoint,) = spec["podMetricsEndpoints"]
    assert endpoint["honorLabels"] is True
    assert endpoint["port"] in [port["name"] for port in template["spec"]["containers"][0]["ports"]]


def test_operator_with_tls(tmp_path: Path) -> None:
    """The two lines that the kustomization names make one of both overlays; the rest of the PodMonitor stays."""
    copy = shutil.copytree(KUBERNETES, tmp_path / "kubernetes") / "overlays" / "tls-and-basic-auth"
    text = (copy / "kustomization.yml").read_text()
    changed = text.replace("- ../../base", "- ../prometheus-operator").replace("# - path:", "- path:")
    assert len(changed.splitlines()) == len(text.splitlines())
    (copy / "kustomization.yml").write_text(changed)
    resources = render(copy)
    (endpoint,) = resources["PodMonitor"]["spec"]["podMetricsEndpoints"]
    (plain,) = render(KUBERNETES / "overlays" / "prometheus-operator")["PodMonitor"]["spec"]["podMetricsEndpoints"]
    assert plain.items() <= endpoint.items()
    assert endpoint["scheme"] == "https"
    projected = next(
        each for each in resources["DaemonSet"]["spec"]["template"]["spec"]["volumes"] if "projected" in each
    )
    mounted = {next(iter(source.values()))["name"] for source in projected["projected"]["sources"]}
    assert any(name.startswith("fstat-exporter-probe") for name in mounted & set(resources))
    assert {endpoint["tlsConfig"]["ca"]["secret"]["name"], endpoint["basicAuth"]["password"]["name"]} <= mounted
