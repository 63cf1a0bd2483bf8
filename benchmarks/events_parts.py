"""What runs in processes of its own for `events.py`: the feed, the backfill with its clocks, a plain script.

python benchmarks/events_parts.py serve DAY FILES ROWS      ends with its input
python benchmarks/events_parts.py job|script DAY            in the environment of the platform
python benchmarks/events_parts.py orm|executemany FEED_URL  TARGET_URL: an empty database
"""

import csv
import io
import json
import os
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from importlib import import_module
from typing import TYPE_CHECKING, Any

from turbines_parts import Clock, peak_mb

if TYPE_CHECKING:
    import pandas as pd

DAY = timedelta(days=1)
# What is timed, by share: module and name. A generator is timed while it works; a name may be in two modules.
SHARES = {
    "list": ("etl_assets.systems.events.source", "EventsFeed.listed"),
    "download": ("etl_assets.systems.events.source", "EventsFeed.downloaded"),
    "verify and parse": ("etl_assets.systems.events.raw_layer", "read_file"),
    "waiting for these": ("etl_assets.systems.events.raw_layer", "prefetched"),
    "raw files": ("etl_assets.systems.events.raw_layer", "store_files"),
    "manifest": ("etl_assets.systems.events.raw_layer", "record_unless_changed"),
    "reading raw files": ("etl_assets.systems.events.us_events", "read_parquet"),
    "rule": ("etl_assets.systems.events.us_events", "us_events"),
    "looking for what is stored": ("etl_assets.systems.events.us_events", "_stored_events"),
    "US events and manifest": ("etl_assets.systems.events.us_events", "write_together"),
    "what the UI shows": ("etl_assets.systems.events.assets", "raw_metadata"),
    "map": ("etl_assets.systems.events.assets", "us_metadata"),
}
# These run in a thread, while what is there is stored.
BESIDE = ("download", "verify and parse")


def serve_feed(day: str, files: str, rows: str) -> None:
    """The feed of a day, all files made beforehand, until the input ends."""
    from etl_assets.simulators.server import serve
    from etl_assets.systems.events.files import INTERVAL
    from etl_assets.systems.events.simulator import EventsSimulator

    first = midnight(day)
    simulator = EventsSimulator(first, first + int(files) * INTERVAL, rows=int(rows))
    simulator.master_list("")
    with serve(simulator.app) as url:
        print(url, flush=True)
        sys.stdin.read()


def run(how: Callable[[str], Any], day: str) -> None:
    """A backfill of a day; prints what it took."""
    clock = watched()
    began = time.perf_counter(), time.process_time()
    how(day)
    seconds, cpu_s = time.perf_counter() - began[0], time.process_time() - began[1]
    wall = clock.seconds
    wall["rest"] = seconds - sum(spent for share, spent in wall.items() if share not in BESIDE)
    print(json.dumps({"seconds": seconds, "cpu_s": cpu_s, "peak_mb": peak_mb(), "wall": wall}))


def watched() -> Clock:
    """A clock for each share."""
    clock = Clock()
    clock.seconds = dict.fromkeys(SHARES, 0.0)
    for share, (module, path) in SHARES.items():
        owner: Any = import_module(module)
        *outer, name = path.split(".")
        for part in outer:
            owner = getattr(owner, part)
        setattr(owner, name, clock.wrap(share, getattr(owner, name)))
    return clock


def with_job() -> Callable[[str], None]:
    """The job of the platform, on the instance of the environment."""
    import dagster as dg

    from etl_assets.definitions import platform_definitions, resources

    job = platform_definitions(resources()).resolve_job_def("events_job")

    def backfill(day: str) -> None:
        with dg.DagsterInstance.get() as instance:
            quiet = {"loggers": {"console": {"config": {"log_level": "WARNING"}}}}
            result = job.execute_in_process(instance=instance, partition_key=day, run_config=quiet)
            assert result.success
            failed = [check.check_name for check in result.get_asset_check_evaluations() if not check.passed]
            # That an interval is lost, where the feed lacks one, is what this check is for.
            assert set(failed) <= {"no_interval_is_lost"}, failed

    return backfill


def with_script() -> Callable[[str], object]:
    """What `etl-assets events load --from … --to …` calls."""
    from etl_assets.systems.events.script import load

    return lambda day: load(midnight(day), midnight(day) + DAY)


