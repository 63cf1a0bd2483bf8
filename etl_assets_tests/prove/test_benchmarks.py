"""Every benchmark runs, small, and prints its goals. What it measures at this size means nothing."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
CASES: dict[str, tuple[list[str], list[str]]] = {
    "write_paths": (
        ["--rows", "20000", "--base", "100000", "--repeat", "1"],
        [
            r"append +1\.4 +\d",
            r"upsert, half changed +0\.6 +\d",
            r"read +1 +\d",
            r"to_sql +10 +\d",
            r"memory .*goal: flat",
        ],
    ),
    "streams": (
        ["--records", "20000", "--repeat", "1", "--single", "200"],
        [r"as runs .*goal 200,000", r"as services .*goal 200,000"],
    ),
    "report_scale": (
        ["--metrics", "20000", "--parameters", "5", "--work-orders", "60"],
        [r"20,000 readings.*goal 2000 MB"],
    ),
    "experiments_scale": (
        ["--users", "1000", "--experiments", "5000", "--compounds", "50"],
        [r"ours: .*goals 60 s, 4,000 MB", r"pandas takes \d"],
    ),
    "turbines": (
        ["--turbines", "1", "--days", "2"],
        [r"arrow: .*goals 45 s, 1,000 MB", r"json: .*goals 45 s, 1,000 MB", r"pandas: \d"],
    ),
    "events": (
        ["--files", "4", "--rows", "60"],
        [r"job: .*goal 15 s", r"script: .*goal 15 s", r"again: .* 0 rows written", r"pandas, orm: \d"],
    ),
    "correlations": (
        ["--sets", "2", "--processes", "1", "--only", "independent, n = 30", "intervals: independent"],
        [r"goal of ours: at most 5", r"planted in one of 20", r"goal: 95", r"\| independent"],
    ),
}
# Peers that only the group `bench` of the dependencies brings: what a benchmark prints with and without it.
PEERS = {
    "write_paths": ("dlt", r"dlt's merge, new rows +5 +\d", r"dlt is not installed"),
    "turbines": ("duckdb", r"duckdb: \d", r"duckdb: not installed"),
}


def test_each_benchmark_has_a_case() -> None:
    parts = {"write_paths_data", "turbines_parts", "events_parts", "correlations_data"}
    assert {file.stem for file in FOLDER.glob("*.py")} - parts == set(CASES)


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_a_benchmark_runs_small_and_prints_its_goals(name: str, tmp_path: Path) -> None:
    options, expected = CASES[name]
    ours = ("ETL_", "DAGSTER", "TURBINES", "EVENTS", "OUTAGES", "PRODUCTION", "EXPERIMENTS")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    done = subprocess.run(
        [sys.executable, FOLDER / f"{name}.py", *options],
        env={**environment, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if name in PEERS:
        package, with_it, without_it = PEERS[name]
        expected = [*expected, with_it if find_spec(package) else without_it]
    missing = [line for line in expected if not re.search(line, done.stdout)]
    assert not missing, f"{missing} is not in what {name} printed:\n{done.stdout}"
