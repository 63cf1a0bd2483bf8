"""A day of files from the public feed, backfilled in one run: time, shares, memory; plain scripts with pandas beside it.

    python benchmarks/events.py [--files 96] [--rows 2000] [--instance sqlite] [--only job script orm executemany]

The feed is a process of its own and is asked over HTTP; the raw layer is parquet on the disk, the rest Postgres. `job` is a run of `events_job`
for the day, its steps in the run's process, on an instance of its own; `script` is what `etl-assets events load` calls. Both
start with nothing in the stores, run a second time, which must write nothing, and have the same rows at the end. The clock
starts when everything is imported. The shares are of the wall time, taken around the functions named in `SHARES`; files are
fetched, verified and parsed in a thread while those before are stored, so that these two are not part of the sum.

`orm` and `executemany` are scripts as one writes them: `requests`, `read_csv`, the rows of the US inserted as objects of SQLAlchemy or by
psycopg2's `executemany`, a commit for each file. They verify nothing, keep no raw file and no manifest.

At last a day with a missing, a late and a republished file.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import events_parts as parts
import psycopg
import requests
from turbines import INSTANCES
from turbines_parts import cpu_of, cpu_of_server

from etl_assets.core.embedded import EmbeddedPostgres

LIMIT_S = 15
OURS, PLAIN = ("job", "script"), ("orm", "executemany")
# Yesterday: what is missing may still come.
YESTERDAY = f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}"
MISSING, LATE, AGAIN = (f"{YESTERDAY.replace('-', '')}{label}" for label in ("031500", "120000", "184500"))
# What a run has written, whatever it has looked at; for a file that is missing (with --files below 96) each look is recorded.
WRITTEN = (
    "SELECT coalesce(sum(inserted + updated + deleted), 0)::bigint FROM etl.ledger"
    " WHERE asset <> 'events.intervals' OR NOT EXISTS (SELECT FROM events.intervals WHERE state = 'missing')"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--files", type=int, default=96)
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--instance", choices=INSTANCES, default="sqlite")
    parser.add_argument("--only", nargs="+", choices=(*OURS, *PLAIN), default=(*OURS, *PLAIN))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        server = EmbeddedPostgres(Path(work) / "server")
        try:
            with server, feed(options.files, options.rows) as (pid, url):
                print(f"{options.files} files × {options.rows:,} events")
                places = [Place(server, Path(work), pid, url, who, options.instance) for who in options.only]
                counts = [backfill(place) if place.who in OURS else plain(place) for place in places]
                if len(set(counts)) > 1:
                    raise SystemExit(f"not the same number of US events: {counts}")
                if options.files == 96:
                    troubled(Place(server, Path(work), pid, url, "troubled", options.instance))
        finally:
            server.purge()


@dataclass
class Place:
    """Stores of their own, and the feed."""

    server: EmbeddedPostgres
    work: Path
    feed_pid: int
    feed_url: str
    who: str
    instance: str

    def __post_init__(self) -> None:
        self.database_url = self.server.create_database(f"platform_{self.who}")
        self.home = self.work / self.who / "home"
        self.home.mkdir(parents=True)
        (self.home / "dagster.yaml").write_text("telemetry: {enabled: false}\n" + INSTANCES[self.instance])

    def child(self, *arguments: str, **more: str) -> dict[str, Any]:
        """What a child says at its end, and the CPU seconds of feed and server meanwhile."""
        ours = ("ETL_", "EVENTS_", "DAGSTER")
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
            "ETL_DATA_DIR": str(self.home.parent),
            "ETL_POSTGRES_URL": self.database_url,
            "DAGSTER_HOME": str(self.home),
            "DAGSTER_POSTGRES_URL": self.server.create_database(f"dagster_{self.who}"),
            "EVENTS_FEED_URL": self.feed_url,
            "EVENTS_START_DATE": YESTERDAY,
            "TARGET_URL": self.database_url,
            **more,
        }
        command = [sys.executable, "-W", "ignore", parts.__file__, *arguments]
        before = self._cpu()
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        feed_s, server_s = (now - then for now, then in zip(self._cpu(), before, strict=True))
        return {**found, "cpu": {"run": found["cpu_s"], "Postgres": server_s, "feed": feed_s}}

    def value(self, query: str) -> Any:
        """The single value of a query."""
        with psycopg.connect(self.database_url) as connection:
            row = connection.execute(query.encode()).fetchone()
            assert row
            return row[0]

    def _cpu(self) -> tuple[float, float]:
        return cpu_of(self.feed_pid), cpu_of_server(self.work / "server")


@contextmanager
def feed(files: int, rows: int) -> Iterator[tuple[int, str]]:
    """The simulated feed in a process of its own: its number, and the URL."""
    command = [sys.executable, parts.__file__, "serve", YESTERDAY, f"{files}", f"{rows}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        yield process.pid, process.stdout.readline().strip()
        process.stdin.close()


def backfill(place: Place) -> int:
    """A day of all files by job or script, and once more; prints what it took, and gives the number of US events."""
    found = place.child(place.who, YESTERDAY)
    seconds, rows = found["seconds"], place.value("SELECT count(*) FROM events.us_event_data")
    raw = place.value("SELECT sum(rows_raw)::bigint FROM events.intervals WHERE state = 'loaded'")
    met = f"{'met' if seconds <= LIMIT_S else 'NOT MET'} (goal {LIMIT_S} s)"
    print(f"{place.who}: {seconds:.1f} s {met}, peak {found['peak_mb']:,.0f} MB; {raw:,} events, {rows:,} of the US")
    print("  wall: " + _shares(found["wall"], seconds))
    print("  CPU:  " + ", ".join(f"{name} {spent:.1f} s" for name, spent in found["cpu"].items()))
    before = place.value(WRITTEN)
    again = place.child(place.who, YESTERDAY)
    written = place.value(WRITTEN) - before
    print(f"  again: {again['seconds']:.1f} s, {written} rows written", flush=True)
    if written:
        raise SystemExit("a second run over the same files must write nothing")
    return int(rows)


def _shares(wall: Mapping[str, float], seconds: float) -> str:
    beside = ", ".join(f"{name} {wall[name]:.2f} s" for name in parts.BESIDE)
    after = [
        f"{name} {spent:.2f} s ({spent / seconds:.0%})" for name, spent in wall.items() if name not in parts.BESIDE
    ]
    return f"{', '.join(after)}; in a thread {beside}"


def plain(place: Place) -> int:
    """The same files the plain way."""
    found = place.child(place.who, place.feed_url)
    cpu = ", ".join(f"{name} {spent:.1f} s" for name, spent in found["cpu"].items())
    print(
        f"pandas, {place.who}: {found['seconds']:.1f} s, peak {found['peak_mb']:,.0f} MB; {found['rows']:,} events of the US"
    )
    print(f"  CPU:  {cpu}", flush=True)
    return int(found["rows"])


def troubled(place: Place) -> None:
    """A missing, a late and a republished file: what the manifest says after each of three runs."""
    steer = f"{place.feed_url}/_control/files"
    for begin in (MISSING, LATE):
        requests.put(f"{steer}/{begin}", json={"held": True}, timeout=10).raise_for_status()
    place.child("script", YESTERDAY, EVENTS_LATE_HOURS="720")
    states = [_states(place)]
    requests.delete(f"{steer}/{LATE}", timeout=10).raise_for_status()
    old = place.value(_ids_of(AGAIN))
    # Far enough from the version before for US events to come and go.
    requests.put(f"{steer}/{AGAIN}", json={"version": 25}, timeout=10).raise_for_status()
    place.child("job", YESTERDAY, EVENTS_LATE_HOURS="720")
    states.append(_states(place))
    new = place.value(_ids_of(AGAIN))
    place.child("script", YESTERDAY, EVENTS_LATE_HOURS="1")
    states.append(_states(place))
    told = (
        "one missing, one late",
        "the late one is there, another is republished",
        "the time of the missing one is up",
    )
    for what, state in zip(told, states, strict=True):
        print(f"{what}: " + ", ".join(f"{label[8:12]} {state[label]}" for label in (MISSING, LATE, AGAIN)))
    gone, come = len(set(old) - set(new)), len(set(new) - set(old))
    print(f"republished: {gone} events of the US are gone, {come} are new, {len(set(old) & set(new))} as they were")
    wrong = place.value(
        "SELECT count(*) FROM events.intervals WHERE coalesce(rows_us, 0) <>"
        " (SELECT count(*) FROM events.us_event_data WHERE file_interval = interval)"
    )
    found = [[state[label] for label in (MISSING, LATE, AGAIN)] for state in states]
    expected = [["missing", "missing", "loaded"], ["missing", "loaded", "loaded"], ["absent", "loaded", "loaded"]]
    if found != expected or wrong or not (gone and come):
        raise SystemExit(f"not the right states: {found}, and {wrong} intervals with other rows than the manifest says")


def _states(place: Place) -> dict[str, str]:
    """The states in the manifest, by begin of the interval."""
    query = (
        "SELECT json_object_agg(to_char(interval AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISS'), state) FROM events.intervals"
    )
    states: dict[str, str] = place.value(query)
    return states


def _ids_of(begin: str) -> str:
    """A query for the US events of an interval."""
    at = f"timestamptz '{begin[:8]} {begin[8:]}+00'"
    return f"SELECT array_agg(global_event_id) FROM events.us_event_data WHERE file_interval = {at}"


if __name__ == "__main__":
    main()
