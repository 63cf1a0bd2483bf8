"""Whatever a server sends, a client gives a result or fails with a failure of its own, in bounded time."""

import gc
import gzip
import math
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from etl_assets.core.sources.http.client import ApiClient, ApiRefused, ApiUnavailable, Limits
from etl_assets.core.sources.http.files import FileClient
from etl_assets.core.sources.http.outcomes import MalformedAnswer, parse_json, retry_after_s
from etl_assets.core.sources.http.stream import StreamClient
from etl_assets_tests.core.sources.scripted import ScriptedServer, Step, answer, drip, serving
from etl_assets_tests.limits import QUICK

ONCE = Limits(connect_timeout_s=2, read_timeout_s=0.5, deadline_s=2, max_attempts=1)
CHUNKED = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n"


def got(url: str, _: Path, limits: Limits = ONCE) -> object:
    with ApiClient("hostile", url, limits=limits) as client:
        return client.get_json("/x")


def posted(url: str, _: Path, limits: Limits = ONCE) -> object:
    with ApiClient("hostile", url, limits=limits) as client:
        return client.post_json("/x", b"{}")


def streamed(url: str, _: Path, limits: Limits = ONCE) -> bytes:
    with StreamClient("hostile", url, limits=limits) as client:
        with client.get_stream("/x", params={"after": 1}, accept="application/x-ndjson") as stream:
            return b"".join(stream)


def downloaded(url: str, folder: Path, limits: Limits = ONCE) -> bytes:
    with FileClient("hostile", url, limits=limits) as client:
        return client.download("x", folder / "x").read_bytes()


DOORS: list[Callable[[str, Path], object]] = [got, posted, streamed, downloaded]


# What is known


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        pytest.param(CHUNKED + b"-5\r\n[1]\r\n0\r\n\r\n", "the answer was not HTTP", id="negative chunk size"),
        pytest.param(CHUNKED + b"f" * 70_000, "the answer was not HTTP", id="chunk size without end"),
        pytest.param(CHUNKED + b"ffffffffffffffffffff\r\n[1]", "the body broke off", id="chunk beyond memory"),
        pytest.param(answer(200, b"[1]", Content_Length="-3"), "the answer was not HTTP", id="negative length"),
        pytest.param(answer(200, b"[1]", Content_Length="3, 4"), "the answer was not HTTP", id="two lengths"),
        pytest.param(answer(200, b"[1]", Content_Length="1_0"), "the answer was not HTTP", id="length of Python"),
        pytest.param(answer(200, b"[1]", Content_Length="9" * 5_000), "the answer was not HTTP", id="absurd length"),
        pytest.param(answer(200, b"[1]", Content_Length="9" * 15), "the body broke off", id="large length"),
        pytest.param(answer(200, b"[1]", Transfer_Encoding="gzip, chunked"), "the answer was not HTTP", id="coding"),
        pytest.param(b"HTTP/1.1 200 X\r\n" + b"X: y\r\n" * 200 + b"\r\n", "the answer was not HTTP", id="many headers"),
        pytest.param(b"HTTP/1.1 200 X\r\nX: " + b"y" * 70_000, "the answer was not HTTP", id="long header"),
        pytest.param(b"HTTP/7.7 200 X\r\n\r\n[1]", "the answer was not HTTP", id="version of HTTP"),
        pytest.param(b"HTTP/1.1 2\xb20 X\r\n\r\n[1]", "the answer was not HTTP", id="status that is no number"),
        pytest.param(b"HTTP/1.1 " + b"2" * 5_000 + b" X\r\n\r\n[1]", "the answer was not HTTP", id="absurd status"),
        pytest.param(answer(200, b"[1]", Content_Encoding="gzip, gzip"), "not compressed", id="not gzip"),
        pytest.param(answer(200, b"[1]", Content_Encoding=", ".join(["gzip"] * 50)), "not compressed", id="50 times"),
        pytest.param(
            answer(200, zlib.compress(b"[1]")[:-1] + b"x", Content_Encoding="deflate"), "not compressed", id="checksum"
        ),
    ],
)
def test_an_answer_that_is_no_http_is_retried_and_named(fault: bytes, what: str, tmp_path: Path) -> None:
    with serving(fault, answer(200, b"[1]")) as server:
        assert got(server.url, tmp_path, QUICK) == [1]
    for door in (got, streamed, downloaded):
        with serving(fault) as server, pytest.raises(ApiUnavailable, match=what):
            door(server.url, tmp_path)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.long
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 99), id="continue for ever"),
        pytest.param(drip(CHUNKED, b"1;" + b"x" * 200), id="chunk extension"),
        pytest.param(drip(CHUNKED + b"2\r\n[]\r\n0\r\n", b"x" * 200), id="trailer"),
        pytest.param(drip(answer(200, b"", Content_Encoding="gzip")[:-2], gzip.compress(b"") * 99), id="empty gzip"),
        pytest.param(drip(answer(500, b"x" * 400)[:-400], b"x" * 400), id="refusal"),
    ],
)
def test_what_never_ends_ends_in_time(fault: Step, door: Callable[[str, Path], object], tmp_path: Path) -> None:
    with serving(fault) as server:
        began = time.monotonic()
        judged(server, door, tmp_path)
        # It ends; how soon is not a test's to say, on a machine that others use too.
        assert time.monotonic() - began < ONCE.deadline_s + ONCE.read_timeout_s + 20


