"""The feed against a simulated one: what its lists say, its files whole on the disk, and what becomes of each fault that can reach it."""

import base64
import hashlib
import logging
import re
import socket
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from etl_assets.core.sources.http.client import ApiRefused, ApiUnavailable, Limits
from etl_assets.core.sources.http.files import NotStored
from etl_assets.errors import ConfigurationError, PermanentError, TransientError
from etl_assets.simulators.faults import KINDS
from etl_assets.systems.events import source as feed_module
from etl_assets.systems.events.files import FileRejected
from etl_assets.systems.events.source import EventsFeed, FeedFile, FileMissing
from etl_assets_tests.core.sources.canned import Canned, CannedServer
from etl_assets_tests.limits import QUICK, limits_for
from etl_assets_tests.systems.events.feeds import FIRST, QUARTER, WatchedFeed

LAST = FIRST + timedelta(hours=2)
NEWEST = "20190121234500.export.CSV.zip"
FIRST_NAME = "20190121220000.export.CSV.zip"
CALLS = {"lastupdate.txt": "/lastupdate.txt", "masterfilelist.txt": "/masterfilelist.txt", "files": f"/{FIRST_NAME}"}
# Half of a list that is said to be the whole is a list: what comes of that is in tests of their own.
PASSING = [
    (call, kind)
    for call in CALLS
    for kind in sorted(set(KINDS) - {"slow"})
    if call == "files" or kind != "truncated-json"
]
# Faults after which a part of the body has come.
CUT = ("reset-mid-body", "short-body", "timeout-mid-body")
LASTING = {
    "500": "answered 500",
    "502": "answered 502",
    "503": "answered 503",
    "504": "answered 504",
    "408": "answered 408",
    "429": "answered 429",
    "timeout": "the answer did not come in time",
    "timeout-mid-body": "the answer did not come in time",
    "reset": "the connection was reset",
    "short-body": "the body broke off before its end",
}


@pytest.fixture(scope="module")
def served() -> Iterator[WatchedFeed]:
    with WatchedFeed().served() as watched:
        yield watched


@pytest.fixture
def watched(served: WatchedFeed) -> WatchedFeed:
    return served.reset()


@pytest.fixture(scope="module")
def canned() -> Iterator[CannedServer]:
    with CannedServer().served() as server:
        yield server


@pytest.fixture
def feed(watched: WatchedFeed) -> EventsFeed:
    return EventsFeed(watched.url, limits=QUICK)


def known(watched: WatchedFeed, interval: datetime = FIRST) -> FeedFile:
    """The file as the lists say it now."""
    name, listed = f"{interval:%Y%m%d%H%M%S}.export.CSV.zip", watched.simulator.listed(interval)
    return FeedFile(name, interval, listed.size, listed.md5)


def ask(feed: EventsFeed, watched: WatchedFeed, call: str, folder: Path) -> object:
    """What one of the three calls brings; the same as long as the feed stays the same."""
    match call:
        case "lastupdate.txt":
            return feed.latest()
        case "masterfilelist.txt":
            return list(feed.listed(FIRST, LAST))
        case _:
            return feed.downloaded(known(watched), folder).read_bytes()


def right(watched: WatchedFeed, call: str) -> object:
    intervals = [FIRST + number * QUARTER for number in range(8)]
    return {
        "lastupdate.txt": known(watched, intervals[-1]),
        "masterfilelist.txt": [known(watched, interval) for interval in intervals],
        "files": watched.simulator.archive(FIRST),
    }[call]


# What the lists say


def test_the_newest_file_is_that_of_the_first_line(watched: WatchedFeed, feed: EventsFeed) -> None:
    whole = watched.simulator.archive(LAST - QUARTER)
    newest = FeedFile(NEWEST, LAST - QUARTER, len(whole), hashlib.md5(whole).hexdigest())
    assert feed.latest() == newest


def test_a_feed_that_stands_still_names_the_same_file_until_there_is_a_newer_one(
    watched: WatchedFeed, feed: EventsFeed
) -> None:
    assert feed.latest() == feed.latest() == known(watched, LAST - QUARTER)
    watched.simulator.advance()
    assert feed.latest().interval == LAST


def test_the_master_list_gives_the_files_of_a_stretch_without_its_end_and_of_events_only(
    watched: WatchedFeed, feed: EventsFeed
) -> None:
    files = list(feed.listed(FIRST + QUARTER, FIRST + 3 * QUARTER))
    assert files == [known(watched, FIRST + QUARTER), known(watched, FIRST + 2 * QUARTER)]


