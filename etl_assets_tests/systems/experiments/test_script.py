"""The system without an orchestrator: as a function, and as the command `etl-assets experiments load`."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import pytest

from etl_assets.cli import run
from etl_assets.errors import ConfigurationError, TransientError
from etl_assets.systems import experiments
from etl_assets.systems.experiments import source
from etl_assets.systems.experiments.source import ExperimentFolder
from etl_assets_tests.systems.experiments import layouts
from etl_assets_tests.systems.experiments.world import COMPOUNDS, EXPERIMENTS, USERS, World, touch, write_sample

SHARED = Path(__file__).resolve().parents[3] / ".." / "shared" / "data" / "experiments"
NEW_YEARS_EVE = date(2023, 12, 31)
FEATURES = [
    (1, NEW_YEARS_EVE, 2, 25.5, 12.75, 364, False, "2", 2),
    (2, NEW_YEARS_EVE, 2, 4.0, 2.0, 0, True, "1;2;3", 1),
    (3, NEW_YEARS_EVE, 0, 0.0, None, 0, False, None, 0),
]
FAULTY_EXPERIMENTS = [
    *EXPERIMENTS,
    "5,1,1:3,10",
    "6,99,1,10",
    "7,1,1;77,10",
    "8,1,1,-4",
    "9,1,1,ten",
    "1,1,1;2,11",
    "1,1,2;1;2,10.0",
    "10,99,77,x",
    "11,1,1",
]
FAULTY_USERS = [*USERS, "4,Dave,dave@example.com,2023-02-30", "1,Alice,other@example.com,2023-01-01"]


def test_features_are_those_that_can_be_counted_by_hand(world: World) -> None:
    experiments.load(world.folder, as_of=NEW_YEARS_EVE)
    tables = world.tables()
    assert tables["user_features"] == FEATURES
    assert tables["users"][1] == (2, "Bob", None, date(2024, 2, 29))
    assert tables["user_experiments"] == [(1, 1, 10.0), (2, 1, 15.5), (3, 2, 0.0), (4, 2, 4.0)]
    assert tables["experiment_compounds"] == [(1, 1), (1, 2), (2, 2), (2, 3), (3, 3), (4, 1), (4, 2)]
    assert world.quarantine() == []


@pytest.mark.long
def test_a_repeated_id_in_a_list_counts_once_and_is_counted(world: World) -> None:
    done = experiments.load(world.folder, as_of=NEW_YEARS_EVE)
    assert done.repeated_compound_ids == 1
    assert [row[6] for row in world.ledger() if row[0] == "experiments.experiment_compounds"] == [1]


def test_a_second_load_writes_nothing(world: World) -> None:
    experiments.load(world.folder, as_of=NEW_YEARS_EVE)
    before = world.tables()
    done = experiments.load(world.folder, as_of=NEW_YEARS_EVE)
    assert world.tables() == before
    assert [(outcome.loaded, outcome.change.deleted) for outcome in done.tables] == [(0, 0)] * 5
    assert [outcome.change.unchanged for outcome in done.tables] == [3, 3, 4, 7, 3]


@pytest.mark.long
def test_each_day_that_was_asked_for_has_features_of_its_own(world: World) -> None:
    for day in (NEW_YEARS_EVE, date(2024, 3, 1), date(1960, 1, 1)):
        experiments.load(world.folder, as_of=day)
    found = world.query(
        "SELECT as_of, array_agg(days_since_signup ORDER BY user_id), array_agg(signup_in_future ORDER BY user_id)"
        " FROM experiments.user_features GROUP BY 1 ORDER BY 1"
    )
    assert found == [
        (date(1960, 1, 1), [0, 0, 0], [True, True, True]),
        (NEW_YEARS_EVE, [364, 0, 0], [False, True, False]),
        (date(2024, 3, 1), [425, 1, 61], [False, False, False]),
    ]


NINE_OF_TEN_BAD = [*USERS[:1], *(f"{number},Dave,,31.12.2023" for number in range(2, 11))]


@pytest.mark.parametrize("name", ["users", "compounds", "experiments"])
def test_a_file_of_which_nearly_all_rows_are_bad_changes_nothing_unless_somebody_says_so(
    world: World, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    experiments.load(world.folder, as_of=NEW_YEARS_EVE)
    before = world.tables(), world.ledger()
    bad = {
        "users": NINE_OF_TEN_BAD,
        "compounds": [COMPOUNDS[0], *(f"x{number},X," for number in range(9))],
        "experiments": [EXPERIMENTS[0], *(f"{number},9,1,1" for number in range(2, 11))],
    }
    files = {"users": USERS[:1], "experiments": ["1,1,1,10"], "compounds": COMPOUNDS[:1], name: bad[name]}
    if name == "experiments":
        files["experiments"][0] = "1,1,1,10"
    world.rewrite(**files)
    assert run(["experiments", "load", str(world.folder)]) == 2
    said = capsys.readouterr().err
    assert "9 of 10 rows are rejected, more than 80%, nothing was changed; the first," in said
    assert "line 3: " in said
    assert "--allow-rejected" in said
    assert (world.tables(), world.ledger()) == before
    assert world.quarantine() == []
    assert run(["experiments", "load", str(world.folder), "--allow-rejected"]) == 0
    assert len(world.quarantine()) == 9
    assert len(world.tables()["users"]) == 1


@pytest.mark.long
def test_what_is_no_longer_in_the_files_is_no_longer_in_the_tables(world: World) -> None:
    experiments.load(world.folder, as_of=NEW_YEARS_EVE)
    world.rewrite(users=USERS[:1], experiments=EXPERIMENTS[:1], compounds=COMPOUNDS[:2])
    experiments.load(world.folder, as_of=NEW_YEARS_EVE)
    assert {name: len(rows) for name, rows in world.tables().items()} == {
        "users": 1,
        "compounds": 2,
        "user_experiments": 1,
        "experiment_compounds": 2,
        "user_features": 1,
    }


def test_each_bad_row_is_in_quarantine_with_file_line_column_and_text_and_the_rest_loads(world: World) -> None:
    world.rewrite(users=FAULTY_USERS, experiments=FAULTY_EXPERIMENTS)
    done = experiments.load(world.folder, as_of=NEW_YEARS_EVE)
    found = {
        (source, fault["column"], fault["raw"])
        for _, source, faults in world.quarantine()
        for fault in json.loads(faults)
    }
    assert found == {
        ("user_experiments.csv, line 6", "experiment_compound_ids", "1:3"),
        ("user_experiments.csv, line 7", "user_id", "99"),
        ("user_experiments.csv, line 8", "experiment_compound_ids", "1;77"),
        ("user_experiments.csv, line 9", "experiment_run_time", "-4"),
        ("user_experiments.csv, line 10", "experiment_run_time", "ten"),
        ("user_experiments.csv, line 11", "experiment_id", "1"),
        ("user_experiments.csv, line 13", "user_id", "99"),
        ("user_experiments.csv, line 13", "experiment_compound_ids", "77"),
        ("user_experiments.csv, line 13", "experiment_run_time", "x"),
        ("user_experiments.csv, line 14", "", "11,1,1"),
        ("users.csv, line 5", "signup_date", "2023-02-30"),
        ("users.csv, line 6", "user_id", "1"),
    }
    assert done.quarantined == 10
    assert world.raw()["user_experiments.csv, line 13"]["text"] == "10,99,77,x"
    assert world.tables()["user_features"] == FEATURES
    # The line that says again what line 2 says is no fault.
    assert [row for row in world.ledger() if row[0] == "experiments.user_experiments"] == [
        ("experiments.user_experiments", 13, 4, 0, 0, 0, 1, 8)
    ]


@pytest.mark.long
def test_a_corrected_file_loads_whole(world: World) -> None:
    world.rewrite(experiments=[*EXPERIMENTS, "5,3,1:3,10"])
    experiments.load(world.folder, as_of=NEW_YEARS_EVE)
    world.rewrite(experiments=[*EXPERIMENTS, "5,3,1;3,10"])
    done = experiments.load(world.folder, as_of=NEW_YEARS_EVE)
    assert done.quarantined == 0
    assert world.tables()["user_features"][2][2:] == (1, 10.0, 10.0, 0, False, "1;3", 1)


@pytest.mark.long
@pytest.mark.parametrize("layout", sorted(layouts.LAYOUTS))
def test_every_layout_gives_the_same_tables(world: World, tmp_path: Path, layout: str) -> None:
    experiments.load(layouts.write(tmp_path / "plain", "plain comma"), as_of=NEW_YEARS_EVE)
    expected = world.tables()
    done = experiments.load(layouts.write(tmp_path / "other", layout), as_of=NEW_YEARS_EVE)
    assert world.tables() == expected
    assert [len(rows) for rows in expected.values()] == [3, 3, 3, 5, 3]
    assert (done.quarantined, sum(outcome.loaded for outcome in done.tables)) == (0, 0)


@pytest.mark.skipif(not SHARED.exists(), reason="the files of the exercise are not beside this checkout")
def test_the_files_of_the_exercise_give_their_features(world: World) -> None:
    done = experiments.load(SHARED / "comma-tab-lf", as_of=NEW_YEARS_EVE)
    tables = world.tables()
    assert {name: len(rows) for name, rows in tables.items()} == {
        "users": 10,
        "compounds": 3,
        "user_experiments": 11,
        "experiment_compounds": 23,
        "user_features": 10,
    }
    assert tables["user_features"][0] == (1, NEW_YEARS_EVE, 2, 25.0, 12.5, 364, False, "2", 2)
    assert tables["user_features"][9] == (10, NEW_YEARS_EVE, 1, 60.0, 60.0, 91, False, "1;3", 1)
    assert done.quarantined == 0


# Files that are refused


def missing(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def binary(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04" + bytes(range(256)))


def without_a_column(path: Path) -> None:
    header, rest = path.read_text().split("\n", 1)
    path.write_text(header.rpartition(",")[0] + "\n" + rest)


def nothing_that_loads(path: Path) -> None:
    path.write_text(path.read_text().split("\n", 1)[0] + "\nx,x,x,x")


REFUSED = {
    missing: "is missing",
    empty: "empty",
    binary: "ZIP archive",
    without_a_column: "signup_date",
    nothing_that_loads: "line 2",
}


@pytest.mark.long
@pytest.mark.parametrize("spoil", REFUSED, ids=lambda spoil: spoil.__name__)
def test_a_file_that_is_refused_is_named_and_nothing_changes(
    world: World, spoil: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["experiments", "load", str(world.folder), "--as-of", "2023-12-31"]) == 0
    before, ledger = world.tables(), world.ledger()
    world.rewrite(experiments=EXPERIMENTS[:1])
    spoil(world.folder / "users.csv")
    capsys.readouterr()
    assert run(["experiments", "load", str(world.folder), "--as-of", "2024-12-31"]) == 2
    message = capsys.readouterr().err
    assert "users.csv" in message
    assert REFUSED[spoil] in message
    assert (world.tables(), world.ledger(), world.quarantine()) == (before, ledger, [])


def test_a_file_that_changes_while_it_is_read_is_transient_and_nothing_changes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = source._digest

    def copied_meanwhile(path: Path) -> str:
        found = digest(path)
        if path.name == "compounds.csv":
            touch(path, later_s=5)
        return found

    monkeypatch.setattr(source, "_digest", copied_meanwhile)
    with pytest.raises(TransientError, match=r"compounds\.csv in .* changed while it was read"):
        experiments.load(world.folder, as_of=NEW_YEARS_EVE)
    assert world.ledger() == []


def test_what_the_files_are_does_not_depend_on_their_times(world: World) -> None:
    folder = ExperimentFolder(world.folder)
    before = folder.content()
    touch(world.folder / "users.csv", later_s=3600)
    assert folder.content().digest == before.digest
    assert folder.content().stamps != before.stamps
    world.rewrite(users=USERS[:2])
    assert folder.content().digest != before.digest


@pytest.mark.long
def test_two_loads_at_once_leave_one_result(world: World, tmp_path: Path) -> None:
    start = threading.Barrier(2)

    def load() -> None:
        start.wait()
        experiments.load(world.folder, as_of=NEW_YEARS_EVE)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(load), pool.submit(load)]:
            done.result()
    assert world.tables()["user_features"] == FEATURES
    assert sum(row[2] for row in world.ledger()) == 3 + 3 + 4 + 7 + 3


# The command


def test_the_command_says_what_became_of_each_table(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.rewrite(experiments=[*EXPERIMENTS, "5,1,1:3,10"])
    assert run(["experiments", "load", str(world.folder), "--as-of", "2023-12-31"]) == 0
    message = capsys.readouterr()
    assert message.out.splitlines() == [
        "experiments.users: 3 inserted",
        "experiments.compounds: 3 inserted",
        "experiments.user_experiments: 4 inserted, 1 quarantined",
        "experiments.experiment_compounds: 7 inserted, 1 deduplicated",
        "experiments.user_features[2023-12-31]: 3 inserted",
        "1 compound id stands again in its list and counts once",
    ]
    assert message.err == "1 row in quarantine: see `etl-assets quarantine list`\n"


@pytest.mark.long
def test_the_command_without_a_folder_takes_that_of_the_environment(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    today = "SELECT (now() AT TIME ZONE 'UTC')::date"
    days = world.query(today)
    assert run(["experiments", "load"]) == 0
    days += world.query(today)
    (day,) = world.query("SELECT DISTINCT as_of FROM experiments.user_features")
    assert day in days


def test_a_day_that_is_none_is_wrong_usage(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["experiments", "load", str(world.folder), "--as-of", "31.12.2023"]) == 2
    assert "give one like 2023-12-31" in capsys.readouterr().err
    assert world.ledger() == []


def test_a_folder_that_is_none_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere does not exist: give the folder with users\.csv"):
        experiments.load(tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match=r"users\.csv is a file"):
        experiments.load(world.folder / "users.csv")


def test_without_a_folder_anywhere_the_error_names_the_variable(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXPERIMENTS_DIR")
    with pytest.raises(ConfigurationError, match="EXPERIMENTS_DIR is not set"):
        experiments.load()


@pytest.mark.long
def test_a_row_of_a_file_is_corrected_in_the_file_and_not_replayed(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.rewrite(experiments=[*EXPERIMENTS, "5,1,1:3,10"])
    experiments.load(world.folder, as_of=NEW_YEARS_EVE)
    ((entry,),) = world.query("SELECT id FROM etl.quarantine")
    assert run(["quarantine", "replay", entry, "--set", "experiment_compound_ids=1;3"]) == 2
    assert "correct user_experiments.csv, line 6" in capsys.readouterr().err


@pytest.mark.long
def test_files_of_one_row_each_load(world: World, tmp_path: Path) -> None:
    folder = write_sample(tmp_path / "one", users=USERS[:1], experiments=EXPERIMENTS[:1], compounds=COMPOUNDS[:2])
    experiments.load(folder, as_of=NEW_YEARS_EVE)
    assert world.tables()["user_features"] == [(1, NEW_YEARS_EVE, 1, 10.0, 10.0, 364, False, "1;2", 1)]


@pytest.mark.long
def test_users_without_any_experiment_have_features(world: World, tmp_path: Path) -> None:
    folder = write_sample(tmp_path / "none", users=USERS[:1], experiments=[])
    experiments.load(folder, as_of=NEW_YEARS_EVE)
    assert world.tables()["user_features"] == [(1, NEW_YEARS_EVE, 0, 0.0, None, 364, False, None, 0)]
