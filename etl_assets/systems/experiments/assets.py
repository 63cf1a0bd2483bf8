"""The assets of the experiments system: wiring only."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, TypeAlias

import dagster as dg
import pyarrow as pa

from etl_assets.core.contracts import ByPartition, Contract, Split
from etl_assets.core.dagster.contract_types import RETRIES, classified, loads, single_run, stored, stored_out
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
    outs={contract.table_name(): stored_out(contract, mode="replace") for contract in TABLES},
    retry_policy=RETRIES,
    backfill_policy=single_run(),
)
@classified
def experiment_tables(
    experiment_files: ExperimentFilesResource,
) -> tuple[Stored, Stored, Stored, Stored]:
    """The three files as tables. All are read before the first table is written: of a bad file nothing is changed."""
    rows, content = experiment_files.connect().read()
    metadata: dict[str, str | int] = {
        FILES: content.digest,
        **{f"sha256 of {name}": digest for name, digest in content.digests.items()},
        "repeated_compound_ids": rows.repeated_compound_ids,
    }

    def out(contract: type[Contract], split: Split[pa.Table]) -> Stored:
        return dg.Output(split, output_name=contract.table_name(), metadata=metadata)

    return (
        out(Users, rows.users),
        out(Compounds, rows.compounds),
        out(UserExperiments, rows.user_experiments),
        out(ExperimentCompounds, rows.experiment_compounds),
    )


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

    def parts() -> Iterator[tuple[str, pa.Table]]:
        for day in context.partition_keys:
            yield day, features_of(known, as_of=date.fromisoformat(day))

    return ByPartition(parts())


ASSETS = [experiment_tables, user_features]
