"""The client against real sockets: what it retries, what it refuses, what it says, and what it never says."""

import gzip
import json
import logging
import socket
import ssl
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import requests
import urllib3
from pydantic import SecretStr

from etl_assets.core.sources.http.client import (
    ApiClient,
    ApiRefused,
    ApiResponse,
    ApiUnavailable,
    ConflictError,
    Limits,
)
from etl_assets.core.sources.http.outcomes import Action, MalformedAnswer, parse_json, retry_after_s
from etl_assets.core.sources.http.transport import rule_for_failure
from etl_assets.errors import ConfigurationError, PermanentError, TransientError
from etl_assets_tests.core.sources.scripted import (
    ScriptedServer,
    Step,
    answer,
    answer_with,
    drip,
    reset,
    reset_in_headers,
    reset_in_mid_body,
    serving,
    silence,
    stall_in_mid_body,
)
from etl_assets_tests.limits import IMPATIENT, QUICK

KEY = "s3cret/key+1"

OK = answer(200, b'[{"id": 1}]')


def client_of(url: str, *, limits: Limits = QUICK, **options: Any) -> ApiClient:
    return ApiClient(
        "outages",
        url,
        url_variable="OUTAGES_API_URL",
        secret_header=("x-api-key", SecretStr(KEY)),
        secret_variable="OUTAGES_API_KEY",
        limits=limits,
        **options,
    )


def get(server: ScriptedServer, path: str = "/outages", **options: Any) -> Any:
    with client_of(server.url, **options) as client:
        return client.get_json(path)


def post(server: ScriptedServer, **options: Any) -> ApiResponse:
    with client_of(server.url, **options) as client:
        return client.post_json("/site-outages/x", b'[{"a":1}]', headers={"Idempotency-Key": "k1"})


# Success


def test_a_document_is_read_with_key_headers_and_query() -> None:
    with serving(OK) as server, client_of(server.url + "/v1/", headers={"X-Trace": "7"}) as client:
        assert client.get_json("outages", params={"after": 12, "name": "a b"}) == [{"id": 1}]
    head = server.requests[0].decode().split("\r\n")
    assert head[0] == "GET /v1/outages?after=12&name=a+b HTTP/1.1"
    assert f"x-api-key: {KEY}" in head
    assert "X-Trace: 7" in head
    assert "Accept: application/json" in head


def test_a_payload_goes_out_byte_by_byte() -> None:
    body = b'[ {"name":"\xc3\xa9"} ,\n null]'
    with serving(answer(201, b"taken")) as server, client_of(server.url) as client:
        assert client.post_json("/x", body) == ApiResponse(status=201, text="taken", attempts=1)
    head, _, sent = server.requests[0].partition(b"\r\n\r\n")
    assert sent == body
    assert b"Content-Type: application/json" in head


def test_a_compressed_answer_is_unpacked() -> None:
    with serving(answer(200, gzip.compress(b"[1]"), Content_Encoding="gzip")) as server:
        assert get(server) == [1]


def test_a_body_that_unfolds_beyond_the_limit_is_refused() -> None:
    bomb = gzip.compress(b"[" + b" " * 10_000_000 + b"]")
    limits = Limits(max_body_bytes=1_000_000)
    with serving(answer(200, bomb, Content_Encoding="gzip")) as server, pytest.raises(ApiRefused) as caught:
        get(server, limits=limits)
    assert "the body is longer than 1000000 bytes: ask for less at a time, or raise max_body_bytes" in str(caught.value)


# Statuses


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 507, 599])
def test_a_transient_status_is_retried(status: int) -> None:
    with serving(answer_with(status, "busy"), answer_with(status, "busy"), OK) as server:
        assert get(server) == [{"id": 1}]
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 406, 410, 418, 422, 451, 501, 505])
def test_a_permanent_status_fails_at_once(status: int) -> None:
    with serving(answer_with(status, "no such thing"), OK) as server, pytest.raises(ApiRefused) as caught:
        get(server)
    assert len(server.requests) == 1
    assert isinstance(caught.value, PermanentError)
    assert (caught.value.status, caught.value.attempts, caught.value.outcome_unknown) == (status, 1, False)
    assert str(caught.value).startswith(f"outages API, GET /outages: answered {status} (“no such thing”): ")


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_names_its_variable_and_the_api(status: int) -> None:
    with serving(answer_with(status, "forbidden")) as server, pytest.raises(ApiRefused) as caught:
        get(server)
    assert str(caught.value) == (
        f"outages API, GET /outages: answered {status} (“forbidden”):"
        f" set OUTAGES_API_KEY to a key that {server.url} accepts"
    )


