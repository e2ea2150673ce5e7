"""A real Chromium, driven by its DevTools protocol over a pipe: JSON messages, each ended by a zero byte."""

import base64
import contextlib
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support import program, wait_until

ARGUMENTS = (
    "--headless",
    "--no-sandbox",  # root has none
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
)
TIMEOUT_S = 20


class Browser:
    """A browser with one page open.

    Attributes:
        requests: the URLs that the page has asked for.
        complaints: what it has logged: exceptions, violations of its policy, requests that failed.
    """

    def __init__(self, profile: Path) -> None:
        """Start it; `profile` is an empty directory."""
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._number = 0
        self._session: str | None = None
        self._answers: dict[int, dict[str, Any]] = {}
        self._received = b""
        chromium = program("chromium")
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # The protocol has fixed descriptors: 3 to read from, 4 to write to.
        redirect = f'exec 3<&{theirs_in} 4>&{theirs_out}; exec "$@"'
        command = ["bash", "-c", redirect, "bash", chromium, *ARGUMENTS, f"--user-data-dir={profile}"]
        with (profile / "chromium.out").open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "about:blank"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs_in, theirs_out),
                env={**os.environ, "HOME": str(profile)},
            )
        os.close(theirs_in)
        os.close(theirs_out)
        (target,) = (each for each in self.call("Target.getTargets")["targetInfos"] if each["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """End it, if it has not ended by itself."""
        os.close(self._out)  # which it takes for an end
        try:
            self._process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + TIMEOUT_S
        while self._number not in self._answers:
            self._receive(deadline)
        answer = self._answers.pop(self._number)
        assert "error" not in answer, (method, answer)
        result: dict[str, Any] = answer["result"]
        return result

    def _receive(self, deadline: float) -> None:
        ready, _, _ = select.select([self._in], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            pytest.fail(f"Chromium did not answer within {TIMEOUT_S} s")
        data = os.read(self._in, 1 << 20)
        assert data, "Chromium has ended"
        *messages, self._received = (self._received + data).split(b"\0")
        for text in messages:
            message = json.loads(text)
            if "id" in message:
                self._answers[message["id"]] = message
            else:
                self._note(message["method"], message["params"])

    def _note(self, event: str, told: Mapping[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(told["exceptionDetails"]))
        elif event == "Log.entryAdded":
            self.complaints.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
        elif event == "Runtime.consoleAPICalled":
            self.complaints.append(json.dumps(told["args"]))

    # -- what a user does ---------------------------------------------------------------------------------------------

    def open(self, url: str) -> None:
        """Go to an address and wait for the page's first numbers."""
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript in the page; a promise is waited for."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """The value of an expression once it is true."""
        return wait_until(lambda: self.evaluate(expression), TIMEOUT_S, lambda: f"{expression} {self.complaints}")

    def click(self, selector: str) -> None:
        """Click, as a mouse does, in the middle of what a selector finds first."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{found}.scrollIntoView({{block: 'center'}})")
        x, y = self.evaluate(
            f"(box => [box.x + box.width / 2, box.y + box.height / 2])({found}.getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        for character in text:
            self.call("Input.dispatchKeyEvent", type="char", text=character)

    def press(self, key: str, code: int) -> None:
        """Press a key by its name and its Windows key code."""
        text = "\r" if key == "Enter" else ""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)

    def resize(self, width: int, height: int = 900, *, scale: float = 1, is_phone: bool = False) -> None:
        """Have a screen of so many CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=is_phone
        )

    def prefer(self, **features: str) -> None:
        """Prefer what media queries ask for: `prefer(color_scheme="dark")`."""
        told = [{"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=told)

    def screenshot(self, path: Path) -> None:
        """Write what is on the screen as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """A browser for a while, with a profile of its own."""
    # Its last children may still be writing there when it has ended.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(Path(profile))
        try:
            yield browser
        finally:
            browser.close()