def test_what_a_parser_does_not_expect_is_the_answers_fault_and_says_where() -> None:
    def parse(_: str, body: bytes) -> int:
        return int(body)

    with serving(answer(200, b"key s3cret")) as server, ApiClient("hostile", server.url, limits=ONCE) as client:
        with pytest.raises(ApiUnavailable) as caught:
            client.get_parsed("/x", parse)
    assert "at last: the answer could not be read (ValueError in test_http_hostile.py, line" in str(caught.value)
    assert "s3cret" not in f"{caught.value!r}{caught.value.__cause__!r}{caught.value.__context__!r}"


def test_an_answer_of_any_depth_leaves_what_is_closed_meanwhile_alone() -> None:
    closed: list[int] = []
    usual = gc.get_threshold()
    try:
        # So many objects later garbage is collected: at each depth of the stack, and so at its end too.
        for number in range(10, sys.getrecursionlimit(), 10):
            gc.collect(0)
            gc.set_threshold(number)
            in_a_cycle: list[object] = [Closing(closed, number)]
            in_a_cycle.append(in_a_cycle)
            del in_a_cycle
            with pytest.raises(MalformedAnswer, match="nested too deeply"):
                parse_json(b"[" * 100_000)
    finally:
        gc.set_threshold(*usual)
    gc.collect()
    assert sorted(closed) == list(range(10, sys.getrecursionlimit(), 10))


class Closing:
    """Something whose finaliser needs some of the stack."""

    def __init__(self, closed: list[int], number: int) -> None:
        self._closed = closed
        self._number = number

    def __del__(self) -> None:
        self._close(depth=100)

    def _close(self, *, depth: int) -> None:
        if depth:
            self._close(depth=depth - 1)
        else:
            self._closed.append(self._number)


# What is not


def judged(server: ScriptedServer, door: Callable[[str, Path], object], folder: Path) -> None:
    """Goes through a door, and takes its own failures alone."""
    try:
        door(server.url, folder)
    except (ApiUnavailable, ApiRefused) as error:
        str(error).encode()


