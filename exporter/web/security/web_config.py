"""The web configuration in the format of Prometheus' exporter-toolkit: parses YAML and reads PEM files.

All fields are secret: an error may be logged, and a value may be a password or key in the wrong place. Errors quote
only unknown names, for example of a version.
"""

from __future__ import annotations

import hashlib
import os
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import bcrypt
import yaml

from exporter.config.errors import ConfigError, Report
from exporter.config.fields.nodes import NULL
from exporter.config.fields.scalars import Kind, Scalar, boolean, known_name, one_of, text, whole_number
from exporter.config.fields.sections import Fields, ListOf, MappingOf
from exporter.config.yaml_file import compose, read_text
from exporter.web.security import tls
from exporter.web.security.rate_limit import RateLimit

_MAX_PEM_BYTES = 1 << 20
_TLS_PATH = "tls_server_config"

_HEADERS: Mapping[str, tuple[str, ...]] = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}
_HASH = re.compile(rb"(\$2[abxy]\$)([0-9]{2})\$([./A-Za-z0-9]{22})[./A-Za-z0-9]{31}")
_DURATION_UNITS_S = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ns|us|ms|s|m|h)", re.ASCII)
_QUOTED = re.compile(r" '(?!single quotes)[^']{2,}'")

_NO_ANY = (
    "Python's ssl cannot request a certificate without verifying it, and an unverified one protects nothing; "
    "expected RequireAndVerifyClientCert or NoClientCert"
)


def _parse_client_auth_type(name: str) -> str:
    if name in ("RequireAnyClientCert", "RequireClientCert"):
        raise ValueError(_NO_ANY)
    return known_name("client_auth_type", tls.CLIENT_AUTH_TYPES, name or "NoClientCert")


def _parse_hash(hashed: str) -> bytes:
    found = _HASH.fullmatch(hashed.encode())
    try:
        if found is None or not 4 <= int(found[2]) <= 31:
            raise ValueError
        bcrypt.hashpw(b"", found[1] + b"04$" + found[3])  # tries the salt, at the lowest cost
    except ValueError:
        what = "expected one such as $2y$10$ and 53 more characters; htpasswd -nBC 10 '' makes one"
        raise ValueError(f"no bcrypt hash, {what}") from None
    return hashed.encode()


def _parse_duration(duration: str) -> float:
    """Parse a duration as Go writes it, to seconds."""
    parts = _DURATION.findall(duration)
    if not parts or "".join(map("".join, parts)) != duration:
        raise ValueError("no duration, expected one such as 1s or 250ms; 0 for no limit")
    return sum(float(count) * _DURATION_UNITS_S[unit] for count, unit in parts)


def _header(values: Sequence[str]) -> Scalar[str]:
    def parse_header(value: str) -> str:
        if value and values and value.lower() not in values:
            raise ValueError(f"expected {' or '.join(values)}")
        if not (value.isascii() and value.isprintable()):
            raise ValueError("expected one line of ASCII")
        return value

    return text("a string", parse_header, is_secret=True)


def _section(kinds: Mapping[str, Kind[Any]]) -> Fields[dict[str, Any]]:
    return Fields(kinds, is_secret=True, skips_null=True)


_TEXT = text("a string", str, is_secret=True)
_FILE = text("the name of a file", str, is_secret=True)
_SWITCH = boolean(is_secret=True)
_VERSION = one_of("version", tls.VERSIONS, is_secret=True)
_TLS = _section(
    {
        "cert": _TEXT,
        "key": _TEXT,
        "client_ca": _TEXT,
        "cert_file": _FILE,
        "key_file": _FILE,
        "client_ca_file": _FILE,
        "client_auth_type": one_of("client_auth_type", tls.CLIENT_AUTH_TYPES, _parse_client_auth_type, is_secret=True),
        "client_allowed_sans": ListOf("names", _TEXT),
        "min_version": _VERSION,
        "max_version": _VERSION,
        "cipher_suites": ListOf("names", one_of("cipher suite", tls.CIPHER_SUITES, is_secret=True)),
        "prefer_server_cipher_suites": _SWITCH,
        "curve_preferences": ListOf("names", one_of("curve", tls.CURVES, is_secret=True)),
    }
)
_HTTP = _section({"http2": _SWITCH, "headers": _section({name: _header(values) for name, values in _HEADERS.items()})})
_RATE_LIMIT = _section(
    {
        "interval": text("a duration such as 1s", _parse_duration, is_secret=True),
        "burst": whole_number("requests"),
    }
)
_USERS = MappingOf(text("a bcrypt hash", _parse_hash, is_secret=True))
_WEB_CONFIG = _section(
    {"tls_server_config": _TLS, "http_server_config": _HTTP, "basic_auth_users": _USERS, "rate_limit": _RATE_LIMIT}
)


