"""Features of users: what they ran, with which compounds, and how long ago they signed up as of a day.

Pure: tables in, a table out. Most of it does not depend on the day, and is computed once for any number of days
(`experience`). Every number is the same to the last bit whatever order the rows come in: run times are added in the
order of `experiment_id`, everything else is whole numbers. Rows that break a contract are no matter of this module:
what is not in the tables was sorted out when they were loaded.
"""

import itertools
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.core.contracts import Contract
from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.errors import ContractError, TransientError
from etl_assets.systems.experiments.contracts import ExperimentCompounds, UserExperiments, UserFeatures, Users

SEPARATOR = ";"
# Pairs of experiment and compound that are worked on at once: what a step needs beside the tables stays small.
_AT_ONCE = 1 << 20
# Up to so many numbers per id a table of all numbers between the lowest and the highest beats a search.
_SPREAD = 4

_Integers = npt.NDArray[np.int64]


def experience(users: pa.Table, user_experiments: pa.Table, experiment_compounds: pa.Table) -> pa.Table:
    """What each user ran, also of users who ran nothing: the same for every day.

    Args:
        users, user_experiments, experiment_compounds: the tables of the contracts of these names, unique by their keys,
            in any order.

    Returns:
        One row per user in the order of `user_id`, with `signup_date` and the features that do not depend on the day, named and typed
        as in `UserFeatures`.

    Raises:
        ContractError: if a user or an experiment occurs twice; names it.
        TransientError: if an experiment is of an unknown user, or a compound of an unknown experiment; names it. Tables that were
            loaded together have none of it: another load is under way.
    """
    user_id, signup_date = _in_order(Users, users, "signup_date")
    experiment_id, of_user, run_time = _in_order(UserExperiments, user_experiments, "user_id", "experiment_run_time")
    user = _Positions(user_id).of(of_user)
    for stray in np.flatnonzero(user < 0)[:1]:
        raise TransientError(
            f"experiment {experiment_id[stray]} of {UserExperiments.config.table} is of user {of_user[stray]}, who is not"
            f" in {Users.config.table}: load both from the same files"
        )
    count = np.bincount(user, minlength=len(user_id))
    # Adds one by one, in the order of the experiments.
    total = np.bincount(user, weights=run_time, minlength=len(user_id))
    mean = total / np.maximum(count, 1)
    codes, compound_ids = _codes(experiment_compounds, _Positions(experiment_id), user)
    texts, times = _most_common(codes, compound_ids, len(user_id))
    columns = {
        "user_id": user_id,
        "signup_date": signup_date,
        "experiments_count": count,
        "total_run_time": total,
        "mean_run_time": pa.array(mean, mask=count == 0),
        "most_common_compounds": texts,
        "most_common_compounds_count": times,
    }
    return pa.table(columns)


def user_features(experience: pa.Table, *, as_of: date) -> pa.Table:
    """The features of each user as of a day.

    Args:
        experience: as the function of this name gives it.
        as_of: any day; a user who signs up after it has 0 days and is flagged.

    Returns:
        One row per user in the schema of `UserFeatures`, in the order of its key.
    """
    days = (np.datetime64(as_of, "D") - experience["signup_date"].to_numpy()).astype(np.int64)
    of_the_day = {
        "as_of": pa.repeat(pa.scalar(as_of, pa.date32()), len(days)),
        "days_since_signup": np.maximum(days, 0),
        "signup_in_future": days < 0,
    }
    schema = arrow_schema(UserFeatures)
    columns = [of_the_day[name] if name in of_the_day else experience[name] for name in schema.names]
    return pa.table(columns, schema=schema)


def _in_order(contract: type[Contract], table: pa.Table, *names: str) -> list[npt.NDArray[Any]]:
    """The key of a table, which is one column, and other columns, in the order of the key."""
    (key,) = contract.config.key
    ids = table[key].to_numpy()
    columns = [ids, *(table[name].to_numpy() for name in names)]
    if not (ids[1:] > ids[:-1]).all():
        order = np.argsort(ids)
        columns = [column[order] for column in columns]
        ids = columns[0]
        for twice in np.flatnonzero(ids[1:] == ids[:-1])[:1]:
            raise ContractError(f"{contract.config.table} has {key} {ids[twice]} twice: it is the key")
    return columns


