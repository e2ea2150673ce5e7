"""The manifests for Kubernetes, as kubectl renders them. tests/image runs the pod."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from exporter import __version__
from tests.certificates import make_pair
from tests.support import REPOSITORY, program, unpacked

KUBERNETES = REPOSITORY / "config" / "kubernetes"
RULES = REPOSITORY / "config" / "prometheus" / "rules"
OVERLAYS = ("prometheus-operator", "docker", "network-policy", "shipper-processes")
PROTECTIONS = ("tls-and-basic-auth", "kubernetes-authorization")  # exclude each other
KUSTOMIZATIONS = ("base", *(f"overlays/{name}" for name in (*OVERLAYS, *PROTECTIONS)))
OF_THE_OPERATOR = {"PodMonitor", "PrometheusRule"}  # resource definitions that come with it, not with Kubernetes


def render(kustomization: Path) -> dict[str, Any]:
    """Its resources by their kinds; those of which there are several by kind and name."""
    done = subprocess.run([unpacked("kubectl"), "kustomize", kustomization], capture_output=True, text=True, check=True)
    assert not done.stderr
    resources = list(yaml.safe_load_all(done.stdout))
    kinds = Counter(resource["kind"] for resource in resources)
    return {
        each["kind"] if kinds[each["kind"]] == 1 else f"{each['kind']} {each['metadata']['name']}": each
        for each in resources
    }


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


def host_directories(resources: dict[str, Any]) -> dict[str, str]:
    """The directories of the node that the pod mounts, with the check of the kubelet."""
    volumes = resources["DaemonSet"]["spec"]["template"]["spec"]["volumes"]
    return {each["hostPath"]["path"]: each["hostPath"]["type"] for each in volumes if "hostPath" in each}


def test_node_gets_no_directory_but_the_state() -> None:
    """Docker's directory is mounted in its overlay only, and made in none; the agent may not write to it."""
    base = {"/var/log": "Directory", "/var/lib/fstat-exporter": "DirectoryOrCreate"}
    assert host_directories(render(KUBERNETES / "base")) == base
    docker = render(KUBERNETES / "overlays" / "docker")
    assert host_directories(docker) == {**base, "/var/lib/docker/containers": "Directory"}
    (container,) = docker["DaemonSet"]["spec"]["template"]["spec"]["containers"]
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
    assert [path for path, is_read_only in mounts.items() if not is_read_only] == ["/var/lib/fstat-exporter"]


