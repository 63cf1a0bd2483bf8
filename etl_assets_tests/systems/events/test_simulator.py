"""The simulated feed over real HTTP: its lists and files, what is in them, and what it does wrong on request."""

import hashlib
import io
import stat
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from etl_assets.simulators.server import serve
from etl_assets.systems.events.files import FileRejected, verified
from etl_assets.systems.events.format import RAW_COLUMNS
from etl_assets.systems.events.simulator import EventsSimulator
from etl_assets.systems.events.simulator.files import BAD_LINES, BEGINNING, DEFECTS, INTERVAL, events, first_id

FIRST = datetime(2019, 1, 21, 22, tzinfo=UTC)
NAME = "20190121220000.export.CSV.zip"
COLUMNS = list(RAW_COLUMNS)
Row = dict[str, str]


class Feed:
    """The calls that a client makes."""

    def __init__(self, simulator: EventsSimulator, url: str) -> None:
        self.simulator = simulator
        self.url = url

    def get(self, path: str, **headers: str) -> requests.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return requests.get(f"{self.url}/{path}", headers=named, timeout=5)

    def control(self, method: str, path: str, **wanted: Any) -> requests.Response:
        return requests.request(method, f"{self.url}/_control/{path}", timeout=5, **wanted)

    def lines(self, path: str) -> list[list[str]]:
        return [line.split(" ") for line in self.get(path).text.splitlines()]

    def listed(self) -> list[str]:
        """The begins of the files of events in the master list."""
        names = (line[2].rpartition("/")[2] for line in self.lines("masterfilelist.txt"))
        return [name[8:12] for name in names if name.endswith(".export.CSV.zip")]

    def newest(self) -> str:
        return self.lines("lastupdate.txt")[0][2].rpartition("/")[2][8:12]


@contextmanager
def serving(simulator: EventsSimulator) -> Iterator[Feed]:
    with serve(simulator.app) as url:
        yield Feed(simulator, url)


@pytest.fixture(scope="module")
def served() -> Iterator[Feed]:
    """Four intervals, with few events."""
    with serving(EventsSimulator(FIRST, FIRST + 4 * INTERVAL, rows=20)) as feed:
        yield feed


@pytest.fixture
def feed(served: Feed) -> Feed:
    served.simulator.reset()
    return served


def rows_of(text: bytes) -> list[Row]:
    lines = text.decode().removesuffix("\n").split("\n")
    return [dict(zip(COLUMNS, line.split("\t"), strict=True)) for line in lines]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """The events of a day's files with the usual number of events, of which only some are made."""
    return [row for number in range(0, 96, 24) for row in rows_of(events(FIRST + number * INTERVAL))]


# What is in a file


def test_a_file_has_two_thousand_events_with_61_fields_and_a_line_break_each() -> None:
    text = events(FIRST)
    assert len(rows_of(text)) == 2_000
    assert text.endswith(b"\n") and b"\r" not in text


def test_the_same_seed_gives_the_same_events_and_another_one_others() -> None:
    assert events(FIRST, rows=50) == events(FIRST, rows=50) != events(FIRST, rows=50, seed=1)


def test_ids_are_unique_over_all_files_and_rise_with_time() -> None:
    ids = [
        int(row["global_event_id"])
        for number in range(3)
        for row in rows_of(events(FIRST + number * INTERVAL, rows=4_000))
    ]
    assert ids == sorted(set(ids))
    assert first_id(FIRST + INTERVAL, rows=2_000) - first_id(FIRST, rows=2_000) >= 2_000


def test_a_third_of_the_events_is_in_the_united_states_and_some_are_in_no_place(rows: list[Row]) -> None:
    share = {code: n / len(rows) for code, n in Counter(row["action_geo_country_code"] for row in rows).items()}
    assert 0.30 < share["US"] < 0.36
    assert 0.02 < share[""] < 0.04
    assert {"RQ", "VQ", "GQ", "AQ", "CQ", "GM"} <= share.keys()
    nowhere = [row for row in rows if not row["action_geo_country_code"]]
    assert {(row["action_geo_type"], row["action_geo_lat"], row["action_geo_feature_id"]) for row in nowhere} == {
        ("0", "", "")
    }


