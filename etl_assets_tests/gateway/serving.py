"""A gateway on a real port, before a database and a Dagster that counts what is asked of it."""

import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from etl_assets.core.database.connections import Database
from etl_assets.gateway.app import create_app
from etl_assets.gateway.orchestrator import Run
from etl_assets.gateway.store import DEADLINE_S, Store
from etl_assets.settings import load_settings
from etl_assets.simulators.server import serve


class FakeDagster:
    """Launches by taking notes; may be shared by gateways, as a real one is.

    Attributes:
        launched: job and partition of each run.
        runs_last: whether runs stay unfinished.
        still_loading: whether the code location is.
        failure: what the next launch raises.
        meanwhile: what happens while it is asked for unfinished runs, or for a launch.
    """

    def __init__(self, *, runs_last: bool = False) -> None:
        self.launched: list[tuple[str, str | None]] = []
        self.runs_last = runs_last
        self.still_loading = False
        self.failure: Exception | None = None
        self.meanwhile: dict[str, Callable[[], Awaitable[None]]] = {}
        self._lock = threading.Lock()

    async def loading(self) -> bool:
        return self.still_loading

    async def unfinished(self, job: str) -> list[Run]:
        await self._happen("unfinished")
        return [run_of(number, job) for number, _ in enumerate(self.launched) if self.runs_last]

    async def launch(self, job: str, *, partition: str | None = None, **options: Any) -> Run:
        if failure := self.failure:
            self.failure = None
            raise failure
        await self._happen("launch")
        with self._lock:
            self.launched.append((job, partition))
            return run_of(len(self.launched) - 1, job)

    async def _happen(self, what: str) -> None:
        if what in self.meanwhile:
            await self.meanwhile.pop(what)()


def run_of(number: int, job: str) -> Run:
    return Run(
        run_id=f"run-{number}",
        job=job,
        partition=None,
        status="STARTED",
        created_at=datetime.now(UTC),
        started_at=None,
        ended_at=None,
        url=f"http://127.0.0.1:3000/runs/run-{number}",
    )


@contextmanager
def serving(
    database: Database, dagster: FakeDagster | None = None, *, interval_s: float = 10, deadline_s: float = DEADLINE_S
) -> Iterator[str]:
    """The base URL of a gateway."""
    app = create_app(
        load_settings(etl_trigger_interval_s=interval_s),
        orchestrator=dagster or FakeDagster(),  # type: ignore[arg-type]
        store=Store(database, deadline_s=deadline_s),
    )
    with serve(app) as url:
        yield url
