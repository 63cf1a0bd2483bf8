"""The calls of the API, against answers as they are written out."""

import json
from typing import Any

import pytest

from etl_assets.core.sources.http.client import ApiRefused
from etl_assets_tests.core.sources.scripted import answer, serving
from etl_assets_tests.systems.outages.world import info, outage, quick_api

FIRST, SECOND = outage("d1", "2022-03-01T10:00:00Z"), outage("d2", "2022-03-02T10:00:00Z")


def says(document: Any, **headers: str) -> bytes:
    return answer(200, json.dumps(document).encode(), **headers)


def test_outages_in_pages_are_all_read() -> None:
    with serving(says([FIRST], Link='</outages?page=2>; rel="next"'), says([SECOND])) as server:
        assert quick_api(server.url, "key").outages() == [FIRST, SECOND]


def test_a_page_of_outages_is_not_taken_for_all_of_them() -> None:
    with serving(says([FIRST], Content_Range="items 0-0/2")) as server, pytest.raises(ApiRefused, match="1 of 2 rows"):
        quick_api(server.url, "key").outages()


def test_devices_of_a_site_in_pages_are_all_read() -> None:
    more = info(d2="Second")
    with serving(says(info(d1="First"), Link='<?page=2>; rel="next"'), says(more)) as server:
        assert quick_api(server.url, "key").site_info("kingfisher") == info(d1="First", d2="Second")


def test_what_an_api_says_instead_of_outages_or_a_site_is_shown() -> None:
    said = r"answered 200 with an object \(“not today”\), not with an array"
    with serving(says({"message": "not today"})) as server, pytest.raises(ApiRefused, match=said):
        quick_api(server.url, "key").outages()
    said = r"answered 200 with an object \(“not today”\) without an array of devices"
    with serving(says({"message": "not today"})) as server, pytest.raises(ApiRefused, match=said):
        quick_api(server.url, "key").site_info("kingfisher")
