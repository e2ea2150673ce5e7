"""The agent of a pod that checks bearer tokens, its API server, and a real Prometheus that has a token."""

import http.client
import shlex
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.certificates import Pair, make_pair
from tests.kubernetes_api import KubernetesApi, running
from tests.support import (
    Process,
    StartPrometheus,
    as_root,
    free_port,
    parse_scrape,
    skip_unless_ci,
    wait_until,
)

pytestmark = as_root  # the agent finds its service account at a fixed place, here in a mount namespace of its own

USER = "system:serviceaccount:monitoring:prometheus"
TOKEN = "prometheus-token"
ACCOUNT = "secrets/kubernetes.io/serviceaccount"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[KubernetesApi]:
    """An API server, at whose word Prometheus may scrape."""
    with running(tmp_path / "run" / ACCOUNT) as each:
        each.users = {TOKEN: {"username": USER, "groups": ["system:authenticated"]}}
        each.rules = {(USER, "get", "/metrics")}
        yield each


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """The certificate of the agent."""
    return make_pair(tmp_path, "server")


class Pod(Process):
    """The agent as a pod has it: with TLS, the environment and the service account of the kubelet."""

    def __init__(self, folder: Path, api: KubernetesApi, pair: Pair) -> None:
        (folder / "web.yml").write_text(f"tls_server_config: {{cert_file: {pair.cert}, key_file: {pair.key}}}")
        (folder / "exporter.yml").write_text(
            f"logs: [{{group: a, paths: ['{folder}/*.log']}}]\nweb: {{authorization: kubernetes}}\n"
        )
        self.port = free_port()
        self._context = ssl.create_default_context(cafile=pair.cert)
        flags = [f"--config.file={folder}/exporter.yml", f"--web.config.file={folder}/web.yml", "--log.level=debug"]
        flags += [f"--web.listen-address=127.0.0.1:{self.port}", "--web.enable-lifecycle"]
        environment = f"KUBERNETES_SERVICE_HOST={api.host} KUBERNETES_SERVICE_PORT={api.port}"
        if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0:
            skip_unless_ci("no mount namespace can be made here, as in a chroot")
        script = f'mount --bind {shlex.quote(str(folder / "run"))} /var/run && exec env {environment} "$@"'
        command = [sys.executable, "-W", "error", "-m", "exporter", *flags]
        super().__init__(["unshare", "--mount", "sh", "-c", script, "sh", *command], folder / "agent.out")
        wait_until(lambda: self.alive() and "scan done" in self.log(), 20, self.log)

    def log(self) -> str:
        """Everything logged up to now."""
        return self.log_path.read_text()

    def ask(self, target: str, token: str = "", method: str = "GET") -> tuple[int, str]:
        """The status and the body for a request."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=self._context)
        try:
            connection.request(method, target, headers={"Authorization": f"Bearer {token}"} if token else {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


Start = Callable[[], Pod]


@pytest.fixture
def start(tmp_path: Path, api: KubernetesApi, pair: Pair) -> Iterator[Start]:
    """Starts the agent; it must stop with 0, without a traceback or a token in its log."""
    pods: list[Pod] = []

    def begin() -> Pod:
        pods.append(Pod(tmp_path, api, pair))
        return pods[-1]

    yield begin
    for pod in pods:
        assert pod.stop() == 0, pod.log()
        assert "Traceback" not in pod.log(), pod.log()
        assert TOKEN not in pod.log()
        assert api.own_token not in pod.log()


def test_pod(start: Start, api: KubernetesApi) -> None:
    """Who may scrape may not reload; probes need no token; without the API server requests get 503."""
    pod = start()
    assert [pod.ask(path)[0] for path in ("/-/ready", "/-/healthy", "/metrics", "/")] == [200, 200, 401, 401]
    status, body = pod.ask("/metrics", TOKEN)
    assert status == 200
    assert parse_scrape(body).value("fstat_exporter_ready") == 1
    assert pod.ask("/-/reload", TOKEN, "POST") == (403, "403 Forbidden\n")
    api.users["operator"] = {"username": "alice"}
    api.rules.add(("alice", "post", "/-/reload"))
    assert pod.ask("/-/reload", "operator", "POST") == (200, "Reloaded.\n")
    assert pod.ask("/metrics", "operator")[0] == 403
    api.close()
    assert pod.ask("/", "operator")[0] == 503
    assert "tokens cannot be reviewed" in pod.log()
    assert pod.ask("/-/healthy")[0] == 200


def test_a_real_prometheus_scrapes_it(
    start: Start, api: KubernetesApi, pair: Pair, tmp_path: Path, start_prometheus: StartPrometheus
) -> None:
    """With the token of its own service account, and one review a minute."""
    pod = start()
    (tmp_path / "token").write_text(TOKEN)
    job = {
        "job_name": "fstat",
        "scheme": "https",
        "authorization": {"credentials_file": str(tmp_path / "token")},
        "tls_config": {"ca_file": str(pair.cert), "server_name": "localhost"},
        "static_configs": [{"targets": [f"127.0.0.1:{pod.port}"]}],
    }
    scrape = {"scrape_interval": "500ms", "scrape_timeout": "500ms"}
    prometheus = start_prometheus({"global": scrape, "scrape_configs": [job]})
    wait_until(lambda: (prometheus.value("sum_over_time(up[1m])") or 0) >= 4, 20, prometheus.log_path.read_text)
    assert len(api.asked) == 2
