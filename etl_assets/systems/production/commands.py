"""`etl-assets production …` and `etl-assets relay`: the system as a script."""

import contextlib
import functools
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from etl_assets.core.charts.numbers import counted
from etl_assets.core.results import DRY_RUN, say_dry_run, with_json
from etl_assets.systems.production.settings import ProductionSettings

if TYPE_CHECKING:
    from etl_assets.core.database.connections import Database
    from etl_assets.core.sources.streams.broker import Broker
    from etl_assets.systems.production.draining import Drained
    from etl_assets.systems.production.report import ReportFiles
    from etl_assets.systems.production.source import ProductionApi

app = typer.Typer(no_args_is_help=True)
FILE = "a JSON array or one object per line, like"
# For an answer that is under way when the relay is told to end; a supervisor kills after ten seconds.
GRACE_S = 2.0


@app.callback()
def production() -> None:
    """Streams of readings and work orders, and the correlation report."""


@app.command()
@with_json
def report(
    metrics: Path | None = typer.Option(
        None, help=f'Readings, with --workorders: {FILE} {{"id": 19, "val": 797.38, "time": 1624377478}}'
    ),
    workorders: Path | None = typer.Option(
        None, help=f'Work orders, with --metrics: {FILE} {{"product": 0, "production": 15.68, "time": 1624383671}}'
    ),
    interpolation: Literal["last", "linear"] = typer.Option("last", help="What a parameter was between two readings."),
    correction: Literal["bh", "by"] = typer.Option("bh", help="False discovery control; by is the cautious one."),
    simulate: bool = typer.Option(False, "--simulate", help="Take generated data instead of PRODUCTION_API_URL."),
    dry_run: bool = DRY_RUN,
) -> object:
    """The whole way: streams, broker, Postgres, report. With two files, or from PRODUCTION_API_URL.

    A dry run covers both streams; a report is made of what is stored, and so not of what is not.
    """
    from etl_assets.core.servers import platform_database
    from etl_assets.systems.production.script import report as run
    from etl_assets.systems.production.statistics import AlignmentRules, Method

    if (metrics is None) != (workorders is None):
        missing = "--metrics" if metrics is None else "--workorders"
        raise typer.BadParameter(f"a report needs both files: give {missing} as well")
    files = (metrics, workorders) if metrics and workorders else None
    if files and simulate:
        raise typer.BadParameter("give two files or --simulate, not both")
    settings = ProductionSettings.load()
    database = platform_database(settings)
    if dry_run:
        database = database.for_dry_run()
        say_dry_run()
    with _api(settings, files, simulate=simulate) as api:
        done = run(
            rules=AlignmentRules(interpolation=interpolation),
            method=Method(correction=correction),
            settings=settings,
            database=database,
            api=api,
        )
    for name, drains in done.copied.items():
        print(f"{name}: {_become(drains)}")
    result = {"dry_run": dry_run, "streams": done.copied, "quarantined": done.quarantined}
    if done.files:
        result |= _printed(done.files)
    _warn_of_quarantine(done.quarantined)
    return result


def _printed(report: "ReportFiles") -> dict[str, object]:
    """Print what a report says and where it is; gives it for programs."""
    if not report.document["products"]:
        print("no product: there is no work order that could be read")
    for product in report.document["products"]:
        print(f"product {product['product']}: {product['answer']}")
    print(f"report: {report.latest_html}")
    files = {name: getattr(report, f"latest_{name}") for name in ("html", "csv", "json")}
    return {"report": report.document, "files": files}


def _become(drains: "Sequence[Drained]") -> str:
    """What became of the records of a stream."""
    from etl_assets.systems.production.draining import COUNTS

    total = {name: sum(getattr(done, name) for done in drains) for name in COUNTS}
    changes = ", ".join(f"{count:,} {name}" for name, count in total.items() if count and name != "received")
    return counted(total["received"], "new record") + (f" ({changes})" if changes else "")


def _warn_of_quarantine(records: int) -> None:
    """One line for people on stderr if there is something to look at."""
    if records:
        print(f"{counted(records, 'record')} in quarantine: see `etl-assets quarantine list`", file=sys.stderr)


