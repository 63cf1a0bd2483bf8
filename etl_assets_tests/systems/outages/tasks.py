"""What children do: a command, a sync, a run of the job, each whole or killed at a step that is named by its function."""

import functools
import json
import logging
import os
import signal
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from typing import Any

from etl_assets.errors import PlatformError
from etl_assets.systems.outages.source import OutagesApi
from etl_assets_tests.systems.outages.world import QUICK, SITE


def be_quick() -> None:
    """Calls to the API fail after short waits."""
    OutagesApi.from_settings = functools.partial(OutagesApi.from_settings, limits=QUICK)  # type: ignore[method-assign]


def command(arguments: list[str], quick: bool = False, kill: list[Any] | None = None) -> int:
    """`etl-assets` with these arguments."""
    from etl_assets.cli import run

    logging.basicConfig(level=logging.ERROR)
    if quick:
        be_quick()
    with_kill(kill, "")
    return run(arguments)


def sync(kill: list[Any] | None = None, trace: str = "", sites: tuple[str, ...] = (SITE,)) -> int:
    """The script; exit code 1 with the message of a failure that is one of ours."""
    from etl_assets.systems.outages.script import sync_sites

    logging.basicConfig(level=logging.ERROR)
    be_quick()
    with_kill(kill, trace)
    try:
        list(sync_sites(sites))
    except PlatformError as error:
        print(error)
        return 1
    return 0


def dagster_run(kill: list[Any] | None = None, trace: str = "", sites: tuple[str, ...] = (SITE,)) -> int:
    """A run of the job in this process; exit code 1 with the messages of the steps that failed."""
    import dagster as dg

    from etl_assets.core.database.connections import Database
    from etl_assets_tests.systems.outages.runs import Runs, failed_steps, failure
    from etl_assets_tests.systems.outages.world import World

    logging.basicConfig(level=logging.ERROR)
    dg.RetryPolicy.calculate_delay = lambda policy, attempt: 0.001  # type: ignore[method-assign]
    be_quick()
    runs = Runs.of(World(Database(os.environ["ETL_POSTGRES_URL"]), None, "", None))  # type: ignore[arg-type]
    with_kill(kill, trace)
    result = runs(*sites)
    for step in failed_steps(result):
        print(failure(result, step))
    return 0 if result.success else 1


# Where a process can be killed: functions of ours, and what the drivers do for them. By label, module, owner and name.
STEPS: dict[str, tuple[str, str]] = {
    "GET /outages": ("etl_assets.systems.outages.source", "OutagesApi.outages"),
    "GET /site-info": ("etl_assets.systems.outages.source", "OutagesApi.site_info"),
    "POST": ("etl_assets.systems.outages.source", "OutagesApi.deliver"),
    "send of a request": ("requests", "Session.send"),
    "open database": ("etl_assets.core.database.connections", "Database.prepare"),
    "lock": ("etl_assets.core.slices.lock", "Lock.begin"),
    "fence": ("etl_assets.core.slices.commit", "_entered"),
    "stage": ("etl_assets.core.slices.transaction", "Transaction.stage"),
    "append": ("etl_assets.core.slices.transaction", "Transaction.append"),
    "change rows": ("etl_assets.core.slices.transaction", "Transaction.changed"),
    "statement": ("etl_assets.core.slices.transaction", "Transaction.run"),
    "query": ("etl_assets.core.slices.transaction", "Transaction.rows"),
    "bulk load": ("adbc_driver_manager.dbapi", "Cursor.adbc_ingest"),
    "commit": ("adbc_driver_manager.dbapi", "Connection.commit"),
    "refuse drift": ("etl_assets.core.slices.writing", "refuse_drift"),
    "store records": ("etl_assets.core.slices.commit", "store_records"),
    "ledger": ("etl_assets.core.slices.commit", "record"),
    "write parquet": ("pyarrow.parquet", "write_table"),
    "sync to disk": ("os", "fsync"),
    "publish": ("os", "replace"),
    "open batch": ("etl_assets.systems.outages.outbox", "open_batch"),
    "pending": ("etl_assets.systems.outages.outbox", "pending"),
    "freeze": ("etl_assets.systems.outages.outbox", "freeze"),
    "record attempt": ("etl_assets.systems.outages.outbox", "record_attempt"),
    "acknowledge": ("etl_assets.systems.outages.outbox", "acknowledge"),
    "record outcome": ("etl_assets.systems.outages.outbox", "record_outcome"),
    "SQL": ("psycopg", "Cursor.execute"),
    "end of a transaction": ("psycopg", "Transaction.__exit__"),
    "store a table": ("etl_assets.core.dagster.io_managers", "PostgresIOManager.handle_output"),
    "store a file": ("etl_assets.core.dagster.io_managers", "ParquetIOManager.handle_output"),
    "load a table": ("etl_assets.core.dagster.io_managers", "PostgresIOManager.load_input"),
    "load a file": ("etl_assets.core.dagster.io_managers", "ParquetIOManager.load_input"),
}


def with_kill(kill: list[Any] | None, trace: str) -> None:
    """Kills or pauses this process at a step, or writes down the steps that it takes.

    Args:
        kill: the label of the step, its how many-th call, and `before`, `amid` or `after`; with `pause` behind that it is only paused.
        trace: file for the label of each call; empty for none.
    """
    label, number, when = (kill or ("", 0, ""))[:3]
    only_paused(kill)
    calls: Counter[str] = Counter()

    def stepped(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            if trace:
                with open(trace, "a") as file:
                    file.write(json.dumps([name, calls[name]]) + "\n")
            here = (name, calls[name]) == (label, number)
            if here and when == "before":
                die()
            if here and when == "amid":
                args, kwargs = halved(name, args, kwargs)
            result = function(*args, **kwargs)
            if here and when != "before":
                die()
            return result

        return step

    for name, (module, path) in STEPS.items():
        if trace or name == label:
            owner: Any = import_module(module)
            *outer, attribute = path.split(".")
            for part in outer:
                owner = getattr(owner, part)
            setattr(owner, attribute, stepped(name, getattr(owner, attribute)))


def halved(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call that ends in the middle of its work."""
    import pyarrow as pa

    if name == "write parquet":
        table, file, *rest = args
        file.write(b"PAR1" + b"half a file" * 10)
        file.flush()
        die()
    if name == "bulk load":
        cursor, table, data, *rest = args

        def batches() -> Any:
            rows = data.read_all() if isinstance(data, pa.RecordBatchReader) else data
            yield from rows.slice(0, 1).to_batches()
            die()
            yield from rows.slice(1).to_batches()

        return (cursor, table, pa.RecordBatchReader.from_batches(data.schema, batches()), *rest), kwargs
    raise ValueError(name)


ENDS_BY = [signal.SIGKILL]


def only_paused(kill: list[Any] | None) -> None:
    """What is to end this process pauses it, if that is said."""
    if kill and kill[3:] == ["pause"]:
        ENDS_BY[:] = [signal.SIGSTOP]


def die() -> None:
    """The end without notice; or a pause, from which it goes on when it is told to."""
    os.kill(os.getpid(), ENDS_BY[0])
