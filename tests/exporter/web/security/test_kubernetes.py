"""Bearer tokens, reviewed by a server that answers as the API server of Kubernetes does."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import bcrypt
import pytest

from exporter.config.errors import ConfigError
from exporter.web.security.kubernetes import REVIEW_LIMIT, ApiServer, ReviewError, TokenAuthorizer
from exporter.web.security.web_config_file import WebConfigFile
from tests.certificates import Pair, make_pair
from tests.exporter.web.test_web import Web
from tests.kubernetes_api import ACCESSREVIEWS, TOKENREVIEWS, KubernetesApi, running
from tests.support import Stopwatch, wait_until

PROMETHEUS = {
    "username": "system:serviceaccount:monitoring:prometheus",
    "uid": "0a1b",
    "groups": ["system:serviceaccounts", "system:authenticated"],
    "extra": {"authentication.kubernetes.io/pod-name": ["prometheus-0"]},
}
NAME = str(PROMETHEUS["username"])


@pytest.fixture
def api(tmp_path: Path) -> Iterator[KubernetesApi]:
    """An API server that knows Prometheus, who may scrape and do nothing else."""
    with running(tmp_path / "kubernetes" / "serviceaccount") as each:
        each.users["right"] = PROMETHEUS
        each.rules.add((NAME, "get", "/metrics"))
        yield each


class Clock:
    """A clock under the test's control."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        """The time now."""
        return self.now_s


class Client:
    """Asks an authorizer, as a request from an address would; by default for a scrape."""

    def __init__(self, api: KubernetesApi) -> None:
        self.clock = Clock()
        self.authorizer = TokenAuthorizer(ApiServer(api.host, api.port, str(api.folder)), self.clock)

    async def ask(
        self, token: str = "right", *, method: str = "GET", path: str = "/metrics", address: str = "10.0.0.1"
    ) -> int:
        """The status that it gives."""
        return await self.authorizer.check(f"Bearer {token}", method, path, address)


def run(api: KubernetesApi, scenario: Callable[[Client], Awaitable[object]]) -> None:
    """Run a scenario in an event loop of its own."""

    async def main() -> None:
        await scenario(Client(api))

    asyncio.run(main())


def test_the_two_questions(api: KubernetesApi) -> None:
    """Whose token it is; then whether the user, with groups, uid and extra, may use this verb and this path."""

    async def scenario(client: Client) -> None:
        assert await client.ask() == 200

    run(api, scenario)
    (first_path, first), (second_path, second) = api.asked
    assert (first_path, first["spec"]) == (TOKENREVIEWS, {"token": "right"})
    assert second_path == ACCESSREVIEWS
    assert second["spec"] == {
        "nonResourceAttributes": {"path": "/metrics", "verb": "get"},
        "user": NAME,
        **{key: PROMETHEUS[key] for key in ("uid", "groups", "extra")},
    }
    assert api.connections == 1


def test_who_may_scrape_may_not_reload(api: KubernetesApi) -> None:
    """Each path and each method is a question of its own, also after a yes; so is each token."""

    async def scenario(client: Client) -> None:
        assert await client.ask() == 200
        for method, path in (("POST", "/-/reload"), ("GET", "/"), ("HEAD", "/metrics"), ("POST", "/metrics")):
            assert await client.ask(method=method, path=path) == 403
        verbs = [body["spec"]["nonResourceAttributes"]["verb"] for path, body in api.asked if path == ACCESSREVIEWS]
        assert verbs == ["get", "post", "get", "head", "post"]
        assert await client.ask("wrong") == 401

    run(api, scenario)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ({"authenticated": True, "allowed": True}, 200),
        ({"authenticated": False, "allowed": True}, 401),
        ({"authenticated": "true", "allowed": True}, 401),
        ({"allowed": True}, 401),
        ({"authenticated": True, "allowed": True, "denied": True}, 403),
        ({"authenticated": True, "allowed": "true"}, 403),
        ({"authenticated": True}, 403),
    ],
)
def test_nothing_but_a_clear_yes_is_one(api: KubernetesApi, answer: dict[str, object], status: int) -> None:
    """Both answers must be true, whatever else they contain."""
    api.body = json.dumps({"status": {"user": PROMETHEUS, **answer}}).encode()

    async def scenario(client: Client) -> None:
        assert await client.ask() == status

    run(api, scenario)


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic cmlnaHQ=", "right", "Bearerright"])
def test_without_a_token(api: KubernetesApi, header: str) -> None:
    """401 without a question to the API server."""

    async def scenario(client: Client) -> None:
        assert await client.authorizer.check(header, "GET", "/metrics", "10.0.0.1") == 401

    run(api, scenario)
    assert api.asked == []


