"""The web configuration, in the format of Prometheus' exporter-toolkit: YAML text and PEM files to values.

What a message quotes can end in a log, so here none quotes a value that should not be one of a few: it might be a
password or a key, written in the wrong place.
"""

from __future__ import annotations

import hashlib
import os
import re
import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import bcrypt
import yaml

from exporter.config.errors import ConfigError, Report
from exporter.config.kinds import Boolean, OneOf, WholeNumber, entries, hint, joined, string
from exporter.config.yaml_file import compose, read_text
from exporter.web.security import tls

_MAX_PEM_BYTES = 1 << 20

_TLS_KEYS = (
    "cert",
    "key",
    "client_ca",
    "cert_file",
    "key_file",
    "client_ca_file",
    "client_auth_type",
    "client_allowed_sans",
    "min_version",
    "max_version",
    "cipher_suites",
    "prefer_server_cipher_suites",
    "curve_preferences",
)
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
_USER = re.compile(r"[\w.@-]{1,60}")
_QUOTED = re.compile(r" '(?!single quotes)[^']{2,}'")
_NULL, _BOOLEAN, _STRING = "tag:yaml.org,2002:null", "tag:yaml.org,2002:bool", "tag:yaml.org,2002:str"
_MAPPING, _MERGE = "tag:yaml.org,2002:map", "tag:yaml.org,2002:merge"

_NO_ANY = (
    "Python's ssl can not ask for a certificate without verifying it, and one that anybody can make protects nothing; "
    "expected RequireAndVerifyClientCert, or NoClientCert"
)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """One request each `interval_s` seconds, and `burst` of them at once."""

    interval_s: float
    burst: int


@dataclass(frozen=True, slots=True)
class WebConfig:
    """How connections and requests are protected.

    Attributes:
        tls: the context of the server; None for plain HTTP.
        allowed_sans: the client's certificate must have one of these names; () for any.
        headers: what every answer has, whatever the agent itself would say.
        users: name -> bcrypt hash, both as bytes; empty when nobody needs to say who he is.
        rate_limit: of all requests together, or None.
        warnings: what is in the file and has not the effect that its author may expect, a line each.
    """

    tls: ssl.SSLContext | None = None
    allowed_sans: frozenset[str] = frozenset()
    headers: Mapping[str, str] = field(default_factory=dict)
    users: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)
    rate_limit: RateLimit | None = None
    warnings: tuple[str, ...] = ()