def test_a_404_names_the_path() -> None:
    with serving(answer(404)) as server, pytest.raises(ApiRefused) as caught:
        get(server, "/site-info/nowhere")
    assert str(caught.value) == (
        "outages API, GET /site-info/nowhere: answered 404:"
        f" there is no such thing at {server.url}: check the name asked for and OUTAGES_API_URL"
    )


def test_a_part_of_a_document_is_not_the_document() -> None:
    with serving(answer(206, b"[1]")) as server, pytest.raises(ApiRefused, match="answered 206"):
        get(server)


def test_an_outage_that_lasts_says_how_often_how_long_and_what_the_server_said() -> None:
    with serving(answer_with(503, "down for\nmaintenance")) as server, pytest.raises(ApiUnavailable) as caught:
        get(server, clock=lambda: 0.0)
    assert len(server.requests) == 3
    assert isinstance(caught.value, TransientError)
    assert (caught.value.status, caught.value.attempts) == (503, 3)
    assert str(caught.value) == (
        "outages API, GET /outages: tried 3 times in 0.0 s (deadline 5 s), at last: answered 503"
        f" (“down for maintenance”): try again later; if it lasts, tell those who run {server.url}"
    )


def test_the_faults_that_an_api_lists_are_shown_with_their_places() -> None:
    detail = [{"loc": ["body", 0, "begin"], "msg": "Field required", "type": "missing"}, {"msg": "no site"}]
    refused = answer(422, json.dumps({"detail": detail}).encode())
    with serving(refused) as server, pytest.raises(ApiRefused, match="body.0.begin: Field required; no site"):
        get(server)


def test_a_long_message_of_the_server_is_cut() -> None:
    with serving(answer_with(400, "x" * 1000)) as server, pytest.raises(ApiRefused) as caught:
        get(server)
    assert "(“" + "x" * 199 + "…”)" in str(caught.value)


def test_an_error_page_without_end_is_not_read_to_its_end() -> None:
    head = b"HTTP/1.1 403 X\r\nContent-Length: 1000000\r\n\r\n"
    with serving(drip(head, b"x" * 60)) as server:
        with pytest.raises(ApiRefused, match="answered 403: set OUTAGES_API_KEY"):
            get(server, limits=IMPATIENT)


# Waiting