def test_bounds_may_lie_between_intervals_and_in_any_zone(feed: EventsFeed) -> None:
    def intervals(first: datetime, last: datetime) -> list[datetime]:
        return [file.interval for file in feed.listed(first, last)]

    east = FIRST.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert intervals(east, east + QUARTER) == [FIRST]
    instant = timedelta(microseconds=1)
    assert intervals(FIRST + instant, FIRST + QUARTER + instant) == [FIRST + QUARTER]
    assert intervals(FIRST - instant, FIRST + QUARTER - instant) == [FIRST]
    assert intervals(LAST, LAST + QUARTER) == intervals(FIRST, FIRST) == []


def test_naive_bounds_are_refused_before_anything_is_asked(watched: WatchedFeed, feed: EventsFeed) -> None:
    with pytest.raises(ValueError, match="give two aware times"):
        feed.listed(FIRST.replace(tzinfo=None), LAST)
    assert watched.paths() == []


def test_a_file_that_the_list_names_out_of_order_is_found(watched: WatchedFeed, feed: EventsFeed) -> None:
    late = "20190121200000.export.CSV.zip"
    watched.simulator.broken_lines = f"5 {'AB' * 16} {watched.url}/{late}\n"
    (file,) = feed.listed(FIRST - 8 * QUARTER, FIRST)
    assert (file.name, file.size, file.md5) == (late, 5, "ab" * 16)


def test_a_missing_interval_is_in_no_list_and_a_late_one_is_in_the_next(watched: WatchedFeed, feed: EventsFeed) -> None:
    gone, late = FIRST + QUARTER, FIRST + 2 * QUARTER
    watched.simulator.change(gone, held=True)
    watched.simulator.change(late, held=True, answers_until_there=2)
    found = [[file.interval for file in feed.listed(gone, late + QUARTER)] for _ in range(3)]
    assert found == [[], [], [late]]


# Lines that say nothing


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "<html>login</html>",
        "{}",
        "109078 493919c9c5ff4e11f0d71c55e3a3df0c\n",
        f"109078 http://feed/{FIRST_NAME}\n",
        f"-1 {'0' * 32} http://feed/{FIRST_NAME}\n",
        f"109078 {'0' * 31}g http://feed/{FIRST_NAME}\n",
        f"109078 {'0' * 32} http://feed/20190121220000.mentions.CSV.zip\n",
        f"109078 {'0' * 32} http://feed/20190121220100.export.CSV.zip\n",
        f"109078 {'0' * 32} http://feed/20190230220000.export.CSV.zip\n",
        f"109078 {'0' * 32} http://feed/{FIRST_NAME}.exe\n",
        f"109078 {'0' * 32} http://feed/..%2f{FIRST_NAME}\n",
        f"109078 {'0' * 32} file:///etc/{FIRST_NAME}\n",
        f"109078 {'0' * 32} ftp://feed/{FIRST_NAME}\n",
        f"109078 {'0' * 32} {FIRST_NAME}\n",
        f"109078 {'0' * 32} http://feed/{FIRST_NAME} more\n",
        "Ünknown\n",
    ],
)
def test_a_first_line_that_names_no_file_of_events_is_asked_for_again_and_quoted(
    watched: WatchedFeed, feed: EventsFeed, text: str
) -> None:
    watched.simulator.last_update_text = text
    with pytest.raises(ApiUnavailable, match="tried 3 times") as caught:
        feed.latest()
    quoted = text.strip().encode().decode("ascii", "backslashreplace")[:50]
    assert "at last: answered 200 with a first line that is no `size md5 url` of a file of events: it" in str(
        caught.value
    )
    assert repr(quoted)[1:-1] in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"1090_78 {'0' * 32} http://feed/{FIRST_NAME}", "its size is '1090_78'"),
        (f"109078 {'0' * 31}g http://feed/{FIRST_NAME}", f"its MD5 is '{'0' * 31}g'"),
        (f"109078 {'0' * 32} ftp://feed/{FIRST_NAME}", f"its url is 'ftp://feed/{FIRST_NAME}'"),
        (f"109078 {'0' * 32} http://feed/20190121220100.export.CSV.zip", "its file is '20190121220100.export.CSV.zip'"),
        (f"  109078  {'0' * 32} ", f"it has 2 parts, not three, in '  109078  {'0' * 32} '"),
    ],
)
def test_a_first_line_shows_the_part_that_differs_as_it_is_written(
    watched: WatchedFeed, feed: EventsFeed, text: str, shown: str
) -> None:
    watched.simulator.last_update_text = text
    with pytest.raises(ApiUnavailable) as caught:
        feed.latest()
    assert shown in str(caught.value)


