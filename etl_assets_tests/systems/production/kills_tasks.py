"""What the children of the kill test do: the relay and the drain, killed at a step that is named by its function, or from outside.

Every child ends by itself after `LONGEST_S` at the latest, so that none outlives a test that was itself killed.
"""

import os
import random
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from typing import Any

from etl_assets.core.sources.http.client import Limits
from etl_assets.systems.production.settings import ProductionSettings
from etl_assets.systems.production.source import ProductionApi
from etl_assets_tests.systems.outages.tasks import die, only_paused

LONGEST_S = 180
QUICK = Limits(read_timeout_s=3.0, base_delay_s=0.02, max_delay_s=0.1)
COMMIT_LASTS_S = 0.004

# Where a process can be killed: functions of ours, and what the drivers do for them. By label, module, owner and name.
STEPS: dict[str, tuple[str, str]] = {
    "look": ("etl_assets.core.sources.streams.broker", "Broker.newest"),
    "ask the API": ("etl_assets.systems.production.source", "ProductionApi.records"),
    "cut": ("etl_assets.systems.production.relaying", "Lines.feed"),
    "count what waits": ("etl_assets.core.sources.streams.broker", "Broker.held"),
    "publish": ("etl_assets.core.sources.streams.broker", "Broker.publish"),
    "read": ("etl_assets.core.sources.streams.broker", "Broker.read"),
    "parse": ("etl_assets.systems.production.draining", "parsed"),
    "lock": ("etl_assets.core.slices.commit", "_entered"),
    "append": ("etl_assets.core.slices.transaction", "Transaction.append"),
    "update": ("etl_assets.core.slices.transaction", "Transaction.changed"),
    "quarantine": ("etl_assets.core.slices.commit", "store_records"),
    "ledger": ("etl_assets.core.slices.commit", "record"),
    "commit": ("adbc_driver_manager.dbapi", "Connection.commit"),
    "trim": ("etl_assets.core.sources.streams.broker", "Broker.trim"),
}
Step = tuple[str, str]
RELAY_STEPS: tuple[Step, ...] = (
    *(("look", when) for when in ("before", "after")),
    ("ask the API", "before"),
    ("cut", "after"),
    ("count what waits", "after"),
    *(("publish", when) for when in ("before", "amid", "after")),
)
DRAIN_STEPS: tuple[Step, ...] = (
    *(("read", when) for when in ("before", "after")),
    ("parse", "after"),
    *(("lock", when) for when in ("before", "after")),
    *(("append", when) for when in ("before", "amid", "after")),
    ("update", "after"),
    *(("quarantine", when) for when in ("before", "after")),
    *(("ledger", when) for when in ("before", "after")),
    *(("commit", when) for when in ("before", "amid", "after")),
    *(("trim", when) for when in ("before", "after")),
)


# Where one is paused while another takes over.
RELAY_PAUSED_AT: tuple[Step, ...] = (("look", "after"), ("cut", "after"), ("publish", "before"), ("publish", "after"))
DRAIN_PAUSED_AT: tuple[Step, ...] = (
    ("read", "after"),
    ("lock", "before"),
    ("lock", "after"),
    ("append", "after"),
    ("ledger", "after"),
    ("commit", "before"),
    ("commit", "after"),
    ("trim", "before"),
)


def relay(kill: list[Any] | None = None) -> int:
    """`etl-assets relay --follow`, with short pauses after a failure."""
    from etl_assets.cli import run

    signal.alarm(LONGEST_S)

    def from_settings(settings: ProductionSettings, **_: Any) -> ProductionApi:
        return ProductionApi(settings.required("production_api_url"), limits=QUICK)

    ProductionApi.from_settings = from_settings  # type: ignore[method-assign]
    with_kill(kill)
    return run(["relay", "--follow"], debug=True)


def drains(batches: int, kill: list[Any] | None = None) -> int:
    """Drains of both streams without an end; one that meets a server that is away is followed by the next.

    Args:
        batches: how many a transaction stores.
    """
    from etl_assets.core.servers import platform_broker, platform_database
    from etl_assets.errors import TransientError
    from etl_assets.systems.production import draining as module
    from etl_assets.systems.production.contracts import STREAMS

    signal.alarm(LONGEST_S)
    module.BATCHES = batches
    settings = ProductionSettings.load()
    database, broker = platform_database(settings), platform_broker(settings)
    with_kill(kill)
    while True:
        for stream in STREAMS:
            try:
                module.drain(database, broker, stream)
            except TransientError as error:
                print(error, flush=True)
        time.sleep(0.005)


def command(arguments: list[str]) -> int:
    """The real command, in place of this process; the alarm goes with it."""
    signal.alarm(LONGEST_S)
    os.execv(sys.executable, [sys.executable, "-W", "ignore", "-m", "etl_assets.cli", *arguments])


def with_kill(kill: list[Any] | None) -> None:
    """Kills or pauses this process at a step.

    Args:
        kill: the label of the step, its how many-th call, and `before`, `amid` or `after`; with `pause` behind that it is only paused.
            None for no kill.
    """
    if kill is None:
        return
    label, number, when = kill[:3]
    only_paused(kill)
    calls: Counter[str] = Counter()
    module, path = STEPS[label]
    owner: Any = import_module(module)
    *outer, attribute = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    function: Callable[..., Any] = getattr(owner, attribute)

    def step(*args: Any, **kwargs: Any) -> Any:
        calls["begun"] += 1
        if when != "after" and calls["begun"] == number:
            if when == "before":
                die()
            else:
                AMID[label]()
        result = function(*args, **kwargs)
        # One that raises is not done: what is loaded anew after such a failure is the next call.
        calls["done"] += 1
        if when == "after" and calls["done"] == number:
            die()
        return result

    setattr(owner, attribute, step)


def _die_with_half_a_request_sent() -> None:
    """What goes over the wire next ends in its middle."""
    send = socket.socket.sendall

    def half(self: socket.socket, data: Any, *flags: int) -> None:
        send(self, bytes(data)[: len(data) // 2], *flags)
        die()

    socket.socket.sendall = half  # type: ignore[method-assign,assignment]


def _die_with_half_the_rows_loaded() -> None:
    """The next bulk load ends in its middle."""
    import pyarrow as pa
    from adbc_driver_manager.dbapi import Cursor

    load = Cursor.adbc_ingest

    def half(self: Cursor, table: str, data: Any, *args: Any, **kwargs: Any) -> Any:
        def batches() -> Any:
            rows = data.read_all() if isinstance(data, pa.RecordBatchReader) else data
            yield from rows.slice(0, rows.num_rows // 2).to_batches(max_chunksize=500)
            die()
            yield from rows.slice(rows.num_rows // 2).to_batches(max_chunksize=500)

        return load(self, table, pa.RecordBatchReader.from_batches(data.schema, batches()), *args, **kwargs)

    Cursor.adbc_ingest = half  # type: ignore[method-assign,assignment]


def _die_soon() -> None:
    """Somewhere between the question and the answer."""
    threading.Timer(random.uniform(0, COMMIT_LASTS_S), die).start()


AMID: dict[str, Callable[[], None]] = {
    "publish": _die_with_half_a_request_sent,
    "append": _die_with_half_the_rows_loaded,
    "commit": _die_soon,
}