class Sleeps(list[float]):
    """Stands for `time.sleep` and keeps what was asked of it."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def test_retry_after_in_seconds_is_kept() -> None:
    sleeps = Sleeps()
    with serving(answer_with(429, "slow down", Retry_After="3"), OK) as server:
        assert get(server, sleep=sleeps) == [{"id": 1}]
    assert sleeps == [3.0]


def test_retry_after_as_a_date_is_counted_from_the_servers_own_clock() -> None:
    now = datetime(2031, 5, 1, 12, tzinfo=UTC)
    date, until = (format_datetime(t, usegmt=True) for t in (now, now + timedelta(seconds=4)))
    sleeps = Sleeps()
    with serving(answer(503, Retry_After=until, Date=date), OK) as server:
        assert get(server, sleep=sleeps) == [{"id": 1}]
    assert sleeps == [4.0]


def test_without_retry_after_the_pause_is_full_jitter_under_a_capped_exponential() -> None:
    class Highest:
        def uniform(self, low: float, high: float) -> float:
            assert low == 0.0
            return high

    sleeps = Sleeps()
    limits = Limits(max_attempts=6, base_delay_s=0.5, max_delay_s=3.0)
    with serving(answer(429)) as server, pytest.raises(ApiUnavailable):
        get(server, limits=limits, sleep=sleeps, rng=Highest())
    assert sleeps == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert len(server.requests) == 6


@pytest.mark.parametrize("absurd", ["86400", "9" * 400])
def test_an_absurd_retry_after_fails_at_once_and_says_so(absurd: str) -> None:
    with serving(answer_with(429, "quota", Retry_After=absurd)) as server, pytest.raises(ApiUnavailable) as caught:
        get(server, clock=lambda: 0.0)
    assert len(server.requests) == 1
    assert f"asks to wait {float(absurd):.0f} s, longer than the 5.0 s left of the deadline" in str(caught.value)


@pytest.mark.parametrize("nonsense", ["", "soon", "-5", "nan", "1e9", "Mon, 99 Foo 2020 99:99:99 GMT", "1,5"])
def test_a_retry_after_that_makes_no_sense_counts_as_none(nonsense: str) -> None:
    assert retry_after_s({"Retry-After": nonsense}) is None


def test_a_retry_after_in_the_past_is_now() -> None:
    assert retry_after_s({"Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT"}) == 0.0


def test_the_deadline_ends_the_attempts_before_their_number_does() -> None:
    limits = Limits(deadline_s=60, max_attempts=1000, base_delay_s=10, max_delay_s=10)
    now = [0.0]

    def pause(seconds: float) -> None:
        now[0] += seconds

    with serving(answer(500)) as server, pytest.raises(ApiUnavailable) as caught:
        get(server, limits=limits, clock=lambda: now[0], sleep=pause)
    assert now[0] <= 60
    assert 5 < caught.value.attempts == len(server.requests) < 100
    assert "(deadline 60 s), at last: answered 500" in str(caught.value)


def test_each_retry_is_one_log_line(caplog: pytest.LogCaptureFixture) -> None:
    with serving(answer_with(500, f"key {KEY} broke it"), reset, OK) as server:
        with caplog.at_level(logging.INFO, logger="etl_assets.core.sources.http.client"):
            get(server)
    lines = [record.getMessage().rpartition(",")[0] for record in caplog.records if record.name.startswith("etl")]
    assert lines == [
        "outages API, GET /outages: answered 500 (“key *** broke it”); attempt 1 of 3",
        "outages API, GET /outages: the connection was reset; attempt 2 of 3",
    ]


# Connections


def test_a_refused_connection_is_retried_and_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with client_of(url) as client, pytest.raises(ApiUnavailable) as caught:
        client.get_json("/outages")
    assert (caught.value.status, caught.value.attempts) == (None, 3)
    assert str(caught.value).endswith(
        f"at last: no connection was accepted: check that OUTAGES_API_URL is right and that {url} can be reached from here"
    )


def test_a_connect_timeout_is_retried_and_named() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        limits = Limits(connect_timeout_s=0.05, max_attempts=2, base_delay_s=0.0)
        with client_of(f"http://127.0.0.1:{address[1]}", limits=limits) as client:
            with pytest.raises(ApiUnavailable) as caught:
                client.post_json("/x", b"[]")
        for one in waiting:
            one.close()
    assert "tried 2 times" in str(caught.value)
    assert "at last: the connection timed out: check that" in str(caught.value)
    assert caught.value.outcome_unknown is False


def test_a_read_timeout_is_retried() -> None:
    with serving(silence, OK) as server:
        assert get(server, limits=IMPATIENT) == [{"id": 1}]
    assert len(server.requests) == 2


@pytest.mark.long
@pytest.mark.parametrize(
    ("head", "body"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", b" " * 99, id="body"),
        pytest.param(b"", b"HTTP/1.1 200 OK\r\nX-Padding: " + b"x" * 99, id="headers"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0" * 99, id="chunk size"),
    ],
)
def test_one_byte_at_a_time_ends_at_the_deadline(head: bytes, body: bytes) -> None:
    limits = Limits(read_timeout_s=10, deadline_s=0.3)
    with serving(drip(head, body)) as server:
        with pytest.raises(ApiUnavailable, match="at last: the answer did not come in time") as caught:
            get(server, limits=limits)
    assert caught.value.attempts == 1
    assert "(deadline 0.3 s)" in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        pytest.param(reset, "the connection was reset", id="before any answer"),
        pytest.param(b"", "the connection was reset", id="closed without an answer"),
        pytest.param(reset_in_mid_body, "the connection was reset", id="in mid-body"),
        pytest.param(answer(200, b"[1, 2, 3]")[:-4], "the body broke off before its end", id="short body"),
        pytest.param(
            b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n[1,2,\r\n",
            "the body broke off before its end",
            id="chunks without end",
        ),
        pytest.param(
            b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n[1]\r\n0\r\n\r\n",
            "the body broke off before its end",
            id="broken chunk size",
        ),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", "the answer was not HTTP", id="not HTTP"),
        pytest.param(
            answer(200, b"no gzip", Content_Encoding="gzip"), "the body is not compressed as declared", id="not gzip"
        ),
    ],
)
def test_a_broken_answer_is_retried_and_named_when_it_lasts(fault: Step, what: str) -> None:
    with serving(fault, OK) as server:
        assert get(server) == [{"id": 1}]
    assert len(server.requests) == 2
    with serving(fault) as server, pytest.raises(ApiUnavailable, match=f"at last: {what}: "):
        get(server)
    assert len(server.requests) == 3


def test_a_proxy_of_the_environment_is_used_and_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    with serving(OK, drip(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", b" " * 99)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        with client_of("http://outages.invalid") as client:
            assert client.get_json("/outages") == [{"id": 1}]
        with client_of("http://outages.invalid", limits=Limits(read_timeout_s=10, deadline_s=0.3)) as client:
            with pytest.raises(ApiUnavailable, match=r"tried once in \d\.\d s"):
                client.get_json("/outages")
    assert proxy.requests[0].startswith(b"GET http://outages.invalid/outages HTTP/1.1\r\n")


def test_a_host_that_has_no_address_is_retried_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_address(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_address)
    with client_of("http://outages.invalid") as client, pytest.raises(ApiUnavailable) as caught:
        client.get_json("/outages")
    assert "at last: the host's name was not found: check that OUTAGES_API_URL is right" in str(caught.value)


def test_a_tls_handshake_with_a_plain_server_fails_at_once() -> None:
    with serving(answer(400)) as server, client_of(f"https://127.0.0.1:{server.port}") as client:
        with pytest.raises(ApiRefused) as caught:
            client.post_json("/x", b"[]")
    assert f"the TLS handshake failed: check the certificate of https://127.0.0.1:{server.port}" in str(caught.value)
    assert (caught.value.attempts, caught.value.outcome_unknown) == (1, False)


def test_an_untrusted_certificate_fails_at_once() -> None:
    cause = urllib3.exceptions.SSLError(ssl.SSLCertVerificationError(1, "self-signed certificate"))
    pool = urllib3.HTTPSConnectionPool("127.0.0.1")
    error = requests.exceptions.SSLError(urllib3.exceptions.MaxRetryError(pool, "/", cause))
    what, rule = rule_for_failure(error)
    assert (what, rule.action, rule.may_have_applied) == ("the certificate is not trusted", Action.FAIL, False)


def test_what_the_caller_is_handling_does_not_decide() -> None:
    with serving(reset, OK) as server:
        try:
            raise ssl.SSLCertVerificationError(1, "another server's")
        except ssl.SSLCertVerificationError:
            assert get(server) == [{"id": 1}]


# Answers that are 200 and no answer


@pytest.mark.parametrize(
    ("body", "content_type", "what"),
    [
        (b"", "application/json", "an empty body"),
        (b"  \n", "application/json", "an empty body"),
        (b"<!doctype html><p>login", "text/html", r"a page \(HTML or XML\) instead of JSON"),
        (b'[{"id": 1}, {"i', "application/json", r"invalid JSON \(Unterminated string .*: it is cut off\)"),
        (b'[{"id": 1},', "application/json", r"invalid JSON \(Expecting value at character 11 of 11: it is cut off\)"),
        (b"pong", "text/plain", r"invalid JSON \(Expecting value at character 0 of 4\)"),
        (b'["\xff\xfe"]', "application/json", "text that is not utf-8 at byte 2"),
        (b'[{"x": NaN}]', "application/json", "NaN, which JSON does not have"),
        (b"[-Infinity]", "application/json", "-Infinity, which JSON does not have"),
        (b"[" * 200_000, "application/json", "JSON nested too deeply"),
        (b"9" * 5000, "application/json", "JSON with a number of too many digits"),
    ],
)
def test_a_malformed_200_is_retried_and_named_when_it_lasts(body: bytes, content_type: str, what: str) -> None:
    malformed = answer(200, body, content_type=content_type)
    with serving(malformed, OK) as server:
        assert get(server) == [{"id": 1}]
    with serving(malformed) as server, pytest.raises(ApiUnavailable, match=f"at last: answered 200 with {what}: "):
        get(server)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b'[{"id": 1, "name": "a", "id": 2}]', "JSON in which an object has the name 'id' twice"),
        (b'{"a": {"b": 1, "b": 1}}', "JSON in which an object has the name 'b' twice"),
        (b'{"id": 1}{"id": 2}', r"several JSON values one after another .NDJSON., the second at character 9"),
        (b'{"id": 1}\n{"id": 2}\n', r"several JSON values one after another .NDJSON., the second at character 10"),
    ],
)
def test_json_of_another_form_is_named_and_not_asked_for_again(body: bytes, what: str) -> None:
    with serving(answer(200, body), OK) as server, pytest.raises(ApiRefused, match=f"answered 200 with {what}"):
        get(server)
    assert len(server.requests) == 1


def test_another_form_than_json_is_requested_and_parsed_by_its_declared_type() -> None:
    with (
        serving(answer(200, b"\x00\xff", content_type="application/x-rows")) as server,
        client_of(server.url) as client,
    ):
        parsed = client.get_parsed(
            "/rows",
            lambda kind, body: (kind, body),
            params={"column": ["a", "b"]},
            accept="application/x-rows, */*;q=0.1",
        )
    assert parsed == ("application/x-rows", b"\x00\xff")
    head = server.requests[0].decode().split("\r\n")
    assert head[0] == "GET /rows?column=a&column=b HTTP/1.1"
    assert [line for line in head if line.startswith("Accept:")] == ["Accept: application/x-rows, */*;q=0.1"]


def test_a_body_that_the_parser_calls_malformed_is_requested_again() -> None:
    def parse(_: str, body: bytes) -> bytes:
        if not body.endswith(b"end"):
            raise MalformedAnswer("rows without an end")
        return body

    with serving(answer(200, b"rows"), answer(200, b"rows end")) as server, client_of(server.url) as client:
        assert client.get_parsed("/rows", parse) == b"rows end"
    with serving(answer(200, b"rows")) as server, client_of(server.url) as client:
        with pytest.raises(ApiUnavailable, match="at last: answered 200 with rows without an end: "):
            client.get_parsed("/rows", parse)
    assert len(server.requests) == 3


def test_what_else_a_parser_raises_is_the_callers_and_not_tried_again() -> None:
    def parse(_: str, body: bytes) -> bytes:
        raise PermanentError("another shape")

    with serving(OK) as server, client_of(server.url) as client, pytest.raises(PermanentError, match="another shape"):
        client.get_parsed("/rows", parse)
    assert len(server.requests) == 1


def test_an_api_that_is_known_to_say_nan_may_say_it() -> None:
    assert str(parse_json(b"[NaN, -Infinity]", parse_constant=float)) == "[nan, -inf]"


@pytest.mark.parametrize("content_type", ["text/html", "application/json; charset=latin-1", "x", ""])
def test_a_wrong_content_type_or_charset_over_right_json_does_not_matter(content_type: str) -> None:
    with serving(answer(200, '["é"]'.encode(), content_type=content_type)) as server:
        assert get(server) == ["é"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32-be"])
def test_json_comes_in_any_unicode_encoding(encoding: str) -> None:
    assert parse_json('{"é": [1.5, null]}'.encode(encoding)) == {"é": [1.5, None]}


def test_a_lone_surrogate_is_no_text() -> None:
    with pytest.raises(MalformedAnswer, match="text that is not utf-8 at byte 2"):
        parse_json(b'["\xed\xa0\x80"]')


# Redirects


def test_a_redirect_on_the_same_host_is_followed() -> None:
    with serving(answer(308, Location="/v2/outages?all=1"), OK) as server:
        assert get(server) == [{"id": 1}]
    assert server.requests[1].startswith(b"GET /v2/outages?all=1 ")
    assert f"x-api-key: {KEY}".encode() in server.requests[1]


def test_a_redirect_loop_ends() -> None:
    with serving(answer(302, Location="/outages")) as server, pytest.raises(ApiRefused) as caught:
        get(server)
    assert len(server.requests) == 6
    assert "redirected more than 5 times: set OUTAGES_API_URL to where the API is now" in str(caught.value)


@pytest.mark.parametrize(
    "target", ["http://localhost:{port}/", "http://127.0.0.1:1/", "//[broken/", "ftp://127.0.0.1/"]
)
def test_the_key_does_not_follow_a_redirect_elsewhere(target: str) -> None:
    with serving(OK) as other, serving(answer(301, Location=target.format(port=other.port))) as server:
        with pytest.raises(ApiRefused, match="answered 301 with a redirect to another host or protocol"):
            get(server)
    assert (len(server.requests), len(other.requests)) == (1, 0)


@pytest.mark.parametrize(("status", "unknown"), [(301, True), (303, True), (307, False), (308, False)])
def test_a_payload_is_never_redirected(status: int, unknown: bool) -> None:
    with serving(answer(status, Location="/elsewhere")) as server, pytest.raises(ApiRefused) as caught:
        post(server)
    assert len(server.requests) == 1
    assert (caught.value.status, caught.value.outcome_unknown) == (status, unknown)


# What a sender must know


def test_a_retried_payload_is_the_same_to_the_byte() -> None:
    with serving(reset, answer_with(503, "busy"), answer(200, b'{"accepted": 1}')) as server:
        assert post(server) == ApiResponse(status=200, text='{"accepted": 1}', attempts=3)
    assert len(set(server.requests)) == 1
    assert b"Idempotency-Key: k1" in server.requests[0]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(silence, id="read time-out", marks=pytest.mark.long),
        pytest.param(reset, id="reset"),
        pytest.param(answer_with(500, "x"), id="500"),
        pytest.param(answer_with(504, "x"), id="504"),
        pytest.param(answer_with(408, "x"), id="408"),
    ],
)
def test_a_payload_that_may_have_been_taken_says_so(fault: Step) -> None:
    limits = IMPATIENT if fault is silence else QUICK
    with serving(fault) as server, pytest.raises(ApiUnavailable) as caught:
        post(server, limits=limits)
    assert (caught.value.attempts, caught.value.outcome_unknown) == (3, True)
    assert str(caught.value).endswith("; it is not known whether the server has taken the payload")


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        pytest.param(answer(200, b'{"accepted": 1}')[:-4], '{"accepted"', id="shorter than its length"),
        pytest.param(reset_in_mid_body, "[1, 2", id="reset in mid-body"),
        pytest.param(stall_in_mid_body, "[1, 2", id="stall in mid-body"),
        pytest.param(answer(200, b"<html>login</html>", content_type="text/html"), "<html>login</html>", id="a page"),
        pytest.param(answer(200, b"\xff"), "\N{REPLACEMENT CHARACTER}", id="not UTF-8"),
        pytest.param(answer(200, b"no gzip", Content_Encoding="gzip"), "", id="not gzip"),
        pytest.param(answer(200, b"[1]", Content_Length="7, 8"), "", id="two lengths"),
        pytest.param(answer(204, Content_Length="-7"), "", id="negative length"),
        pytest.param(
            b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n-5\r\n", "[]", id="negative chunk"
        ),
        pytest.param(b"HTTP/1.1 200 X\r\n", "", id="no headers"),
        pytest.param(reset_in_headers, "", id="reset in the headers"),
        pytest.param(b"HTTP/1.1 201 X\r\n" + b"X-A: b\r\n" * 200 + b"\r\n", "", id="too many headers"),
        pytest.param(b"HTTP/1.1 201 X\r\nX-A: " + b"b" * 70_000, "", id="a header that is too long"),
    ],
)
def test_a_payload_whose_status_of_success_has_come_is_not_sent_again(fault: Step, text: str) -> None:
    with serving(fault) as server:
        taken = post(server, limits=IMPATIENT)
    assert (taken.status // 100, taken.text, taken.attempts) == (2, text, 1)
    assert len(server.requests) == 1


@pytest.mark.long
def test_a_text_without_end_behind_a_success_takes_one_read_timeout() -> None:
    with serving(drip(b"HTTP/1.1 200 X\r\n\r\n", b"x" * 60)) as server:
        began = time.monotonic()
        assert set(post(server, limits=IMPATIENT).text) == {"x"}
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 422, 425, 429, 501])
def test_a_payload_that_was_not_taken_says_so(status: int) -> None:
    with serving(answer_with(status, "x")) as server, pytest.raises((ApiRefused, ApiUnavailable)) as caught:
        post(server)
    assert (caught.value.status, caught.value.outcome_unknown) == (status, False)
    assert "not known" not in str(caught.value)


def test_a_refusal_after_a_lost_answer_leaves_the_outcome_unknown() -> None:
    with serving(reset, answer_with(400, "nothing left to deliver")) as server, pytest.raises(ApiRefused) as caught:
        post(server)
    assert (caught.value.status, caught.value.attempts, caught.value.outcome_unknown) == (400, 2, True)


def test_a_conflict_is_the_callers() -> None:
    with serving(answer_with(409, "already processed")) as server, pytest.raises(ConflictError) as caught:
        post(server)
    assert (caught.value.status, caught.value.outcome_unknown) == (409, False)
    assert "(“already processed”)" in str(caught.value)


# Secrets


def everything_said(error: BaseException | None) -> str:
    """The text of an exception and of all that hangs on to it, as a log or a run's page would show it."""
    texts = []
    while error is not None:
        texts += [str(error), repr(error), repr(vars(error))]
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(answer_with(403, f"bad key {KEY}"), id="echoed"),
        pytest.param(answer_with(400, "x" * 195 + KEY), id="echoed at the cut"),
        pytest.param(answer_with(500, KEY), id="echoed and retried"),
        pytest.param(answer(302, Location=f"http://elsewhere.invalid/?key={KEY}"), id="redirect"),
        pytest.param(reset, id="reset"),
        pytest.param(silence, id="read time-out", marks=pytest.mark.long),
    ],
)
def test_the_key_is_in_no_exception_and_no_log(fault: Step, caplog: pytest.LogCaptureFixture) -> None:
    with serving(fault) as server, caplog.at_level(logging.DEBUG, logger="etl_assets"):
        with pytest.raises((ApiRefused, ApiUnavailable)) as caught:
            get(server, path=f"/outages?again={KEY}", limits=IMPATIENT if fault is silence else QUICK)
    for text in (everything_said(caught.value), caplog.text):
        assert KEY not in text
        assert KEY[:8] not in text


