"""Files over HTTP: whole or not there, resumed where that is safe, and nothing left of what failed."""

import gzip
import hashlib
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from etl_assets.core.sources.http import files as http_files
from etl_assets.core.sources.http.client import ApiRefused, ApiUnavailable, Limits
from etl_assets.core.sources.http.files import Expected, FileClient, FileDiffers, NotStored, temporary_folder
from etl_assets.errors import PermanentError, TransientError
from etl_assets_tests.core.sources.canned import Canned, CannedServer
from etl_assets_tests.limits import QUICK

BODY = bytes(range(256)) * 40
MD5 = hashlib.md5(BODY).hexdigest()
EXACT = Expected(len(BODY), MD5)
TAG = {"etag": '"one"'}

Serving = Callable[..., CannedServer]


@pytest.fixture(scope="module")
def served() -> Iterator[CannedServer]:
    with CannedServer().served() as server:
        yield server


@pytest.fixture
def serving(served: CannedServer) -> Serving:
    return served.gives


def fetched(server: CannedServer, target: Path, expected: Expected = EXACT, limits: Limits = QUICK) -> Path:
    with FileClient("feed", server.url, limits=limits) as client:
        return client.download("file.zip", target, expected)


def rest(begin: int, *, body: bytes = BODY, etag: str = '"one"', **other: str) -> Canned:
    """The answer with the rest from a byte on."""
    place = f"bytes {begin}-{len(body) - 1}/{len(body)}"
    return Canned(206, body[begin:], {"content-range": place, "etag": etag, **other})


def ranges(server: CannedServer) -> list[tuple[str | None, str | None]]:
    return [(request.get("range"), request.get("if-range")) for request in server.requests]


BROKEN = Canned(body=BODY, headers=TAG, broken_after=4_000)


# The folder


def test_a_temporary_folder_of_a_process_that_was_killed_is_gone_after_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ages_h = {"etl-assets-files-killed": 25, "etl-assets-files-used": 23, "etl-assets-socket": 25, "other": 25}
    for name, age_h in ages_h.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "masterfilelist.txt").touch()
        os.utime(tmp_path / name, times=(time.time() - age_h * 3_600,) * 2)
    with temporary_folder() as folder:
        left = {path.name for path in tmp_path.iterdir()} - {folder.name}
    assert left == {"etl-assets-files-used", "etl-assets-socket", "other"}


# Whole


def test_a_file_is_fetched_under_its_name_and_nothing_else_is_there(serving: Serving, tmp_path: Path) -> None:
    server = serving(Canned(body=BODY))
    assert fetched(server, tmp_path / "a.zip") == tmp_path / "a.zip"
    assert (tmp_path / "a.zip").read_bytes() == BODY
    assert [file.name for file in tmp_path.iterdir()] == ["a.zip"]
    (request,) = server.requests
    assert (request["accept"], request["accept-encoding"], "range" in request) == ("*/*", "identity", False)


def test_a_file_that_is_there_is_replaced_at_once_and_who_reads_it_reads_on(serving: Serving, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"before")
    with (tmp_path / "a.zip").open("rb") as reader:
        fetched(serving(Canned(body=BODY)), tmp_path / "a.zip")
        assert reader.read() == b"before"
    assert (tmp_path / "a.zip").read_bytes() == BODY


@pytest.mark.parametrize(
    "expected", [Expected(), Expected(size=len(BODY)), Expected(md5=MD5), Expected(len(BODY), MD5.upper())]
)
def test_what_is_not_known_beforehand_is_not_compared(serving: Serving, tmp_path: Path, expected: Expected) -> None:
    assert fetched(serving(Canned(body=BODY)), tmp_path / "a.zip", expected).read_bytes() == BODY


def test_a_file_that_is_sent_compressed_all_the_same_is_stored_as_it_is(serving: Serving, tmp_path: Path) -> None:
    server = serving(Canned(body=gzip.compress(BODY), headers={"content-encoding": "gzip"}))
    assert fetched(server, tmp_path / "a.zip").read_bytes() == BODY


def test_a_file_that_a_proxy_has_touched_is_a_file(serving: Serving, tmp_path: Path) -> None:
    assert fetched(serving(Canned(203, BODY)), tmp_path / "a.zip").read_bytes() == BODY


# Resumed