def test_a_first_line_is_right_again_at_the_next_attempt(watched: WatchedFeed, feed: EventsFeed) -> None:
    watched.simulator.last_update_text = "109078 493919c9"

    def mend(number: int) -> None:
        if number == 2:
            watched.simulator.last_update_text = None

    watched.before = mend
    assert feed.latest().name == NEWEST


def test_broken_lines_of_the_master_list_are_passed_over_counted_and_told_once(
    watched: WatchedFeed, feed: EventsFeed, caplog: pytest.LogCaptureFixture
) -> None:
    broken = [
        f"12 {'0' * 32}",
        "  http://feed/20190121221500.mentions.CSV.zip",
        f"12 {'0' * 32} http://feed/20190121221600.export.CSV.zip",
        "\xff\xfe\0",
    ]
    watched.simulator.broken_lines = "\n".join([*broken, "", ""])
    with caplog.at_level(logging.WARNING, logger=feed_module.__name__):
        assert list(feed.listed(FIRST, LAST)) == right(watched, "masterfilelist.txt")
    (record,) = caplog.records
    assert record.getMessage() == (
        f"4 of the 28 lines of {watched.url}/masterfilelist.txt are no `size md5 url` of a file, the first is line 13,"
        f" '12 {'0' * 32}': not taken"
    )


@pytest.mark.parametrize(
    "line", ["5  {md5}  {url}/{name}", "5\t{md5}\t{url}/{name}", " 5 {md5} {url}/{name} ", "5 {md5} {url}/{name}\r"]
)
@pytest.mark.parametrize("name", ["20190121200000.export.CSV.zip", "20190121200000.export.csv.zip"])
def test_a_line_may_have_white_space_of_any_kind_and_a_name_letters_of_any_size(
    watched: WatchedFeed, feed: EventsFeed, line: str, name: str
) -> None:
    watched.simulator.broken_lines = line.format(md5="AB" * 16, url=watched.url, name=name) + "\n"
    (file,) = feed.listed(FIRST - 8 * QUARTER, FIRST)
    assert file == FeedFile(name, FIRST - 8 * QUARTER, 5, "ab" * 16)


def test_a_line_that_cannot_be_read_is_said_of_its_interval(watched: WatchedFeed, feed: EventsFeed) -> None:
    watched.simulator.broken_lines = f"5 {watched.url}/20190121200000.export.CSV.zip\n"
    (file,) = feed.listed(FIRST - 8 * QUARTER, FIRST)
    assert file.interval == FIRST - 8 * QUARTER
    assert file.unread is not None
    assert file.unread.startswith(
        "the feed's list names it in a line that is no `size md5 url` of a file: line 13, '5 http"
    )


def test_a_line_without_an_end_is_not_read_into_memory(
    watched: WatchedFeed, feed: EventsFeed, caplog: pytest.LogCaptureFixture
) -> None:
    watched.simulator.broken_lines = "x" * 10_000 + "\n"
    assert len(list(feed.listed(FIRST, LAST))) == 8
    assert "3 of the 27 lines" in caplog.text


@pytest.mark.parametrize("body", [b'{"files": []}', b"\n", b"109078 493919c9c5ff4e11f0d71c55e3a3df0c\n" * 3])
def test_a_list_that_names_no_file_at_all_is_no_answer(canned: CannedServer, body: bytes) -> None:
    canned.gives(Canned(body=body))
    with pytest.raises(
        ApiUnavailable, match=f"lines of {canned.url}/masterfilelist.txt are no `size md5 url` of a file"
    ):
        list(EventsFeed(canned.url, limits=QUICK).listed(FIRST, LAST))


# Where files come from


