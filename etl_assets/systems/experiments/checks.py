"""Checks of the experiments system beyond those that the contracts give: what only the store can tell."""

import dagster as dg

from etl_assets.core.dagster.bodies import classified
from etl_assets.core.dagster.checks import evaluated, has_rows
from etl_assets.core.dagster.contract_types import asset_key
from etl_assets.core.dagster.database import PostgresResource
from etl_assets.systems.experiments.contracts import CONTRACTS, ExperimentCompounds, UserExperiments, UserFeatures


@dg.asset_check(asset=asset_key(UserExperiments))
@classified
def experiments_belong_to_users(postgres: PostgresResource) -> dg.AssetCheckResult:
    """Every experiment is of a user who is in the table."""
    return _strangers(
        postgres,
        "SELECT count(*), count(*) FILTER (WHERE u.user_id IS NULL) FROM experiments.user_experiments"
        " LEFT JOIN experiments.users AS u USING (user_id)",
    )


@dg.asset_check(asset=asset_key(ExperimentCompounds))
@classified
def compounds_are_known(postgres: PostgresResource) -> dg.AssetCheckResult:
    """Every row joins an experiment and a compound that are in their tables."""
    return _strangers(
        postgres,
        "SELECT count(*), count(*) FILTER (WHERE e.experiment_id IS NULL OR c.compound_id IS NULL)"
        " FROM experiments.experiment_compounds LEFT JOIN experiments.user_experiments AS e USING (experiment_id)"
        " LEFT JOIN experiments.compounds AS c USING (compound_id)",
    )


@dg.asset_check(asset=asset_key(UserFeatures))
@classified
def every_user_has_features(postgres: PostgresResource) -> dg.AssetCheckResult:
    """On the day that was computed last there is one row per user, and their counts add up to all experiments."""
    with postgres.database.connect() as connection:
        row = connection.execute(
            "WITH last AS (SELECT partition::date AS day FROM etl.ledger WHERE asset = 'experiments.user_features'"
            " ORDER BY committed_at DESC LIMIT 1)"
            " SELECT (SELECT count(*) FROM experiments.users), (SELECT count(*) FROM experiments.user_experiments),"
            " count(*), coalesce(sum(experiments_count), 0)::bigint"
            " FROM experiments.user_features JOIN last ON as_of = day"
        ).fetchone()
    users, experiments, rows, counted = row or (0, 0, 0, 0)
    return evaluated(
        (users, experiments) == (rows, counted), rows, users=users, experiments=experiments, counted=counted
    )


def _strangers(postgres: PostgresResource, query: str) -> dg.AssetCheckResult:
    with postgres.database.connect() as connection:
        rows, strangers = connection.execute(query).fetchone() or (0, 0)
    return evaluated(strangers == 0, rows, may_be_empty=True, strangers=strangers)


CHECKS = [
    *(has_rows(contract) for contract in CONTRACTS),
    experiments_belong_to_users,
    compounds_are_known,
    every_user_has_features,
]
