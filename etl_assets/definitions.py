"""Where everything meets: the definitions of all systems, their resources, and the policies that hold for all assets."""

import importlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from etl_assets.core import registry
from etl_assets.core.dagster.alerts import alert_sensors
from etl_assets.core.dagster.broker import BrokerResource
from etl_assets.core.dagster.checks import checks_of_derived
from etl_assets.core.dagster.contract_types import quiet
from etl_assets.core.dagster.database import PostgresResource
from etl_assets.core.dagster.housekeeping import housekeeping_definitions
from etl_assets.core.dagster.io_managers import MirroredIOManager, ParquetIOManager, PostgresIOManager
from etl_assets.core.dagster.policies import with_policies
from etl_assets.settings import load_settings

log = logging.getLogger("etl_assets")


def resources(postgres: PostgresResource | None = None) -> dict[str, Any]:
    """The resources that all systems share; nothing is opened before it is used.

    Args:
        postgres: replaces the platform's database, for tests.
    """
    postgres = postgres or PostgresResource()
    return {
        "postgres": postgres,
        "postgres_io": PostgresIOManager(postgres=postgres),
        "parquet_io": ParquetIOManager(postgres=postgres),
        "postgres_and_parquet_io": MirroredIOManager(postgres=postgres),
        "broker": BrokerResource(),
    }


def platform_definitions(overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """The definitions of all systems with their resources and policies.

    Args:
        overrides: resources that replace ours, by name; for tests.
    """
    settings = load_settings()
    with quiet():
        merged = dg.Definitions.merge(*_of_systems(), housekeeping_definitions())
        assets = [asset for asset in merged.assets or () if isinstance(asset, dg.AssetsDefinition)]
        return dg.Definitions(
            assets=with_policies(
                assets,
                repository_url=settings.etl_repository_url or "",
                revision=settings.etl_repository_revision,
            ),
            asset_checks=[*(merged.asset_checks or ()), *checks_of_derived(assets)],
            jobs=merged.jobs,
            schedules=merged.schedules,
            sensors=[*(merged.sensors or ()), *alert_sensors()],
            resources={**resources(), **(merged.resources or {}), **(overrides or {})},
            executor=executor(),
        )


def _of_systems() -> Iterator[dg.Definitions]:
    """The definitions of each system; one that cannot give any is named in the log and keeps nobody else from loading."""
    for fault in registry.faults():
        log.error(fault)
    for system in registry.systems():
        try:
            yield importlib.import_module(system.package).defs()
        except Exception as error:
            log.exception("system %s cannot be loaded: %s", system.package, error)


@dg.definitions
def defs() -> dg.Definitions:
    """What Dagster loads."""
    return platform_definitions()


def executor() -> dg.ExecutorDefinition:
    """Steps run in the run's own process by default: a process per step costs 1.45 s."""
    by_name = {"in_process": dg.in_process_executor, "multiprocess": dg.multiprocess_executor}
    return by_name[load_settings().etl_executor]
