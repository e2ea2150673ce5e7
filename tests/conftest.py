"""Fixtures for the tests of the whole: the real agent and a real Prometheus."""

import json
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import Agent, Server, free_port, program

StartAgent = Callable[..., Agent]


class Prometheus(Server):
    """A real Prometheus, asked through its HTTP API."""

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The instant vector that `expression` gives now: labels and value of each element."""
        answer = json.loads(self.get("/api/v1/query?" + urllib.parse.urlencode({"query": expression})).body)
        assert answer["status"] == "success", answer
        return [(element["metric"], float(element["value"][1])) for element in answer["data"]["result"]]

    def value(self, expression: str) -> float | None:
        """The value of the only element of the vector; None when the vector is empty."""
        vector = self.query(expression)
        assert len(vector) <= 1, vector
        return vector[0][1] if vector else None


@pytest.fixture
def start_agent(tmp_path: Path) -> Iterator[StartAgent]:
    """Starts agents: `start_agent("PATTERN", ..., config="YAML")`; all must stop with exit status 0 afterwards."""
    agents: list[Agent] = []

    def start(*arguments: str, config: str | None = None) -> Agent:
        number = len(agents)
        if config is not None:
            config_path = tmp_path / f"exporter-{number}.yml"
            config_path.write_text(config)
            arguments = (f"--config.file={config_path}", *arguments)
        agent = Agent(list(arguments), tmp_path / f"agent-{number}.out")
        agents.append(agent)
        return agent

    yield start
    for agent in agents:
        agent.alive()
        assert agent.stop() == 0, agent.log_path.read_text()


@pytest.fixture
def start_prometheus(tmp_path: Path) -> Iterator[Callable[..., Prometheus]]:
    """Starts a real Prometheus that scrapes the ports of the loopback it is given, by job name, twice a second."""
    binary = program("prometheus")
    servers: list[Prometheus] = []

    def start(**ports: int) -> Prometheus:
        folder = tmp_path / f"prometheus-{len(servers)}"
        folder.mkdir()
        config_path = folder / "prometheus.yml"
        targets = {job: [f"127.0.0.1:{port}"] for job, port in ports.items()}
        jobs = [{"job_name": job, "static_configs": [{"targets": target}]} for job, target in targets.items()]
        timing = {"scrape_interval": "500ms", "scrape_timeout": "500ms"}
        config_path.write_text(json.dumps({"global": timing, "scrape_configs": jobs}))  # JSON is YAML
        own_port = free_port()
        arguments = [
            binary,
            f"--config.file={config_path}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{own_port}",
            "--log.level=warn",
        ]
        server = Prometheus(arguments, folder / "prometheus.out", own_port)
        servers.append(server)
        server.wait_for("/-/ready")
        return server

    yield start
    for server in servers:
        server.stop()
