"""Answers in pages: all of them are read, or none; nobody else is asked, and no page is taken for the whole."""

import json
import time
from typing import Any

import pytest

from etl_assets.core.sources.http import pages
from etl_assets.core.sources.http.client import ApiRefused, ApiUnavailable, Limits
from etl_assets_tests.core.sources.scripted import ScriptedServer, answer, answer_with, serving
from etl_assets_tests.core.sources.test_http import KEY, client_of
from etl_assets_tests.limits import QUICK


def page(*rows: Any, **headers: str) -> bytes:
    return answer(200, json.dumps(rows).encode(), **headers)


def next_at(url: str) -> str:
    return f'<{url}>; rel="next"'


def get(server: ScriptedServer, limits: Limits = QUICK) -> list[Any]:
    with client_of(server.url, limits=limits) as client:
        return client.get_array("/outages", params={"of": "a b"})


def refused(*steps: bytes) -> str:
    with serving(*steps) as server, pytest.raises(ApiRefused) as caught:
        get(server)
    return str(caught.value)


@pytest.mark.parametrize(
    "link",
    [
        next_at("/outages?page=2"),
        next_at("?page=2"),
        "</outages?page=1>; rel=first, </outages?page=2>; title=Next; rel=next",
        '</outages?page=2>; rel="NEXT last"',
    ],
)
def test_the_next_page_is_where_the_link_leads(link: str) -> None:
    with serving(page(1, 2, Link=link), page(3)) as server:
        assert get(server) == [1, 2, 3]
    assert [request.partition(b" HTTP")[0] for request in server.requests] == [
        b"GET /outages?of=a+b",
        b"GET /outages?page=2",
    ]
    assert all(f"x-api-key: {KEY}".encode() in request for request in server.requests)


def test_each_page_is_tried_again_by_itself() -> None:
    with serving(page(1, Link=next_at("/outages?page=2")), answer_with(503, "busy"), page(2)) as server:
        assert get(server) == [1, 2]
    assert len(server.requests) == 3


def test_a_page_that_fails_fails_the_whole_and_is_named() -> None:
    text = refused(page(1, Link=next_at("/outages?page=2")), answer_with(404, "gone"))
    assert "GET /outages?of=a+b, page 2: answered 404 (“gone”)" in text


def test_all_pages_share_one_deadline() -> None:
    def slow(connection: Any) -> None:
        time.sleep(0.4)
        connection.sendall(page(time.monotonic(), Link=next_at(f"/outages?page={time.monotonic()}")))

    started = time.monotonic()
    with serving(slow) as server, pytest.raises(ApiUnavailable):
        get(server, Limits(read_timeout_s=1, deadline_s=1.5, max_attempts=2, base_delay_s=0.001))
    assert time.monotonic() - started < 4
    assert 2 <= len(server.requests) <= 5


@pytest.mark.parametrize("host", ["http://127.0.0.1:9", "https://127.0.0.1", "//localhost", "http://other.example"])
def test_a_next_page_elsewhere_is_not_asked_for_and_said(host: str) -> None:
    with serving(page(1, Link=next_at(f"{host}/outages?token=t0ken"))) as server, pytest.raises(ApiRefused) as caught:
        get(server)
    assert f"answered 200 with a Link to a next page on another origin, {host}/outages, which is not followed" in str(
        caught.value
    )
    assert len(server.requests) == 1


def test_pages_that_lead_in_a_circle_are_refused() -> None:
    text = refused(page(1, Link=next_at("/outages?page=2")), page(2, Link=next_at("/outages?page=2#again")))
    assert "a Link to a next page that was read before" in text
    assert "its pages do not end" in text


def test_pages_that_do_not_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_next_of", lambda page: f"{page.url}x")
    with serving(*map(page, range(9))) as server, client_of(server.url) as client, pytest.raises(ApiRefused) as caught:
        client.get_pages("/outages", lambda _, body: body, most=7)
    assert "with more than 7 pages: they do not end" in str(caught.value)
    assert len(server.requests) == 7


