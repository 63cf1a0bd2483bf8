"""Names of files: one for each quarter of an hour in UTC, and nothing else is one."""

import pickle
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl_assets.systems.events.files import INTERVAL, FileRejected, file_name, instant, interval_of, member_name

TEN_AT_NIGHT = datetime(2019, 1, 21, 22, tzinfo=UTC)


def test_a_file_is_named_by_the_begin_of_its_interval() -> None:
    assert interval_of("20190121220000.export.CSV.zip") == TEN_AT_NIGHT
    assert interval_of("20190121220000.export.CSV.zip").tzinfo is UTC
    assert file_name(TEN_AT_NIGHT) == "20190121220000.export.CSV.zip"
    assert member_name(TEN_AT_NIGHT) == "20190121220000.export.CSV"


@settings(max_examples=30)
@given(st.integers(0, 4 * 24 * 365 * 85))
def test_every_interval_has_a_name_of_its_own(number: int) -> None:
    interval = datetime(2015, 1, 1, tzinfo=UTC) + number * INTERVAL
    assert interval_of(file_name(interval)) == interval
    assert len(member_name(interval)) == len("20190121220000.export.CSV")


@pytest.mark.parametrize("year", ["0001", "2014", "2100", "9999"])
def test_a_file_of_a_year_without_a_feed_is_refused(year: str) -> None:
    with pytest.raises(FileRejected, match=f"is of the year {int(year)}, which no file of the feed is of"):
        interval_of(f"{year}1231234500.export.CSV.zip")


def test_an_instant_of_another_zone_names_the_file_of_its_utc() -> None:
    new_york = datetime(2019, 1, 21, 17, tzinfo=timezone(timedelta(hours=-5)))
    assert file_name(new_york) == "20190121220000.export.CSV.zip"


@pytest.mark.parametrize(
    ("interval", "wrong"),
    [
        (datetime(2019, 1, 21, 22), "naive"),
        (TEN_AT_NIGHT + timedelta(minutes=5), "quarter"),
        (TEN_AT_NIGHT + timedelta(seconds=1), "quarter"),
        (TEN_AT_NIGHT + timedelta(microseconds=1), "quarter"),
    ],
)
def test_an_instant_that_begins_no_interval_has_no_file(interval: datetime, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        file_name(interval)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("20190121220000.mentions.CSV.zip", "name"),
        ("20190121220000.translation.export.CSV.zip", "name"),
        ("20190121220000.export.CSV", "name"),
        ("20190121220000.export.c\u017fv.zip", "name"),
        ("20190121.export.CSV.zip", "name"),
        ("２０１９0121220000.export.CSV.zip", "name"),
        ("20190121220000.export.CSV.zip\n", "name"),
        ("", "name"),
        ("20190230220000.export.CSV.zip", "name"),
        ("20190121240000.export.CSV.zip", "name"),
        ("20190121226000.export.CSV.zip", "name"),
        ("00000121220000.export.CSV.zip", "name"),
        ("20190121220500.export.CSV.zip", "name"),
        ("20190121220001.export.CSV.zip", "name"),
        ("../20190121220000.export.CSV.zip", "path"),
        ("/20190121220000.export.CSV.zip", "path"),
        ("a\\20190121220000.export.CSV.zip", "path"),
        ("C:20190121220000.export.CSV.zip", "path"),
        ("..", "path"),
    ],
)
def test_a_name_that_is_none_of_a_file_of_events_is_refused(name: str, reason: str) -> None:
    with pytest.raises(FileRejected) as refused:
        interval_of(name)
    assert refused.value.reason == reason
    assert "20190121220000.export.CSV.zip" in str(refused.value) or "without `.translation`" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("20190121220000.export.CSV", "is an unpacked file of events: give the archive as the feed has it"),
        ("20190121220000.translation.export.CSV.zip", "is a translated file"),
        ("20190121220000.translation.export.CSV", "is a translated file"),
        ("20190121220000.mentions.CSV.zip", "is a file of mentions, not of events"),
        ("20190121220000.gkg.csv.zip", "is a file of the knowledge graph, not of events"),
    ],
)
def test_what_the_feed_has_beside_its_files_of_events_is_named(name: str, said: str) -> None:
    with pytest.raises(FileRejected, match=said):
        interval_of(name)


@pytest.mark.parametrize("text", ["20190121", "2019012122000", "20190121 220000", "20190229000000", "20191301000000"])
def test_an_instant_is_written_in_one_way_only(text: str) -> None:
    with pytest.raises(ValueError, match="not an instant"):
        instant(text)


def test_a_refusal_gets_through_a_pool_of_processes_as_it_is() -> None:
    refused = pickle.loads(pickle.dumps(FileRejected("a.zip", "has no byte", "fetch it again", "archive")))
    assert (str(refused), refused.name, refused.reason) == ("a.zip: has no byte: fetch it again", "a.zip", "archive")
