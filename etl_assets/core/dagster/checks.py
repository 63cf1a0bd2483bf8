"""Asset checks that a contract gives by itself: what only the store can tell, after the data are there."""

from collections.abc import Iterable
from datetime import timedelta

import dagster as dg
from psycopg import sql

from etl_assets.core.contracts import Contract
from etl_assets.core.dagster.bodies import classified
from etl_assets.core.dagster.contract_types import COLUMNS, asset_key
from etl_assets.core.dagster.database import PostgresResource
from etl_assets.core.database.connections import Database
from etl_assets.core.registry import PLATFORM, contract_of, databases
from etl_assets.core.slices.history import behind
from etl_assets.core.slices.parquet import ParquetRoot, rows_stored
from etl_assets.core.slices.transaction import relation
from etl_assets.settings import load_settings

NAMED_AT_MOST = 20


def evaluated(passed: bool, rows: int, *, may_be_empty: bool = False, **metadata: object) -> dg.AssetCheckResult:
    """The result of a check, which fails when it looked at nothing unless nothing is in order.

    Args:
        passed: whether what was looked at is right.
        rows: how many rows were looked at.
    """
    empty = rows == 0 and not may_be_empty
    return dg.AssetCheckResult(
        passed=passed and not empty,
        description="there was nothing to look at" if empty else None,
        metadata={"rows_evaluated": rows, **metadata},  # type: ignore[dict-item]
    )


def is_current(key: dg.AssetKey, contract: type[Contract]) -> dg.AssetChecksDefinition:
    """The check that no slice of a derived table has been behind a changed input for longer than its contract says."""

    @dg.asset_check(
        asset=key,
        name="is_current",
        description=said_current(contract),
    )
    @classified
    def check(postgres: PostgresResource) -> dg.AssetCheckResult:
        name = contract.config.database
        return evaluated_current(
            contract, postgres.database if name == PLATFORM else databases()[name](), postgres.database
        )

    return check


def said_current(contract: type[Contract]) -> str:
    """What `is_current` says when it passes."""
    return f"No slice has been behind a changed input for more than {contract.config.current_within_h:g} hours."


def evaluated_current(contract: type[Contract], database: Database, inputs_in: Database) -> dg.AssetCheckResult:
    """The result of `is_current`, for an asset that checks itself.

    Args:
        database, inputs_in: of the table, and of what it is derived from.
    """
    longest = timedelta(hours=contract.config.current_within_h)
    slices, found = behind(database, inputs_in, contract, longer_than=longest)
    named = [
        f"- {one.partition or contract.config.table}: {one.input} changed {one.since:%Y-%m-%d %H:%M} UTC"
        for one in found
    ]
    return evaluated(
        not found,
        slices,
        may_be_empty=True,
        behind=len(found),
        slices=dg.MetadataValue.md("\n".join(named[:NAMED_AT_MOST]) or "none is behind"),
    )


def checks_of_derived(assets: Iterable[dg.AssetsDefinition]) -> list[dg.AssetChecksDefinition]:
    """`is_current` for each table that is derived from inputs which are loaded by their contracts."""
    found = []
    for asset in assets:
        checks_itself = any(spec.name == "is_current" for spec in asset.check_specs)
        if checks_itself or not any(COLUMNS in (one.metadata or {}) for one in asset.node_def.input_defs):
            continue
        for key in asset.keys:
            table = asset.metadata_by_key[key].get("dagster/table_name")
            if table is not None:
                found.append(is_current(key, contract_of(str(table))))
    return found


def has_rows(contract: type[Contract]) -> dg.AssetChecksDefinition:
    """The check that a table is not empty, or may be."""

    @dg.asset_check(
        asset=asset_key(contract),
        name="has_rows",
        description="The table has rows, or its contract says that it may be empty.",
    )
    @classified
    def check(postgres: PostgresResource) -> dg.AssetCheckResult:
        if contract.config.store == "parquet":
            rows = rows_stored(postgres.database, ParquetRoot(load_settings().storage_url), contract)
        else:
            with postgres.database.connect() as connection:
                query = sql.SQL("SELECT count(*) FROM {}").format(relation(contract))
                rows = connection.execute(query).fetchone()[0]  # type: ignore[index]
        return evaluated(True, rows, may_be_empty=contract.config.may_be_empty)

    return check