@pytest.mark.parametrize(
    "elsewhere", ["http://169.254.169.254/latest", "https://feed@evil.example", "http://data.example/gdeltv2/../.."]
)
def test_an_address_in_a_list_leads_nowhere_else(
    watched: WatchedFeed, feed: EventsFeed, tmp_path: Path, elsewhere: str
) -> None:
    watched.simulator.advertised_url = elsewhere
    (file,) = feed.listed(FIRST, FIRST + QUARTER)
    feed.latest()
    assert feed.downloaded(file, tmp_path).read_bytes() == watched.simulator.archive(FIRST)
    assert watched.paths() == ["/masterfilelist.txt", "/lastupdate.txt", f"/{FIRST_NAME}"]


def test_a_user_and_password_of_the_feed_are_sent_and_shown_nowhere(watched: WatchedFeed, tmp_path: Path) -> None:
    feed = EventsFeed(watched.url.replace("http://", "http://me:s3cret@"), limits=QUICK)
    file = feed.latest()
    with pytest.raises(FileMissing) as caught:
        feed.downloaded(replace(known(watched), name=f"{LAST:%Y%m%d%H%M%S}.export.CSV.zip", interval=LAST), tmp_path)
    list(feed.listed(FIRST, LAST))
    assert "s3cret" not in f"{file} {caught.value}"
    expected = "Basic " + base64.b64encode(b"me:s3cret").decode()
    assert [asked.headers["authorization"] for asked in watched.asked] == [expected] * 3


@pytest.mark.parametrize("url", ["feed", "ftp://feed/x", "file:///etc", ""])
def test_a_base_url_that_cannot_be_right_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="events API: the base URL is not of the form"):
        EventsFeed(url)


@pytest.mark.parametrize("name", [f"../{FIRST_NAME}", "/etc/passwd", "x.zip"])
def test_a_name_that_leads_somewhere_is_never_asked_for(
    watched: WatchedFeed, feed: EventsFeed, tmp_path: Path, name: str
) -> None:
    with pytest.raises(FileRejected):
        feed.downloaded(replace(known(watched), name=name), tmp_path)
    with pytest.raises(ValueError, match="is not the file of"):
        feed.downloaded(replace(known(watched), name=NEWEST), tmp_path)
    assert watched.paths() == list(tmp_path.iterdir()) == []


# Files


def test_a_file_comes_under_its_name_whole(watched: WatchedFeed, feed: EventsFeed, tmp_path: Path) -> None:
    path = feed.downloaded(known(watched), tmp_path)
    assert path == tmp_path / FIRST_NAME
    assert path.read_bytes() == watched.simulator.archive(FIRST)
    assert list(tmp_path.iterdir()) == [path]


def test_each_thread_has_a_connection_of_its_own_and_keeps_it(
    watched: WatchedFeed, feed: EventsFeed, tmp_path: Path
) -> None:
    first = feed._client()
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(feed._client).result() is not first
    assert feed._client() is first


@pytest.mark.parametrize("quirk", [{"held": True}, {"withdrawn": True}])
def test_a_file_that_the_feed_does_not_have_may_still_come(
    watched: WatchedFeed, feed: EventsFeed, tmp_path: Path, quirk: dict[str, bool]
) -> None:
    watched.simulator.change(FIRST, **quirk)
    with pytest.raises(
        FileMissing, match=f"^{FIRST_NAME}: the feed does not have it \\(404 for {watched.url}/"
    ) as caught:
        feed.downloaded(known(watched), tmp_path)
    assert isinstance(caught.value, TransientError)
    assert (len(watched.asked), list(tmp_path.iterdir())) == (1, [])
    watched.simulator.restore(FIRST)
    assert feed.downloaded(known(watched), tmp_path).exists()


def test_a_file_that_is_gone_is_one_that_the_feed_does_not_have(
    watched: WatchedFeed, feed: EventsFeed, tmp_path: Path
) -> None:
    watched.simulator.change(FIRST, withdrawn=True, withdrawn_as=410)
    with pytest.raises(FileMissing, match="does not have it \\(410 for "):
        feed.downloaded(known(watched), tmp_path)


def test_a_file_that_is_half_published_is_fetched_until_it_is_whole(
    watched: WatchedFeed, feed: EventsFeed, tmp_path: Path
) -> None:
    watched.simulator.change(FIRST, halves=2)
    assert feed.downloaded(known(watched), tmp_path).read_bytes() == watched.simulator.archive(FIRST)
    assert len(watched.asked) == 3