NAMES = st.sampled_from(
    [
        "Content-Length",
        "Transfer-Encoding",
        "Content-Encoding",
        "Content-Type",
        "Content-Range",
        "Location",
        "Link",
        "Retry-After",
        "Date",
        "Set-Cookie",
        "ETag",
        "Connection",
        "Trailer",
        "X-Stream-Source",
    ]
)
VALUES = st.one_of(
    st.sampled_from(
        [
            "-1",
            "0",
            "3, 4",
            "1e9",
            "0x3",
            "chunked",
            "gzip",
            "deflate, gzip",
            "br",
            "close",
            "keep-alive",
            "?",
            ",",
            "/y",
            "//",
        ]
    ),
    st.sampled_from(
        ["9" * 30, "9" * 5_000, "bytes 0-2/3", "bytes 9-1/0", "bytes */-5", "a; charset=\x00", "<x>; rel=next"]
    ),
    st.sampled_from(["http://[::1", "javascript:1", "/\x00", "http://127.0.0.1:99999/", "file:///etc/passwd"]),
    st.sampled_from(["Mon, 99 Foo 2020 99:99:99 GMT", "Sun, 06 Nov 0001 08:49:37 -9999", "a=b; expires=x"]),
    st.text(st.characters(max_codepoint=255), max_size=20),
).map(lambda value: value.encode("latin-1"))
DOCUMENTS = st.one_of(
    st.sampled_from(
        [
            b"[1]",
            b"",
            b"[" * 100_000,
            b"9" * 5_000,
            b"1e999",
            b'"\\ud800"',
            b'"\xed\xa0\x80"',
            b"<p>",
            b"\xff\xfe",
            b"\x00",
        ]
    ),
    st.binary(max_size=40),
)
PACKINGS: list[Callable[[bytes], bytes]] = [bytes, gzip.compress, zlib.compress]
SIZES = st.sampled_from([b"0", b"-5", b"5", b"f" * 20, b"+1", b"0x1", b"1_0", b" 2 ", b"", b"2;a=b", b"2;\x00", b"zz"])


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """A status line, headers and a body, each of them right or wrong, and perhaps some bytes of it all changed."""
    first = draw(st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.0 200", b"HTTP/1.1 %d X" % draw(st.integers(0, 1000))]))
    first = draw(st.one_of(st.just(first), st.just(first), st.binary(max_size=20)))
    headers = draw(st.lists(st.tuples(NAMES.map(str.encode), VALUES), max_size=5))
    body = draw(st.sampled_from(PACKINGS))(draw(DOCUMENTS))
    if draw(st.booleans()):
        headers.append((b"Transfer-Encoding", b"chunked"))
        parts = draw(st.lists(st.tuples(SIZES, st.binary(max_size=6)), max_size=3))
        body = b"%x\r\n%b\r\n" % (len(body), body) + b"".join(b"%b\r\n%b\r\n" % part for part in parts)
    elif draw(st.booleans()):
        headers.append((b"Content-Length", b"%d" % len(body)))
    sent = b"\r\n".join([first, *(b"%b: %b" % header for header in headers), b"", body])
    for place, byte in draw(st.lists(st.tuples(st.integers(0, len(sent)), st.binary(max_size=2)), max_size=3)):
        sent = sent[:place] + byte + sent[place + 1 :]
    return sent


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with serving(b"") as scripted:
        yield scripted


def fuzz(server: ScriptedServer, folder: Path, sent: bytes) -> None:
    server.gives(sent)
    for door in DOORS:
        began = time.monotonic()
        judged(server, door, folder)
        # It ends; how soon is not a test's to say, on a machine that others use too.
        assert time.monotonic() - began < ONCE.deadline_s + ONCE.read_timeout_s + 20


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=answers())
@example(sent=CHUNKED + b"-5\r\n[1]\r\n0\r\n\r\n")
def test_only_failures_of_a_client_leave_it(server: ScriptedServer, tmp_path: Path, sent: bytes) -> None:
    fuzz(server, tmp_path, sent)


@pytest.mark.long
@settings(max_examples=3_000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=answers())
def test_only_failures_of_a_client_leave_it_however_often(server: ScriptedServer, tmp_path: Path, sent: bytes) -> None:
    fuzz(server, tmp_path, sent)


@given(value=st.text(max_size=40), date=st.text(max_size=40))
@example(value="9" * 5_000, date="")
@example(value="Sun, 06 Nov 0001 08:49:37 -9999", date="Sun, 06 Nov 9999 08:49:37 +9999")
def test_any_retry_after_is_a_time_or_none(value: str, date: str) -> None:
    waits = retry_after_s({"Retry-After": value, "Date": date})
    assert waits is None or (waits >= 0 and not math.isnan(waits))