@app.command()
@with_json
def drain() -> object:
    """Store what waits in the broker."""
    from etl_assets.systems.production.contracts import STREAMS
    from etl_assets.systems.production.draining import drain as run

    database, broker = _servers()
    quarantined, drained = 0, {}
    for stream in STREAMS:
        drained[stream.name] = done = run(database, broker, stream)
        quarantined += done.superseded + done.rejected
        print(f"{stream.name}: {_become([done])}, position {done.position:,}")
    _warn_of_quarantine(quarantined)
    return {"streams": drained}


@app.command()
@with_json
def reset(
    yes: bool = typer.Option(False, "--yes", help="Really delete the rows of metrics and workorders."),
) -> object:
    """Empty both tables and both streams in the broker, to begin with another source."""
    from etl_assets.systems.production.contracts import STREAMS
    from etl_assets.systems.production.draining import reset as run

    if not yes:
        raise typer.BadParameter("this deletes all rows of production.metrics and production.workorders: add --yes")
    database, broker = _servers()
    for stream in STREAMS:
        run(database, broker, stream)
        print(f"{stream.name}: empty")
    return {"emptied": [stream.name for stream in STREAMS]}


@app.command()
@with_json
def rewind() -> object:
    """Empty both streams in the broker; the relay then goes on from where the tables are."""
    from etl_assets.core.servers import platform_broker
    from etl_assets.systems.production.contracts import STREAMS

    broker = platform_broker(ProductionSettings.load())
    for stream in STREAMS:
        broker.delete(stream.name)
        print(f"{stream.name}: the broker's stream is empty")
    return {"emptied": [stream.name for stream in STREAMS]}


@with_json
def relay(
    follow: bool = typer.Option(False, "--follow", help="Stay, and publish what comes, until SIGTERM or Ctrl-C."),
) -> object:
    """Publish the records of both production streams to the broker."""
    from etl_assets.systems.production.contracts import STREAMS, Stream
    from etl_assets.systems.production.relaying import relay as run
    from etl_assets.systems.production.source import ProductionApi
    from etl_assets.systems.production.tables import committed_position

    api = ProductionApi.from_settings(ProductionSettings.load())
    database, broker = _servers()
    ended = threading.Event()
    failures: list[BaseException] = []
    relayed = {}

    def copy(stream: Stream) -> None:
        try:
            committed = functools.partial(committed_position, database, stream)
            done = run(api, broker, stream, committed=committed, follow=follow, stop=ended)
            relayed[stream.name] = done
            full = ": the broker holds all that it may, go on after a drain" if done.backlog_full else ""
            print(f"{stream.name}: {done.published:,} records published, position {done.position:,}{full}", flush=True)
        except BaseException as failure:
            failures.append(failure)
            ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    # Daemons, so that one which waits for an answer that never comes does not hold the process. Nothing is lost by that: where
    # the relay stands is in the broker.
    workers = [threading.Thread(target=copy, args=(stream,), name=stream.name, daemon=True) for stream in STREAMS]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers) and not ended.wait(0.1):
        pass
    for worker in workers:
        worker.join(GRACE_S)
    if failures:
        raise failures[0]
    return {"streams": relayed}


def _servers() -> "tuple[Database, Broker]":
    from etl_assets.core.servers import platform_broker, platform_database

    settings = ProductionSettings.load()
    return platform_database(settings), platform_broker(settings)


@contextlib.contextmanager
def _api(settings: ProductionSettings, files: tuple[Path, Path] | None, *, simulate: bool) -> "Iterator[ProductionApi]":
    """The API of the settings, or one of our own over two files or generated data.

    Raises:
        ConfigurationError: if a file cannot be what it is given for; says which, what and where.
    """
    from etl_assets.systems.production.source import ProductionApi

    if not files and not simulate:
        yield ProductionApi.from_settings(settings)
        return
    from etl_assets.simulators.server import serve
    from etl_assets.systems.production.contracts import METRICS, WORKORDERS
    from etl_assets.systems.production.given import require_loadable
    from etl_assets.systems.production.simulator import ProductionSimulator

    for path, stream in zip(files or (), (METRICS, WORKORDERS), strict=False):
        require_loadable(path, stream)
    simulator = ProductionSimulator(*(files or (None, None)))
    with serve(simulator.app) as url:
        yield ProductionApi(url)


ALONE = {"relay": relay}