def test_a_page_that_comes_again_and_again_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_next_of", lambda page: f"{page.url}x")
    with serving(page(1), page()) as server, pytest.raises(ApiRefused) as caught:
        get(server)
    assert "with the page before once more, and a Link to a next one" in str(caught.value)
    assert len(server.requests) == 3


def test_pages_that_are_too_long_together_are_refused() -> None:
    limits = Limits(max_body_bytes=15)
    with serving(page("eight", Link=next_at("?2")), page("nine.")) as server, pytest.raises(ApiRefused) as caught:
        get(server, limits)
    assert "the body is longer than 15 bytes" in str(caught.value)


@pytest.mark.parametrize("link", ['</y>; title="a=b"; rel="next"', "</a;b>; rel='next'"])
def test_a_link_to_a_next_page_that_cannot_be_read_is_refused(link: str) -> None:
    assert "a Link to a next page that cannot be read" in refused(page(1, Link=link))


@pytest.mark.parametrize("link", ["</prev>; rel=prev", "</next>; rel=help", "", "</a>; rel=next-archive", "next"])
def test_a_link_to_something_else_is_no_next_page(link: str) -> None:
    with serving(page(1, Link=link)) as server:
        assert get(server) == [1]


@pytest.mark.parametrize(
    ("said", "of"),
    [
        ("items 0-1/1440", "2 of 1,440 rows"),
        ("items 0-1/3", "2 of 3 rows"),
        ("0-1/3", "2 of 3 rows"),
        ("rows 1-2/3", "2 of 3 rows"),
        ("*/3", "0 of 3 rows"),
    ],
)
def test_a_page_that_says_that_it_is_not_all_rows_is_refused(said: str, of: str) -> None:
    assert f"answered 200 with {of} (Content-Range: {said}) and no Link to the rest" in refused(
        page(1, 2, Content_Range=said)
    )


@pytest.mark.parametrize("said", ["items 0-1/2", "0-1/*", "*/*", "*/0", "items 0-1", "some"])
def test_a_page_that_may_be_all_rows_is_taken(said: str) -> None:
    with serving(page(1, 2, Content_Range=said)) as server:
        assert get(server) == [1, 2]


def test_the_rows_of_all_pages_are_counted() -> None:
    first = page(1, 2, Link=next_at("?2"), Content_Range="items 0-1/3")
    with serving(first, page(3, Content_Range="items 2-2/3")) as server:
        assert get(server) == [1, 2, 3]
    assert "3 of 4 rows" in refused(first, page(3, Content_Range="items 2-2/4"))


def test_one_page_of_several_is_no_document() -> None:
    with serving(page(1, Link=next_at("?2"))) as server, client_of(server.url) as client:
        with pytest.raises(ApiRefused, match="with one page of several; the Link leads to http://127.0.0.1:[0-9]+/x"):
            client.get_json("/x")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b'{"next": "/outages?page=2", "data": [1]}', "an object (next, data)"),
        (b'{"message": "too many\\nrequests"}', "an object (“too many requests”)"),
        (b"{}", "an empty object"),
        (b'"text"', "text"),
        (b"null", "null"),
        (b"12", "12"),
    ],
)
def test_what_is_no_array_is_refused_at_once_and_shown(body: bytes, what: str) -> None:
    with serving(answer(200, body)) as server, pytest.raises(ApiRefused) as caught:
        get(server)
    assert f"answered 200 with {what}, not with an array" in str(caught.value)
    assert len(server.requests) == 1


def test_what_an_object_says_is_shown_without_the_key_and_not_at_length() -> None:
    text = refused(answer(200, json.dumps({"message": f"no {KEY} " + "x" * 500}).encode()))
    assert KEY not in text
    assert "no ***" in text
    assert len(text) < 500