def test_answers_are_kept(api: KubernetesApi) -> None:
    """Yes for a minute, no for ten seconds; then it is asked again, and a revoked token gets no."""

    async def scenario(client: Client) -> None:
        for token, status, valid_s in (("right", 200, 60), ("wrong", 401, 10)):
            for _ in range(3):
                assert await client.ask(token) == status
                asked = len(api.asked)
                client.clock.now_s += valid_s - 1
                assert await client.ask(token) == status
                assert len(api.asked) == asked
                client.clock.now_s += 1
        api.users["wrong"] = PROMETHEUS
        assert await client.ask("wrong") == 200
        del api.users["right"]
        assert await client.ask("right") == 401

    run(api, scenario)


def test_no_token_is_kept(api: KubernetesApi) -> None:
    """Only its keyed hash; two agents have different ones of the same token."""

    async def scenario(client: Client) -> None:
        other = Client(api)
        for each in (client, other):
            assert [await each.ask(token) for token in ("right", "wrong-secret")] == [200, 401]
        state = repr(vars(client.authorizer))
        assert "wrong-secret" not in state
        assert "right" not in state
        one, another = (set(each.authorizer._allowed) for each in (client, other))
        assert len(one) == len(another) == 1
        assert one != another

    run(api, scenario)


def test_concurrent_requests_share_a_review(api: KubernetesApi) -> None:
    """A hundred requests with the same token ask once, and all get the answer."""

    async def scenario(client: Client) -> None:
        api.go_on.clear()
        asking = [asyncio.create_task(client.ask()) for _ in range(100)]
        await asyncio.to_thread(wait_until, lambda: api.asked)
        api.go_on.set()
        assert await asyncio.gather(*asking) == [200] * 100
        assert [path for path, _ in api.asked] == [TOKENREVIEWS, ACCESSREVIEWS]

    run(api, scenario)


def test_one_who_leaves_takes_nothing_along(api: KubernetesApi) -> None:
    """A request that is cancelled leaves the review to the others, and its answer to those that come later."""

    async def scenario(client: Client) -> None:
        api.go_on.clear()
        asking = [asyncio.create_task(client.ask()) for _ in range(2)]
        await asyncio.to_thread(wait_until, lambda: api.asked)
        asking[0].cancel()
        await asyncio.wait(asking[:1])
        api.go_on.set()
        assert await asking[1] == 200
        assert asking[0].cancelled()
        assert len(api.asked) == 2

    run(api, scenario)


def test_changing_wrong_tokens(api: KubernetesApi) -> None:
    """An address may cause a burst of reviews and one more each interval; others, and allowed tokens, do not wait."""

    async def scenario(client: Client) -> None:
        assert await client.ask() == 200
        statuses = [await client.ask(f"wrong-{number}") for number in range(100)]
        assert statuses == [401] * (REVIEW_LIMIT.burst - 1) + [429] * (101 - REVIEW_LIMIT.burst)
        assert sum(path == TOKENREVIEWS for path, _ in api.asked) == REVIEW_LIMIT.burst
        assert await client.ask("wrong-99", address="10.0.0.2") == 401
        client.clock.now_s += REVIEW_LIMIT.interval_s
        assert [await client.ask(f"more-{number}") for number in range(3)] == [401, 429, 429]
        client.clock.now_s += 61  # the yes is not valid any more
        for number in range(REVIEW_LIMIT.burst + 1):
            await client.ask(f"again-{number}")
        assert await client.ask() == 200
        client.clock.now_s += 60
        del api.users["right"]
        assert await client.ask() == 401
        for number in range(REVIEW_LIMIT.burst + 1):
            await client.ask(f"later-{number}")
        client.clock.now_s += 10
        assert [await client.ask(f"last-{number}") for number in range(4)] == [401, 401, 401, 429]
        assert await client.ask() == 429  # it is not an allowed one any more

    run(api, scenario)