def test_each_trap_of_real_files_is_in_them(rows: list[Row]) -> None:
    codes = {row["event_code"] for row in rows}
    assert {"043", "0231", "010"} <= codes
    assert {f"{number:02}" for number in range(1, 21)} | {"21"} == {row["event_root_code"] for row in rows}
    assert all(row["event_code"].startswith(row["event_base_code"]) for row in rows)
    us = [row for row in rows if row["action_geo_country_code"] == "US"]
    assert any(row["action_geo_full_name"] == "NA" for row in us)
    assert any((row["action_geo_lat"], row["action_geo_long"]) == ("0", "0") for row in us)
    assert any(row["action_geo_lat"] == "65" for row in us)
    features = {row["action_geo_feature_id"] for row in rows}
    assert {"US", "531871", "-797092"} <= features
    late = Counter(row["sql_date"] for row in rows if row["date_added"] == "20190121220000")
    assert late["20190121"] > 1_800
    assert {"20190120", "20190114", "20181222", "20180121"} <= late.keys()


def test_the_fields_of_a_day_are_those_of_the_format() -> None:
    days = {row["sql_date"]: row for row in rows_of(events(FIRST))}
    assert [
        tuple(days[day][name] for name in ("month_year", "year", "fraction_date")) for day in ("20190121", "20181222")
    ] == [("201901", "2019", "2019.0575"), ("201812", "2018", "2018.9644")]


# Lists and files


def test_the_newest_files_are_three_lines_with_size_md5_and_address(feed: Feed) -> None:
    newest = f"{feed.url}/20190121224500"
    lines = feed.lines("lastupdate.txt")
    assert [line[2] for line in lines] == [
        f"{newest}.export.CSV.zip",
        f"{newest}.mentions.CSV.zip",
        f"{newest}.gkg.csv.zip",
    ]
    data = requests.get(lines[0][2], timeout=5).content
    assert lines[0][:2] == [str(len(data)), hashlib.md5(data).hexdigest()]


def test_the_master_list_has_three_lines_of_each_interval_the_oldest_first(feed: Feed) -> None:
    assert feed.listed() == ["2200", "2215", "2230", "2245"]
    assert len(feed.lines("masterfilelist.txt")) == 12
    assert feed.lines("masterfilelist.txt")[-3:] == feed.lines("lastupdate.txt")


def test_the_master_list_has_another_tag_as_soon_as_it_is_another_one(feed: Feed) -> None:
    before, again = (feed.get("masterfilelist.txt").headers["ETag"] for _ in range(2))
    feed.simulator.advance()
    assert before == again != feed.get("masterfilelist.txt").headers["ETag"]


def test_a_file_is_an_archive_of_one_member_with_the_events(feed: Feed, tmp_path: Path) -> None:
    answer = feed.get(NAME)
    assert answer.headers["Content-Type"] == "application/zip"
    assert answer.headers["Content-Length"] == str(len(answer.content))
    (tmp_path / NAME).write_bytes(answer.content)
    assert verified(tmp_path / NAME, interval=FIRST).content == events(FIRST, rows=20)


@pytest.mark.parametrize(
    "name",
    [
        "20190121214500.export.CSV.zip",
        "20190121230000.export.CSV.zip",
        "20190121220100.export.CSV.zip",
        "20190230220000.export.CSV.zip",
        "20190121220000.mentions.CSV.zip",
        "x",
    ],
)
def test_what_is_no_file_of_events_in_the_range_is_404(feed: Feed, name: str) -> None:
    answer = feed.get(name)
    assert (answer.status_code, answer.json()) == (404, {"message": f"there is no file '{name}'"})


@pytest.mark.parametrize("path", [NAME, "masterfilelist.txt"])
def test_a_part_can_be_asked_for(feed: Feed, path: str) -> None:
    whole = feed.get(path)
    length, tag = len(whole.content), whole.headers["ETag"]
    for asked, begin, end in (("bytes=100-", 100, length), ("bytes=0-9", 0, 10), ("bytes=5-999999", 5, length)):
        part = feed.get(path, Range=asked, If_Range=tag)
        assert (part.status_code, part.content) == (206, whole.content[begin:end])
        assert part.headers["Content-Range"] == f"bytes {begin}-{end - 1}/{length}"
        assert part.headers["Content-Length"] == str(end - begin)
    assert feed.get(path, Range="bytes=100-").status_code == 206
    assert feed.get(path, Range="bytes=100-", If_Range='"other"').content == whole.content
    beyond = feed.get(path, Range=f"bytes={length}-")
    assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, f"bytes */{length}")
    feed.simulator.ranges = False
    assert feed.get(path, Range="bytes=100-").status_code == 200


def test_a_long_master_list_comes_in_pieces_and_whole() -> None:
    simulator = EventsSimulator(FIRST, FIRST + 4 * INTERVAL, rows=1)
    simulator.broken_lines = "x" * 99 + "\n"
    simulator.broken_lines *= 10_000
    with serving(simulator) as feed:
        whole = feed.get("masterfilelist.txt")
        assert (whole.text.count("\n"), len(whole.content)) == (10_012, int(whole.headers["Content-Length"]))
        assert feed.get("masterfilelist.txt", Range="bytes=900000-").content == whole.content[900_000:]


