"""The page at / and the files that it is made of."""

from __future__ import annotations

import html
from dataclasses import dataclass
from importlib import resources
from string import Template

from exporter import __version__

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file as it is sent."""

    content_type: str
    body: bytes


def index(telemetry_path: str) -> StaticFile:
    """The page.

    Args:
        telemetry_path: where the metrics are.
    """
    page = Template(_read("index.html").decode()).substitute(
        version=html.escape(__version__), metrics=html.escape(telemetry_path)
    )
    return StaticFile("text/html; charset=utf-8", page.encode())


def static_files() -> dict[str, StaticFile]:
    """What the page loads: name -> file."""
    return {name: StaticFile(content_type, _read(name)) for name, content_type in _TYPES.items()}


def _read(name: str) -> bytes:
    return resources.files("exporter.web").joinpath("static", name).read_bytes()
