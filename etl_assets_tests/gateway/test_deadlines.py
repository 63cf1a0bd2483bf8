"""How long the gateway waits for its database and for Dagster, on a quiet machine and on one that others keep busy."""

import contextlib
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from etl_assets.core.database.connections import Database
from etl_assets.gateway import deadlines
from etl_assets.gateway.deadlines import LONGEST, load_per_core, stretched
from etl_assets_tests.gateway.serving import serving
from etl_assets_tests.gateway.test_server import gateway_process, ready
from etl_assets_tests.gateway.test_store import READING, ask, assert_down, locked

BUSY = 8
MEASURED = load_per_core


@contextlib.contextmanager
def busy_processes() -> Iterator[None]:
    """Eight, which take what they can get."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(BUSY)]
    try:
        time.sleep(1)
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


@pytest.mark.parametrize(("load", "seconds"), [(0.0, 1.5), (1.0, 1.5), (4.0, 6.0), (100.0, 1.5 * LONGEST)])
def test_a_deadline_grows_with_the_load_and_has_an_end(
    monkeypatch: pytest.MonkeyPatch, load: float, seconds: float
) -> None:
    monkeypatch.setattr(deadlines, "load_per_core", lambda: load)
    assert stretched(1.5) == seconds


def test_where_the_system_does_not_say_who_wants_a_core_now_the_last_minute_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (12.0, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    for text in (None, "", "12.0 1.0 nonsense"):
        monkeypatch.setattr(deadlines, "LOAD", tmp_path / "loadavg")
        if text is not None:
            deadlines.LOAD.write_text(text)
        assert MEASURED() == 3.0
    deadlines.LOAD.write_text("12.00 1.0 1.0 20/900 7")
    assert MEASURED() == 5.0


def test_the_answer_says_how_long_was_waited(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "load_per_core", lambda: 2.0)
    with serving(database, deadline_s=0.2) as url, locked(database):
        assert_down(ask(url, READING), because="did not answer within 0.4 s")


@pytest.mark.long
def test_two_hundred_calls_are_answered_beside_eight_busy_processes(data_dir: Path) -> None:
    calls = ("/trigger-etl", "/check/table", "/check/feature_derivation", "/trigger-etl")
    words = {
        ("/trigger-etl", 200): "ETL process started",
        ("/trigger-etl", 400): "Trigger the API frequently, please try again later.",
        ("/check/table", 200): "Table created",
        ("/check/feature_derivation", 200): "Feature Derivation inserted",
        ("/check/feature_derivation", 500): "Feature Derivation insert failed",
    }
    with gateway_process() as (_, url):
        ready(url)
        with busy_processes(), ThreadPoolExecutor(16) as callers:
            answers = list(
                callers.map(lambda number: requests.get(f"{url}{calls[number % 4]}", timeout=60), range(200))
            )
        given = Counter(
            (answer.request.path_url, answer.status_code, answer.json().get("message")) for answer in answers
        )
    assert all(words.get((path, status)) == message for path, status, message in given), given
    assert given["/trigger-etl", 200, "ETL process started"] >= 1