def test_a_feed_without_an_end_goes_on_with_the_clock() -> None:
    now = FIRST + timedelta(minutes=14, seconds=59)
    simulator = EventsSimulator(FIRST, rows=1, clock=lambda: now)
    with serving(simulator) as feed:
        assert (feed.get("lastupdate.txt").text, feed.listed()) == ("", [])
        assert feed.get(NAME).status_code == 404
        now = FIRST + INTERVAL
        assert (feed.newest(), feed.listed()) == ("2200", ["2200"])
        assert feed.control("POST", "advance").status_code == 422


def test_time_goes_on_by_command(feed: Feed) -> None:
    assert feed.control("POST", "advance?intervals=2").json() == "2019-01-21T23:30:00Z"
    assert (feed.newest(), feed.listed()[-1]) == ("2315", "2315")
    assert feed.control("POST", "advance?intervals=-1").status_code == 422
    feed.control("POST", "reset")
    assert feed.newest() == "2245"


@pytest.mark.parametrize(
    "first", [FIRST.replace(tzinfo=None), FIRST + timedelta(minutes=1), BEGINNING - INTERVAL, FIRST.replace(second=1)]
)
def test_a_feed_begins_on_a_quarter_of_an_hour_that_there_was(first: datetime) -> None:
    with pytest.raises(ValueError, match="no aware instant on a quarter of an hour since"):
        EventsSimulator(first)


# Quirks


def test_a_held_file_is_nowhere_until_it_is_restored(feed: Feed) -> None:
    held = feed.control("PUT", "files/20190121224500", json={"held": True}).json()
    assert held["held"] is True
    assert (feed.newest(), feed.listed()) == ("2230", ["2200", "2215", "2230"])
    assert feed.get("20190121224500.export.CSV.zip").status_code == 404
    assert list(feed.control("GET", "files").json()) == ["20190121224500"]
    feed.control("DELETE", "files/20190121224500")
    assert (feed.newest(), len(feed.listed())) == ("2245", 4)
    assert feed.control("GET", "files").json() == {}


def test_a_held_file_comes_after_some_answers_without_it(feed: Feed) -> None:
    feed.simulator.change(FIRST, held=True, answers_until_there=3)
    assert feed.get(NAME).status_code == 404
    assert "2200" not in feed.listed()
    assert feed.get(NAME).status_code == 404
    assert feed.get(NAME).status_code == 200
    assert "2200" in feed.listed()


def test_a_withdrawn_file_is_in_the_lists_only(feed: Feed) -> None:
    feed.simulator.change(FIRST, withdrawn=True)
    assert "2200" in feed.listed()
    assert feed.get(NAME).status_code == 404


def test_a_republished_file_has_another_content_and_most_of_its_events(feed: Feed) -> None:
    before, size_and_md5 = rows_of(events(FIRST, rows=20)), feed.lines("masterfilelist.txt")[0][:2]
    assert feed.control("POST", "files/20190121220000/republish").json()["version"] == 1
    after = rows_of(zipfile.ZipFile(io.BytesIO(feed.get(NAME).content)).read(NAME.removesuffix(".zip")))
    assert feed.lines("masterfilelist.txt")[0][:2] != size_and_md5
    ids = [[row["global_event_id"] for row in rows] for rows in (before, after)]
    assert len(after) == 20 and ids[1][:-1] == ids[0][1:]
    changed = [
        {name for name in COLUMNS if old[name] != new[name]} for old, new in zip(before[1:], after, strict=False)
    ]
    assert Counter(map(frozenset, changed)) == {frozenset(): 18, frozenset({"num_mentions"}): 1}


def test_the_lists_may_say_another_size_or_md5_than_the_file_has(feed: Feed) -> None:
    feed.simulator.change(FIRST, listed_size=7, listed_md5="0" * 32)
    assert feed.lines("masterfilelist.txt")[0][:2] == ["7", "0" * 32]
    assert len(feed.get(NAME).content) > 7