def test_the_key_is_not_in_the_text_of_a_success() -> None:
    with serving(answer(200, f"hello {KEY}".encode())) as server:
        assert post(server).text == "hello ***"


def test_the_clients_repr_shows_no_secret() -> None:
    with client_of("https://user:pa%2Fss@example.org:8443/v1/") as client:
        assert repr(client) == "ApiClient('outages', 'https://example.org:8443/v1')"


def test_a_password_in_the_base_url_becomes_a_header_and_appears_nowhere() -> None:
    with serving(answer_with(401, "no pa/ss here: dXNlcjpwYS9zcw==")) as server:
        url = server.url.replace("http://", "http://user:pa%2Fss@")
        with ApiClient("outages", url, limits=QUICK) as client, pytest.raises(ApiRefused) as caught:
            client.get_json("/outages")
    assert b"Authorization: Basic dXNlcjpwYS9zcw==" in server.requests[0]
    assert str(caught.value) == (
        "outages API, GET /outages: answered 401 (“no *** here: ***”):"
        f" {server.url} does not accept the user name and password in the base URL: correct them"
    )


@pytest.mark.parametrize("key", ["", " padded", "line\n", "tab\tbed", "schlüssel", "nul\0"])
def test_a_key_that_cannot_be_a_header_is_refused_without_being_quoted(key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ApiClient("outages", "http://x", secret_header=("x-api-key", SecretStr(key)), secret_variable="OUTAGES_API_KEY")
    assert str(caught.value).startswith("outages API: OUTAGES_API_KEY is empty or has characters")
    assert not key or key not in everything_said(caught.value)


@pytest.mark.parametrize(
    "url", ["", "example.org", "ftp://x", "http://", "http://u:pw@x:port", "http://[::1", "http://x?a"]
)
def test_a_base_url_that_cannot_be_right_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ApiClient("outages", url)
    assert str(caught.value) == "outages API: the base URL is not of the form https://host/path: correct it"
    assert "pw" not in everything_said(caught.value)
