"""The progress bar: on a terminal, and for slow work alone."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

from ckptconv.cli import progress

if TYPE_CHECKING:
    import pytest


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_no_progress_bar_appears_off_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DELAY", 0.0)
    monkeypatch.setattr(sys, "stderr", written := io.StringIO())
    with progress.Bar("reading") as bar:
        bar(1, 2)
    assert written.getvalue() == ""


def test_no_progress_bar_appears_for_quick_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", written := Terminal())
    with progress.Bar("reading") as bar:
        bar(1, 2)
    assert written.getvalue() == ""


def test_a_progress_bar_appears_for_slow_work_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DELAY", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", written := Terminal())
    with progress.Bar("reading [red]") as bar:
        bar(1, 2)
    assert "reading [red]" in written.getvalue()


def test_a_terminal_that_cannot_move_its_cursor_gets_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DELAY", 0.0)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stderr", written := Terminal())
    with progress.Bar("reading") as bar:
        bar(1, 2)
    assert written.getvalue() == ""
