"""Checks of the production system beyond those that the contracts give."""

import dagster as dg

from etl_assets.core.dagster.bodies import classified
from etl_assets.core.dagster.checks import evaluated, has_rows
from etl_assets.core.dagster.contract_types import asset_key
from etl_assets.core.dagster.database import PostgresResource
from etl_assets.systems.production.assets import product_correlations
from etl_assets.systems.production.contracts import CONTRACTS, STREAMS, Stream
from etl_assets.systems.production.tables import committed_position, highest_sequence, rows_stored


def no_more_than_the_stream_gave(stream: Stream) -> dg.AssetChecksDefinition:
    """The check that a table goes no farther than its committed position."""

    @dg.asset_check(
        asset=asset_key(stream.contract),
        name="no_more_than_the_stream_gave",
        description="There are no more rows than records up to the committed position, and none from beyond it.",
    )
    @classified
    def check(postgres: PostgresResource) -> dg.AssetCheckResult:
        database = postgres.database
        position = committed_position(database, stream).sequence
        rows, highest = rows_stored(database, stream.contract), highest_sequence(database, stream.contract)
        return evaluated(rows <= position and highest <= position, rows, position=position, highest_sequence=highest)

    return check


@dg.asset_check(asset=product_correlations)
@classified
def ranks_are_complete(postgres: PostgresResource) -> dg.AssetCheckResult:
    """For each product and reading the ranks are 1, 2, 3, … and |r| does not grow along them."""
    with postgres.database.connect() as connection:
        row = connection.execute(
            "SELECT count(*), count(*) FILTER (WHERE rank <> place OR abs(r) > before OR (r IS NOT NULL AND none_before))"
            " FROM (SELECT rank, r, row_number() OVER w AS place, lag(abs(r)) OVER w AS before,"
            " coalesce(lag(r IS NULL) OVER w, false) AS none_before"
            " FROM production.product_correlations WINDOW w AS (PARTITION BY product_id, reading ORDER BY rank)) AS ranked"
        ).fetchone()
    rows, wrong = row or (0, 0)
    return evaluated(wrong == 0, rows, may_be_empty=True, out_of_order=wrong)


CHECKS = [
    *(has_rows(contract) for contract in CONTRACTS),
    *(no_more_than_the_stream_gave(stream) for stream in STREAMS),
    ranks_are_complete,
]
