"""How far a command is: a bar on a terminal, a line for each part elsewhere, nothing for what nobody watches."""

import os
import pty
import subprocess
import sys

import pytest

from etl_assets.core import progress as module
from etl_assets.core.progress import counting, progress, watched

SLOW = """
from etl_assets.core import progress
progress.QUIET_S = 0
with progress.watched():
    for day in progress.progress(["monday", "tuesday"], of="day"):
        pass
"""


def test_each_part_is_a_line_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUIET_S", 0)
    with watched():
        assert list(progress(["a", "b"], of="site")) == ["a", "b"]
        assert list(progress(iter([1]), of="day")) == [1]
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["site a is done (1 of 2)", "site b is done (2 of 2)", "day 1 is done (1)"]


def test_what_is_quick_or_watched_by_nobody_shows_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with watched():
        list(progress(["a", "b"], of="site"))
    monkeypatch.setattr(module, "QUIET_S", 0)
    list(progress(["a", "b"], of="site"))
    with counting(of="site", total=2) as done:
        done("a")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_a_bar_with_counts() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", SLOW], stderr=theirs, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b""
    os.close(theirs)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "day tuesday" in shown
    assert "2/2" in shown
