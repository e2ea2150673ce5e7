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


def page_files(telemetry_path: str, host: str) -> dict[str, StaticFile]:
    """Return the page and what it loads: path without the first slash -> file.

    Args:
        telemetry_path: where the metrics are.
        host: the name of this machine; it comes first in the title.
    """
    static = resources.files("exporter.web") / "static"
    page = Template((static / "index.html").read_text(encoding="utf-8")).substitute(
        version=html.escape(__version__), metrics=html.escape(telemetry_path), host=html.escape(host)
    )
    files = {f"static/{name}": StaticFile(type_, (static / name).read_bytes()) for name, type_ in _TYPES.items()}
    return {"": StaticFile("text/html; charset=utf-8", page.encode()), **files}
