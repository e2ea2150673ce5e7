"""Draws the picture of docs/operating.md (make picture).

Two minutes of a real agent, scraped by a real Prometheus, while logs grow. What is drawn is what the panels of
config/grafana/log-growth.json ask for.
"""

import argparse
import json
import math
import string
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from tests.support import Agent, Prometheus, free_port, program
from tools.dashboard import dashboard
from tools.workload import Workload

SHOWN = (
    "Growth by group",
    "Growth by namespace",
    "Growth by container",
    "Top growers",
    "Size by group",
    "Rotations and truncations",
    "Files appearing and vanishing",
    "CPU of the agent",
)
WINDOW_S = 5  # for $__rate_interval
WIDTH, PANEL_WIDTH, PANEL_HEIGHT, GAP, TOP = 1000, 484, 256, 12, 64
LEFT, RIGHT, ABOVE = 72, 16, 40  # around what is plotted; below it are the times and as much legend as there is
MARGIN, LEGEND_LINE, LETTER = 16, 15, 6.7
COLOURS = ("#56a64b", "#3274d9", "#e0752d", "#a352cc", "#e02f44", "#0f9fb5", "#c7a500", "#6e7681", "#8b5e3c", "#e377c2")


# -- what Prometheus has ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """The points of one series, at seconds since the beginning of the picture."""

    name: str
    points: Sequence[tuple[float, float]]


def ask(url: str, endpoint: str, **arguments: object) -> list[Any]:
    """The result of a query to Prometheus' API."""
    with urllib.request.urlopen(f"{url}/api/v1/{endpoint}?{urllib.parse.urlencode(arguments)}", timeout=30) as answer:
        result: list[Any] = json.load(answer)["data"]["result"]
    return result


def filled_in(expression: str, seconds: float) -> str:
    """The expression with everything chosen."""
    values = {"__rate_interval": f"{WINDOW_S}s", "__range": f"{seconds:.0f}s"}
    everything = dict.fromkeys(("job", "instance", "group", "namespace"), ".*")
    return string.Template(expression).substitute(values | everything)


def lines(url: str, panel: Mapping[str, Any], start: float, seconds: float) -> Iterator[Line]:
    """The series of a panel over time, those below zero as the dashboard has them."""
    downwards = {
        override["matcher"]["options"]
        for override in panel["fieldConfig"]["overrides"]
        if {"id": "custom.transform", "value": "negative-Y"} in override["properties"]
    }
    for target in panel["targets"]:
        sign = -1 if target["refId"] in downwards else 1
        query = filled_in(target["expr"], seconds)
        for series in ask(url, "query_range", query=query, start=start, end=start + seconds, step=step_s(panel)):
            legend = target["legendFormat"].replace("{{", "${").replace("}}", "}")
            name = string.Template(legend).safe_substitute(series["metric"])
            yield Line(name, [(at - start, sign * float(value)) for at, value in series["values"]])


# -- SVG --------------------------------------------------------------------------------------------------------------


def text(x: float, y: float, content: str, **attributes: str | int) -> str:
    """A line of text; attributes have _ for -."""
    given = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<text x="{x:g}" y="{y:g}"{given}>{escape(content)}</text>'


def human(value: float, unit: str) -> str:
    """A value of the dashboard's unit, short."""
    if unit == "percentunit":
        return f"{value:.1%}".replace(".0%", "%")
    if unit in ("bytes", "binBps"):
        power = min(3, int(math.log(abs(value), 1024))) if abs(value) >= 1 else 0
        return f"{value / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB')[power]}{'/s' if unit == 'binBps' else ''}"
    return f"{abs(value):g}"


def tick_distance(span: float, unit: str) -> float:
    """A round distance that makes three to six steps of the span."""
    base = 1024 ** int(math.log(span, 1024)) if unit in ("bytes", "binBps") and span >= 1 else 1
    rough = span / base / 4
    power = 10 ** math.floor(math.log10(rough))
    return float(base * power * next(nice for nice in (1, 2, 5, 10) if nice * power >= rough))


def segments(points: Sequence[tuple[float, float]]) -> Iterator[Sequence[tuple[float, float]]]:
    """The points between two gaps."""
    begin = 0
    for number in range(1, len(points) + 1):
        if number == len(points) or points[number][0] - points[number - 1][0] > 1.5:
            yield points[begin:number]
            begin = number