@pytest.mark.parametrize(
    ("quirk", "what"),
    [
        ({"halves": 9}, r"the file has \d+ bytes, and should have \d+"),
        ({"listed_size": 1}, "the file has more than 1 bytes, and should have 1"),
        ({"listed_size": 1_000_000}, r"the file has \d+ bytes, and should have 1000000"),
        ({"listed_md5": "0" * 32}, f"the file has the MD5 [0-9a-f]+, and should have {'0' * 32}"),
    ],
)
def test_a_file_that_stays_another_one_than_listed_is_missing_and_not_there(
    watched: WatchedFeed, feed: EventsFeed, tmp_path: Path, quirk: dict[str, object], what: str
) -> None:
    watched.simulator.change(FIRST, **quirk)
    with pytest.raises(FileMissing, match=f"^{FIRST_NAME}: {what} \\(3 attempts\\): ask again later"):
        feed.downloaded(known(watched), tmp_path)
    assert (len(watched.asked), list(tmp_path.iterdir())) == (3, [])


def test_a_file_with_the_same_name_and_new_content_needs_the_new_list(
    watched: WatchedFeed, feed: EventsFeed, tmp_path: Path
) -> None:
    (old,) = feed.listed(FIRST, FIRST + QUARTER)
    before = feed.downloaded(old, tmp_path).read_bytes()
    watched.simulator.republish(FIRST)
    with pytest.raises(FileMissing):
        feed.downloaded(old, tmp_path)
    assert (tmp_path / FIRST_NAME).read_bytes() == before
    (new,) = feed.listed(FIRST, FIRST + QUARTER)
    assert new.name == old.name and new.md5 != old.md5
    assert feed.downloaded(new, tmp_path).read_bytes() == watched.simulator.archive(FIRST) != before


@pytest.mark.parametrize("kind", CUT)
def test_a_file_that_broke_off_is_resumed(watched: WatchedFeed, tmp_path: Path, kind: str) -> None:
    feed = EventsFeed(watched.url, limits=limits_for(kind))
    watched.simulator.faults.script("files", [kind])
    whole = watched.simulator.archive(FIRST)
    assert feed.downloaded(known(watched), tmp_path).read_bytes() == whole
    first, second = (asked.headers for asked in watched.asked)
    assert "range" not in first
    assert second["range"] == f"bytes={len(whole) // 2}-"
    assert second["if-range"] == f'"{hashlib.md5(whole).hexdigest()}"'


def test_a_file_that_is_published_again_while_it_broke_off_is_the_new_one_whole(
    watched: WatchedFeed, feed: EventsFeed, tmp_path: Path
) -> None:
    watched.simulator.faults.script("files", ["reset-mid-body"])
    watched.before = lambda number: number == 2 and watched.simulator.republish(FIRST)
    with pytest.raises(FileMissing):
        feed.downloaded(known(watched), tmp_path)
    assert "range" in watched.asked[1].headers
    got = feed.downloaded(known(watched), tmp_path).read_bytes()
    assert got == watched.simulator.archive(FIRST)


def test_a_feed_that_gives_no_parts_gives_the_whole(watched: WatchedFeed, feed: EventsFeed, tmp_path: Path) -> None:
    watched.simulator.ranges = False
    watched.simulator.faults.script("files", ["reset-mid-body"])
    assert feed.downloaded(known(watched), tmp_path).read_bytes() == watched.simulator.archive(FIRST)


def test_a_master_list_that_broke_off_is_resumed(watched: WatchedFeed, feed: EventsFeed) -> None:
    watched.simulator.faults.script("masterfilelist.txt", ["reset-mid-body"])
    assert list(feed.listed(FIRST, LAST)) == right(watched, "masterfilelist.txt")
    assert "range" in watched.asked[1].headers


