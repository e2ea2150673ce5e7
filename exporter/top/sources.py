"""Where top reads the files: /api/v1/files of a running agent, or patterns that it follows itself."""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from operator import itemgetter
from typing import Any
from urllib.parse import SplitResult, urlencode, urlsplit

from exporter.config.errors import ConfigError, Mistake, Report, one_line
from exporter.config.fields.nodes import NULL
from exporter.config.fields.scalars import text
from exporter.config.fields.sections import Fields
from exporter.config.model import Config
from exporter.config.yaml_file import compose, read_text
from exporter.overview import Json, Overview
from exporter.reload import Reloader
from exporter.scrape import Scraper
from exporter.top.files import LIMIT, SORTS, File, Rates
from exporter.tracker import Tracker
from exporter.web import api

TIMEOUT_S = 10.0
"""How long to wait for a running agent."""
_MAX_ANSWER_BYTES = 64 << 20  # several times what the longest paths need
_NO_AUTHORITY = (18, 19, 20, 21)  # X509_V_ERR_*: self-signed, or its authority is unknown

_TEXT = text("a string", str, is_secret=True)
_CONFIG: Fields[dict[str, dict[str, str]]] = Fields(
    {
        name: Fields(dict.fromkeys(keys, _TEXT), is_secret=True)
        for name, keys in {
            "basic_auth": ("username", "password", "password_file"),
            "authorization": ("credentials", "credentials_file"),
            "tls_config": ("ca_file", "cert_file", "key_file"),
        }.items()
    },
    is_secret=True,
)


class SourceError(Exception):
    """The files cannot be read now; the message says why, in one line."""


class Source:
    """Reads files and computes their rates. Not safe for several threads."""

    name: str
    """What is read, for people."""

    def __init__(self) -> None:
        self._rates = Rates()

    def read(self, sort: str, search: str) -> tuple[list[File], int]:
        """Read the files.

        Args:
            sort: one of :data:`SORTS`.
            search: only files that have each of these words in their path or a label; "" for all.

        Returns:
            At most :data:`LIMIT` files, and how many match.

        Raises:
            SourceError: they cannot be read now.
        """
        answer = self._ask({**SORTS[sort], "search": search, "limit": str(LIMIT)})
        try:
            return self._rates.update(answer, sort), int(answer["matched"])
        except (KeyError, TypeError, ValueError):
            raise SourceError(
                f"{self.name}: has no files in its answer, expected fstat-exporter of this version"
            ) from None

    def faults(self) -> Iterator[str]:
        """Yield what kept files from being found, a line each."""
        return iter(())

    def has_local_files(self) -> bool:
        """Return whether the files are on this machine."""
        return True

    def close(self) -> None:
        """Release what it holds."""

    def _ask(self, parameters: Mapping[str, str]) -> Json:
        raise NotImplementedError


class Patterns(Source):
    """Follows the files of a configuration in this process, as the agent does.

    The first read scans, and so does one each ``rescan_interval``: on a remote filesystem nothing else finds new files.
    """

    name = "patterns"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._rescan_interval_s, self._rescan_at_s = config.rescan_interval_s, 0.0
        self._tracker = Tracker(config)
        self._overview = Overview(self._tracker, Scraper(self._tracker), Reloader(_no_reload))
        self._tracker.start()

    def _ask(self, parameters: Mapping[str, str]) -> Json:
        if time.monotonic() >= self._rescan_at_s:
            self._tracker.scan()
            self._rescan_at_s = time.monotonic() + self._rescan_interval_s
        return api.files(self._overview, {name: [value] for name, value in parameters.items()})

    def faults(self) -> Iterator[str]:
        if not self._tracker.is_ready:
            return  # the scan may still run, and holds the lock for long
        with self._tracker.lock:
            faults = sorted(self._tracker.discovery.faults, key=itemgetter(0))
            has_files = any(self._tracker.discovery.matches.values())
        if faults:
            path, error = faults[0]
            yield one_line(f"directories that cannot be listed: {len(faults)}, such as {path}: {error.strerror}")
        if not has_files:
            yield "the patterns match no file; the URL of an agent begins with http:// or https://"

    def close(self) -> None:
        self._tracker.close()


async def _no_reload(_is_asked_for: bool) -> bool:
    return False