def test_a_file_that_is_being_published_is_half_for_some_answers(feed: Feed) -> None:
    feed.simulator.change(FIRST, halves=2)
    whole = feed.simulator.archive(FIRST)
    answers = [feed.get(NAME) for _ in range(3)]
    assert [answer.content for answer in answers] == [whole[: len(whole) // 2]] * 2 + [whole]
    assert answers[0].headers["ETag"] != answers[2].headers["ETag"]


def test_addresses_and_broken_lines_and_the_newest_file_can_be_said_otherwise(feed: Feed) -> None:
    feed.simulator.advertised_url = "http://data.example/gdeltv2"
    feed.simulator.broken_lines = "broken\n"
    assert feed.lines("lastupdate.txt")[0][2] == "http://data.example/gdeltv2/20190121224500.export.CSV.zip"
    assert feed.lines("masterfilelist.txt")[6] == ["broken"]
    feed.simulator.last_update_text = "nothing new"
    assert feed.get("lastupdate.txt").text == "nothing new"


@pytest.mark.parametrize("wanted", [{"hold": True}, {"defect": "none"}, {"halves": -1}, {"version": 100_000}])
def test_a_quirk_that_there_is_not_is_refused(feed: Feed, wanted: dict[str, Any]) -> None:
    assert feed.control("PUT", "files/20190121220000", json=wanted).status_code == 422
    assert feed.control("PUT", "files/monday", json={}).status_code == 404
    assert feed.simulator.quirks() == {}


def test_faults_of_files_are_those_of_any_file(feed: Feed) -> None:
    feed.simulator.faults.script("files", ["503", "none", "502"])
    names = (NAME, "20190121221500.export.CSV.zip", NAME)
    assert [feed.get(name).status_code for name in names] == [503, 200, 502]
    assert feed.control("GET", "faults").json() == {"files": {"502": 1, "503": 1, "none": 1}}


# Defects

REFUSED = {
    "truncated": "archive",
    "checksum": "archive",
    "no-zip": "archive",
    "empty-archive": "members",
    "two-members": "members",
    "nested": "nested",
    "bomb": "bomb",
    "link": "link",
    "path": "path",
    "absolute-path": "path",
    "other-name": "member",
}
TEXTS = sorted(set(DEFECTS) - set(REFUSED))


@pytest.mark.parametrize("defect", REFUSED)
def test_an_archive_with_a_defect_is_listed_as_it_is_and_refused_for_it(
    feed: Feed, tmp_path: Path, defect: str
) -> None:
    feed.simulator.change(FIRST, defect=defect)
    listed = feed.simulator.listed(FIRST)
    (tmp_path / NAME).write_bytes(feed.get(NAME).content)
    with pytest.raises(FileRejected) as caught:
        verified(tmp_path / NAME, interval=FIRST, size=listed.size, md5=listed.md5)
    assert caught.value.reason == REFUSED[defect]


def test_archives_with_a_defect_have_the_one_that_they_are_named_for(feed: Feed) -> None:
    def members(defect: str) -> list[zipfile.ZipInfo]:
        feed.simulator.change(FIRST, defect=defect)
        return zipfile.ZipFile(io.BytesIO(feed.simulator.archive(FIRST))).infolist()

    assert [member.filename for member in members("path")] == ["../20190121220000.export.CSV"]
    assert [member.filename for member in members("absolute-path")] == ["/tmp/20190121220000.export.CSV"]
    assert stat.S_ISLNK(members("link")[0].external_attr >> 16)
    (bomb,) = members("bomb")
    assert (bomb.file_size, bomb.compress_size < 1_000_000) == (128 * 2**20, True)


@pytest.mark.parametrize("defect", TEXTS)
def test_a_text_with_a_defect_is_in_a_good_archive(feed: Feed, tmp_path: Path, defect: str) -> None:
    feed.simulator.change(FIRST, defect=defect)
    (tmp_path / NAME).write_bytes(feed.simulator.archive(FIRST))
    good, text = events(FIRST, rows=20), verified(tmp_path / NAME, interval=FIRST).content
    lines = text.split(b"\n")
    match defect:
        case "no-events":
            assert text == b""
        case "format-1.0" | "format-1.0-no-url":
            assert {line.count(b"\t") for line in lines[:-1]} == {57 if defect == "format-1.0" else 56}
            assert lines[0].split(b"\t")[56] == b"20190121"
        case "spreadsheet":
            assert lines[0].startswith(b"Column1;Column2;") and text.endswith(b"\r\n")
            assert lines[1].count(b";") == 60 and b";2.02E+13;" in lines[1]
        case "latin-1":
            assert text == good.decode().encode("latin-1") != good
        case "byte-order-mark":
            assert text == b"\xef\xbb\xbf" + good
        case "nul":
            assert text.replace(b"\0", b" ") == good != text
        case "bad-rows":
            before = good.split(b"\n")
            assert [at for at, line in enumerate(lines, 1) if line != before[at - 1]] == list(BAD_LINES)
            assert [lines[at - 1].count(b"\t") for at in BAD_LINES] == [59, 61, 60, 60, 60]
        case _:
            raise AssertionError(f"{defect} is not tested")
