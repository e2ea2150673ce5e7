"""The Helm chart, as helm renders it: the manifests of config/kubernetes, with what an operator sets."""

import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from exporter import __version__
from tests.config.test_kubernetes import KUBERNETES, OF_THE_OPERATOR, RULES, newest_minor_versions, render
from tests.support import REPOSITORY, complaints_of_types, unpacked
from tools.chart_schema import generate

CHART = REPOSITORY / "config" / "helm" / "fstat-exporter"
OPERATOR = {"podMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}
WEB = {"web": {"tlsSecret": "fstat-exporter-tls", "authSecret": "fstat-exporter-web"}}
TOKENS = {"web": {"tlsSecret": "fstat-exporter-tls", "authorization": "kubernetes"}}
# For each kustomization the values with which the chart renders the same.
KUSTOMIZATIONS: dict[str, dict[str, Any]] = {
    "base": {},
    "overlays/docker": {
        "hostPaths": [{"name": "docker", "path": "/var/lib/docker/containers", "type": "Directory"}],
    },
    "overlays/kubernetes-authorization": TOKENS,
    "overlays/network-policy": {"networkPolicy": {"enabled": True}},
    "overlays/prometheus-operator": OPERATOR,
    "overlays/shipper-processes": {"shipperProcesses": True},
    "overlays/tls-and-basic-auth": WEB,
}
EVERYTHING: dict[str, Any] = {
    "image": {"repository": "registry.example.com/logs/fstat-exporter", "tag": "1.2.3", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "registry"}],
    "args": ["--log.level=debug", "--web.enable-lifecycle"],
    "config": {
        "cache": {"max_files": 1000000, "cpu_budget": "2.5%"},
        "rescan_interval": "10m",
        "logs": [
            {"preset": "kubernetes-pods", "max_series": 2000000},
            {"group": "node", "paths": ["/var/log/{syslog,messages}"], "labels": {"team": "true"}},
        ],
        "shippers": [{"name": "vector", "type": "vector", "path": "/var/lib/vector"}],
    },
    "state": {"enabled": True, "hostPath": "/srv/fstat-exporter"},
    "hostPaths": [{"name": "vector", "path": "/var/lib/vector"}],
    "shipperProcesses": True,
    **WEB,
    "resources": {"limits": {"memory": "2Gi"}},
    "nodeSelector": {"pool": "gpu"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "virtual", "operator": "DoesNotExist"}]}]
            }
        }
    },
    "updateStrategy": {"type": "OnDelete", "rollingUpdate": None},
    "podLabels": {"team": "platform"},
    "podAnnotations": {"example.com/owner": "platform"},
    "seLinuxOptions": {"type": "spc_t"},
    "podMonitor": {"enabled": True, "labels": {"release": "kube-prometheus-stack"}, "interval": "1m30s"},
    "prometheusRule": {"enabled": True, "labels": {"release": "kube-prometheus-stack"}},
    "dashboard": {"enabled": True, "annotations": {"grafana_folder": "Logs"}, "namespace": "monitoring"},
    "networkPolicy": {"enabled": True, "from": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}]},
}


