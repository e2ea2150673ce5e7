"""Draws docs/shipper.svg (make shipper-picture): a log shipper that falls behind and loses a rotated log.

It shows a real agent, scraped every second, over a log that grows all the time. The shipper is simulated: it reads the
log and writes its position every second, in the format of promtail.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support import Agent
from tools.picture import human, text, tick_distance

EVENTS = {15: "shipper stops", 30: "log rotates", 45: "rotated log deleted", 60: "shipper resumes"}
SECONDS = 75
TICKS = 4  # a second, in each of which the log grows
LINES = b"One line of 64 bytes, as an application may write it to its log\n" * 64
READ_BYTES = 32 * len(LINES)  # the most that the shipper reads in a second
FAMILIES = (
    ("fstat_shipper_unread_bytes", "bytes", "#3274d9"),
    ("fstat_shipper_oldest_unread_seconds", "s", "#e0752d"),
    ("fstat_shipper_lost_bytes_total", "bytes", "#e02f44"),
)
WIDTH, LEFT, RIGHT, TOP, HEIGHT, GAP = 900, 76, 24, 84, 84, 42
STYLE = (
    "text{font:12px Inter,system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;fill:#57606a}"
    ".head{font-size:18px;font-weight:600}.title{font-weight:600}.head,.title{fill:#1f2328}"
    ".back{fill:#fff;stroke:#d1d9e0}.grid{stroke:#e6e8eb}.event{stroke:#818b98;stroke-dasharray:3 3}"
    "@media(prefers-color-scheme:dark){text{fill:#9198a1}.head,.title{fill:#f0f6fc}"
    ".back{fill:#0d1117;stroke:#3d444d}.grid{stroke:#2a313c}}"
)


def run(folder: Path) -> Iterator[Sequence[float]]:
    """Yield the values of `FAMILIES` after each second."""
    log, rotated, positions = folder / "app.log", folder / "app.log.1", folder / "positions.yaml"
    log.write_bytes(LINES)
    shipper = {"name": "promtail", "type": "promtail", "path": str(positions), "flush_interval": "1s"}
    config = folder / "exporter.yml"
    config.write_text(json.dumps({"logs": [{"group": "app", "paths": [str(log)]}], "shippers": [shipper]}))
    offset, is_reading = 0, True
    agent = Agent([f"--config.file={config}"], folder / "agent.out")
    try:
        began_s = time.monotonic()
        for tick in range(SECONDS * TICKS + 1):
            time.sleep(max(0.0, began_s + tick / TICKS - time.monotonic()))
            second, part = divmod(tick, TICKS)
            with log.open("ab") as file:
                file.write(LINES)
            if part == 0:
                event = EVENTS.get(second, "")
                is_reading = "resumes" in event or (is_reading and "stops" not in event)
                if "rotates" in event:
                    log.rename(rotated)
                    log.touch()
                elif "deleted" in event:
                    rotated.unlink()
                samples = agent.scrape().samples
                names = {"group": "app", "shipper": "promtail"}
                yield [samples[name, frozenset(names.items())] for name, *_ in FAMILIES]
            elif part == TICKS // 2 and is_reading:
                offset = offset if offset <= log.stat().st_size else 0  # it is another log
                offset = min(log.stat().st_size, offset + READ_BYTES)
                new = folder / ".positions.yaml"
                new.write_text(f'positions:\n  {log}: "{offset}"\n')
                os.replace(new, positions)
    finally:
        agent.stop()


def x(second: float) -> float:
    """The place of a second."""
    return LEFT + (WIDTH - LEFT - RIGHT) * second / SECONDS


def plot(name: str, unit: str, colour: str, values: Sequence[float]) -> Iterator[str]:
    """One family over time."""
    distance = tick_distance(max(values) or 1, unit) * 2
    top = (max(values) // distance + 1) * distance
    y = [HEIGHT * (1 - value / top) for value in values]
    yield text(LEFT, -10, name, **{"class": "title"})
    for step in range(round(top / distance) + 1):
        height = HEIGHT * (1 - step * distance / top)
        label = human(step * distance, unit) + (" s" if unit == "s" else "")
        yield f'<path class="grid" d="M{LEFT} {height:.1f}H{WIDTH - RIGHT}"/>'
        yield text(LEFT - 8, height + 4, label, text_anchor="end")
    edge = "L".join(f"{x(second):.1f} {height:.1f}" for second, height in enumerate(y))
    yield f'<path fill="{colour}" fill-opacity=".25" d="M{LEFT} {HEIGHT}L{edge}V{HEIGHT}z"/>'
    yield f'<path fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round" d="M{edge}"/>'


def picture(samples: Sequence[Sequence[float]]) -> str:
    """The SVG of the values of each second."""
    bottom = TOP + len(FAMILIES) * (HEIGHT + GAP) - GAP
    size = f'width="{WIDTH}" height="{bottom + 34}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 34}" {size}>']
    parts.append(f'<style>{STYLE}</style><rect class="back" {size} rx="8"/>')
    parts.append(text(16, 30, "A shipper falls behind and loses a rotated log", **{"class": "head"}))
    for second, event in EVENTS.items():
        parts.append(f'<path class="event" d="M{x(second):.1f} 58V{bottom}"/>')
        parts.append(text(x(second), 52, event, text_anchor="middle"))
    for number, (family, values) in enumerate(zip(FAMILIES, zip(*samples, strict=True), strict=True)):
        content = "\n".join(plot(*family, values))
        parts.append(f'<g transform="translate(0 {TOP + number * (HEIGHT + GAP)})">\n{content}\n</g>')
    parts += [text(x(second), bottom + 20, f"{second} s", text_anchor="middle") for second in range(0, SECONDS + 1, 15)]
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="fstat-shipper-") as name:
        print(picture(list(run(Path(name)))), end="")