class Agent(Source):
    """Reads a running agent.

    Args:
        url: of the agent's page.
        config_file: the HTTP configuration, see :func:`_credentials`; None: none.

    Raises:
        ConfigError: either is not valid.
    """

    def __init__(self, url: str, config_file: str | None) -> None:
        super().__init__()
        self.name = one_line(url)
        self._url = _parse(url)
        self._headers, self._tls = _credentials(config_file)

    def has_local_files(self) -> bool:
        """Return whether the URL's host is an address of this machine."""
        try:
            addresses = socket.getaddrinfo(self._url.hostname, 0, type=socket.SOCK_DGRAM)
        except OSError:
            return False
        return any(_is_bindable(family, address) for family, _, _, _, address in addresses)

    def _ask(self, parameters: Mapping[str, str]) -> Json:
        target = f"{self._url.path.rstrip('/')}/api/v1/files?{urlencode(parameters)}"
        host, port = self._url.hostname or "", self._url.port
        connection = (
            http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=self._tls)
            if self._url.scheme == "https"
            else http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        )
        try:
            connection.request("GET", target, headers=self._headers)
            answer = connection.getresponse()
            body = answer.read(_MAX_ANSWER_BYTES)
            if answer.status == 200:
                found = json.loads(body)
                return found if isinstance(found, dict) else {}
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            raise SourceError(one_line(f"{self._url.geturl()}: {_reason(error)}")) from None
        finally:
            connection.close()
        remedy = "; name credentials with --http.config.file" if answer.status in (401, 403) else ""
        told = body.decode(errors="replace").strip().partition("\n")[0][:200]
        told = f": {told}" if told and answer.getheader("Content-Type", "").startswith("text/plain") else ""
        raise SourceError(one_line(f"{self._url.geturl()}: answers {answer.status} {answer.reason}{told}{remedy}"))


def _parse(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if parts.port == 0 or not parts.hostname or parts.query or parts.fragment:
            raise ValueError
        if not (url.isprintable() and parts.path.isascii()) or " " in url:
            raise ValueError
    except ValueError:
        text = "is no URL of an agent, expected one such as http://localhost:10943"
        raise ConfigError([Mistake(url, text)]) from None
    if parts.username is not None or parts.password is not None:
        text = "has a user or password, which other users see; put them into a file for --http.config.file"
        raise ConfigError([Mistake("URL", text)])
    return parts


def _credentials(path: str | None) -> tuple[dict[str, str], ssl.SSLContext]:
    """Read an HTTP configuration, in the format of Prometheus: ``basic_auth``, ``authorization``, ``tls_config``.

    Returns:
        The headers of a request, and the context for TLS.

    Raises:
        ConfigError: the file, or a file that it names, cannot be read or is not valid.
    """
    if path is None:
        return {}, ssl.create_default_context()
    report = Report(path)
    root = compose(read_text(path), path)
    values = {} if root is None or root.tag == NULL else _CONFIG.read(root, "", report) or {}
    if root is not None and "basic_auth" in values and "authorization" in values:
        report.wrong(root, "authorization", "is given beside basic_auth, expected one of them")
    if report:
        raise report.error()
    headers = {}
    directory = os.path.dirname(path)
    if (basic := values.get("basic_auth")) is not None:
        pair = f"{basic.get('username', '')}:{_secret(basic, 'password', directory)}"
        headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    if (bearer := values.get("authorization")) is not None:
        headers["Authorization"] = "Bearer " + _secret(bearer, "credentials", directory)
    files = {name: os.path.join(directory, file) for name, file in values.get("tls_config", {}).items()}
    try:
        context = ssl.create_default_context(cafile=files.get("ca_file"))
        if "cert_file" in files:
            context.load_cert_chain(files["cert_file"], files.get("key_file"), password=_no_password)
    except OSError as error:  # of the files, and of what is in them
        text = f"the certificates or the key cannot be used: {_reason(error)}"
        raise ConfigError([Mistake(path, text, "tls_config")]) from None
    return headers, context


def _no_password() -> str:
    return ""  # otherwise OpenSSL asks at the terminal for the password of an encrypted key


def _secret(values: Mapping[str, str], name: str, directory: str) -> str:
    if (file := values.get(f"{name}_file")) is not None:
        return read_text(os.path.join(directory, file)).strip()
    return values.get(name, "")


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT_S:.0f} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        remedy = "; name its authority with --http.config.file" if error.verify_code in _NO_AUTHORITY else ""
        return f"its certificate is not valid: {error.verify_message}{remedy}"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "answers no HTTP or no JSON, expected fstat-exporter"


def _is_bindable(family: int, address: Any) -> bool:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind(address)
    except OSError:
        return False
    return True