def test_a_body_that_broke_off_goes_on_where_it_did(serving: Serving, tmp_path: Path) -> None:
    server = serving(BROKEN, rest(4_000))
    assert fetched(server, tmp_path / "a.zip").read_bytes() == BODY
    assert ranges(server) == [(None, None), ("bytes=4000-", '"one"')]


def test_a_refusal_between_two_parts_loses_nothing(serving: Serving, tmp_path: Path) -> None:
    server = serving(BROKEN, Canned(503), rest(4_000))
    assert fetched(server, tmp_path / "a.zip").read_bytes() == BODY
    assert ranges(server)[1:] == [("bytes=4000-", '"one"')] * 2


def test_a_file_that_changed_in_between_comes_from_its_beginning(serving: Serving, tmp_path: Path) -> None:
    server = serving(Canned(body=bytes(len(BODY)), headers=TAG, broken_after=4_000), Canned(body=BODY))
    assert fetched(server, tmp_path / "a.zip").read_bytes() == BODY
    assert ranges(server)[1] == ("bytes=4000-", '"one"')


@pytest.mark.parametrize("headers", [{}, {"etag": 'W/"one"'}, {"last-modified": "Mon, 21 Jan 2019 22:00:00 GMT"}])
def test_the_rest_is_not_requested_where_nothing_says_what_of(
    serving: Serving, tmp_path: Path, headers: dict[str, str]
) -> None:
    server = serving(Canned(body=BODY, headers=headers, broken_after=4_000), Canned(body=BODY))
    assert fetched(server, tmp_path / "a.zip").read_bytes() == BODY
    assert ranges(server) == [(None, None)] * 2


def test_the_rest_of_a_compressed_body_is_not_requested(serving: Serving, tmp_path: Path) -> None:
    packed = Canned(body=gzip.compress(BODY), headers={**TAG, "content-encoding": "gzip"}, broken_after=40)
    server = serving(packed, Canned(body=BODY))
    assert fetched(server, tmp_path / "a.zip").read_bytes() == BODY
    assert ranges(server) == [(None, None)] * 2


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(rest(3_999), id="another place"),
        pytest.param(rest(4_000, body=BODY[:5_000], **{"content-range": "bytes 4000-4999/10240"}), id="not to the end"),
        pytest.param(rest(4_000, etag='"two"'), id="of another file"),
        pytest.param(rest(4_000, **{"content-range": "bytes 4000-10239/*"}), id="of unknown length"),
        pytest.param(Canned(206, BODY[4_000:], TAG), id="no place"),
        pytest.param(Canned(416), id="no such range"),
    ],
)
def test_an_answer_that_is_not_the_rest_is_dropped_and_the_whole_requested(
    serving: Serving, tmp_path: Path, wrong: Canned
) -> None:
    server = serving(BROKEN, wrong, Canned(body=BODY))
    # Without size and MD5: what was put together wrongly would not be found.
    assert fetched(server, tmp_path / "a.zip", Expected()).read_bytes() == BODY
    assert ranges(server)[2] == (None, None)


def test_a_part_that_nobody_requested_is_refused(serving: Serving, tmp_path: Path) -> None:
    with pytest.raises(ApiRefused, match="answered 206"):
        fetched(serving(rest(0)), tmp_path / "a.zip")


# Another file than it should be


def test_a_file_that_is_being_published_is_fetched_again_from_its_beginning(serving: Serving, tmp_path: Path) -> None:
    server = serving(
        Canned(body=BODY[:5_000], headers=TAG), Canned(body=bytes(len(BODY)), headers=TAG), Canned(body=BODY)
    )
    assert fetched(server, tmp_path / "a.zip").read_bytes() == BODY
    assert ranges(server) == [(None, None)] * 3


