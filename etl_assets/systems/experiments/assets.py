"""The assets of the experiments system, and their checks beyond those that the contracts give: wiring only."""

from datetime import date
from pathlib import Path
from typing import Any, TypeAlias

import dagster as dg
import pyarrow as pa

from etl_assets.core.contracts import ByPartition
from etl_assets.core.dagster.checks import evaluated, has_rows
from etl_assets.core.dagster.contract_types import RETRIES, asset_key, classified, loads, single_run, stored, stored_out
from etl_assets.core.dagster.database import PostgresResource
from etl_assets.systems.experiments.contracts import (
    CONTRACTS,
    Compounds,
    ExperimentCompounds,
    UserExperiments,
    UserFeatures,
    Users,
)
from etl_assets.systems.experiments.features import experience
from etl_assets.systems.experiments.features import user_features as features_of
from etl_assets.systems.experiments.settings import ExperimentsSettings
from etl_assets.systems.experiments.source import ExperimentFolder, folder_at

FILES = "files"  # on each table, the digest of the files that it is from
# Any day may be a partition. The present one is a partition before it is over: it is known who has signed up.
DAYS = dg.DailyPartitionsDefinition(start_date="1970-01-01", end_offset=1)
TABLES = (Users, Compounds, UserExperiments, ExperimentCompounds)
OUTS = {contract.table_name(): contract for contract in TABLES}
Stored: TypeAlias = dg.Output[Any]


class ExperimentFilesResource(dg.ConfigurableResource[Any]):
    """The folder at EXPERIMENTS_DIR; settings are read when a run needs it, so that no path is in a run config."""

    def connect(self) -> ExperimentFolder:
        """The folder, ready to be read.

        Raises:
            ConfigurationError: if it is not set, or no folder.
        """
        return folder_at(Path(ExperimentsSettings.load().required("experiments_dir")))


@dg.multi_asset(
    name="experiment_tables",
    outs={name: stored_out(contract, mode="replace") for name, contract in OUTS.items()},
    retry_policy=RETRIES,
    backfill_policy=single_run(),
)
@classified
def experiment_tables(
    experiment_files: ExperimentFilesResource,
) -> tuple[Stored, Stored, Stored, Stored]:
    """The three files as tables. All are read before the first table is written: of a bad file nothing is changed."""
    rows, content = experiment_files.connect().read()
    metadata: dict[str, str | int] = {f"sha256 of {name}": digest for name, digest in content.digests.items()}
    metadata |= {FILES: content.digest, "repeated_compound_ids": rows.repeated_compound_ids}
    outs = [dg.Output(getattr(rows, name), output_name=name, metadata=metadata) for name in OUTS]
    return outs[0], outs[1], outs[2], outs[3]


@dg.asset(
    **stored(UserFeatures, mode="partition"),
    partitions_def=DAYS,
    ins={
        "users": loads(Users, "user_id", "signup_date", form=pa.Table),
        "user_experiments": loads(UserExperiments, form=pa.Table),
        "experiment_compounds": loads(ExperimentCompounds, form=pa.Table),
    },
)
@classified
def user_features(
    context: dg.AssetExecutionContext,
    users: pa.Table,
    user_experiments: pa.Table,
    experiment_compounds: pa.Table,
) -> ByPartition[pa.Table]:
    """What is known of each user as of each day of the run."""
    known = experience(users, user_experiments, experiment_compounds)
    return ByPartition((day, features_of(known, as_of=date.fromisoformat(day))) for day in context.partition_keys)


# Checks


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


ASSETS = [experiment_tables, user_features]
CHECKS = [
    *(has_rows(contract) for contract in CONTRACTS),
    experiments_belong_to_users,
    compounds_are_known,
    every_user_has_features,
]