class _Positions:
    """Where ids are among ascending ids."""

    def __init__(self, ids: _Integers) -> None:
        self._ids = ids
        self._table: npt.NDArray[np.int32] | None = None
        span = int(ids[-1]) - int(ids[0]) + 1 if len(ids) else 0
        if span <= _SPREAD * len(ids):
            # The entry behind the last stands for all numbers outside.
            self._table = np.full(span + 1, -1, dtype=np.int32)
            self._table[ids - ids[:1]] = np.arange(len(ids), dtype=np.int32)

    def of(self, ids: _Integers) -> npt.NDArray[np.int32]:
        """The position of each, -1 for those that are not among them."""
        if self._table is None:
            # A search for ascending ids is several times as fast, and more so the more of them there are.
            order = np.argsort(ids)
            position = np.empty(len(ids), dtype=np.int32)
            position[order] = np.minimum(np.searchsorted(self._ids, ids[order]), len(self._ids) - 1)
            return np.where(self._ids[position] == ids, position, np.int32(-1))
        lowest = self._ids[:1].view(np.uint64) if len(self._ids) else np.uint64(0)
        # Without a sign, so that what lies below comes out larger than any span.
        beyond = np.uint64(len(self._table) - 1)
        return self._table[np.minimum(ids.view(np.uint64) - lowest, beyond)]


def _codes(pairs: pa.Table, experiments: _Positions, user: npt.NDArray[np.int32]) -> tuple[_Integers, _Integers]:
    """A number for each pair that says its user and its compound, ascending, and the ids of all compounds, ascending.

    The number is that of the user times the number of compounds, plus that of the compound, both by the order of the ids.
    """
    compound_ids = np.sort(pc.unique(pairs["compound_id"]).to_numpy())
    compounds = _Positions(compound_ids)
    codes = np.empty(pairs.num_rows, dtype=np.int64)
    end = 0
    for batch in pairs.select(["experiment_id", "compound_id"]).to_batches(max_chunksize=_AT_ONCE):
        experiment_id, compound_id = (column.to_numpy() for column in batch.columns)
        experiment = experiments.of(experiment_id)
        for stray in np.flatnonzero(experiment < 0)[:1]:
            raise TransientError(
                f"{ExperimentCompounds.config.table} has compound {compound_id[stray]} of experiment"
                f" {experiment_id[stray]}, which is not in {UserExperiments.config.table}: load both from the same files"
            )
        begin, end = end, end + len(experiment)
        codes[begin:end] = user[experiment].astype(np.int64) * len(compound_ids) + compounds.of(compound_id)
    codes.sort()
    return codes, compound_ids


def _most_common(codes: _Integers, compound_ids: _Integers, users: int) -> tuple[pa.ChunkedArray, _Integers]:
    """By user the compounds that occur in most experiments, as text, and in how many each of them does."""
    names = pa.array(compound_ids).cast(pa.string())
    # Some users at a time: from which to which user, and from where to where their codes go.
    edges = np.unique(np.concatenate(([0], codes[::_AT_ONCE] // max(len(names), 1), [users])))
    places = np.searchsorted(codes, edges * len(names))
    blocks = zip(itertools.pairwise(edges.tolist()), itertools.pairwise(places.tolist()), strict=True)
    found = [_ties(codes[begin:end] - low * len(names), names, high - low) for (low, high), (begin, end) in blocks]
    texts = pa.chunked_array([text for text, _ in found], type=pa.string())
    return texts, np.concatenate([np.zeros(0, dtype=np.int64), *(times for _, times in found)])


def _ties(codes: _Integers, names: pa.StringArray, users: int) -> tuple[pa.StringArray, _Integers]:
    """The most common compounds of some users, the first of whom is 0 in the codes."""
    first = np.flatnonzero(np.diff(codes, prepend=-1))
    times = np.diff(first, append=len(codes))
    user, compound = np.divmod(codes[first], max(len(names), 1))
    most = np.zeros(users, dtype=np.int64)
    np.maximum.at(most, user, times)
    tied = times == most[user]
    number = np.bincount(user[tied], minlength=users)
    lists = pa.ListArray.from_arrays(
        pa.array(np.concatenate(([0], np.cumsum(number))), pa.int32()),
        names.take(pa.array(compound[tied])),
        mask=pa.array(number == 0),
    )
    return pc.binary_join(lists, SEPARATOR), most
