"""Runs of the system's jobs in this process, over a world."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from etl_assets.core.dagster.automation import partition_range
from etl_assets.core.dagster.database import PostgresResource
from etl_assets.definitions import platform_definitions, resources
from etl_assets.systems.outages.settings import OutagesSettings
from etl_assets_tests.systems.outages.world import SITE, QuickApiResource, World

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass
class Runs:
    """The jobs of one world on an instance of its own."""

    world: World
    definitions: dg.Definitions
    instance: dg.DagsterInstance

    @classmethod
    def of(cls, world: World, **more: Any) -> "Runs":
        """The jobs over this world; the folder of the instance goes with the data folder."""
        overrides = {**resources(PostgresResource(url=world.database.url)), "outages_api": QuickApiResource(), **more}
        return cls(
            world,
            platform_definitions(overrides),
            dg.DagsterInstance.ephemeral(tempdir=str(OutagesSettings.load().etl_data_dir)),
        )

    def __call__(self, *sites: str, job: str = "outages_job", since: str | None = None) -> dg.ExecuteInProcessResult:
        """Runs a job once for these sites, or for a range that begins and ends with them."""
        chosen = sites or (SITE,)
        self.instance.add_dynamic_partitions("outages_sites", list(chosen))
        config: dict[str, Any] = dict(QUIET)
        if since is not None:
            config["ops"] = {"outages__site_outages": {"config": {"since": since}}}
        return self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            tags=partition_range(chosen[0], chosen[-1]),
            run_config=config,
            raise_on_error=False,
        )


def metadata(result: dg.ExecuteInProcessResult, asset: str, site: str | None = SITE) -> dict[str, Any]:
    """What the materialisation of an asset says, of one partition or of the whole."""
    events = [
        event
        for event in result.get_asset_materialization_events()
        if event.asset_key.path[-1] == asset and event.partition == site
    ]
    assert len(events) == 1, [(event.asset_key, event.partition) for event in result.get_asset_materialization_events()]
    found = events[0].step_materialization_data.materialization.metadata
    return {name: value.value for name, value in found.items()}


def checks(result: dg.ExecuteInProcessResult) -> dict[tuple[str, str], bool]:
    """Whether each check passed, by asset and name."""
    return {
        (check.asset_key.path[-1], check.check_name): check.passed for check in result.get_asset_check_evaluations()
    }


def asset_of(event: dg.DagsterEvent) -> str:
    """The asset of a step, without its system."""
    return str(event.step_key).rpartition("__")[2]


def failure(result: dg.ExecuteInProcessResult, step: str) -> str:
    """All that a failed step says."""
    [event] = [event for event in result.all_events if event.is_step_failure and asset_of(event) == step]
    data = event.step_failure_data
    texts = [data.error.message if data.error else ""]
    cause = data.error.cause if data.error else None
    while cause:
        texts.append(cause.message)
        cause = cause.cause
    if data.user_failure_data:
        texts.append(data.user_failure_data.description or "")
    return "\n".join(texts)


def attempts(result: dg.ExecuteInProcessResult, step: str) -> int:
    """How often a step was tried."""
    retried = [event for event in result.all_events if event.is_step_up_for_retry and asset_of(event) == step]
    return 1 + len(retried)


def failed_steps(result: dg.ExecuteInProcessResult) -> Sequence[str]:
    """Steps that failed for good."""
    return sorted(asset_of(event) for event in result.all_events if event.is_step_failure and event.step_key)
