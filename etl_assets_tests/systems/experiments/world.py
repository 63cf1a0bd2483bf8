"""Three small files whose features can be counted by hand, and what the database has of them."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etl_assets.core.database.connections import Database
from etl_assets.systems.experiments.contracts import CONTRACTS

USERS = ["1,Alice,alice@example.com,2023-01-01", "2,Bob,,2024-02-29", "3,Carol,carol@example.com,2023-12-31"]
EXPERIMENTS = ["1,1,1;2,10", "2,1,2;3,15.5", "3,2,3,0", "4,2,1;2;1,4"]
COMPOUNDS = ["1,Compound A,C20H25N3O", "2,Compound B,", "3,Compound C,C8H11NO2"]
HEADERS = {
    "users.csv": "user_id,name,email,signup_date",
    "user_experiments.csv": "experiment_id,user_id,experiment_compound_ids,experiment_run_time",
    "compounds.csv": "compound_id,compound_name,compound_structure",
}


def write_sample(
    folder: Path,
    *,
    users: Sequence[str] = USERS,
    experiments: Sequence[str] = EXPERIMENTS,
    compounds: Sequence[str] = COMPOUNDS,
) -> Path:
    """The three files with these lines below their headers: the first row of each is in line 2."""
    folder.mkdir(parents=True, exist_ok=True)
    for (name, header), rows in zip(HEADERS.items(), (users, experiments, compounds), strict=True):
        (folder / name).write_text("\n".join([header, *rows]))
    return folder


@dataclass
class World:
    """A folder and a database.

    Attributes:
        folder: the files that EXPERIMENTS_DIR names.
    """

    database: Database
    folder: Path

    def rewrite(self, **files: Sequence[str]) -> None:
        """Other rows in some of the files."""
        write_sample(self.folder, **files)

    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        """All rows of all tables, in key order."""
        with self.database.connect() as connection:
            return {
                contract.table_name(): connection.execute(
                    f"SELECT * FROM {contract.config.table} ORDER BY {', '.join(contract.config.key)}"
                ).fetchall()
                for contract in CONTRACTS
            }

    def quarantine(self) -> list[tuple[str, str, str]]:
        """Table, source and faults of what is in quarantine, in the order of the sources."""
        return [(asset, source, faults) for asset, source, faults, _ in self._quarantine()]

    def raw(self) -> dict[str, Mapping[str, Any]]:
        """The raw rows in quarantine, by source."""
        return {source: json.loads(raw) for _, source, _, raw in self._quarantine()}

    def _quarantine(self) -> list[tuple[str, str, str, str]]:
        return self.query("SELECT asset, source, faults, raw FROM etl.quarantine ORDER BY source")

    def ledger(self) -> list[tuple[Any, ...]]:
        """Table, received, inserted, updated, deleted, unchanged, deduplicated, quarantined, in the order of the writes."""
        return self.query(
            "SELECT asset, received, inserted, updated, deleted, unchanged, deduplicated, quarantined"
            " FROM etl.ledger ORDER BY committed_at"
        )

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with self.database.connect() as connection:
            return connection.execute(statement.encode()).fetchall()

    def execute(self, statement: str) -> None:
        with self.database.connect() as connection:
            connection.execute(statement.encode())


def touch(path: Path, *, later_s: float) -> None:
    """Another time of change for a file whose content stays."""
    before = path.stat()
    os.utime(path, (before.st_atime + later_s, before.st_mtime + later_s))
