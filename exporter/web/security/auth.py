"""Basic authentication with bounded CPU time."""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import hmac
import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import bcrypt

from exporter.ops.threads import call_in_thread

_BCRYPT_BYTES = 72  # every bcrypt implementation ignores later bytes
_FAILURES_KEPT = 1000
_WAITING_AT_MOST = 64
_WAITING_AT_MOST_EACH = 16
_BUSY_S = 1

_GiveUp = Callable[[], None]


class Authenticator:
    """Compares credentials with bcrypt hashes. To be used from the event loop only.

    bcrypt is slow on purpose, so it runs in a thread, for one client after the other. Its results are remembered under
    a keyed hash of the credentials, so known clients are answered at once. Addresses take turns. After a failure it
    rests as long as the comparison took, so that wrong passwords use half a core at most. An unknown user takes as long
    as a known one.
    """

    def __init__(self) -> None:
        self._key = os.urandom(32)
        self._passed: dict[bytes, bytes] = {}  # user -> the right digest
        self._failed: OrderedDict[bytes, None] = OrderedDict()  # digests, the oldest first
        self._waiting: OrderedDict[str, deque[_Question]] = OrderedDict()  # address -> its questions
        self._worker: asyncio.Task[None] | None = None

    async def check(
        self, authorization: str, users: Mapping[bytes, bytes], address: str, on_close: Callable[[_GiveUp | None], None]
    ) -> bool | None:
        """Check the credentials of a request.

        Args:
            authorization: the header's value, "" if there is none.
            users: name -> bcrypt hash.
            address: of the client.
            on_close: sets the function that is called when the client disconnects, to end the wait; None: none.

        Returns:
            Whether they are right; None when too many others wait, or the client has disconnected.
        """
        credentials = _parse(authorization)
        if credentials is None:
            return False
        user, password = credentials
        hashed = users.get(user)
        digest = self._digest(user, hashed or b"", password)
        if hmac.compare_digest(self._passed.get(user, b""), digest):
            return True
        if digest in self._failed:
            self._failed.move_to_end(digest)
            return False
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bool] = loop.create_future()

        def give_up() -> None:
            answer.cancel()

        if not self._ask(_Question(hashed or self._stand_in(user, users), password[:_BCRYPT_BYTES], answer), address):
            # Answer late, because a client with a quick answer would soon ask again.
            loop.call_later(_BUSY_S, give_up)
        on_close(give_up)
        await asyncio.wait([answer])
        on_close(None)
        if answer.cancelled():
            return None
        if answer.result() and hashed is not None:
            self._passed = {name: right for name, right in self._passed.items() if name in users}
            self._passed[user] = digest
            return True
        self._failed[digest] = None
        if len(self._failed) > _FAILURES_KEPT:
            self._failed.popitem(last=False)
        return False

    def _digest(self, user: bytes, hashed: bytes, password: bytes) -> bytes:
        parts = (hashlib.sha256(part).digest() for part in (user, hashed, password))
        return hmac.digest(self._key, b"".join(parts), "sha256")

    def _stand_in(self, user: bytes, users: Mapping[bytes, bytes]) -> bytes:
        """Return a hash for an unknown user, with the cost of a known one's; always the same for the same name."""
        costs = [hashed[4:6] for hashed in users.values()]
        number = int.from_bytes(hmac.digest(self._key, user, "sha256")[:8]) % len(costs)
        return b"$2b$" + costs[number] + b"$" + b"." * 53

    def _ask(self, question: _Question, address: str) -> bool:
        own = self._waiting.get(address, ())
        if len(own) >= _WAITING_AT_MOST_EACH or sum(map(len, self._waiting.values())) >= _WAITING_AT_MOST:
            return False
        self._waiting.setdefault(address, deque()).append(question)
        if self._worker is None:
            self._worker = asyncio.create_task(self._answer_all())
        return True

    async def _answer_all(self) -> None:
        """Answer until no question waits; addresses take turns."""
        try:
            while self._waiting:
                address, questions = self._waiting.popitem(last=False)
                question = questions.popleft()
                if questions:
                    self._waiting[address] = questions
                if question.answer.cancelled():
                    continue
                began = time.monotonic()
                compare = functools.partial(bcrypt.checkpw, question.password, question.hashed)
                is_right = await call_in_thread(compare, "bcrypt")
                if not question.answer.cancelled():
                    question.answer.set_result(is_right)
                if not is_right:
                    await asyncio.sleep(time.monotonic() - began)
        finally:
            self._worker = None


@dataclass(frozen=True, slots=True)
class _Question:
    hashed: bytes
    password: bytes
    answer: asyncio.Future[bool]  # cancelled when it is not awaited any more


def _parse(authorization: str) -> tuple[bytes, bytes] | None:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except ValueError:
        return None
    return (user, password) if colon else None