def test_what_is_kept_is_bounded(api: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many addresses and answers the oldest are forgotten; wrong tokens displace no right one."""
    for name in ("_ANSWERS_KEPT", "_ADDRESSES_KEPT"):
        monkeypatch.setattr(f"exporter.web.security.kubernetes.{name}", 5)

    async def scenario(client: Client) -> None:
        assert await client.ask() == 200
        for number in range(12):
            assert await client.ask(f"wrong-{number}", address=f"10.1.0.{number}") == 401
        kept = client.authorizer
        assert (len(kept._allowed), len(kept._refused), len(kept._buckets)) == (1, 5, 5)
        asked = len(api.asked)
        assert await client.ask() == 200
        assert await client.ask("wrong-11") == 401
        assert len(api.asked) == asked

    run(api, scenario)


def test_reviews_at_once_are_bounded(api: KubernetesApi) -> None:
    """While the API server answers nobody, addresses without end start a few threads only; the others get 429."""

    async def scenario(client: Client) -> None:
        api.go_on.clear()
        asking = [asyncio.create_task(client.ask(f"t-{n}", address=f"10.1.{n}.1")) for n in range(50)]
        statuses = [await each for each in asking]
        assert statuses == [503] * 32 + [429] * 18
        assert len(client.authorizer._calls) <= 32
        api.go_on.set()
        while client.authorizer._calls:
            await asyncio.sleep(0.01)

    run(api, scenario)


def test_own_token_rotates(api: KubernetesApi) -> None:
    """Each review has the token that is in the file then."""

    async def scenario(client: Client) -> None:
        assert await client.ask() == 200
        api.rotate("own-2")
        client.clock.now_s += 61
        assert await client.ask() == 200

    run(api, scenario)


def test_another_authority(api: KubernetesApi, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A server that another authority has signed gets no token; the file is read again when it is replaced."""
    good = (api.folder / "ca.crt").read_bytes()
    (api.folder / "ca.crt").write_bytes(make_pair(tmp_path, "stranger").cert.read_bytes())

    async def scenario(client: Client) -> None:
        assert await client.ask() == 503
        assert api.asked == []
        (api.folder / "ca.crt").write_bytes(good)
        client.clock.now_s += 1
        assert await client.ask() == 200

    run(api, scenario)
    assert "certificate verify failed" in caplog.records[0].fields["error"]  # type: ignore[attr-defined]


def test_another_name(tmp_path: Path) -> None:
    """Nor does one whose certificate is for another address."""
    with running(tmp_path / "kubernetes" / "serviceaccount", names="IP:127.0.0.2") as api:

        async def scenario(client: Client) -> None:
            assert await client.ask() == 503

        run(api, scenario)
        assert api.asked == []


BROKEN: dict[str, Callable[[KubernetesApi], object]] = {
    "refuses connections": KubernetesApi.close,
    "hangs": lambda api: api.go_on.clear(),
    "drips": lambda api: setattr(api, "drips", True),
    "fails": lambda api: setattr(api, "status", 500),
    "is busy": lambda api: setattr(api, "status", 429),
    "forbids": lambda api: setattr(api, "status", 403),
    "redirects": lambda api: setattr(api, "status", 302),
    "knows another token": lambda api: setattr(api, "own_token", "another"),
    **{
        f"answers {body[:50]!r}": lambda api, body=body: setattr(api, "body", body)  # type: ignore[misc]
        for body in (
            *(b"", b"{", b"[]", b"null", b"\xff", b"{}", b'{"status": null}', b'{"status": {"authenticated": true}}'),
            b'{"status": {"authenticated": true, "user": null}}',
            b"[" * 100_000,
            b'{"status": {"authenticated": true, "user": {"username": "' + b"x" * 2_000_000 + b'"}}}',
        )
    },
}


@pytest.mark.parametrize("how", BROKEN)
def test_api_server_that_is_broken(api: KubernetesApi, caplog: pytest.LogCaptureFixture, how: str) -> None:
    """503 within two seconds, even for a token that was allowed a minute ago; logged once, without a token."""

    async def scenario(client: Client) -> None:
        assert await client.ask() == 200
        client.clock.now_s += 61
        BROKEN[how](api)
        watch = Stopwatch()
        assert await client.ask() == 503
        assert watch.seconds() < 2.5
        asked = len(api.asked)
        assert await client.ask() == 503
        assert len(api.asked) == asked  # no connection for each request
        assert await client.ask("new-secret") == 503

    run(api, scenario)
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.getMessage() == "tokens cannot be reviewed; requests get status 503"
    assert not [token for token in ("right", "new-secret", "own-1") if token in str(vars(record))]
    if how == "forbids":
        assert "tokenreviews.authentication.k8s.io" in record.fields["error"]  # type: ignore[attr-defined]


def test_api_server_that_comes_back(api: KubernetesApi, caplog: pytest.LogCaptureFixture) -> None:
    """It is asked again after a second, by tokens that were allowed before without a limit; the log tells."""
    caplog.set_level(logging.INFO)

    async def scenario(client: Client) -> None:
        assert await client.ask() == 200
        client.clock.now_s += 61
        api.status = 500
        for _ in range(2 * REVIEW_LIMIT.burst):
            assert await client.ask() == 503
            client.clock.now_s += 1
        api.status = 0
        assert await client.ask() == 200

    run(api, scenario)
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("exporter")]
    assert messages == ["tokens cannot be reviewed; requests get status 503", "tokens are reviewed again"]


