"""A simulated feed that is watched: what was asked for, in which order, with which headers."""

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from etl_assets.simulators.server import serve
from etl_assets.systems.events.simulator import EventsSimulator
from etl_assets_tests.limits import STALL_S

FIRST = datetime(2019, 1, 21, 22, tzinfo=UTC)
QUARTER = timedelta(minutes=15)


@dataclass
class Asked:
    """A request: its path and headers."""

    path: str
    headers: dict[str, str]


@dataclass
class WatchedFeed:
    """Two hours of files with few events; `before` is called ahead of each answer, with the number of requests so far."""

    simulator: EventsSimulator = field(
        default_factory=lambda: EventsSimulator(FIRST, FIRST + timedelta(hours=2), rows=20)
    )
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    before: Callable[[int], object] = lambda _: None

    @contextmanager
    def served(self) -> Iterator["WatchedFeed"]:
        # Made beforehand, or the first answers would take longer than a time-out.
        self.simulator.master_list("")
        with serve(self) as self.url:
            yield self

    def reset(self) -> "WatchedFeed":
        """Back to the beginning, with faults that are quick."""
        self.simulator.reset()
        self.simulator.faults.retry_after_s, self.simulator.faults.stall_s = 0.0, STALL_S
        self.asked, self.before = [], lambda _: None
        return self

    def paths(self) -> list[str]:
        return [one.path for one in self.asked]

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            self.asked.append(Asked(scope["path"], headers))
            self.before(len(self.asked))
        await self.simulator.app(scope, receive, send)
