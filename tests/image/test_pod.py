"""The DaemonSet's pod, run by podman as the kubelet would run it, on a node with folders of the test's own."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.image.conftest import run
from tests.support import Agent, Server, free_port, unpacked

pytestmark = [pytest.mark.image, pytest.mark.timeout(300)]  # the first one waits for the image to be built

FILES = 1000
NETWORK = "podman-default-kube-network"  # made by `podman kube play`


class Pod(Agent):
    """The pod that runs; its log is followed by a process of its own."""

    def __init__(self, container: str, spec: dict[str, Any], node: dict[str, Path], port: int, log_path: Path) -> None:
        """Wait until it is ready; `node` has the folders of the node by the paths at which the container sees them."""
        self.container, self.spec, self.node = container, spec, node
        Server.__init__(self, ["podman", "logs", "--follow", container], log_path, port)
        self.wait_for("/-/ready")

    def execute(self, *command: str) -> str:
        """Run a command in the container, with success, and return what it printed."""
        return run("podman", "exec", self.container, *command)


def container_log(logs: Path, pod: str, container: str) -> Path:
    """Where the kubelet has the log of a container; the folder is made."""
    path = logs / "pods" / f"default_{pod}_0a1b2c3d" / container / "0.log"
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def pod(image: str, tmp_path: Path) -> Iterator[Pod]:
    """The pod on a node with a log for root, one of Docker's, and many others."""
    rendered = run(unpacked("kubectl"), "kustomize", "config/kubernetes/overlays/docker")
    resources = {each["kind"]: each for each in yaml.safe_load_all(rendered)}
    spec = resources["DaemonSet"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    (port,) = container["ports"]
    container["image"] = image
    port |= {"hostIP": "127.0.0.1", "hostPort": free_port()}
    mounted_at = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    node = {}
    for volume in spec["volumes"]:
        if "hostPath" in volume:
            node[mounted_at[volume["name"]]] = folder = tmp_path / volume["name"]
            folder.mkdir()
            volume["hostPath"]["path"] = str(folder)

    logs = node["/var/log"]
    log = container_log(logs, "web", "app")
    log.write_text("one line\n")
    log.chmod(0o640)
    (node["/var/lib/docker/containers"] / "4e5f").mkdir()
    (node["/var/lib/docker/containers"] / "4e5f" / "4e5f-json.log").write_text("a line of Docker's\n")
    container_log(logs, "web", "sidecar").symlink_to("/var/lib/docker/containers/4e5f/4e5f-json.log")
    for number in range(FILES):
        container_log(logs, f"other-{number}", "app").touch()

    name = f"fstat-exporter-test-{os.getpid()}"
    manifest = tmp_path / "pod.yml"
    the_pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    manifest.write_text(yaml.safe_dump_all([resources["ConfigMap"], the_pod]))
    try:
        run("podman", "kube", "play", manifest)
        started = Pod(f"{name}-{container['name']}", spec, node, port["hostPort"], tmp_path / "pod.out")
        yield started
        started.stop()
    finally:
        subprocess.run(["podman", "kube", "down", manifest], capture_output=True, check=False)
        for kind, left in (("volume", resources["ConfigMap"]["metadata"]["name"]), ("network", NETWORK)):
            subprocess.run(["podman", kind, "rm", "--force", left], capture_output=True, check=False)


def test_pod(pod: Pod) -> None:
    """It sees every log of the node at once, may read what root may, may do nothing else, and keeps its state."""
    logs = pod.node["/var/log"]
    labels = {"namespace": "default", "pod": "web"}
    before = pod.scrape()
    assert before.value("fstat_group_files", group="pods") == FILES + 2
    assert sum(before.values("fstat_cache_polled_files")) == 0
    assert before.value("fstat_aggregate_size_bytes", **labels, container="sidecar") == len("a line of Docker's\n")
    for path in (
        logs / "pods/default_web_0a1b2c3d/app/0.log",
        pod.node["/var/lib/docker/containers"] / "4e5f/4e5f-json.log",
    ):
        with path.open("ab") as log:
            log.write(b"!!!")
    after = pod.scrape()
    for container in ("app", "sidecar"):
        assert after.value("fstat_aggregate_appended_bytes_total", **labels, container=container) == 3

    status = dict(line.split(":\t") for line in pod.execute("cat", "/proc/1/status").splitlines() if ":\t" in line)
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 1 << 2  # CAP_DAC_READ_SEARCH
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    for path in ("/", "/etc/fstat-exporter/", "/var/log/", "/var/lib/docker/containers/"):
        touch = subprocess.run(
            ["podman", "exec", pod.container, "touch", f"{path}new"], capture_output=True, check=False
        )
        assert b"Read-only file system" in touch.stderr
    assert (pod.node["/var/lib/fstat-exporter"] / "state.db").exists()


def test_probes_and_resources(pod: Pod) -> None:
    """What the kubelet asks for is answered, and the memory that is requested is enough for a usual node."""
    (container,) = pod.spec["containers"]
    for kind in ("readinessProbe", "livenessProbe"):
        assert pod.get(container[kind]["httpGet"]["path"]).status == 200
    pod.scrape()
    peak = pod.execute("sh", "-c", "cd /sys/fs/cgroup; cat memory.peak 2>&- || cat memory/memory.max_usage_in_bytes")
    requested = container["resources"]["requests"]["memory"]
    assert int(peak) < int(requested.removesuffix("Mi")) << 20
