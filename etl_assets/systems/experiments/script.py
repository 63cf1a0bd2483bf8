"""The experiments system without an orchestrator: for the command line, a cron job, or a person with three files."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa

from etl_assets.core.contracts import Contract, Split
from etl_assets.core.database.connections import Database
from etl_assets.core.progress import counting
from etl_assets.core.servers import platform_database
from etl_assets.core.slices.inputs import standing_inputs
from etl_assets.core.slices.lock import locked
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.writing import Outcome, Write, write
from etl_assets.systems.experiments.contracts import (
    Compounds,
    ExperimentCompounds,
    UserExperiments,
    UserFeatures,
    Users,
)
from etl_assets.systems.experiments.features import experience, user_features
from etl_assets.systems.experiments.settings import ExperimentsSettings
from etl_assets.systems.experiments.source import folder_at


@dataclass(frozen=True)
class LoadResult:
    """What a load did.

    Attributes:
        as_of: the day of the features.
        tables: what became of the rows, by table; the features are the last.
        repeated_compound_ids: ids that a list named again; each counts once.
    """

    as_of: date
    tables: Sequence[Outcome]
    repeated_compound_ids: int

    @property
    def quarantined(self) -> int:
        """Rows of the files that are in quarantine."""
        return sum(outcome.quarantined for outcome in self.tables)


def load(
    folder: Path | str | None = None,
    *,
    as_of: date | None = None,
    max_rejected: float | None = None,
    settings: ExperimentsSettings | None = None,
    database: Database | None = None,
) -> LoadResult:
    """Read the three files, store their tables, and derive the features of each user.

    Args:
        folder: where the files are; by default EXPERIMENTS_DIR.
        as_of: the day of the features; by default the present one, in UTC.
        max_rejected: the largest share of a file's rows that may be bad, 0 to 1; by default what the contracts say.
        settings: by default those of the environment.
        database: by default the one that the settings name.

    Raises:
        InputRefused: if more rows of a file are bad than is taken; nothing was changed.
        ConfigurationError: for a folder or a file that is not what it has to be; nothing was changed.
        TransientError: if a file changes while it is read, or the database stays unavailable; the next call goes on.
        PermanentError: for what the database refuses.
    """
    settings = settings or ExperimentsSettings.load()
    database = database or platform_database(settings)
    as_of = as_of or datetime.now(UTC).date()
    where = folder_at(Path(folder or settings.required("experiments_dir")))
    source = f"files in {where.path}"
    tables = [Slice(contract) for contract in (Users, Compounds, ExperimentCompounds, UserExperiments)]
    database.prepare()
    with locked(database, tables) as lock, counting(of="table", total=len(tables) + 1) as done:
        rows, _ = where.read()
        rows.require_accepted(max_rejected)

        def store(contract: type[Contract], split: Split[pa.Table]) -> Outcome:
            how = Write("replace", source=source, lock=lock, max_rejected=max_rejected)
            (outcome,) = write(database, split, [Slice(contract)], how)
            done(contract.config.table)
            return outcome

        stored = [store(Users, rows.users), store(Compounds, rows.compounds)]
        # The two large tables side by side, and beside them the features: the server works in a process per connection.
        with ThreadPoolExecutor(2) as beside:
            large = [
                beside.submit(store, ExperimentCompounds, rows.experiment_compounds),
                beside.submit(store, UserExperiments, rows.user_experiments),
            ]
            known = experience(rows.users.valid, rows.user_experiments.valid, rows.experiment_compounds.valid)
            features = user_features(known, as_of=as_of)
            stored += [outcome.result() for outcome in reversed(large)]
        inputs = standing_inputs(database, [(one.slice, one.content_hash) for one in stored])
        day = Slice(UserFeatures, as_of.isoformat(), {"as_of": as_of})
        stored += write(database, features, [day], Write("partition", source=source, inputs=inputs))
        done(UserFeatures.config.table)
    return LoadResult(as_of, stored, rows.repeated_compound_ids)
