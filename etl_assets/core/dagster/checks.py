"""Asset checks that a contract gives by itself: what only the store can tell, after the data are there."""

import dagster as dg
from psycopg import sql

from etl_assets.core.contracts import Contract
from etl_assets.core.dagster.bodies import classified
from etl_assets.core.dagster.contract_types import asset_key
from etl_assets.core.dagster.database import PostgresResource
from etl_assets.core.slices.parquet import ParquetRoot, rows_stored
from etl_assets.core.slices.transaction import relation
from etl_assets.settings import load_settings


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
