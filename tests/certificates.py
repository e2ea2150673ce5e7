"""Certificates for the tests, made by openssl."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support import program


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    cert: Path
    key: Path


def make_pair(
    folder: Path, name: str, *, issuer: Pair | None = None, names: str = "DNS:localhost,IP:127.0.0.1"
) -> Pair:
    """Make a certificate, signed by itself or by `issuer`, good for a day; `names` are its subjectAltName."""
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    command: list[str | Path] = [program("openssl"), "req", "-x509", "-nodes", "-days", "1", "-subj", f"/CN={name}"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-addext", f"subjectAltName={names}"]
    if issuer is not None:
        command += ["-CA", issuer.cert, "-CAkey", issuer.key, "-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run([*command, "-keyout", pair.key, "-out", pair.cert], check=True, capture_output=True)
    return pair
