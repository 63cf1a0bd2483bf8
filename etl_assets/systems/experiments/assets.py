"""The assets of the experiments system: wiring only."""

from datetime import date
from pathlib import Path
from typing import Any, TypeAlias

import dagster as dg
import pyarrow as pa

from etl_assets.core.contracts import ByPartition
from etl_assets.core.dagster.bodies import classified
from etl_assets.core.dagster.contract_types import RETRIES, loads, single_run, stored, stored_out
from etl_assets.core.dagster.steps import max_rejected_of
from etl_assets.systems.experiments.contracts import (
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
    context: dg.AssetExecutionContext, experiment_files: ExperimentFilesResource
) -> tuple[Stored, Stored, Stored, Stored]:
    """The three files as tables. All are read before the first table is written: of a bad file nothing is changed."""
    rows, content = experiment_files.connect().read()
    rows.require_accepted(max_rejected_of(context))
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


ASSETS = [experiment_tables, user_features]