def run(*arguments: str | Path) -> str:
    """Run helm with success, and return what it prints."""
    done = subprocess.run([unpacked("helm"), *arguments], capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def of_values(values: dict[str, Any], folder: Path) -> str:
    """The flag of helm with these values, in a file of their own."""
    path = folder / "values.json"
    path.write_text(json.dumps(values))
    return f"--values={path}"


def template(
    values: dict[str, Any],
    folder: Path,
    release: str = "fstat-exporter",
    namespace: str = "fstat-exporter",
    chart: Path = CHART,
) -> list[dict[str, Any]]:
    """The resources that the chart renders with these values."""
    text = run("template", release, chart, f"--namespace={namespace}", of_values(values, folder))
    return [resource for resource in yaml.safe_load_all(text) if resource]


def the(resources: list[dict[str, Any]], kind: str, suffix: str = "fstat-exporter") -> dict[str, Any]:
    """The only one of this kind whose name ends so."""
    (found,) = (each for each in resources if each["kind"] == kind and each["metadata"]["name"].endswith(suffix))
    return found


def normalised(resources: list[dict[str, Any]]) -> dict[tuple[str, str], Any]:
    """By kind and name, without what means nothing, such as the order of volumes and the text of exporter.yml."""
    text = re.sub(r"(fstat-exporter-(probe|web))-\w+", r"\1", json.dumps(resources))  # kustomize's hash
    text = re.sub(r"(\\n)+", r"\\n", text)  # kustomize adds empty lines to expressions
    by_name = {(each["kind"], each["metadata"]["name"]): each for each in json.loads(text)}
    data = by_name["ConfigMap", "fstat-exporter"]["data"]
    data["exporter.yml"] = yaml.safe_load(data["exporter.yml"])
    spec = by_name["DaemonSet", "fstat-exporter"]["spec"]["template"]["spec"]
    for having_names in (spec["volumes"], spec["containers"][0]["volumeMounts"]):
        having_names.sort(key=lambda each: str(each["name"]))
    return by_name


def check_configuration(resources: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Have the agent check the exporter.yml of the ConfigMap, and return it."""
    path = folder / "exporter.yml"
    path.write_text(the(resources, "ConfigMap")["data"]["exporter.yml"])
    command = [sys.executable, "-m", "exporter", "--config.check", "--config.file", path]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    return config


@pytest.mark.parametrize("kustomization", KUSTOMIZATIONS)
def test_renders_what_kustomize_renders(kustomization: str, tmp_path: Path) -> None:
    """The defaults are the base without its Namespace; a value each adds what an overlay adds."""
    expected = normalised([*render(KUBERNETES / kustomization).values()])
    del expected["Namespace", "fstat-exporter"]
    assert normalised(template(KUSTOMIZATIONS[kustomization], tmp_path)) == expected


def test_every_overlay_has_its_values() -> None:
    """No kustomization is without the values that stand for it."""
    overlays = {f"overlays/{path.name}" for path in (KUBERNETES / "overlays").iterdir()}
    assert KUSTOMIZATIONS.keys() == {"base", *overlays}


def test_rules_are_those_of_prometheus(tmp_path: Path) -> None:
    """There is a PrometheusRule for each file of config/prometheus/rules/, with what that file has."""
    rules = {path.stem: yaml.safe_load(path.read_text()) for path in RULES.glob("*.yml")}
    resources = template(OPERATOR, tmp_path)
    assert {name: the(resources, "PrometheusRule", f"-{name}")["spec"] for name in rules} == rules


@pytest.mark.parametrize("overlay", ["tls-and-basic-auth", "kubernetes-authorization"])
def test_pod_monitor_with_tls(overlay: str, tmp_path: Path) -> None:
    """With TLS, Prometheus connects as the patch of the overlay says."""
    patch = yaml.safe_load((KUBERNETES / "overlays" / overlay / "podmonitor.patch.yml").read_text())
    monitor = the(template(OPERATOR | KUSTOMIZATIONS[f"overlays/{overlay}"], tmp_path), "PodMonitor")
    assert monitor["spec"]["podMetricsEndpoints"] == patch["spec"]["podMetricsEndpoints"]


def test_tokens_with_network_policy(tmp_path: Path) -> None:
    """The agent may connect to the API server, which it asks about the tokens, at the port that is set."""
    values = TOKENS | {"networkPolicy": {"enabled": True, "apiServerPort": 443}}
    policy = the(template(values, tmp_path), "NetworkPolicy")
    assert policy["spec"]["egress"] == [{"ports": [{"port": 443}]}]


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_helm_lint(values: dict[str, Any], tmp_path: Path) -> None:
    """The linter has neither an error nor a warning."""
    run("lint", "--strict", CHART, of_values(values, tmp_path))


@pytest.mark.parametrize("values", [{}, EVERYTHING, EVERYTHING | TOKENS], ids=["defaults", "everything", "tokens"])
def test_kubernetes_accepts_it(values: dict[str, Any], tmp_path: Path) -> None:
    """Everything rendered is what the three newest versions define, without a property that they do not know."""
    resources = [each for each in template(values, tmp_path) if each["kind"] not in OF_THE_OPERATOR]
    assert len(resources) >= 5
    for version in newest_minor_versions(3):
        for resource in resources:
            assert kubernetes_validate.validate(resource, version, strict=True) == version


@pytest.mark.parametrize("values", [OPERATOR, EVERYTHING, EVERYTHING | TOKENS], ids=["few", "everything", "tokens"])
def test_operator_accepts_it(values: dict[str, Any], tmp_path: Path) -> None:
    """PodMonitor and PrometheusRules have the types of the operator, without a property that it does not know."""
    resources = [each for each in template(values, tmp_path) if each["kind"] in OF_THE_OPERATOR]
    assert [each["kind"] for each in resources].count("PrometheusRule") == len([*RULES.glob("*.yml")])
    broken = json.loads(json.dumps(the(resources, "PodMonitor")))
    broken["spec"]["podMetricsEndpoints"][0] |= {"honorLables": True, "scheme": "ftp"}
    files = []
    for number, resource in enumerate([*resources, broken]):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(resource))
    complaints = complaints_of_types(*files)
    assert [line for line in complaints if not line.startswith(str(files[-1]))] == []
    assert [mistake for mistake in ("honorLables", "scheme") if not any(mistake in line for line in complaints)] == []


def test_values_reach_the_pod(tmp_path: Path) -> None:
    """What an operator sets is in the DaemonSet as it was set."""
    daemonset = the(template(EVERYTHING, tmp_path), "DaemonSet")
    template_of_pod = daemonset["spec"]["template"]
    spec = template_of_pod["spec"]
    (container,) = spec["containers"]
    assert container["image"] == "registry.example.com/logs/fstat-exporter:1.2.3"
    assert container["imagePullPolicy"] == "Always"
    assert container["args"] == ["--web.config.file=/etc/fstat-exporter-web/web-config.yml", *EVERYTHING["args"]]
    assert container["resources"]["limits"] == {"cpu": "500m", "memory": "2Gi"}
    for name in ("imagePullSecrets", "tolerations", "affinity"):
        assert spec[name] == EVERYTHING[name]
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux", "pool": "gpu"}
    assert spec["securityContext"]["seLinuxOptions"] == EVERYTHING["seLinuxOptions"]
    assert daemonset["spec"]["updateStrategy"] == {"type": "OnDelete"}
    assert EVERYTHING["podLabels"].items() <= template_of_pod["metadata"]["labels"].items()
    assert EVERYTHING["podAnnotations"].items() <= template_of_pod["metadata"]["annotations"].items()
    on_node = {each["name"]: each["hostPath"] for each in spec["volumes"] if "hostPath" in each}
    assert on_node["state"]["path"] == "/srv/fstat-exporter"
    assert on_node["vector"] == {"path": "/var/lib/vector", "type": "DirectoryOrCreate"}
    (vector,) = (each for each in container["volumeMounts"] if each["name"] == "vector")
    assert vector == {"name": "vector", "mountPath": "/var/lib/vector", "readOnly": True}


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({"repository": "example.com:5000/logs"}, f"example.com:5000/logs:{__version__}"),
        ({"repository": "example.com/logs", "tag": "1.0"}, "example.com/logs:1.0"),
        ({"repository": "example.com/logs@sha256:012"}, "example.com/logs@sha256:012"),
        ({"repository": "example.com/logs:1.0@sha256:012", "tag": "2.0"}, "example.com/logs:1.0@sha256:012"),
    ],
)
def test_names_of_images(image: dict[str, str], expected: str, tmp_path: Path) -> None:
    """An image has the version of the chart as its tag, or the tag that is set; with a digest it has neither."""
    daemonset = the(template({"image": image}, tmp_path), "DaemonSet")
    assert daemonset["spec"]["template"]["spec"]["containers"][0]["image"] == expected


def test_annotations_of_the_chart_can_be_replaced(tmp_path: Path) -> None:
    """Each annotation is there once, with the value that is set; the others stay."""
    values = {"podAnnotations": {"prometheus.io/scrape": "false"}}
    text = run("template", "fstat-exporter", CHART, of_values(values, tmp_path))
    assert re.findall(r"prometheus\.io/(\w+): (.+)", text) == [
        ("path", "/metrics"),
        ("port", '"10943"'),
        ("scrape", '"false"'),
    ]


def test_only_one_value_can_take_over_the_node(tmp_path: Path) -> None:
    """Without shipperProcesses no value gives the pod the node's processes, nor a second capability."""
    spec = the(template(EVERYTHING | {"shipperProcesses": False}, tmp_path), "DaemonSet")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert not {"hostPID", "hostNetwork", "hostIPC"} & spec.keys()
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["DAC_READ_SEARCH"]}
    assert [each["name"] for each in container["volumeMounts"] if not each.get("readOnly")] == ["state"]
    assert "take over the node" in " ".join((CHART / "values.yaml").read_text().replace("#", " ").split())


def test_configuration_reaches_the_agent(tmp_path: Path) -> None:
    """The agent takes the configuration, and it is the one that was set, with its numbers, and the chart's state."""
    config = check_configuration(template(EVERYTHING, tmp_path), tmp_path)
    assert config == {**EVERYTHING["config"], "state": {"path": "/var/lib/fstat-exporter/state.db"}}


def test_without_state(tmp_path: Path) -> None:
    """Neither the configuration nor the pod has any trace of it."""
    resources = template({"state": {"enabled": False}}, tmp_path)
    assert "state" not in check_configuration(resources, tmp_path)
    assert "state" not in json.dumps(the(resources, "DaemonSet"))


def test_examples_in_values(tmp_path: Path) -> None:
    """What values.yaml has in comments are values that the chart and the agent take."""
    text = (CHART / "values.yaml").read_text()
    text = re.sub(r"^(hostPaths|imagePullSecrets): \[\]$", r"\1:", text, flags=re.MULTILINE)
    text = re.sub(r"^( *)# ( *(?:- |shippers:|type: |path: ))", r"\1\2", text, flags=re.MULTILINE)
    values = yaml.safe_load(text)
    assert [each["name"] for each in values["hostPaths"]] == ["docker", "vector"]
    assert values["config"]["shippers"]
    check_configuration(template(values, tmp_path), tmp_path)


def test_changed_configuration_restarts_no_pod(tmp_path: Path) -> None:
    """The DaemonSet stays as it is: the agent loads a changed ConfigMap by itself."""
    changed = template({"config": EVERYTHING["config"]}, tmp_path)
    before = template({}, tmp_path)
    assert the(changed, "ConfigMap") != the(before, "ConfigMap")
    assert the(changed, "DaemonSet") == the(before, "DaemonSet")


def test_dashboard(tmp_path: Path) -> None:
    """The sidecar of Grafana finds each dashboard of config/grafana by the label, in the namespace that it searches."""
    dashboards = the(template(EVERYTHING, tmp_path), "ConfigMap", "-dashboard")
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert dashboards["metadata"]["annotations"] == {"grafana_folder": "Logs"}
    assert dashboards["metadata"]["namespace"] == "monitoring"
    files = (REPOSITORY / "config" / "grafana").glob("*.json")
    assert dashboards["data"] == {path.name: path.read_text() for path in files}
    dashboards = the(template({"dashboard": {"enabled": True}}, tmp_path), "ConfigMap", "-dashboard")
    assert dashboards["metadata"]["namespace"] == "fstat-exporter"


def test_accounts_and_priorities_of_others(tmp_path: Path) -> None:
    """An account and a priority class that exist are named, not made; without a name there is none."""
    not_made = {"serviceAccount": {"create": False}, "priorityClass": {"create": False}}
    resources = template(not_made, tmp_path)
    assert not {"ServiceAccount", "PriorityClass"} & {each["kind"] for each in resources}
    spec = the(resources, "DaemonSet")["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == "default"
    assert "priorityClassName" not in spec
    named = {kind: {**values, "name": "theirs"} for kind, values in not_made.items()}
    spec = the(template(named, tmp_path), "DaemonSet")["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == spec["priorityClassName"] == "theirs"


def test_releases_beside_each_other(tmp_path: Path) -> None:
    """A release with another name has names of its own, and selects only its own pods."""
    values = EVERYTHING | TOKENS
    first, second = (template(values, tmp_path, release, "logs") for release in ("one", "two"))
    names = [{(each["kind"], each["metadata"]["name"]) for each in resources} for resources in (first, second)]
    assert not names[0] & names[1]
    pod = the(second, "DaemonSet", "two-fstat-exporter")["spec"]["template"]
    for resources, is_its_own in ((first, False), (second, True)):
        name = resources[0]["metadata"]["name"]
        selectors = [
            the(resources, "DaemonSet", name)["spec"]["selector"]["matchLabels"],
            the(resources, "Service", name)["spec"]["selector"],
            the(resources, "PodMonitor", name)["spec"]["selector"]["matchLabels"],
            the(resources, "NetworkPolicy", name)["spec"]["podSelector"]["matchLabels"],
        ]
        assert [each.items() <= pod["metadata"]["labels"].items() for each in selectors] == [is_its_own] * 4
    assert pod["spec"]["volumes"][0]["configMap"]["name"] == "two-fstat-exporter"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tolerationz": []}, "at '': additional properties 'tolerationz' not allowed"),
        ({"resources": "small"}, "at '/resources': got string, want object"),
        ({"config": {"logs": None}}, "at '/config': missing property 'logs'"),
        ({"config": {"cache": {"max_file": 1}}}, "at '/config/cache': additional properties 'max_file' not allowed"),
        ({"config": {"web": {}}}, "at '/config': additional properties 'web' not allowed"),
        ({"config": {"state": {"path": "/a"}}}, "at '/config': additional properties 'state' not allowed"),
        ({"hostPaths": [{"name": "a", "path": "var"}]}, "at '/hostPaths/0/path': 'var' does not match pattern '^/'"),
        ({"state": None}, "at '': missing property 'state'"),
        ({"image": {"repository": None}}, "at '/image': missing property 'repository'"),
        ({"image": {"tag": 1.0}}, "at '/image/tag': got number, want string"),
        ({"fullnameOverride": "Logs"}, "at '/fullnameOverride': 'Logs' does not match pattern"),
        ({"podLabels": {"app.kubernetes.io/name": "a"}}, "at '/podLabels/app.kubernetes.io~1name': false schema"),
        ({"networkPolicy": {"from": []}}, "at '/networkPolicy/from': minItems: got 0, want 1"),  # that allows everybody
        ({"networkPolicy": {"from": None}}, "at '/networkPolicy': missing property 'from'"),
        ({"web": {"tlsSecret": "a"}}, "web.tlsSecret belongs together with web.authSecret or web.authorization"),
        ({"web": {"authorization": "kubernetes"}}, "web.tlsSecret belongs together with web.authSecret or"),
        ({"web": {**WEB["web"], **TOKENS["web"]}}, "web.authSecret and web.authorization exclude each other"),
        ({"web": {"authorization": "rbac"}}, "at '/web/authorization': value must be one of '', 'kubernetes'"),
    ],
)
def test_wrong_value_is_an_error(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Helm renders nothing, and names the value and what was expected."""
    command = [unpacked("helm"), "template", "fstat-exporter", CHART, of_values(values, tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 1
    assert message in done.stderr
    assert not done.stdout


def test_schema_is_up_to_date() -> None:
    """The schema of `config` is that of the agent; `make schema` writes it again."""
    assert (CHART / "values.schema.json").read_text() == generate()


def test_schema_has_every_value() -> None:
    """Each default in values.yaml has its schema, and the other way round."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    properties = json.loads(generate())["properties"]
    assert properties.keys() - {"global"} == values.keys()
    for name, schema in properties.items():
        if name != "config" and "properties" in schema:
            assert schema["properties"].keys() == values[name].keys()


def test_package_is_complete(tmp_path: Path) -> None:
    """The packaged chart holds the files to which the chart links, renders the same, and has the agent's version."""
    run("package", CHART, f"--destination={tmp_path}")
    package = tmp_path / f"fstat-exporter-{__version__}.tgz"
    with tarfile.open(package) as archive:
        assert all(member.isfile() for member in archive)
    assert template(EVERYTHING, tmp_path, chart=package) == template(EVERYTHING, tmp_path)
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__


def test_notes(tmp_path: Path) -> None:
    """After an installation helm says what it takes for the pods to start, as long as that is to be done."""
    command = ("install", "logs", CHART, "--namespace=observability", "--dry-run=client")
    notes = run(*command).partition("\nNOTES:\n")[2]
    assert "kubectl --namespace observability rollout status daemonset/logs-fstat-exporter" in notes
    assert "kubectl label namespace observability pod-security.kubernetes.io/enforce=privileged" in notes
    assert "set image.repository" in notes
    assert "set image.repository" not in run(*command, of_values(EVERYTHING, tmp_path)).partition("\nNOTES:\n")[2]
