"""From the feed to the raw layer: what is asked for, what becomes of it, and what is noted when."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from etl_assets.core.slices.lock import locked
from etl_assets.core.slices.parquet import ParquetRoot
from etl_assets.errors import TransientError
from etl_assets.systems.events import raw_layer as intake
from etl_assets.systems.events.files import FileRejected, file_name
from etl_assets.systems.events.manifest import Entry
from etl_assets.systems.events.raw_layer import ReadFile, Stores, Taken, interval_slice, read_file, store_raw, take
from etl_assets.systems.events.settings import EventsSettings
from etl_assets.systems.events.source import Listing
from etl_assets_tests.systems.events.event_files import archive, rows
from etl_assets_tests.systems.events.manifests import record
from etl_assets_tests.systems.events.world import FIRST, ROWS, World, quarter, quick_feed

LATE = timedelta(hours=24)


def stores(world: World, run_id: str = "a run") -> Stores:
    return Stores(world.database, ParquetRoot(EventsSettings.load().storage_url), run_id)


def known(world: World, *numbers: int, **changed: str | None) -> Listing:
    """What the feed says that it has, or something else."""
    files = {file.interval: file for file in quick_feed().listed(quarter(0), quarter(99))}
    return {quarter(number): [replace(files[quarter(number)], **changed)] for number in numbers}  # type: ignore[arg-type]


def taken(world: World, numbers: Sequence[int], known: Listing) -> list[Taken]:
    options = {"known": known, "clock": world.now, "late": LATE}
    return list(take(quick_feed(), stores(world), [quarter(number) for number in numbers], **options))  # type: ignore[arg-type]


def test_no_intervals_ask_nobody_and_note_nothing(world: World) -> None:
    assert taken(world, [], {}) == []
    assert (world.asked(), world.written()) == (0, False)


def test_what_is_taken_is_said_in_the_order_that_it_was_asked_for(world: World) -> None:
    found = taken(world, [2, 0, 1], known(world, 0, 2))
    assert [(one.entry.interval, one.entry.state) for one in found] == [
        (quarter(2), "fetched"),
        (quarter(0), "fetched"),
        (quarter(1), "missing"),
    ]
    first, _, last = found
    assert first.outcome is not None
    assert (first.outcome.change.inserted, first.outcome.slice) == (ROWS, interval_slice(quarter(2)))
    assert last.outcome is None
    assert world.manifest() == {(one.entry.interval - FIRST) // timedelta(minutes=15): one.entry for one in found}
    assert world.query("SELECT DISTINCT run_id FROM etl.ledger") == [("a run",)]


STORED = Entry(FIRST, "loaded", size=1, md5="a" * 32, rows_raw=3, rows_us=1, attempts=1)
REFUSED = Entry(FIRST, "refused", refused_md5="b" * 32, attempts=1)


def noted(world: World, entry: Entry | None) -> None:
    """The manifest has an entry, and the raw layer what that says of it."""
    if entry and entry.stored:
        stored(world, read_file(world.own(0, 0, 1, 2), quarter(0)))
    record(world.database, *([entry] if entry else []))


def stored(world: World, file: ReadFile) -> Entry:
    """The raw layer has a file of the first interval; gives what the manifest says of it."""
    with locked(world.database, [interval_slice(quarter(0))]) as lock:
        return store_raw(stores(world), quarter(0), file, lock=lock).entry


@pytest.mark.long
@pytest.mark.parametrize(
    ("entry", "md5", "asked"),
    [
        (None, "a", True),
        (Entry(FIRST, "missing"), "a", True),
        (Entry(FIRST, "absent"), "a", True),
        (REFUSED, "b", False),
        (REFUSED, "a", True),
        (STORED, "a", False),
        (STORED, "c", True),
        (replace(STORED, state="fetched"), "a", False),
        (replace(STORED, refused_md5="b" * 32), "b", False),
        (replace(STORED, refused_md5="b" * 32), "c", True),
        (replace(STORED, md5=None), "c", True),
    ],
)
def test_the_feed_is_asked_for_what_the_manifest_does_not_have_as_the_feed_says_it(
    world: World, entry: Entry | None, md5: str, asked: bool
) -> None:
    noted(world, entry)
    found = taken(world, [0], known(world, 0, md5=md5 * 32))
    assert len(found) == asked
    assert world.asked() == (3 if asked else 0)


@pytest.mark.long
@pytest.mark.parametrize("entry", [STORED, REFUSED])
def test_what_is_settled_stays_when_the_feed_has_nothing_of_it(world: World, entry: Entry) -> None:
    noted(world, entry)
    assert taken(world, [0], {}) == []
    assert world.manifest() == {0: entry}


@pytest.mark.long
def test_a_refused_file_beside_stored_rows_changes_only_the_reason_and_the_times(world: World) -> None:
    noted(world, STORED)
    world.simulator.change(quarter(0), defect="nested")
    (one,) = taken(world, [0], known(world, 0))
    assert one.entry == replace(
        STORED,
        attempts=2,
        first_asked_at=world.now(),
        last_asked_at=world.now(),
        refused_md5=world.simulator.listed(quarter(0)).md5,
        reason=one.entry.reason,
    )
    assert str(one.entry.reason).startswith("20190121000000.export.CSV.zip: ")


@pytest.mark.long
def test_intervals_are_noted_together_and_the_last_ones_when_a_load_breaks_off(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "AWAY_IN_A_ROW", 2)
    world.simulator.faults.script("files", ["none", "none", *["500"] * 6])
    intervals = [quarter(number) for number in range(4)]
    options = {"known": known(world, 0, 1, 2, 3), "clock": world.now, "late": LATE}
    coming = take(quick_feed(), stores(world), intervals, **options)  # type: ignore[arg-type]
    seen = [len(world.manifest()) for _ in range(3) if next(coming)]
    with pytest.raises(TransientError, match=r"20190121004500\.export\.CSV\.zip"):
        next(coming)
    assert seen == [1, 2, 2]
    assert world.states() == {0: "fetched", 1: "fetched", 2: "missing", 3: "missing"}
    assert world.left_behind() == []


@pytest.mark.long
def test_whoever_stops_taking_leaves_what_was_taken_noted_and_no_file(world: World) -> None:
    options = {"known": known(world, 0, 1, 2, 3), "clock": world.now, "late": LATE}
    coming = take(quick_feed(), stores(world), [quarter(n) for n in range(4)], **options)  # type: ignore[arg-type]
    assert next(coming).entry.interval == quarter(0)
    assert len(list(world.temporary.iterdir())) == 1
    coming.close()  # type: ignore[attr-defined]
    assert world.states() == {0: "fetched"}
    assert world.left_behind() == []


@pytest.mark.long
def test_no_more_than_one_file_is_on_the_disk_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    there = []

    def counted(path: Path, *args: Any, **options: Any) -> Any:
        there.append(len(list(path.parent.iterdir())))
        return read_file(path, *args, **options)

    monkeypatch.setattr(intake, "read_file", counted)
    taken(world, range(4), known(world, 0, 1, 2, 3))
    assert there == [1, 1, 1, 1]


def test_a_file_is_read_with_the_size_and_md5_of_its_archive(world: World) -> None:
    path = world.own(0, 0, 1, 2)
    file = read_file(path, quarter(0))
    data = path.read_bytes()
    assert (file.size, file.md5) == (len(data), hashlib.md5(data).hexdigest())
    assert file.rows.valid["global_event_id"].to_pylist() == [817930293, 817930294, 817930295]
    assert read_file(path, quarter(0), size=file.size, md5=file.md5).md5 == file.md5
    for wrong, reason in (({"size": 7}, "size"), ({"md5": "0" * 32}, "md5")):
        with pytest.raises(FileRejected) as refused:
            read_file(path, quarter(0), **wrong)
        assert refused.value.reason == reason


@pytest.mark.long
def test_a_file_of_another_interval_is_refused_by_its_member(world: World) -> None:
    path = world.own(0, 0)
    path.write_bytes(archive(("20190121001500.export.CSV", rows(1))))
    with pytest.raises(FileRejected) as refused:
        read_file(path, quarter(0))
    assert (refused.value.name, refused.value.reason) == (file_name(quarter(0)), "member")


@pytest.mark.long
def test_stored_rows_forget_why_an_earlier_file_was_refused(world: World) -> None:
    file = read_file(world.own(0, 0, 1), quarter(0))
    record(world.database, replace(REFUSED, reason="it was nested"))
    now = stored(world, file)
    assert (now.state, now.reason, now.refused_md5) == ("fetched", None, None)
    assert (now.rows_raw, now.md5, now.attempts) == (2, file.md5, 1)
    assert world.raw(0)["global_event_id"].to_pylist() == [817930293, 817930294]


def test_a_slice_is_named_by_its_interval_in_utc_whatever_zone_it_is_given_in() -> None:
    elsewhere = quarter(0).astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert interval_slice(elsewhere).name == interval_slice(quarter(0)).name == "20190121000000"
