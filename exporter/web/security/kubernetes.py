"""Authorization by Kubernetes: TokenReview tells whose a bearer token is, SubjectAccessReview what the user may do."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import http.client
import json
import logging
import os
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.ops.log import fields
from exporter.ops.threads import call_in_thread
from exporter.web.security.rate_limit import Bucket, RateLimit

_log = logging.getLogger(__name__)

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where the kubelet mounts the token of a pod and the certificates of the API server's authority."""
REVIEW_LIMIT = RateLimit(interval_s=3, burst=20)
"""The reviews that one address may cause."""

_TIMEOUT_S = 2
_TOO_LATE = f"the API server did not answer within {_TIMEOUT_S} s"
_REVIEWS_AT_ONCE = 32  # each has a thread
_VALID_S = {200: 60, 401: 10, 403: 10, 503: 1}  # how long an answer is kept
_ANSWERS_KEPT = 1000
_ADDRESSES_KEPT = 1000
_MAX_ANSWER_BYTES = 1 << 20


class ReviewError(Exception):
    """The API server cannot review tokens; the message says why, and never contains a token."""


@dataclass(frozen=True, slots=True)
class ApiServer:
    """The API server of the agent's cluster.

    Attributes:
        host, port: its address.
        folder: contains the agent's `token` and the `ca.crt` of the server's authority. They are read for each review,
            because the kubelet replaces them.
    """

    host: str
    port: int
    folder: str = SERVICE_ACCOUNT

    @classmethod
    def of_pod(cls, environment: Mapping[str, str], folder: str = SERVICE_ACCOUNT) -> ApiServer:
        """Return the one that the pod of this process has access to.

        Args:
            environment: of the process.
            folder: see the class.

        Raises:
            ReviewError: this is not a pod, or the pod has no service account token.
        """
        host, port = (environment.get(f"KUBERNETES_SERVICE_{name}", "") for name in ("HOST", "PORT"))
        if not host or not port.isdecimal():
            raise ReviewError("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: run the agent in a pod")
        server = cls(host, int(port), folder)
        server._credentials()
        return server

    def review(self, token: str, verb: str, path: str) -> int:
        """Ask for the user of a token, then whether the user may do this. Blocks.

        Args:
            token: from a client.
            verb: the method of the request in lower case, as Kubernetes names it.
            path: of the request.

        Returns:
            The HTTP status for the client: 200 if allowed, 403 if not; 401 if the token is not valid.

        Raises:
            ReviewError: there was no answer to one of the two questions.
        """
        own_token, context = self._credentials()
        connection = http.client.HTTPSConnection(self.host, self.port, timeout=_TIMEOUT_S, context=context)

        def ask(group: str, kind: str, spec: Mapping[str, object]) -> dict[str, Any]:
            body = json.dumps({"apiVersion": f"{group}/v1", "kind": kind, "spec": spec})
            headers = {"Authorization": f"Bearer {own_token}", "Content-Type": "application/json"}
            connection.request("POST", f"/apis/{group}/v1/{kind.lower()}s", body, headers)
            answer = connection.getresponse()
            content = answer.read(_MAX_ANSWER_BYTES)
            if answer.status not in (200, 201):
                raise ReviewError(_refusal(answer.status, f"{kind.lower()}s.{group}"))
            status = json.loads(content)["status"]
            if not isinstance(status, dict):
                raise TypeError
            return status

        try:
            found = ask("authentication.k8s.io", "TokenReview", {"token": token})
            if found.get("authenticated") is not True:
                return 401
            user = found["user"]
            subject = {"user": user["username"], **{key: user.get(key) for key in ("uid", "groups", "extra")}}
            spec = {"nonResourceAttributes": {"path": path, "verb": verb}, **subject}
            found = ask("authorization.k8s.io", "SubjectAccessReview", spec)
            return 200 if found.get("allowed") is True and not found.get("denied") else 403
        except TimeoutError:
            raise ReviewError(_TOO_LATE) from None
        except OSError as error:
            raise ReviewError(f"no connection to {self.host} port {self.port}: {error.strerror or error}") from None
        except (http.client.HTTPException, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise ReviewError(f"{self.host} port {self.port} does not answer like the API server") from None
        finally:
            connection.close()

    def _credentials(self) -> tuple[str, ssl.SSLContext]:
        """Read the agent's own token, and the authority that must have signed the server's certificate."""
        try:
            token = (Path(self.folder) / "token").read_text("ascii").strip()
            context = ssl.create_default_context(cafile=Path(self.folder) / "ca.crt")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "is not valid"
            what = f"cannot read token and ca.crt in {self.folder}: {reason}"
            raise ReviewError(f"{what}; set automountServiceAccountToken: true in the pod") from None
        # Python 3.13 sets it, but the authorities of many clusters do not have all that it requires.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return token, context


def _refusal(status: int, resource: str) -> str:
    if status == 401:
        return "the API server does not accept the token of the agent's service account"
    if status == 403:
        return f"the agent's service account may not create {resource}: bind it to a ClusterRole that allows this"
    return f"the API server answers {status} when asked to create {resource}"


class TokenAuthorizer:
    """Decides by the bearer token of a request whether it is allowed. To be used from one event loop only.

    It keeps answers under a keyed hash: yes for a minute, no for ten seconds. Concurrent requests that are alike share
    a review. Each address may cause a limited number of reviews, so that wrong tokens do not flood the API server.

    Args:
        server: reviews tokens.
        clock: in seconds; never goes back.
    """

    def __init__(self, server: ApiServer, clock: Callable[[], float] = time.monotonic) -> None:
        self._server = server
        self._clock = clock
        self._key = os.urandom(32)
        # Digest -> status, and until when it is valid. Apart, so that wrong tokens never displace right ones.
        self._allowed: OrderedDict[bytes, tuple[int, float]] = OrderedDict()
        self._refused: OrderedDict[bytes, tuple[int, float]] = OrderedDict()
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()  # address -> the reviews that it may still cause
        self._reviews: dict[bytes, asyncio.Task[int]] = {}  # digest -> the review in progress
        self._calls: set[asyncio.Task[int]] = set()  # those whose threads run, perhaps longer than their reviews
        self._fault = ""

    async def check(self, authorization: str, method: str, path: str, address: str) -> int:
        """Check a request, within two seconds.

        Args:
            authorization: the header's value, "" if there is none.
            method: of the request.
            path: of the request, without the query.
            address: of the client.

        Returns:
            The HTTP status: 200 if the request is allowed; 401 without a valid token; 403 if its user may not do this;
            429 after too many reviews; 503 if the API server does not answer.
        """
        scheme, _, token = authorization.partition(" ")
        token, verb = token.strip(), method.lower()
        if scheme.lower() != "bearer" or not token:
            return 401
        digest = self._digest(token, verb, path)
        for answers in (self._allowed, self._refused):
            status, until_s = answers.get(digest, (0, 0.0))
            if self._clock() < until_s:
                return status
        review = self._reviews.get(digest)
        if review is None:
            # What was allowed until now is free, so that others with the client's address cannot lock it out.
            is_free = digest in self._allowed or self._take(address)
            if not is_free or len(self._calls) >= _REVIEWS_AT_ONCE:
                return 429
            call = asyncio.create_task(call_in_thread(lambda: self._server.review(token, verb, path), "review"))
            self._calls.add(call)
            call.add_done_callback(self._end_call)
            review = self._reviews[digest] = asyncio.create_task(self._review(digest, call))
        return await asyncio.shield(review)

    def _digest(self, *parts: str) -> bytes:
        hashes = (hashlib.sha256(part.encode()).digest() for part in parts)
        return hmac.digest(self._key, b"".join(hashes), "sha256")

    def _take(self, address: str) -> bool:
        bucket = self._buckets.setdefault(address, Bucket())
        self._buckets.move_to_end(address)
        if len(self._buckets) > _ADDRESSES_KEPT:
            self._buckets.popitem(last=False)
        return bucket.take(REVIEW_LIMIT, self._clock())

    async def _review(self, digest: bytes, call: asyncio.Task[int]) -> int:
        fault = ""
        try:
            await asyncio.wait([call], timeout=_TIMEOUT_S)
            if not call.done():
                raise ReviewError(_TOO_LATE)
            status = call.result()
        except ReviewError as error:
            status, fault = 503, str(error)
        finally:
            del self._reviews[digest]
        self._log(fault)
        self._keep(digest, status)
        return status

    def _end_call(self, call: asyncio.Task[int]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            call.exception()  # retrieved, so that asyncio does not log that of a late one

    def _keep(self, digest: bytes, status: int) -> None:
        answers, others = (self._allowed, self._refused) if status == 200 else (self._refused, self._allowed)
        if status != 503:
            others.pop(digest, None)
        answers[digest] = status, self._clock() + _VALID_S[status]
        answers.move_to_end(digest)
        if len(answers) > _ANSWERS_KEPT:
            answers.popitem(last=False)

    def _log(self, fault: str) -> None:
        """Log the first of several equal faults, and their end."""
        if fault and fault != self._fault:
            _log.error("tokens cannot be reviewed; requests get status 503", extra=fields(error=fault))
        elif self._fault and not fault:
            _log.info("tokens are reviewed again")
        self._fault = fault