class WebConfigReader:
    """Reads one web configuration, once. Each method for a value returns None after it has reported a mistake.

    Args:
        path: the file. Relative names in it are relative to its directory.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._report = Report(path)
        self._warnings: list[str] = []
        self._digest = hashlib.sha256()
        self.files = [path]
        """The files that were read, or should have been, as far as they are known."""
        self.is_blank = False
        """Whether there is nothing in the file at all."""

    @property
    def fingerprint(self) -> bytes:
        """Says of two readings whether they found the same."""
        return self._digest.digest()

    def read(self) -> WebConfig:
        """Return what is configured.

        Raises:
            ConfigError: it can not be read or is not valid; carries every mistake.
        """
        text = read_text(self._path)
        self._digest.update(text.encode())
        self.is_blank = not text.strip()
        try:
            root = compose(text, self._path)
        except ConfigError as error:
            raise ConfigError(replace(each, text=_QUOTED.sub("", each.text)) for each in error.mistakes) from None
        # Nothing at all is good too, as exporter-toolkit has it.
        config = self._web_config(root) if root is not None and root.tag != _NULL else WebConfig()
        if self._report:
            raise self._report.error()
        return replace(config, warnings=tuple(self._warnings))

    # Kinds of values

    def _wrong(self, node: yaml.Node, key_path: str, text: str) -> None:
        self._report.wrong(node, key_path, text)

    def _mapping(self, node: yaml.Node, key_path: str) -> dict[str, tuple[yaml.ScalarNode, yaml.Node]] | None:
        if not isinstance(node, yaml.MappingNode) or node.tag != _MAPPING:
            self._wrong(node, key_path, f"expected a mapping, found {_form(node)}")
            return None
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag.startswith("!"):
                self._wrong(key_node, key_path, f"expected a key, found {_form(key_node)}")
            elif ":" in key_node.value:
                self._wrong(key_node, key_path, "a ':' in a key, expected a space after it")
            elif key_node.tag == _MERGE and isinstance(value_node, yaml.ScalarNode):
                self._wrong(value_node, key_path, f"expected a mapping to merge, found {_form(value_node)}")
            else:
                continue
            return None
        return entries(node, key_path, self._report)

    def _section(self, node: yaml.Node, key_path: str, known: Sequence[str]) -> dict[str, yaml.Node] | None:
        """Return the values of the keys that are there. A key without a value is as good as none."""
        pairs = self._mapping(node, key_path)
        if pairs is None:
            return None
        for name, (key_node, _) in pairs.items():
            if name not in known:
                self._wrong(key_node, joined(key_path, name), f"unknown key, {hint(name, known)}")
        return {name: value for name, (_, value) in pairs.items() if name in known and value.tag != _NULL}

    def _list(self, node: yaml.Node, key_path: str, what: str) -> list[yaml.Node] | None:
        if not isinstance(node, yaml.SequenceNode):
            self._wrong(node, key_path, f"expected a list of {what}, found {_form(node)}")
            return None
        return list(node.value)

    def _string(self, node: yaml.Node, key_path: str, what: str = "a string") -> str | None:
        if not isinstance(node, yaml.ScalarNode) or node.tag != _STRING:
            advice = "; put it in quotes" if isinstance(node, yaml.ScalarNode) and node.tag != _NULL else ""
            self._wrong(node, key_path, f"expected {what}, found {_form(node)}{advice}")
            return None
        return string(node, key_path, self._report)

    def _boolean(self, node: yaml.Node, key_path: str) -> bool | None:
        if node.tag != _BOOLEAN:
            self._wrong(node, key_path, f"expected true or false, found {_form(node)}")
            return None
        return Boolean().read(node, key_path, self._report)

    def _choice(self, node: yaml.Node, key_path: str, what: str, known: Iterable[str]) -> str | None:
        if node.tag != _STRING:
            self._wrong(node, key_path, f"expected the name of a {what}, found {_form(node)}")
            return None
        return OneOf(what, known).read(node, key_path, self._report)

    # Sections

    def _web_config(self, root: yaml.Node) -> WebConfig:
        sections = ("tls_server_config", "http_server_config", "basic_auth_users", "rate_limit")
        nodes = self._section(root, "", sections) or {}
        config = WebConfig()
        if "tls_server_config" in nodes:
            config = self._tls(nodes["tls_server_config"], config)
        if "http_server_config" in nodes:
            config = replace(config, headers=self._http(nodes["http_server_config"]))
        if "basic_auth_users" in nodes:
            config = replace(config, users=self._users(nodes["basic_auth_users"]))
        if "rate_limit" in nodes:
            config = replace(config, rate_limit=self._rate_limit(nodes["rate_limit"]))
        return config

    def _tls(self, node: yaml.Node, config: WebConfig) -> WebConfig:
        path = "tls_server_config"
        nodes = self._section(node, path, _TLS_KEYS)
        if not nodes:
            return config
        parts = {name: self._pem(nodes, path, name) for name in ("cert", "key", "client_ca")}
        for name in ("cert", "key"):
            if not _is_given(nodes, name):
                self._wrong(node, path, f"one of '{name}' and '{name}_file' is missing")
        settings = tls.TlsSettings(parts["cert"] or b"", parts["key"] or b"", parts["client_ca"])
        settings = self._client_auth(nodes, path, settings)
        settings = self._versions(nodes, path, settings)
        settings = self._choices(nodes, path, settings)
        allowed = self._allowed_sans(nodes, path, settings)
        if parts["cert"] is None or parts["key"] is None:
            return config
        try:
            return replace(config, tls=tls.make_context(settings), allowed_sans=allowed)
        except tls.TlsError as error:
            name = error.key if error.key in nodes and nodes[error.key].value else f"{error.key}_file"
            name = name if name in nodes else error.key
            self._wrong(nodes[name], f"{path}.{name}", str(error))
            return config

    def _pem(self, nodes: Mapping[str, yaml.Node], parent: str, name: str) -> bytes | None:
        """Read one of the parts that stand in the file itself or in another one, whose name is given."""
        inline, file = name, f"{name}_file"
        text = self._string(nodes[inline], f"{parent}.{inline}") if inline in nodes else ""
        path = self._string(nodes[file], f"{parent}.{file}", "the name of a file") if file in nodes else ""
        if text and path:
            self._wrong(nodes[file], f"{parent}.{file}", f"'{inline}' is there too, expected one of them")
            return None
        if text or not path:
            return text.encode() if text else None
        path = os.path.join(os.path.dirname(self._path), path)
        if "\0" in path:
            self._wrong(nodes[file], f"{parent}.{file}", "a NUL character, expected the name of a file")
            return None
        self.files.append(path)
        try:
            with open(path, "rb") as opened:
                content = opened.read(_MAX_PEM_BYTES + 1)
        except OSError as error:
            self._wrong(nodes[file], f"{parent}.{file}", f"can not be read: {error.strerror}")
            return None
        if len(content) > _MAX_PEM_BYTES:
            self._wrong(nodes[file], f"{parent}.{file}", "is larger than 1 MiB, expected certificates or a key")
            return None
        self._digest.update(content)
        return content

    def _client_auth(self, nodes: Mapping[str, yaml.Node], parent: str, settings: tls.TlsSettings) -> tls.TlsSettings:
        key = f"{parent}.client_auth_type"
        node = nodes.get("client_auth_type")
        kind: str | None = "NoClientCert"
        if node is not None and node.value in ("RequireAnyClientCert", "RequireClientCert"):
            self._wrong(node, key, _NO_ANY)
            return settings
        if node is not None and node.value != "":
            kind = self._choice(node, key, "client_auth_type", tls.CLIENT_AUTH_TYPES)
        if kind is None:
            return settings
        authority = nodes.get("client_ca_file", nodes.get("client_ca"))
        if kind == "NoClientCert" and authority is not None and authority.value:
            self._wrong(authority, key, "is missing or NoClientCert, so the authority of clients would not be used")
        if kind == "RequestClientCert":
            self._warnings.append(f"{key}: with RequestClientCert whoever connects is served; nobody is asked")
        elif kind != "NoClientCert" and not _is_given(nodes, "client_ca"):
            self._warnings.append(f"{key}: without client_ca_file every authority that this system trusts is good")
        return replace(settings, client_auth_type=kind)

    def _versions(self, nodes: Mapping[str, yaml.Node], parent: str, settings: tls.TlsSettings) -> tls.TlsSettings:
        found = {"min_version": settings.min_version, "max_version": settings.max_version}
        for name in found:
            if name in nodes:
                chosen = self._choice(nodes[name], f"{parent}.{name}", "version", tls.VERSIONS)
                found[name] = chosen or found[name]
        least, greatest = found["min_version"], found["max_version"]
        names = list(tls.VERSIONS)
        if greatest in ("TLS10", "TLS11"):
            what = "Python's ssl speaks TLS 1.2 and 1.3 only, expected TLS12 or TLS13"
            self._wrong(nodes["max_version"], f"{parent}.max_version", what)
            greatest = "TLS13"
        elif names.index(least) > names.index(greatest):
            self._wrong(nodes["min_version"], f"{parent}.min_version", f"is above max_version, which is {greatest}")
        if least in ("TLS10", "TLS11"):
            self._warnings.append(f"{parent}.min_version: {least} is not spoken any more; the least is TLS 1.2")
            least = "TLS12"
        return replace(settings, min_version=least, max_version=greatest)

    def _choices(self, nodes: Mapping[str, yaml.Node], parent: str, settings: tls.TlsSettings) -> tls.TlsSettings:
        suites = self._chosen(nodes, parent, "cipher_suites", "cipher suite", tls.CIPHER_SUITES)
        curves = self._chosen(nodes, parent, "curve_preferences", "curve", tls.CURVES)
        if len(curves) > 1:
            what = "Python's ssl takes one curve or all of OpenSSL's; with several given it is all"
            self._warnings.append(f"{parent}.curve_preferences: {what}")
        prefers = settings.prefer_server_cipher_suites
        if "prefer_server_cipher_suites" in nodes:
            name = "prefer_server_cipher_suites"
            prefers = self._boolean(nodes[name], f"{parent}.{name}") is not False
        curve = curves[0] if len(curves) == 1 else ""
        return replace(settings, cipher_suites=suites, prefer_server_cipher_suites=prefers, curve=curve)

    def _chosen(
        self, nodes: Mapping[str, yaml.Node], parent: str, name: str, what: str, known: Iterable[str]
    ) -> tuple[str, ...]:
        if name not in nodes:
            return ()
        elements = self._list(nodes[name], f"{parent}.{name}", "names") or []
        found = [self._choice(each, f"{parent}.{name}[{number}]", what, known) for number, each in enumerate(elements)]
        return tuple(filter(None, found))

    def _allowed_sans(self, nodes: Mapping[str, yaml.Node], parent: str, settings: tls.TlsSettings) -> frozenset[str]:
        if "client_allowed_sans" not in nodes:
            return frozenset()
        node, key = nodes["client_allowed_sans"], f"{parent}.client_allowed_sans"
        elements = self._list(node, key, "names") or []
        names = [self._string(each, f"{key}[{number}]") for number, each in enumerate(elements)]
        if isinstance(node, yaml.SequenceNode) and not node.value:
            self._wrong(node, key, "is empty, which no client would satisfy, expected at least one name")
        if settings.client_auth_type != "RequireAndVerifyClientCert":
            self._wrong(node, key, "expected client_auth_type to be RequireAndVerifyClientCert")
        return frozenset(filter(None, names))

    def _http(self, node: yaml.Node) -> dict[str, str]:
        path = "http_server_config"
        nodes = self._section(node, path, ("http2", "headers")) or {}
        if "http2" in nodes and self._boolean(nodes["http2"], f"{path}.http2"):
            self._warnings.append(f"{path}.http2: HTTP/2 is not spoken; clients use HTTP/1.1")
        headers: dict[str, str] = {}
        if "headers" not in nodes:
            return headers
        for name, value_node in (self._section(nodes["headers"], f"{path}.headers", tuple(_HEADERS)) or {}).items():
            key = f"{path}.headers.{name}"
            value = self._string(value_node, key)
            if value and _HEADERS[name] and value.lower() not in _HEADERS[name]:
                self._wrong(value_node, key, f"expected {' or '.join(_HEADERS[name])}")
            elif value and not (value.isascii() and value.isprintable()):
                self._wrong(value_node, key, "expected one line of ASCII")
            elif value:
                headers[name] = value
        return headers

    def _users(self, node: yaml.Node) -> dict[bytes, bytes]:
        path = "basic_auth_users"
        users: dict[bytes, bytes] = {}
        for name, (_, value_node) in (self._mapping(node, path) or {}).items():
            shown = f"{path}.{name if _USER.fullmatch(name) else repr(name[:60])}"
            hashed = self._string(value_node, shown, "a bcrypt hash")
            if hashed is None:
                continue
            if not name:
                self._wrong(value_node, shown, "the name is empty, expected the name of a user")
            elif not _is_hash(hashed.encode()):
                what = (
                    "no bcrypt hash, expected one such as $2y$10$ and 53 more characters; htpasswd -nBC 10 '' makes one"
                )
                self._wrong(value_node, shown, what)
            else:
                users[name.encode()] = hashed.encode()
        return users

    def _rate_limit(self, node: yaml.Node) -> RateLimit | None:
        nodes = self._section(node, "rate_limit", ("interval", "burst")) or {}
        if "interval" not in nodes or nodes["interval"].value == "0":
            return None
        interval_s = self._duration(nodes["interval"], "rate_limit.interval")
        burst: int | None = None
        if "burst" in nodes:
            burst = WholeNumber("requests").read(nodes["burst"], "rate_limit.burst", self._report)
        else:
            self._wrong(node, "rate_limit.burst", "the key is missing, expected a whole number of requests")
        return RateLimit(interval_s, burst) if interval_s and burst else None

    def _duration(self, node: yaml.Node, key_path: str) -> float | None:
        """Read a duration as Go writes it, to seconds."""
        text = self._string(node, key_path, "a duration such as 1s")
        if text is None:
            return None
        parts = _DURATION.findall(text)
        if not parts or "".join(map("".join, parts)) != text:
            self._wrong(node, key_path, "no duration, expected one such as 1s or 250ms; 0 for no limit")
            return None
        return sum(float(count) * _DURATION_UNITS_S[unit] for count, unit in parts)


def _is_hash(text: bytes) -> bool:
    found = _HASH.fullmatch(text)
    if found is None or not 4 <= int(found[2]) <= 31:
        return False
    try:
        bcrypt.hashpw(b"", found[1] + b"04$" + found[3])  # its cost aside, it is one that can be computed
    except ValueError:
        return False
    return True


def _is_given(nodes: Mapping[str, yaml.Node], name: str) -> bool:
    return any(each in nodes and nodes[each].value for each in (name, f"{name}_file"))


def _form(node: yaml.Node) -> str:
    """What a value is, without the value."""
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    if node.tag == _NULL:
        return "nothing"
    return "a string" if node.tag == _STRING else "something else than a string"