@pytest.mark.parametrize(
    ("body", "reason", "what"),
    [
        (BODY[:-1], "size", "the file has 10239 bytes, and should have 10240"),
        (BODY + b"x" * 300_000, "size", "the file has more than 10240 bytes, and should have 10240"),
        (BODY[::-1], "md5", f"the file has the MD5 {hashlib.md5(BODY[::-1]).hexdigest()}, and should have {MD5}"),
    ],
)
def test_a_file_that_stays_another_one_fails_after_all_attempts(
    serving: Serving, tmp_path: Path, body: bytes, reason: str, what: str
) -> None:
    server = serving(Canned(body=body))
    with pytest.raises(FileDiffers, match=r"feed API, GET /file.zip: tried 3 times .* at last: ") as caught:
        fetched(server, tmp_path / "a.zip")
    assert (caught.value.reason, caught.value.what, caught.value.attempts) == (reason, what, 3)
    assert isinstance(caught.value, TransientError)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_goes_away_after_another_file_is_not_reported_to_have_another_file(
    serving: Serving, tmp_path: Path
) -> None:
    with pytest.raises(ApiUnavailable, match="at last: answered 503") as caught:
        fetched(serving(Canned(body=BODY[1:]), Canned(503)), tmp_path / "a.zip")
    assert not isinstance(caught.value, FileDiffers)


@pytest.mark.parametrize("body", [b"", b"<html>login</html>", b"\r\n <!doctype html>"])
def test_an_empty_body_or_a_page_is_no_file(serving: Serving, tmp_path: Path, body: bytes) -> None:
    server = serving(Canned(body=body))
    with pytest.raises(ApiUnavailable, match="answered 200 with (an empty body|a page .* instead of the file)"):
        fetched(server, tmp_path / "a.zip", Expected())
    assert (len(server.requests), list(tmp_path.iterdir())) == (3, [])


@pytest.mark.parametrize("expected", [Expected(), EXACT])
def test_a_file_that_is_too_large_is_refused_at_once(serving: Serving, tmp_path: Path, expected: Expected) -> None:
    server = serving(Canned(body=BODY))
    with pytest.raises(ApiRefused, match="the file is longer than 10000 bytes") as caught:
        fetched(server, tmp_path / "a.zip", expected, Limits(max_body_bytes=10_000))
    assert isinstance(caught.value, PermanentError)
    assert (len(server.requests), list(tmp_path.iterdir())) == (1, [])


@pytest.mark.parametrize(("expected", "largest"), [(Expected(), 3_000), (Expected(size=3_000), 1_000_000)])
def test_little_more_than_the_limit_or_the_size_is_written(
    serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: Expected, largest: int
) -> None:
    monkeypatch.setattr(http_files, "CHUNK_BYTES", 1_000)
    written = 0
    write = http_files._Partial.write

    def counted(partial_file: http_files._Partial, chunk: bytes) -> None:
        nonlocal written
        written += len(chunk)
        write(partial_file, chunk)

    monkeypatch.setattr(http_files._Partial, "write", counted)
    limits = Limits(max_body_bytes=largest, max_attempts=1)
    with pytest.raises((ApiRefused, FileDiffers), match="longer than 3000 bytes|has more than 3000 bytes"):
        fetched(serving(Canned(body=BODY)), tmp_path / "a.zip", expected, limits)
    assert written <= 4_000


# What is left


@pytest.mark.parametrize("answer", [Canned(500), Canned(403), Canned(body=BODY, broken_after=100), Canned(body=b"x")])
def test_a_failure_leaves_the_file_that_was_there_and_nothing_beside_it(
    serving: Serving, tmp_path: Path, answer: Canned
) -> None:
    (tmp_path / "a.zip").write_bytes(b"before")
    with pytest.raises((ApiUnavailable, ApiRefused)):
        fetched(serving(answer), tmp_path / "a.zip")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a.zip", b"before")]


def test_an_interruption_leaves_nothing(serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        assert [file.suffix for file in tmp_path.iterdir()] == [".part"]
        raise KeyboardInterrupt

    monkeypatch.setattr(http_files._Partial, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetched(serving(Canned(body=BODY)), tmp_path / "a.zip")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named_and_nothing_requested(serving: Serving, tmp_path: Path) -> None:
    server = serving(Canned(body=BODY))
    with pytest.raises(
        NotStored, match=f"{tmp_path}/no/a.zip cannot be written \\(No such file or directory\\): free space"
    ):
        fetched(server, tmp_path / "no" / "a.zip")
    assert server.requests == []


def test_a_disk_that_takes_no_more_is_no_failure_of_the_server(serving: Serving, tmp_path: Path) -> None:
    server = serving(Canned(body=BODY * 10))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(NotStored, match="a.zip cannot be written \\(File too large\\): free space"):
            fetched(server, tmp_path / "a.zip", Expected())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (len(server.requests), list(tmp_path.iterdir())) == (1, [])