def stacked(drawn: Sequence[Line]) -> Iterator[tuple[Line, Mapping[float, float]]]:
    """Each line raised by those before it, and what it stands on."""
    below: dict[float, float] = {}
    for line in drawn:
        raised = Line(line.name, [(at, value + below.get(at, 0)) for at, value in line.points])
        yield raised, dict(below)
        below |= dict(raised.points)


def step_s(panel: Mapping[str, Any]) -> int:
    """How far apart the points of a panel are: bars so that all that happens is in one of them."""
    if panel["fieldConfig"]["defaults"]["custom"]["drawStyle"] != "bars":
        return 1
    # increase() knows of what happens from the first to the last scrape of its window.
    return WINDOW_S - 1 if "increase(" in panel["targets"][0]["expr"] else WINDOW_S


def plot(panel: Mapping[str, Any], drawn: Sequence[Line], seconds: float) -> Iterator[str]:
    """The axes, lines and legend of a panel."""
    unit = panel["fieldConfig"]["defaults"]["unit"]
    look = panel["fieldConfig"]["defaults"]["custom"]
    shapes = list(stacked(drawn)) if "stacking" in look else [(line, {}) for line in drawn]
    values = [value for line, _ in shapes for _, value in line.points]
    highest, lowest = max(values, default=1) or 1, min([0, *values])
    distance = tick_distance(highest - lowest, unit)
    top, bottom = math.ceil(highest * 1.02 / distance) * distance, math.floor(lowest / distance) * distance
    names = list(legend([line.name for line in drawn]))
    width, height = PANEL_WIDTH - LEFT - RIGHT, PANEL_HEIGHT - ABOVE - 34 - LEGEND_LINE * len(names)

    def x(at: float) -> float:
        return LEFT + width * at / seconds

    def y(value: float) -> float:
        return ABOVE + height * (top - value) / (top - bottom)

    for number in range(round((top - bottom) / distance) + 1):
        value = bottom + number * distance
        yield f'<path class="grid" d="M{LEFT} {y(value):.1f}h{width}"/>'
        yield text(LEFT - 8, y(value) + 4, human(value, unit), text_anchor="end")
    for second in range(0, int(seconds) + 1, 20):
        yield text(x(second), y(bottom) + 18, f"{second // 60}:{second % 60:02}", text_anchor="middle")
    for number, (line, floor) in enumerate(shapes):
        colour = COLOURS[number % len(COLOURS)]
        if look["drawStyle"] == "bars":
            size = step_s(panel) / len(shapes)
            for at, value in line.points:
                left, high = x(at - step_s(panel) + size * number), min(y(value), y(0))
                box = f'x="{left:.1f}" y="{high:.1f}" width="{x(size) - x(0):.1f}" height="{abs(y(value) - y(0)):.1f}"'
                yield f'<rect {box} fill="{colour}"/>' if value else ""
            continue
        for points in segments(line.points):
            edge = "L".join(f"{x(at):.0f} {y(value):.1f}" for at, value in points)
            if "stacking" in look:
                under = "L".join(f"{x(at):.0f} {y(floor.get(at, 0)):.1f}" for at, _ in reversed(points))
                yield f'<path fill="{colour}" fill-opacity=".35" d="M{edge}L{under}z"/>'
            yield f'<path class="line" stroke="{colour}" d="M{edge}"/>'
    for number, row in enumerate(names):
        yield f'<g transform="translate(0 {y(bottom) + 38 + number * LEGEND_LINE:g})">{row}</g>'


def legend(names: Iterable[str]) -> Iterator[str]:
    """Names beside their colours, line by line."""
    row, left = "", float(MARGIN)
    for number, name in enumerate(names):
        size = 30 + LETTER * len(name)
        if row and left + size > PANEL_WIDTH:
            yield row
            row, left = "", MARGIN
        row += f'<rect x="{left:g}" y="-6" width="10" height="4" rx="2" fill="{COLOURS[number % len(COLOURS)]}"/>'
        row += text(left + 15, 0, name)
        left += size
    yield row