@dataclass(frozen=True, slots=True)
class WebConfig:
    """The protection of connections and requests.

    Attributes:
        tls: the context of the server; None for plain HTTP.
        allowed_sans: the client's certificate must have one of these names; empty: any name.
        headers: are in every answer, and replace the agent's own.
        users: name -> bcrypt hash, both as bytes; empty: no authentication.
        rate_limit: of all requests together, or None.
        warnings: settings in the file with another effect than their author may expect, a line each.
    """

    tls: ssl.SSLContext | None = None
    allowed_sans: frozenset[str] = frozenset()
    headers: Mapping[str, str] = field(default_factory=dict)
    users: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)
    rate_limit: RateLimit | None = None
    warnings: tuple[str, ...] = ()


class WebConfigReader:
    """Reads one web configuration, once.

    Args:
        path: the file. Relative names in it are relative to its directory.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._report = Report(path)
        self._wrong = self._report.wrong
        self._warnings: list[str] = []
        self._digest = hashlib.sha256()
        self.files = [path]
        """The files that were read, or that could not be read."""
        self.is_blank = False
        """Whether the file is empty, or has only white space."""

    @property
    def fingerprint(self) -> bytes:
        """A digest of the files' contents: equal for two readings with equal contents."""
        return self._digest.digest()

    def read(self) -> WebConfig:
        """Read the file and return its configuration.

        Raises:
            ConfigError: the file cannot be read or is not valid; has every mistake.
        """
        text = read_text(self._path)
        self._digest.update(text.encode())
        self.is_blank = not text.strip()
        try:
            root = compose(text, self._path)
        except ConfigError as error:
            raise ConfigError(replace(each, text=_QUOTED.sub("", each.text)) for each in error.mistakes) from None
        # An empty file is valid, as in exporter-toolkit.
        config = self._web_config(root) if root is not None and root.tag != NULL else WebConfig()
        if self._report:
            raise self._report.error()
        return config

    def _web_config(self, root: yaml.Node) -> WebConfig:
        nodes = _WEB_CONFIG.nodes(root, "", self._report) or {}
        config = WebConfig()
        for name, read in {
            "tls_server_config": self._tls,
            "http_server_config": self._http,
            "basic_auth_users": self._users,
            "rate_limit": self._rate_limit,
        }.items():
            if name in nodes:
                config = read(nodes[name], config)
        return replace(config, warnings=tuple(self._warnings))

    def _tls(self, node: yaml.Node, config: WebConfig) -> WebConfig:
        nodes = _TLS.nodes(node, _TLS_PATH, self._report)
        if not nodes:
            return config
        values = _TLS.values(nodes, _TLS_PATH, self._report)
        cert, key, client_ca = (self._pem(nodes, values, name) for name in ("cert", "key", "client_ca"))
        for name in ("cert", "key"):
            if not _is_given(nodes, name):
                self._wrong(node, _TLS_PATH, f"one of '{name}' and '{name}_file' is missing")
        auth_type = self._client_auth_type(nodes, values)
        min_version, max_version = self._versions(nodes, values)
        curves = values.get("curve_preferences", ())
        if len(curves) > 1:
            what = "Python's ssl takes one curve or all of OpenSSL's; with several given it is all"
            self._warnings.append(f"{_TLS_PATH}.curve_preferences: {what}")
        if (sans := nodes.get("client_allowed_sans")) is not None:
            self._check_allowed_sans(sans, auth_type)
        if cert is None or key is None:
            return config
        try:
            context = tls.make_context(
                cert,
                key,
                client_ca,
                client_auth_type=auth_type,
                min_version=min_version,
                max_version=max_version,
                cipher_suites=values.get("cipher_suites", ()),
                prefer_server_cipher_suites=values.get("prefer_server_cipher_suites", True),
                curve=curves[0] if len(curves) == 1 else "",
            )
        except tls.TlsError as error:
            name = error.key if error.key in nodes and nodes[error.key].value else f"{error.key}_file"
            name = name if name in nodes else error.key
            what = str(error)
            if isinstance(error, tls.MismatchError):
                key_place, cert_place = (
                    f" in {values[file]}" if values.get(file) else "" for file in ("key_file", "cert_file")
                )
                what = f"the key{key_place} does not belong to the certificate{cert_place}"
            self._wrong(nodes[name], f"{_TLS_PATH}.{name}", what)
            return config
        return replace(config, tls=context, allowed_sans=frozenset(filter(None, values.get("client_allowed_sans", ()))))

    def _pem(self, nodes: Mapping[str, yaml.Node], values: Mapping[str, str], name: str) -> bytes | None:
        """Return a PEM part, which the file contains or names another file for."""
        file = f"{name}_file"
        content, path = values.get(name), values.get(file)
        if content and path:
            self._wrong(nodes[file], f"{_TLS_PATH}.{file}", f"'{name}' is given too, expected one of them")
            return None
        if content or not path:
            return content.encode() if content else None
        path = os.path.join(os.path.dirname(self._path), path)
        self.files.append(path)
        try:
            with open(path, "rb") as opened:
                pem = opened.read(_MAX_PEM_BYTES + 1)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error  # of a NUL in the name
            self._wrong(nodes[file], f"{_TLS_PATH}.{file}", f"cannot be read: {reason}")
            return None
        if len(pem) > _MAX_PEM_BYTES:
            self._wrong(nodes[file], f"{_TLS_PATH}.{file}", "is larger than 1 MiB, expected certificates or a key")
            return None
        self._digest.update(pem)
        return pem

    def _client_auth_type(self, nodes: Mapping[str, yaml.Node], values: Mapping[str, str]) -> str:
        key = f"{_TLS_PATH}.client_auth_type"
        kind = values.get("client_auth_type", "NoClientCert")
        if "client_auth_type" in nodes and "client_auth_type" not in values:
            return kind
        authority = nodes.get("client_ca_file", nodes.get("client_ca"))
        if kind == "NoClientCert" and authority is not None and authority.value:
            self._wrong(authority, key, "is missing or NoClientCert, so the authority of clients would not be used")
        if kind == "RequestClientCert":
            self._warnings.append(f"{key}: RequestClientCert requests no certificate; every client is served")
        elif kind != "NoClientCert" and not _is_given(nodes, "client_ca"):
            self._warnings.append(f"{key}: without client_ca_file this system's authorities are trusted")
        return kind

    def _versions(self, nodes: Mapping[str, yaml.Node], values: Mapping[str, str]) -> tuple[str, str]:
        least, greatest = values.get("min_version", "TLS12"), values.get("max_version", "TLS13")
        if greatest in ("TLS10", "TLS11"):
            what = "Python's ssl supports TLS 1.2 and 1.3 only, expected TLS12 or TLS13"
            self._wrong(nodes["max_version"], f"{_TLS_PATH}.max_version", what)
            greatest = "TLS13"
        elif least > greatest:  # the names sort as the versions do
            what = f"is above max_version, which is {greatest}"
            self._wrong(nodes["min_version"], f"{_TLS_PATH}.min_version", what)
        if least in ("TLS10", "TLS11"):
            self._warnings.append(f"{_TLS_PATH}.min_version: {least} is not supported; the minimum is TLS 1.2")
            least = "TLS12"
        return least, greatest

    def _check_allowed_sans(self, node: yaml.Node, auth_type: str) -> None:
        key = f"{_TLS_PATH}.client_allowed_sans"
        if node.value == []:
            self._wrong(node, key, "is empty, which no client would satisfy, expected at least one name")
        if auth_type != "RequireAndVerifyClientCert":
            self._wrong(node, key, "expected client_auth_type to be RequireAndVerifyClientCert")

    def _http(self, node: yaml.Node, config: WebConfig) -> WebConfig:
        values = _HTTP.read(node, "http_server_config", self._report) or {}
        if values.get("http2"):
            self._warnings.append("http_server_config.http2: HTTP/2 is not supported; clients use HTTP/1.1")
        headers = {name: value for name, value in values.get("headers", {}).items() if value}
        return replace(config, headers=headers)

    def _users(self, node: yaml.Node, config: WebConfig) -> WebConfig:
        users = _USERS.read(node, "basic_auth_users", self._report) or {}
        return replace(config, users={name.encode(): hashed for name, hashed in users.items()})

    def _rate_limit(self, node: yaml.Node, config: WebConfig) -> WebConfig:
        nodes = _RATE_LIMIT.nodes(node, "rate_limit", self._report) or {}
        if "interval" not in nodes or nodes["interval"].value == "0":
            return config
        values = _RATE_LIMIT.values(nodes, "rate_limit", self._report)
        if "burst" not in nodes:
            self._wrong(node, "rate_limit.burst", "the key is missing, expected a whole number of requests")
        interval_s, burst = values.get("interval"), values.get("burst")
        return replace(config, rate_limit=RateLimit(interval_s, burst)) if interval_s and burst else config


def _is_given(nodes: Mapping[str, yaml.Node], name: str) -> bool:
    return any(each in nodes and nodes[each].value for each in (name, f"{name}_file"))
