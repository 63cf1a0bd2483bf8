"""Checks of the outages system beyond those that the contracts give."""

from datetime import timedelta
from typing import LiteralString

import dagster as dg

from etl_assets.core.dagster.bodies import classified
from etl_assets.core.dagster.checks import evaluated, has_rows
from etl_assets.core.dagster.database import PostgresResource
from etl_assets.systems.outages.assets import delivered_site_outages, site_outages
from etl_assets.systems.outages.contracts import CONTRACTS, DeliveryBatches

LONGEST_WAIT = timedelta(hours=1)


def counts(postgres: PostgresResource, query: LiteralString, *values: object) -> tuple[int, ...]:
    """The one row of a query that counts."""
    with postgres.database.connect() as connection:
        row: tuple[int, ...] | None = connection.execute(query, values).fetchone()
    assert row
    return row


@dg.asset_check(asset=site_outages)
@classified
def outages_belong_to_devices(postgres: PostgresResource) -> dg.AssetCheckResult:
    """Every outage of a site is of a device that the site has, under its present name."""
    rows, strangers = counts(
        postgres,
        "SELECT count(*), count(*) FILTER (WHERE d.device_id IS NULL) FROM outages.site_outages AS o"
        " LEFT JOIN outages.site_devices AS d"
        " ON d.site_id = o.site_id AND d.device_id = o.device_id AND d.device_name = o.name",
    )
    return evaluated(strangers == 0, rows, may_be_empty=True, strangers=strangers)


@dg.asset_check(asset=delivered_site_outages)
@classified
def nothing_waits_for_long(postgres: PostgresResource) -> dg.AssetCheckResult:
    """No batch has been frozen for more than an hour, and none is disputed."""
    rows, disputed, waiting = counts(
        postgres,
        "SELECT count(*), count(*) FILTER (WHERE state = 'disputed'),"
        " count(*) FILTER (WHERE state = 'frozen' AND frozen_at < clock_timestamp() - %s)"
        " FROM outages.delivery_batches",
        LONGEST_WAIT,
    )
    return evaluated(disputed + waiting == 0, rows, may_be_empty=True, disputed=disputed, waiting=waiting)


@dg.asset_check(asset=delivered_site_outages)
@classified
def each_delivered_once(postgres: PostgresResource) -> dg.AssetCheckResult:
    """No outage stands in two acknowledged batches, and each acknowledged batch is recorded in full."""
    in_batches, delivered = counts(
        postgres,
        "SELECT (SELECT coalesce(sum(outages - left_out), 0)::bigint FROM outages.delivery_batches WHERE state = 'delivered'),"
        " (SELECT count(*) FROM outages.delivered_site_outages)",
    )
    return evaluated(in_batches == delivered, delivered, may_be_empty=True, in_batches=in_batches, delivered=delivered)


CHECKS = [
    *(has_rows(contract) for contract in CONTRACTS if contract is not DeliveryBatches),
    outages_belong_to_devices,
    nothing_waits_for_long,
    each_delivered_once,
]
