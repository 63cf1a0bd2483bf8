"""The sensor of the events, ticked by hand, and the runs that it asks for."""

import time
from typing import Any

import dagster as dg

from etl_assets.core.dagster.database import PostgresResource
from etl_assets.systems.events import automation
from etl_assets_tests.systems.events.world import QuickEventsFeedResource, World
from etl_assets_tests.systems.outages.runs import QUIET

NOTHING_NEW = "the feed has nothing that is not stored"


class Sensor:
    """The sensor from tick to tick, and the runs that it asks for; waits pass at once."""

    def __init__(
        self, world: World, definitions: dg.Definitions, instance: dg.DagsterInstance, monkeypatch: Any
    ) -> None:
        self.world, self.definitions, self.instance = world, definitions, instance
        self.wait_s = 0.0
        clock = time.time
        monkeypatch.setattr(time, "time", lambda: clock() + self.wait_s)

    def tick(self) -> list[dg.RunRequest] | str:
        """The runs that a tick asks for, or why it asks for none."""
        resources = {
            "events_feed": QuickEventsFeedResource(),
            "postgres": PostgresResource(url=self.world.database.url),
        }
        result: Any = automation.events_feed_files(dg.build_sensor_context(instance=self.instance, resources=resources))
        return str(result.skip_message) if isinstance(result, dg.SkipReason) else list(result.run_requests)

    def requests(self) -> list[dg.RunRequest]:
        """The runs of a tick that asks for some."""
        found = self.tick()
        assert isinstance(found, list), found
        return found

    def run(self, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        return self.definitions.resolve_job_def("events_job").execute_in_process(
            instance=self.instance,
            partition_key=request.partition_key,
            tags=dict(request.tags),
            run_config={**QUIET, **request.run_config},
            raise_on_error=False,
        )

    def run_all(self) -> list[tuple[str, bool]]:
        """Runs all that a tick asks for; gives their days, and whether they read the list of all files."""
        requests = self.requests()
        assert all(self.run(request).success for request in requests)
        return [(str(request.partition_key), by_list(request)) for request in requests]


def by_list(request: dg.RunRequest) -> bool:
    """Whether a run reads the list of all files."""
    wanted: bool = request.run_config["ops"]["events__raw_events"]["config"]["master_list"]
    return wanted
