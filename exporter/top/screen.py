"""The terminal of top: a list of files that is read again and again, and keys. Drawn by urwid."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import urwid
from urwid.display.raw import Screen as Terminal

from exporter.top.files import HEADING, File
from exporter.top.sources import Source, SourceError
from exporter.top.writers import find_writers
from fstat_cache.hanging import Worker

_PALETTE = [("heading", "standout", ""), ("focus", "standout", ""), ("message", "bold", "")]
_SORT_KEYS = {"r": "rate", "s": "size", "t": "last write", "p": "path"}
_KEYS = "r rate  s size  t last write  p path  / filter  w writers  q quit"
_ELLIPSIS = "..."

_Read = tuple[list[File], int]


class _Row(urwid.SelectableIcon):
    """One line with a file. Of a path that is too long its end is shown."""

    def __init__(self, file: File) -> None:
        super().__init__("", cursor_position=1)  # beyond the text: no cursor
        self.file = file

    def render(self, size: tuple[int], focus: bool = False) -> urwid.Canvas:  # type: ignore[override]  # as urwid's own
        """Return the line."""
        columns = self.file.columns()
        line = columns + _shortened(self.file.path, max(size[0] - len(columns), 0))
        return urwid.Text(("focus" if focus else None, line), wrap="clip").render(size)


class Screen:
    """Shows files until the user quits.

    Args:
        source: reads them.
        interval_s: the time between two reads, seconds.
    """

    def __init__(self, source: Source, interval_s: float) -> None:
        self._source = source
        self._interval_s = interval_s
        self._sort, self._search, self._matched, self._message = "rate", "", 0, "Reading the files."
        self._is_reading = False
        self._worker = Worker("top")  # keys work while an agent does not answer
        self._rows: urwid.SimpleFocusListWalker[_Row] = urwid.SimpleFocusListWalker([])
        self._files = urwid.ListBox(self._rows)
        self._title, self._footer = urwid.Text("", wrap="clip"), urwid.Text("")  # a remedy is read to its end
        heading = urwid.AttrMap(urwid.Text(HEADING, wrap="clip"), "heading")
        self._filter = urwid.Edit("filter: ")
        self._frame: urwid.Frame[urwid.ListBox[Any], urwid.Pile, urwid.Text | urwid.Edit] = urwid.Frame(
            self._files, urwid.Pile([self._title, heading]), self._footer
        )
        # Only keys are input: without these two the terminal would report its focus as one.
        terminal = Terminal(bracketed_paste_mode=False, focus_reporting=False)
        self._loop = urwid.MainLoop(
            self._frame, _PALETTE, screen=terminal, handle_mouse=False, unhandled_input=self._on_key
        )

    def run(self) -> None:
        """Show the files until the user quits or the terminal is gone."""
        self._loop.set_alarm_in(0, self._tick)
        self._tell()
        try:
            self._loop.run()
        except urwid.display.common.InputClosedError:
            return

    # -- reading, by the worker ---------------------------------------------------------------------------------------

    def _tick(self, *_: object) -> None:
        self._read()
        self._loop.set_alarm_in(self._interval_s, self._tick)

    def _read(self) -> None:
        if self._is_reading:
            return
        sort, search = self._sort, self._search
        future = self._worker.begin(lambda: self._source.read(sort, search), math.inf)
        if future is not None:
            self._is_reading = True
            future.add_done_callback(lambda done: self._call(self._take, done, sort, search))

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_from_thread(function, *arguments)
        except RuntimeError:  # the user has quit
            return

    def _take(self, read: Future[_Read], sort: str, search: str) -> None:
        self._is_reading = False
        if (sort, search) != (self._sort, self._search):
            self._read()  # the user has chosen otherwise meanwhile
            return
        try:
            files, self._matched = read.result()
            self._message = ""
        except SourceError as error:
            self._message = str(error)
        else:
            self._show(files)
        self._tell()

    def _show(self, files: list[File]) -> None:
        focused = self._focused()
        at = self._rows.focus or 0 if focused is not None else 0
        self._rows[:] = map(_Row, files)
        if files:
            # The first line stays the first one; elsewhere the focus follows its file.
            same = (number for number, file in enumerate(files) if at and focused and file.path == focused.file.path)
            self._rows.set_focus(next(same, min(at, len(files) - 1)))

    def _focused(self) -> _Row | None:
        return self._rows[self._rows.focus or 0] if self._rows else None

    def _tell(self) -> None:
        self._title.set_text(
            f"{self._source.name}  {self._matched:,} files, by {self._sort}"
            + (f", filter: {self._search}" if self._search else "")
        )
        self._footer.set_text(("message", self._message) if self._message else _KEYS)

    # -- keys ---------------------------------------------------------------------------------------------------------

    def _on_key(self, key: object) -> bool:
        if self._frame.focus_position == "footer":
            if key in ("enter", "esc"):
                self._end_filter(is_accepted=key == "enter")
        elif self._frame.body is not self._files:
            self._frame.body = self._files
        elif key == "q":
            raise urwid.ExitMainLoop
        elif key == "/":
            self._filter.set_edit_text(self._search)
            self._filter.set_edit_pos(len(self._search))
            self._frame.footer = self._filter
            self._frame.focus_position = "footer"
        elif key in ("w", "enter") and (focused := self._focused()) is not None:
            self._show_writers(focused.file)
        elif key in _SORT_KEYS:
            self._sort = _SORT_KEYS[str(key)]
            self._show([])
            self._read()
        self._tell()
        return True

    def _end_filter(self, *, is_accepted: bool) -> None:
        if is_accepted:
            self._search = self._filter.get_edit_text()
        self._frame.footer = self._footer
        self._frame.focus_position = "body"
        self._read()

    def _show_writers(self, file: File) -> None:
        lines = [f"Open for writing: {file.path}", ""]
        if not self._source.has_local_files():
            lines.append("Only on the machine of the agent: run fstat-exporter top there.")
        else:
            try:
                writers, denied = find_writers(file.inode)
            except OSError as error:
                lines.append(f"/proc cannot be read: {error.strerror}")
            else:
                lines += [f"{writer.pid:>10}  {writer.user:<12}  {writer.command}" for writer in writers]
                if not writers:
                    lines.append("No process has been found.")
                if denied:
                    lines.append(f"Processes that may not be inspected: {denied}, permission denied; run as root.")
        lines += ["", "Any key: back"]
        self._frame.body = urwid.ListBox(urwid.SimpleListWalker([urwid.Text(line) for line in lines]))


def _shortened(path: str, width: int) -> str:
    """Return a path, or its end after an ellipsis, in at most `width` columns."""
    if urwid.calc_width(path, 0, len(path)) <= width:
        return path
    left = max(width - len(_ELLIPSIS), 0)
    start = max(len(path) - left, 0)
    while urwid.calc_width(path, start, len(path)) > left:
        start += 1
    return _ELLIPSIS + path[start:]
