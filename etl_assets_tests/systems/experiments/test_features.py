"""Features of users, beside a plain and slow implementation."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.contracts.validation import split_arrow
from etl_assets.errors import ContractError, TransientError
from etl_assets.systems.experiments import features
from etl_assets.systems.experiments.contracts import ExperimentCompounds, UserExperiments, UserFeatures, Users
from etl_assets.systems.experiments.features import experience, user_features

DAY = date(2023, 12, 31)
User = tuple[int, date]
Experiment = tuple[int, int, float]  # experiment, user, run time
Pair = tuple[int, int]  # experiment, compound


def users_table(users: Iterable[User]) -> pa.Table:
    rows = [{"user_id": user, "name": None, "email": None, "signup_date": signup} for user, signup in users]
    return pa.Table.from_pylist(rows, schema=arrow_schema(Users))


def experiments_table(experiments: Iterable[Experiment]) -> pa.Table:
    names = arrow_schema(UserExperiments).names
    rows = [dict(zip(names, row, strict=True)) for row in experiments]
    return pa.Table.from_pylist(rows, schema=arrow_schema(UserExperiments))


def pairs_table(pairs: Iterable[Pair]) -> pa.Table:
    rows = [{"experiment_id": experiment, "compound_id": compound} for experiment, compound in pairs]
    return pa.Table.from_pylist(rows, schema=arrow_schema(ExperimentCompounds))


def derived(
    users: Iterable[User], experiments: Iterable[Experiment] = (), pairs: Iterable[Pair] = (), *, as_of: date = DAY
) -> pa.Table:
    known = experience(users_table(users), experiments_table(experiments), pairs_table(pairs))
    return user_features(known, as_of=as_of)


def row(*args: Any, **options: Any) -> dict[str, Any]:
    """The features of the only user."""
    (only,) = derived(*args, **options).to_pylist()
    return only


def plain(
    users: Iterable[User], experiments: Iterable[Experiment], pairs: Iterable[Pair], as_of: date
) -> list[dict[str, Any]]:
    """The features, the obvious way: user by user, run times added in the order of the experiments."""
    rows = []
    for user, signup in sorted(users):
        own = [(experiment, time) for experiment, of, time in sorted(experiments) if of == user]
        total = 0.0
        for _, time in own:
            total += time
        uses = Counter(compound for experiment, compound in pairs if experiment in dict(own))
        most = max(uses.values(), default=0)
        ties = sorted(compound for compound, times in uses.items() if times == most)
        rows.append(
            {
                "user_id": user,
                "as_of": as_of,
                "experiments_count": len(own),
                "total_run_time": total,
                "mean_run_time": total / len(own) if own else None,
                "days_since_signup": max((as_of - signup).days, 0),
                "signup_in_future": signup > as_of,
                "most_common_compounds": ";".join(map(str, ties)) if ties else None,
                "most_common_compounds_count": most,
            }
        )
    return rows


ids = st.integers(-3, 12) | st.integers(-(2**63), 2**63 - 1) | st.sampled_from([-(2**63), 2**62, 2**63 - 1])
days = st.dates(date(2020, 1, 1), date(2024, 12, 31))


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[User], list[Experiment], list[Pair]]:
    users = draw(st.dictionaries(ids, days, max_size=6))
    run_times = st.floats(0, 1e6) | st.sampled_from([0.1, 0.2, 0.3, 1e16])
    owned = st.dictionaries(ids, st.tuples(st.sampled_from(sorted(users)), run_times), max_size=12)
    experiments = draw(owned) if users else {}
    listed = st.sets(st.tuples(st.sampled_from(sorted(experiments)), ids), max_size=40)
    pairs = draw(listed) if experiments else set()
    shuffled = random.Random(draw(st.integers(0, 9)))
    found: tuple[list[Any], ...] = (
        list(users.items()),
        [(experiment, *rest) for experiment, rest in experiments.items()],
        list(pairs),
    )
    for rows in found:
        shuffled.shuffle(rows)
    return found  # type: ignore[return-value]


@given(worlds(), days)
@example(([], [], []), DAY)
def test_features_are_those_of_the_plain_implementation(
    world: tuple[list[User], list[Experiment], list[Pair]], as_of: date
) -> None:
    assert derived(*world, as_of=as_of).to_pylist() == plain(*world, as_of)


def some_world(users: int, experiments: int, *, seed: int = 1) -> tuple[list[User], list[Experiment], list[Pair]]:
    chance = random.Random(seed)
    return (
        [(user, DAY - timedelta(days=chance.randrange(-30, 900))) for user in range(users)],
        [(id_, chance.randrange(users), chance.random() * 100) for id_ in range(experiments)],
        [(id_, compound) for id_ in range(experiments) for compound in chance.sample(range(9), 1 + id_ % 5)],
    )


@pytest.mark.parametrize("at_once", [1, 7, 100])
def test_working_on_some_pairs_at_once_gives_the_same_as_on_all(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    world = some_world(40, 300)
    whole = derived(*world)
    monkeypatch.setattr(features, "_AT_ONCE", at_once)
    found = derived(*world)
    assert found["most_common_compounds"].num_chunks > whole["most_common_compounds"].num_chunks
    assert found.combine_chunks() == whole.combine_chunks()
    assert whole.to_pylist() == plain(*world, DAY)


def test_the_order_of_the_rows_does_not_change_a_bit() -> None:
    # Added in another order, 1e16 and many 0.1 give another sum.
    users = [(2, DAY), (1, DAY)]
    experiments = [(id_, 1 + id_ % 2, 1e16 if id_ in (500, 501) else 0.1) for id_ in range(1_000)]
    pairs = [(id_, id_ % 7) for id_ in range(1_000)]
    expected = derived(users, experiments, pairs)
    sums = expected["total_run_time"].to_pylist()
    backwards = [0.0, 0.0]
    for _, user, time in reversed(experiments):
        backwards[user - 1] += time
    assert sums != backwards
    for seed in range(3):
        for rows in (users, experiments, pairs):
            random.Random(seed).shuffle(rows)
        found = derived(users, experiments, pairs)
        assert found.combine_chunks() == expected.combine_chunks()
        assert [sum_.hex() for sum_ in found["total_run_time"].to_pylist()] == [sum_.hex() for sum_ in sums]


def test_tables_in_several_chunks_give_the_same() -> None:
    world = some_world(20, 100)
    tables = users_table(world[0]), experiments_table(world[1]), pairs_table(world[2])
    cut = [pa.Table.from_batches(table.to_batches(max_chunksize=13)) for table in tables]
    assert user_features(experience(*cut), as_of=DAY).to_pylist() == derived(*world).to_pylist()


def test_the_rows_keep_the_contract_and_are_in_the_order_of_its_key() -> None:
    found = derived(*some_world(30, 100))
    assert found.schema.equals(arrow_schema(UserFeatures), check_metadata=True)
    assert found["user_id"].to_pylist() == list(range(30))
    judged = split_arrow(UserFeatures, found)
    assert judged.valid.num_rows == 30
    assert judged.rejected == []


def test_a_user_without_an_experiment_has_a_row_with_zeros_and_nothing() -> None:
    found = derived([(1, DAY), (2, DAY), (3, DAY)], [(7, 2, 2.5), (8, 2, 5.0)], [(7, 1), (8, 1)]).to_pylist()
    assert [one["experiments_count"] for one in found] == [0, 2, 0]
    assert [one["total_run_time"] for one in found] == [0.0, 7.5, 0.0]
    assert [one["mean_run_time"] for one in found] == [None, 3.75, None]
    assert [one["most_common_compounds"] for one in found] == [None, "1", None]
    assert [one["most_common_compounds_count"] for one in found] == [0, 2, 0]


def test_without_any_experiment_every_user_has_a_row() -> None:
    found = derived([(2, DAY), (1, DAY)])
    assert found["user_id"].to_pylist() == [1, 2]
    assert found["mean_run_time"].to_pylist() == found["most_common_compounds"].to_pylist() == [None, None]
    assert split_arrow(UserFeatures, found).rejected == []


def test_without_a_user_there_is_a_table_without_rows() -> None:
    found = derived([])
    assert found.num_rows == 0
    assert found.schema.equals(arrow_schema(UserFeatures), check_metadata=True)


@pytest.mark.parametrize(
    ("signup", "as_of", "expected", "future"),
    [
        (DAY, DAY, 0, False),
        (date(2024, 1, 1), DAY, 0, True),
        (date(2023, 12, 30), DAY, 1, False),
        (date(2024, 2, 28), date(2024, 3, 1), 2, False),
        (date(2023, 2, 28), date(2023, 3, 1), 1, False),
        (date(2024, 2, 29), date(2025, 2, 28), 365, False),
        (date(9999, 12, 31), date(1, 1, 1), 0, True),
        (date(1, 1, 1), date(9999, 12, 31), 3_652_058, False),
    ],
    ids=["the day", "the next day", "the day before", "leap day", "no leap day", "from a leap day", "never", "ever"],
)
def test_days_are_whole_and_zero_for_a_sign_up_to_come(signup: date, as_of: date, expected: int, future: bool) -> None:
    found = row([(1, signup)], as_of=as_of)
    assert (found["days_since_signup"], found["signup_in_future"], found["as_of"]) == (expected, future, as_of)


def test_before_every_sign_up_all_are_flagged_and_what_they_ran_counts() -> None:
    known = experience(users_table([(1, DAY), (2, DAY)]), experiments_table([(1, 2, 4.0)]), pairs_table([(1, 9)]))
    found = user_features(known, as_of=date(2000, 1, 1)).to_pylist()
    assert [(one["signup_in_future"], one["days_since_signup"]) for one in found] == [(True, 0)] * 2
    assert [one["experiments_count"] for one in found] == [0, 1]


def test_one_experience_serves_many_days() -> None:
    known = experience(users_table([(1, date(2023, 1, 1))]), experiments_table([(1, 1, 4.0)]), pairs_table([]))
    days_since = [
        user_features(known, as_of=date(2023, 1, 1) + timedelta(days=day))["days_since_signup"].to_pylist()
        for day in (0, 1, 365)
    ]
    assert days_since == [[0], [1], [365]]


def test_all_that_tie_are_named_in_the_order_of_their_numbers() -> None:
    compounds = [10, 9, -1, 2**62, 100, -(2**63)]
    found = row([(1, DAY)], [(5, 1, 1.0)], [(5, compound) for compound in compounds])
    assert found["most_common_compounds"] == f"{-(2**63)};-1;9;10;100;{2**62}"
    assert found["most_common_compounds_count"] == 1


def test_a_compound_of_another_user_does_not_count() -> None:
    experiments: Sequence[Experiment] = [(1, 1, 1.0), (2, 1, 1.0), (3, 2, 1.0)]
    pairs = [(1, 7), (2, 7), (1, 8), (3, 8)]
    found = derived([(1, DAY), (2, DAY)], experiments, pairs)
    assert found["most_common_compounds"].to_pylist() == ["7", "8"]
    assert found["most_common_compounds_count"].to_pylist() == [2, 1]


def test_an_experiment_without_compounds_counts() -> None:
    found = row([(1, DAY)], [(1, 1, 3.0), (2, 1, 0.0)])
    assert (found["experiments_count"], found["total_run_time"], found["mean_run_time"]) == (2, 3.0, 1.5)
    assert (found["most_common_compounds"], found["most_common_compounds_count"]) == (None, 0)


@pytest.mark.parametrize("stray", [-1, 0, 3, 2**62, -(2**63)])
@pytest.mark.parametrize("apart", [1, 10**12], ids=["close", "far"])
def test_an_experiment_of_an_unknown_user_is_named(apart: int, stray: int) -> None:
    users = [(1 * apart, DAY), (2 * apart, DAY)]
    experiments = [(4, stray, 1.0), (3, stray, 1.0), (2, apart, 1.0)]
    with pytest.raises(
        TransientError,
        match=rf"^experiment 3 of experiments\.user_experiments is of user {stray}, who is not in experiments\.users: load",
    ):
        derived(users, experiments)


@pytest.mark.parametrize("apart", [1, 10**12], ids=["close", "far"])
def test_compounds_of_an_unknown_experiment_are_named(apart: int) -> None:
    experiments = [(apart, 1, 1.0), (2 * apart, 1, 1.0)]
    with pytest.raises(
        TransientError,
        match=rf"^experiments\.experiment_compounds has compound 5 of experiment {3 * apart}, which is not in experiments\.user_",
    ):
        derived([(1, DAY)], experiments, [(apart, 4), (3 * apart, 5)])


def test_nobody_is_counted_twice() -> None:
    with pytest.raises(ContractError, match=r"^experiments\.users has user_id 2 twice"):
        derived([(2, DAY), (1, DAY), (2, DAY)])
    with pytest.raises(ContractError, match=r"^experiments\.user_experiments has experiment_id 5 twice"):
        derived([(1, DAY)], [(5, 1, 1.0), (5, 1, 2.0)])
