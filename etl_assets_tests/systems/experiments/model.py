"""What the simulator's files come to, the obvious way: line by line, dictionaries and loops, nothing of the platform."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from etl_assets.systems.experiments.simulator import COMPOUNDS, EXPERIMENTS, USERS, Written
from etl_assets_tests.systems.experiments.test_simulator import rows

FILES = {USERS: "users", COMPOUNDS: "compounds", EXPERIMENTS: "user_experiments"}
Row = tuple[Any, ...]


@dataclass(frozen=True)
class Model:
    """What is in the tables after files were loaded.

    Attributes:
        tables: the rows of each table in the order of its key; the features are those of one day.
        received: of each table but the features, how many rows a load gives to it, with those that it does not store.
        quarantine: table, source and column of each fault.
    """

    tables: Mapping[str, list[Row]]
    received: Mapping[str, int]
    quarantine: frozenset[tuple[str, str, str]]

    @classmethod
    def of(cls, written: Written, as_of: date) -> "Model":
        """What these files come to, which have no faults but those that their writer has told."""
        planted = {(fault.file, fault.line) for fault in written.faults}
        good: dict[str, list[list[str]]] = {}
        received = {}
        for path in (written.users, written.compounds, written.experiments):
            lines = list(rows(path).items())[1:]
            good[path.name] = [cells for line, cells in lines if (path.name, line) not in planted]
            received[FILES[path.name]] = len(lines)
        lists = {int(row[0]): row[2].split(";") for row in good[EXPERIMENTS]}
        received["experiment_compounds"] = sum(map(len, lists.values()))
        users = [(int(row[0]), row[1], row[2], date.fromisoformat(row[3])) for row in good[USERS]]
        experiments = [(int(row[0]), int(row[1]), float(row[3])) for row in good[EXPERIMENTS]]
        pairs = sorted({(experiment, int(compound)) for experiment, ids in lists.items() for compound in ids})
        tables: dict[str, list[Row]] = {
            "users": users,
            "compounds": [(int(row[0]), row[1], row[2]) for row in good[COMPOUNDS]],
            "user_experiments": experiments,
            "experiment_compounds": pairs,
            "user_features": _features(users, experiments, pairs, as_of),
        }
        faults = {
            (f"experiments.{FILES[fault.file]}", f"{fault.file}, line {fault.line}", fault.column)
            for fault in written.faults
        }
        return cls(tables, received, frozenset(faults))


def _features(users: list[Row], experiments: list[Row], pairs: list[Row], as_of: date) -> list[Row]:
    """The features of each user, in the order of the columns of their table."""
    run_times: dict[int, list[float]] = defaultdict(list)
    uses: dict[int, Counter[int]] = defaultdict(Counter)
    whose = {}
    for experiment, user, run_time in experiments:
        whose[experiment] = user
        run_times[user].append(run_time)
    for experiment, compound in pairs:
        uses[whose[experiment]][compound] += 1
    features: list[Row] = []
    for user, _, _, signup in users:
        own, most = run_times[user], max(uses[user].values(), default=0)
        total = sum(own, 0.0)
        ties = ";".join(str(compound) for compound in sorted(uses[user]) if uses[user][compound] == most)
        days = (as_of - signup).days
        mean = total / len(own) if own else None
        features.append((user, as_of, len(own), total, mean, max(days, 0), days < 0, ties or None, most))
    return features