def test_positions_of_shippers_can_be_mounted(tmp_path: Path) -> None:
    """Each commented mount has its volume, at the node's path, read-only. The commented path is in a mount."""
    base = shutil.copytree(KUBERNETES / "base", tmp_path / "base")
    manifest = base / "daemonset.yml"
    manifest.write_text(re.sub(r"^( *)# (- \{name: .+\})$", r"\1\2", manifest.read_text(), flags=re.MULTILINE))
    resources = render(base)
    assert kubernetes_validate.validate(resources["DaemonSet"], newest_minor_versions(1)[0], strict=True)
    spec = resources["DaemonSet"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    on_node = {volume["name"]: volume["hostPath"]["path"] for volume in spec["volumes"] if "hostPath" in volume}
    assert on_node == {name: mount["mountPath"] for name, mount in mounts.items() if name != "config"}
    assert on_node.keys() > {"alloy", "filebeat", "otelcol", "promtail", "vector"}
    assert [name for name, mount in mounts.items() if not mount.get("readOnly")] == ["state"]
    (path,) = re.findall("^#     path: (.+)$", (base / "exporter.yml").read_text(), re.MULTILINE)
    assert any(path.startswith(f"{directory}/") for directory in on_node.values())


def test_only_one_overlay_can_take_over_the_node() -> None:
    """The overlay for type process sees all processes, and may trace them. It says so; nothing else may do that."""
    for name in KUSTOMIZATIONS:
        spec = render(KUBERNETES / name)["DaemonSet"]["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        has_it = name == "overlays/shipper-processes"
        assert spec.get("hostPID", False) is has_it
        more = ["SYS_PTRACE"] if has_it else []
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["DAC_READ_SEARCH", *more]}
    for document in (KUBERNETES / "overlays" / "shipper-processes" / "kustomization.yml", REPOSITORY / "SECURITY.md"):
        text = " ".join(document.read_text().replace("#", " ").split())
        assert "hostPID" in text
        assert "SYS_PTRACE" in text
        assert "take over the node" in text


def test_why_it_ended_shows() -> None:
    """The end of the log becomes the message of a container that failed."""
    (container,) = render(KUBERNETES / "base")["DaemonSet"]["spec"]["template"]["spec"]["containers"]
    assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_network_policy() -> None:
    """It selects the pod, lets Prometheus in at the port of the metrics, and nobody out."""
    resources = render(KUBERNETES / "overlays" / "network-policy")
    policy, template = resources["NetworkPolicy"], resources["DaemonSet"]["spec"]["template"]
    assert policy["metadata"]["namespace"] == resources["DaemonSet"]["metadata"]["namespace"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in policy["spec"]
    (rule,) = policy["spec"]["ingress"]
    assert [port["port"] for port in rule["ports"]] == [
        port["name"] for port in template["spec"]["containers"][0]["ports"]
    ]
    (source,) = rule["from"]
    assert set(source) == {"namespaceSelector", "podSelector"}


def test_network_policy_with_the_api_server(tmp_path: Path) -> None:
    """The commented rule lets the agent connect to the API server, at one port."""
    overlay = shutil.copytree(KUBERNETES, tmp_path / "kubernetes") / "overlays" / "network-policy"
    manifest = overlay / "networkpolicy.yml"
    text = re.sub(r"^  # ( *(?:egress:|- .+))$", r"  \1", manifest.read_text(), flags=re.MULTILINE)
    manifest.write_text(text)
    policy = render(overlay)["NetworkPolicy"]
    assert kubernetes_validate.validate(policy, newest_minor_versions(1)[0], strict=True)
    assert policy["spec"]["egress"] == [{"ports": [{"port": 6443}]}]


@pytest.mark.parametrize("protection", PROTECTIONS)
def test_overlays_combine(tmp_path: Path, protection: str) -> None:
    """Each overlay may stand on another one instead of the base: what all of them add is there."""
    overlays = shutil.copytree(KUBERNETES, tmp_path / "kubernetes") / "overlays"
    for below, overlay in pairwise((*OVERLAYS, protection)):
        path = overlays / overlay / "kustomization.yml"
        text = path.read_text()
        path.write_text(text.replace("- ../../base", f"- ../{below}"))
        assert path.read_text() != text
    combined = render(overlays / protection)

    def names(resources: dict[str, Any]) -> set[tuple[str, str]]:
        return {(resource["kind"], resource["metadata"]["name"]) for resource in resources.values()}

    for name in (*OVERLAYS, protection):
        assert names(render(KUBERNETES / "overlays" / name)) <= names(combined)
    volumes = {volume["name"] for volume in combined["DaemonSet"]["spec"]["template"]["spec"]["volumes"]}
    assert volumes == {"config", "state", "logs", "docker", "web"}


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


def render_with_operator(protection: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any], set[str]]:
    """An overlay on prometheus-operator, by the two lines that its kustomization names.

    Returns its resources, the endpoint of the PodMonitor, and the names of what is mounted for TLS.
    """
    copy = shutil.copytree(KUBERNETES, folder / "kubernetes") / "overlays" / protection
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
    return resources, endpoint, {next(iter(source.values()))["name"] for source in projected["projected"]["sources"]}


def test_operator_with_tls(tmp_path: Path) -> None:
    """Both overlays make one: the rest of the PodMonitor stays, and the Secrets that it names are mounted."""
    resources, endpoint, mounted = render_with_operator("tls-and-basic-auth", tmp_path)
    made = {each["metadata"]["name"] for each in resources.values()}
    assert any(name.startswith("fstat-exporter-probe") for name in mounted & made)
    assert {endpoint["tlsConfig"]["ca"]["secret"]["name"], endpoint["basicAuth"]["password"]["name"]} <= mounted


def test_authorization(tmp_path: Path) -> None:
    """The agent may create reviews only, and has a token; Prometheus may get its path only, and has one too."""
    resources, endpoint, mounted = render_with_operator("kubernetes-authorization", tmp_path)

    def granted(account: str) -> list[dict[str, Any]]:
        bindings = [each for each in resources.values() if each["kind"] == "ClusterRoleBinding"]
        subject = {"kind": "ServiceAccount", "name": account, "namespace": "fstat-exporter"}
        (role,) = (each["roleRef"]["name"] for each in bindings if subject in each["subjects"])
        rules: list[dict[str, Any]] = resources[f"ClusterRole {role}"]["rules"]
        return rules

    spec = resources["DaemonSet"]["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is True
    assert granted(spec["serviceAccountName"]) == [
        {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
        {"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]},
    ]
    secret = resources["Secret"]
    assert secret["type"] == "kubernetes.io/service-account-token"
    account = secret["metadata"]["annotations"]["kubernetes.io/service-account.name"]
    assert granted(account) == [{"nonResourceURLs": [endpoint["path"]], "verbs": ["get"]}]
    assert endpoint["authorization"]["credentials"] == {"name": secret["metadata"]["name"], "key": "token"}
    assert endpoint["tlsConfig"]["ca"]["secret"]["name"] in mounted
    (container,) = spec["containers"]
    assert {container[kind]["httpGet"]["scheme"] for kind in ("readinessProbe", "livenessProbe")} == {"HTTPS"}


def test_flags_of_the_authorization(tmp_path: Path) -> None:
    """The agent accepts the overlay's flags, its web configuration and the key of a Secret of type tls."""
    resources = render(KUBERNETES / "overlays" / "kubernetes-authorization")
    (container,) = resources["DaemonSet"]["spec"]["template"]["spec"]["containers"]
    make_pair(tmp_path, "tls")
    web_config = next(
        each["data"]["web-config.yml"] for each in resources.values() if "web-config.yml" in each.get("data", {})
    )
    (tmp_path / "web-config.yml").write_text(web_config)
    flags = [flag.replace("/etc/fstat-exporter-web", str(tmp_path)) for flag in container["args"]]
    assert "--web.authorization=kubernetes" in flags
    config = KUBERNETES / "base" / "exporter.yml"
    command = [sys.executable, "-m", "exporter", "--config.check", f"--config.file={config}", *flags]
    subprocess.run(command, cwd=REPOSITORY, check=True)