def test_pod(api: KubernetesApi) -> None:
    """The address is in the environment, also an IPv6 one; what is missing is named with the remedy."""
    environment = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    folder = str(api.folder)
    assert ApiServer.of_pod(environment, folder) == ApiServer("fd00::1", 443, folder)
    with pytest.raises(ReviewError, match=r"KUBERNETES_SERVICE_HOST .* run the agent in a pod"):
        ApiServer.of_pod({}, folder)
    for name in ("ca.crt", "token"):
        (api.folder / name).unlink()
        with pytest.raises(ReviewError, match=r"No such file or directory; set automountServiceAccountToken: true"):
            ApiServer.of_pod(environment, folder)
    (api.folder / "token").write_bytes(b"\xff-secret")
    with pytest.raises(ReviewError, match="is not valid") as caught:
        ApiServer.of_pod(environment, folder)
    assert "secret" not in str(caught.value)


@pytest.fixture
def web(api: KubernetesApi) -> Iterator[Web]:
    """The agent's server, without TLS."""
    made = Web(tokens=TokenAuthorizer(ApiServer(api.host, api.port, str(api.folder))))
    yield made
    made.close()


def test_requests(web: Web) -> None:
    """Each answer with its headers, for paths and methods that do not exist too; probes need no token."""
    right = "Bearer right"
    assert web.get("/metrics", Authorization=right).status == 200
    assert web.get("/metrics?name[]=one", Authorization="bearer  right ").status == 200
    assert web.get("http://x/metrics", Authorization=right).status == 200
    for path, method in (
        ("/metrics", "GET"),
        ("/metrics", "BREW"),
        ("/", "HEAD"),
        ("/no", "GET"),
        ("/-/reload", "POST"),
    ):
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            reply = web.get(path, method, **headers)
            assert (reply.status, reply.headers["www-authenticate"]) == (401, 'Bearer realm="fstat-exporter"')
    for path, method in (("/", "GET"), ("/no", "GET"), ("/metrics", "BREW"), ("/-/reload", "POST")):
        reply = web.get(path, method, Authorization=right)
        assert (reply.status, reply.headers.get("www-authenticate")) == (403, None)
    for path in ("/-/healthy", "/-/ready"):
        assert web.get(path).status == 200
    for path in ("/-/ready/", "/-/healthy/../../metrics", "//-/ready", "/-/read%79", "/-/Ready"):
        assert web.get(path).status == 401
    replies = [web.get("/metrics", Authorization=f"Bearer x{number}") for number in range(REVIEW_LIMIT.burst)]
    assert (replies[-1].status, replies[-1].headers["retry-after"]) == (429, "3")
    assert web.get("/metrics", Authorization=right).status == 200


def test_a_hanging_api_server_delays_nobody_else(web: Web, api: KubernetesApi) -> None:
    """Meanwhile probes, and tokens that are known, are answered."""
    assert web.get("/metrics", Authorization="Bearer right").status == 200
    api.go_on.clear()
    with web.connect() as connection:
        connection.send("GET", "/metrics", Authorization="Bearer wrong")
        wait_until(lambda: api.asked[-1][1]["spec"] == {"token": "wrong"})
        watch = Stopwatch()
        assert web.get("/-/healthy").status == 200
        assert web.get("/metrics", Authorization="Bearer right").status == 200
        assert watch.seconds() < 1
        assert connection.read().status == 503
        assert watch.seconds() < 2.5


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A certificate of the agent and its key."""
    return make_pair(tmp_path_factory.mktemp("pair"), "server")


def test_tokens_need_tls(pair: Pair, tmp_path: Path) -> None:
    """Without TLS, and with passwords, the web configuration is refused, also while it is in use."""
    path = tmp_path / "web.yml"
    tls = f"tls_server_config: {{cert_file: {pair.cert}, key_file: {pair.key}}}\n"
    hashed = bcrypt.hashpw(b"x", bcrypt.gensalt(4)).decode()
    users = f"basic_auth_users: {{a: '{hashed}'}}\n"
    without_tls = (
        "tls_server_config: is missing, but web.authorization is set: tokens need TLS; "
        "expected a certificate and its key"
    )
    with_users = (
        "basic_auth_users: cannot be combined with web.authorization: a request has a password or a token; "
        "remove one of them"
    )

    def fault(text: str | None) -> str:
        if text is not None:
            path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            WebConfigFile(None if text is None else str(path), has_tokens=True)
        return str(caught.value)

    assert fault(None) == f"--web.config.file: {without_tls}"
    assert fault("{}") == fault(users) == f"{path}: {without_tls}"
    assert fault(tls + users) == f"{path}: {with_users}"
    path.write_text(tls + "rate_limit: {interval: 1s, burst: 5}")
    file = WebConfigFile(str(path), has_tokens=True)
    for text in ("{}", tls + users, users):
        path.write_text(text)
        assert file.current().tls is not None
        assert file.current().rate_limit is not None
        (metric,) = file.collect()
        assert metric.samples[0].value == 0
    path.write_text(tls)
    assert file.current().rate_limit is None
