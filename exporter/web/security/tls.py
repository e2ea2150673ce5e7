"""TLS: from the names of the web configuration to Python's ssl."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import ssl
from collections.abc import Collection, Mapping, Sequence
from typing import Any

VERSIONS = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}
"""Name in the web configuration -> version."""

CLIENT_AUTH_TYPES = {
    "NoClientCert": ssl.CERT_NONE,
    "RequestClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
"""Name in the web configuration -> mode. RequestClientCert requests none, because it would not decide anything."""

CIPHER_SUITES = {
    "TLS_AES_128_GCM_SHA256": "",
    "TLS_AES_256_GCM_SHA384": "",
    "TLS_CHACHA20_POLY1305_SHA256": "",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
}
"""Go's name -> OpenSSL's; "" for those of TLS 1.3, which cannot be chosen, neither in Go nor here."""

CURVES = {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1", "X25519": "X25519"}
"""Go's name -> OpenSSL's."""

_PLAIN_HTTP_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"This is an HTTPS port, and the request was plain HTTP.\n"
)


class TlsError(Exception):
    """The TLS configuration is not valid.

    Args:
        key: the faulty part: "cert", "key", "client_ca", "cipher_suites" or "curve_preferences".
        text: the fault, without a quotation of the part.
    """

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


class MismatchError(TlsError):
    """The key does not belong to the certificate."""


def make_context(
    cert: bytes,
    key: bytes,
    client_ca: bytes | None,
    *,
    client_auth_type: str,
    min_version: str,
    max_version: str,
    cipher_suites: Sequence[str],
    prefer_server_cipher_suites: bool,
    curve: str,
) -> ssl.SSLContext:
    """Return the context of a server.

    Args:
        cert, key: as PEM; in a chain the server's own certificate comes first.
        client_ca: authorities for clients' certificates, as PEM; None for those that the system trusts.
        client_auth_type: one of CLIENT_AUTH_TYPES.
        min_version, max_version: of VERSIONS, TLS12 or later.
        cipher_suites: names of CIPHER_SUITES, the best first; () for OpenSSL's own choice.
        prefer_server_cipher_suites: whether the server's order counts, or the client's.
        curve: one of CURVES, the only one to be used; "" for OpenSSL's own choice.

    Raises:
        TlsError: certificate, key or another part cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = _Socket
    context.set_alpn_protocols(["http/1.1"])
    context.minimum_version = VERSIONS[min_version]
    context.maximum_version = VERSIONS[max_version]
    if not prefer_server_cipher_suites:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    if older := list(filter(None, (CIPHER_SUITES[name] for name in cipher_suites))):
        context.set_ciphers(":".join(older))
    elif cipher_suites:
        if max_version != "TLS13":
            raise TlsError("cipher_suites", "all of them are of TLS 1.3, which max_version excludes")
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    if curve:
        try:
            context.set_ecdh_curve(CURVES[curve])
        except (ValueError, ssl.SSLError):
            text = f"the OpenSSL of this Python cannot use {curve} alone, expected another curve or none"
            raise TlsError("curve_preferences", text) from None
    _load_pair(context, cert, key)
    context.verify_mode = CLIENT_AUTH_TYPES[client_auth_type]
    if client_ca is not None:
        _load_authorities(context, client_ca, "client_ca")
    elif context.verify_mode != ssl.CERT_NONE:
        context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
    return context


def has_allowed_name(certificate: Mapping[str, Any] | None, allowed: Collection[str]) -> bool:
    """Return whether a certificate has one of the names as a DNS name, an e-mail address, an IP address or a URI.

    Args:
        certificate: of a client, as `ssl.SSLSocket.getpeercert` returns it.
        allowed: the names, which must match exactly; IP addresses in the short form.
    """
    for kind, value in (certificate or {}).get("subjectAltName", ()):
        name = _short_address(value) if kind == "IP Address" else value
        if kind in ("DNS", "email", "IP Address", "URI") and name in allowed:
            return True
    return False


def _short_address(text: str) -> str:
    with contextlib.suppress(ValueError):  # OpenSSL writes all zeros of IPv6
        return str(ipaddress.ip_address(text.strip()))
    return text


def _load_pair(context: ssl.SSLContext, cert: bytes, key: bytes) -> None:
    _load_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), cert, "cert")
    is_encrypted = False

    def password() -> str:
        nonlocal is_encrypted
        is_encrypted = True
        return ""

    # The ssl module reads these two from files only. In memory both are of one moment, and inline ones never on disk.
    with open(os.memfd_create("cert"), "wb", 0) as cert_file, open(os.memfd_create("key"), "wb", 0) as key_file:
        cert_file.write(cert)
        key_file.write(key)
        cert_path, key_path = (f"/proc/self/fd/{file.fileno()}" for file in (cert_file, key_file))
        try:
            context.load_cert_chain(cert_path, key_path, password)
        except (ssl.SSLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", None)
            if is_encrypted:
                raise TlsError("key", "is encrypted, expected a private key without a passphrase") from None
            # Another kind of key leaves OpenSSL without a certificate for it.
            if reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
                raise MismatchError("key", "does not belong to the certificate") from None
            if b" PRIVATE KEY-----" not in key or reason is None:
                raise TlsError("key", "no private key in it, expected one in PEM") from None
            raise TlsError("cert", f"cannot be used: {reason.lower().replace('_', ' ')}") from None


def _load_authorities(context: ssl.SSLContext, pem: bytes, key: str) -> None:
    try:
        context.load_verify_locations(cadata=pem.decode("ascii", "replace").replace("\ufffd", "?"))
    except (ssl.SSLError, ValueError):
        raise TlsError(key, "no certificate in it, expected at least one in PEM") from None


class _Socket(ssl.SSLSocket):
    """A TLS socket that answers plain HTTP with an error, as Go's servers do."""

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands, or answer plain HTTP."""
        try:
            super().do_handshake(block)
        except ssl.SSLError as error:
            if error.reason == "HTTP_REQUEST":
                with contextlib.suppress(OSError):
                    # Unread bytes would make the kernel reset the connection, so that the answer would be lost.
                    socket.socket.recv(self, 65536)
                    socket.socket.send(self, _PLAIN_HTTP_ANSWER)
            raise