def ranking(url: str, panel: Mapping[str, Any], at: float, seconds: float, root: str) -> Iterator[str]:
    """The first rows of a table, each with a bar."""
    unit = panel["fieldConfig"]["defaults"]["unit"]
    result = ask(url, "query", query=filled_in(panel["targets"][0]["expr"], seconds), time=at)
    rows = sorted(((float(row["value"][1]), row["metric"]["path"]) for row in result), reverse=True)[:8]
    for number, (value, path) in enumerate(rows):
        y = ABOVE + 20 + number * 24
        yield f'<rect x="{MARGIN}" y="{y - 12}" width="{92 * value / rows[0][0]:.0f}" height="16" rx="2" class="bar"/>'
        yield text(MARGIN + 4, y, human(value, unit), **{"class": "value"})
        yield text(MARGIN + 104, y, path.removeprefix(root))


def picture(url: str, start: float, seconds: float, root: str) -> str:
    """The SVG of what the Prometheus at `url` has of the seconds after `start`, with file names as below `root`."""
    panels = {panel["title"]: panel for panel in dashboard()["panels"] if panel["type"] in ("timeseries", "table")}
    height = TOP + math.ceil(len(SHOWN) / 2) * (PANEL_HEIGHT + GAP) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
        "<style>"
        "text{font:11.5px Inter,system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;fill:#57606a}"
        ".title{font-size:14px;font-weight:600;fill:#1f2328}.head{font-size:20px;font-weight:600;fill:#1f2328}"
        ".value{fill:#1f2328}.grid{stroke:#e6e8eb}.line{fill:none;stroke-width:1.6;stroke-linejoin:round}"
        ".bar{fill:#3274d9;fill-opacity:.28}"
        "</style>",
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#f4f5f5"/>',
        text(GAP + 4, 30, "Log growth", **{"class": "head"}),
        text(GAP + 4, 50, f"{seconds:.0f} seconds of a real run, scraped every second"),
    ]
    for number, title in enumerate(SHOWN):
        panel = panels[title]
        x, y = GAP + number % 2 * (PANEL_WIDTH + GAP / 1.5), TOP + number // 2 * (PANEL_HEIGHT + GAP)
        if panel["type"] == "table":
            content = list(ranking(url, panel, start + seconds, seconds, root))
        else:
            is_bars = panel["fieldConfig"]["defaults"]["custom"]["drawStyle"] == "bars"
            drawn = lines(url, panel, start, seconds)
            seen = (line for line in drawn if not is_bars or any(value for _, value in line.points))
            content = list(plot(panel, sorted(seen, key=lambda line: line.name), seconds))
        frame = f'<rect width="{PANEL_WIDTH}" height="{PANEL_HEIGHT}" rx="4" fill="#fff" stroke="#dfe2e5"/>'
        heading = text(MARGIN, 25, title, **{"class": "title"})
        parts.append("\n".join([f'<g transform="translate({x:g} {y:g})">', frame, heading, *content, "</g>"]))
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Run everything for a while and print the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120, help="how long to look (default: %(default)g)")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory(prefix="fstat-picture-") as name:
        folder = Path(name)
        with Workload(folder / "host") as workload:
            (folder / "exporter.yml").write_text(workload.configuration())
            agent = Agent([f"--config.file={folder / 'exporter.yml'}"], folder / "agent.out")
            try:
                prometheus = start_prometheus(folder, agent.port)
                try:
                    prometheus.wait_for("/-/ready")
                    time.sleep(2 * WINDOW_S + seconds)
                    print(picture(prometheus.url, time.time() - seconds, seconds, str(workload.root)), end="")
                finally:
                    prometheus.stop()
            finally:
                agent.stop()


def start_prometheus(folder: Path, port: int) -> Prometheus:
    """Start one that scrapes the agent every second."""
    target = {"targets": [f"127.0.0.1:{port}"], "labels": {"instance": "node-1:10943"}}
    job = {"job_name": "fstat", "honor_labels": True, "static_configs": [target]}
    timing = {"scrape_interval": "1s", "scrape_timeout": "1s"}
    config_path = folder / "prometheus.yml"
    config_path.write_text(json.dumps({"global": timing, "scrape_configs": [job]}))  # JSON is YAML
    own_port = free_port()
    address = f"--web.listen-address=127.0.0.1:{own_port}"
    storage = f"--storage.tsdb.path={folder / 'data'}"
    command = [program("prometheus"), f"--config.file={config_path}", storage, address, "--log.level=warn"]
    return Prometheus(command, folder / "prometheus.out", own_port)


if __name__ == "__main__":
    main()