def test_the_master_list_is_on_no_disk_any_more_when_its_files_are_given(
    feed: EventsFeed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    files = feed.listed(FIRST, LAST)
    next(files)
    assert list(tmp_path.iterdir()) == []
    assert len(list(files)) == 7


def test_without_a_temporary_folder_the_master_list_says_so(
    feed: EventsFeed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no"))
    with pytest.raises(NotStored, match=r"no temporary folder can be made \(No such file.*: set TMPDIR"):
        next(feed.listed(FIRST, LAST))


def test_a_file_that_is_too_large_for_any_of_the_feed_is_refused(
    watched: WatchedFeed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "LARGEST_FILE_BYTES", 1_000)
    with pytest.raises(FileRejected, match="has more than 1,000 bytes: see whether it is a file of the feed"):
        EventsFeed(watched.url, limits=QUICK).downloaded(known(watched), tmp_path)
    assert (len(watched.asked), list(tmp_path.iterdir())) == (1, [])


# Faults that pass, and those that last


@pytest.mark.long
@pytest.mark.parametrize(("call", "kind"), PASSING)
def test_any_passing_fault_ends_in_the_whole(watched: WatchedFeed, tmp_path: Path, call: str, kind: str) -> None:
    faults, feed = watched.simulator.faults, EventsFeed(watched.url, limits=limits_for(kind))
    # A date has whole seconds, so that one of now may be in a second; one that is over asks for no wait.
    faults.retry_after_s = -2.0 if kind.endswith("-date") else 0.0
    faults.script(call, [kind])
    assert ask(feed, watched, call, tmp_path) == right(watched, call)
    assert faults.count(call, kind) == faults.count(call, "none") == 1


def test_of_a_last_update_that_is_cut_off_the_first_line_is_enough(watched: WatchedFeed, feed: EventsFeed) -> None:
    watched.simulator.faults.script("lastupdate.txt", ["truncated-json"])
    assert feed.latest() == known(watched, LAST - QUARTER)


def test_a_master_list_that_is_cut_off_gives_the_files_that_are_in_it(watched: WatchedFeed, feed: EventsFeed) -> None:
    watched.simulator.faults.script("masterfilelist.txt", ["truncated-json"])
    files = list(feed.listed(FIRST, LAST))
    assert files == right(watched, "masterfilelist.txt")[: len(files)]
    assert 0 < len(files) < 8


@pytest.mark.long
@pytest.mark.parametrize(
    ("call", "kind"),
    [
        *(("files", kind) for kind in LASTING),
        *((call, kind) for call in ("lastupdate.txt", "masterfilelist.txt") for kind in ("503", "short-body")),
    ],
)
def test_an_outage_that_lasts_says_what_it_is_and_leaves_nothing(
    watched: WatchedFeed, tmp_path: Path, call: str, kind: str
) -> None:
    feed = EventsFeed(watched.url, limits=limits_for(kind))
    watched.simulator.faults.rates(call, {kind: 1.0})
    with pytest.raises(
        ApiUnavailable, match=f"events API, GET {CALLS[call]}: tried 3 times .* at last: {LASTING[kind]}"
    ):
        ask(feed, watched, call, tmp_path)
    assert (len(watched.asked), list(tmp_path.iterdir())) == (3, [])


@pytest.mark.long
@pytest.mark.parametrize("call", CALLS)
def test_one_byte_at_a_time_ends_at_the_deadline(watched: WatchedFeed, tmp_path: Path, call: str) -> None:
    factor = feed_module.LIST_TIMEOUT_FACTOR if call == "masterfilelist.txt" else 1
    watched.simulator.faults.rates(call, {"slow": 1.0})
    feed = EventsFeed(watched.url, limits=Limits(deadline_s=0.3 / factor))
    with pytest.raises(ApiUnavailable, match=r"tried once .*\(deadline 0\.3 s\), at last: the answer did not come in"):
        ask(feed, watched, call, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("status", [401, 403, 405, 422])
def test_a_refusal_fails_at_once_with_what_the_feed_said(
    watched: WatchedFeed, canned: CannedServer, tmp_path: Path, call: str, status: int
) -> None:
    canned.gives(Canned(status, b'{"message": "not for you"}'))
    with pytest.raises(ApiRefused, match=f"answered {status} \\(“not for you”\\)") as caught:
        ask(EventsFeed(canned.url, limits=QUICK), watched, call, tmp_path)
    assert isinstance(caught.value, PermanentError)
    assert (len(canned.requests), list(tmp_path.iterdir())) == (1, [])


def test_a_feed_that_refuses_access_names_the_variable_that_could_have_credentials(
    watched: WatchedFeed, canned: CannedServer, tmp_path: Path
) -> None:
    canned.gives(Canned(403))
    with pytest.raises(ApiRefused) as caught:
        ask(EventsFeed(canned.url, limits=QUICK), watched, "lastupdate.txt", tmp_path)
    assert str(caught.value) == (
        f"events API, GET /lastupdate.txt: answered 403: {canned.url} refuses access: if it wants credentials,"
        " put them into EVENTS_FEED_URL, as https://user:password@host"
    )


@pytest.mark.parametrize("call", ["lastupdate.txt", "masterfilelist.txt"])
def test_a_feed_without_lists_is_no_feed(watched: WatchedFeed, canned: CannedServer, tmp_path: Path, call: str) -> None:
    canned.gives(Canned(404))
    with pytest.raises(ApiRefused) as caught:
        ask(EventsFeed(canned.url, limits=QUICK), watched, call, tmp_path)
    assert str(caught.value) == (
        f"events API, GET /{call}: answered 404: there is no such thing at {canned.url}:"
        " check the name asked for and EVENTS_FEED_URL"
    )


@pytest.mark.parametrize("call", CALLS)
def test_an_absurd_retry_after_fails_at_once_and_says_so(
    watched: WatchedFeed, canned: CannedServer, tmp_path: Path, call: str
) -> None:
    canned.gives(Canned(429, headers={"retry-after": "86400"}))
    with pytest.raises(ApiUnavailable, match="asks to wait 86400 s, longer than the"):
        ask(EventsFeed(canned.url, limits=QUICK), watched, call, tmp_path)
    assert len(canned.requests) == 1


@pytest.mark.parametrize("call", CALLS)
def test_a_redirect_leads_no_further_than_the_feed(
    watched: WatchedFeed, canned: CannedServer, tmp_path: Path, call: str
) -> None:
    feed = EventsFeed(canned.url, limits=QUICK)
    canned.gives(Canned(302, headers={"location": CALLS[call]}))
    with pytest.raises(ApiRefused, match="redirected more than 5 times"):
        ask(feed, watched, call, tmp_path)
    canned.gives(Canned(302, headers={"location": f"{watched.url}{CALLS[call]}"}))
    with pytest.raises(ApiRefused, match="answered 302 with a redirect to another host or protocol"):
        ask(feed, watched, call, tmp_path)
    assert watched.paths() == list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("content_type", ["text/html", "application/json; charset=utf-16", "x"])
def test_a_wrong_content_type_or_charset_changes_nothing(
    watched: WatchedFeed, canned: CannedServer, tmp_path: Path, call: str, content_type: str
) -> None:
    newest, listed = watched.simulator.last_update(canned.url), watched.simulator.master_list(canned.url)
    body = {"lastupdate.txt": newest.encode(), "masterfilelist.txt": listed}
    canned.gives(Canned(body=body.get(call, watched.simulator.archive(FIRST)), headers={"content-type": content_type}))
    got = ask(EventsFeed(canned.url, limits=QUICK), watched, call, tmp_path)
    expected = right(watched, call)
    assert re.sub(r"127\.0\.0\.1:\d+", "", repr(got)) == re.sub(r"127\.0\.0\.1:\d+", "", repr(expected))


@pytest.mark.parametrize("call", CALLS)
def test_a_feed_that_takes_no_connection_is_tried_again_and_named(
    watched: WatchedFeed, tmp_path: Path, call: str
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        said = f"tried 3 times .*: no connection was accepted: check that EVENTS_FEED_URL is right and that {url} can"
        with pytest.raises(ApiUnavailable, match=said):
            ask(EventsFeed(url, limits=QUICK), watched, call, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_connection_that_times_out_is_tried_again_and_named(watched: WatchedFeed, tmp_path: Path) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        feed = EventsFeed(f"http://127.0.0.1:{full.getsockname()[1]}", limits=replace(QUICK, connect_timeout_s=0.05))
        with pytest.raises(ApiUnavailable, match="tried 3 times .* at last: the connection timed out"):
            feed.downloaded(known(watched), tmp_path)
        for one in waiting:
            one.close()


def test_a_host_without_an_address_is_tried_again_and_named(
    watched: WatchedFeed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = known(watched)

    def no_address(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_address)
    with pytest.raises(ApiUnavailable, match="at last: the host's name was not found"):
        EventsFeed("http://feed.invalid", limits=QUICK).downloaded(file, tmp_path)


def test_a_failed_tls_handshake_fails_at_once(watched: WatchedFeed, tmp_path: Path) -> None:
    feed = EventsFeed(watched.url.replace("http:", "https:"), limits=QUICK)
    with pytest.raises(ApiRefused, match="the TLS handshake failed: check the certificate"):
        feed.downloaded(known(watched), tmp_path)