def with_pandas(how: str, feed_url: str) -> None:
    """The US events of all files that the list names as a plain script stores them: nothing verified, no raw layer, no manifest."""
    import pandas as pd
    import requests

    from etl_assets.systems.events.format import RAW_COLUMNS
    from etl_assets.systems.events.transform import TAKEN_OVER

    store = {"orm": orm_objects, "executemany": executemany}[how](os.environ["TARGET_URL"])
    form: dict[str, Any] = {
        "sep": "\t",
        "header": None,
        "names": list(RAW_COLUMNS),
        "dtype": {name: str for name, kind in RAW_COLUMNS.items() if kind == "text"},
        "keep_default_na": False,
        "na_values": dict.fromkeys(RAW_COLUMNS, ""),
        "quoting": csv.QUOTE_NONE,
    }
    began, rows = (time.perf_counter(), time.process_time()), 0
    with requests.Session() as session:
        for file in listed(session.get(f"{feed_url}/masterfilelist.txt", timeout=60).text):
            archive = zipfile.ZipFile(io.BytesIO(session.get(file, timeout=60).content))
            events = pd.read_csv(archive.open(archive.namelist()[0]), **form)
            us = events[events["action_geo_country_code"] == "US"]
            us = us[[name for name in TAKEN_OVER if name in RAW_COLUMNS]].copy()
            for name, written in (("sql_date", "%Y%m%d"), ("date_added", "%Y%m%d%H%M%S")):
                us[name] = pd.to_datetime(us[name].astype(str), format=written, utc=name == "date_added")
            store(us)
            rows += len(us)
    seconds, cpu_s = time.perf_counter() - began[0], time.process_time() - began[1]
    print(json.dumps({"seconds": seconds, "cpu_s": cpu_s, "peak_mb": peak_mb(), "rows": rows}))


def listed(text: str) -> Iterator[str]:
    """The addresses of the files of events."""
    for line in text.splitlines():
        url = line.split(" ")[2]
        if url.endswith(".export.CSV.zip"):
            yield url


def orm_objects(url: str) -> Callable[["pd.DataFrame"], None]:
    """SQLAlchemy objects, a session and a commit for each file."""
    import pandas as pd
    from sqlalchemy import DateTime, create_engine
    from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

    class Base(DeclarativeBase):
        pass

    class UsEvent(Base):
        __tablename__ = "us_event_data"
        global_event_id: Mapped[int] = mapped_column(primary_key=True)
        sql_date: Mapped[date]
        event_code: Mapped[str | None]
        event_base_code: Mapped[str | None]
        event_root_code: Mapped[str | None]
        action_geo_full_name: Mapped[str | None]
        action_geo_country_code: Mapped[str | None]
        action_geo_lat: Mapped[float | None]
        action_geo_long: Mapped[float | None]
        date_added: Mapped[datetime] = mapped_column(DateTime(timezone=True))
        source_url: Mapped[str | None]

    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg2://"))
    Base.metadata.create_all(engine)

    def store(rows: pd.DataFrame) -> None:
        with Session(engine) as session:
            session.add_all(UsEvent(**dict(zip(rows.columns, row, strict=True))) for row in values_of(rows))
            session.commit()

    return store


def executemany(url: str) -> Callable[["pd.DataFrame"], None]:
    """psycopg2's `executemany`, a statement for each row and a commit for each file."""
    import psycopg2

    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE us_event_data (global_event_id bigint PRIMARY KEY, sql_date date, event_code text,"
            " event_base_code text, event_root_code text, action_geo_full_name text, action_geo_country_code text,"
            " action_geo_lat float8, action_geo_long float8, date_added timestamptz, source_url text)"
        )

    def store(rows: "pd.DataFrame") -> None:
        places = ", ".join(["%s"] * rows.shape[1])
        with connection, connection.cursor() as cursor:
            cursor.executemany(
                f"INSERT INTO us_event_data ({', '.join(rows.columns)}) VALUES ({places})", values_of(rows)
            )

    return store


def values_of(rows: "pd.DataFrame") -> Iterator[tuple[Any, ...]]:
    """The cells of each row, None where there is nothing: NaN is a number to a database."""
    cells: Any = rows.astype(object)
    yield from cells.where(rows.notna(), None).itertuples(index=False, name=None)


def midnight(day: str) -> datetime:
    """When a day begins, in UTC."""
    return datetime.combine(date.fromisoformat(day), time_of_day(), tzinfo=UTC)


if __name__ == "__main__":
    what, *given = sys.argv[1:]
    if what == "serve":
        serve_feed(*given)
    elif what in ("job", "script"):
        run({"job": with_job, "script": with_script}[what](), *given)
    else:
        with_pandas(what, *given)
