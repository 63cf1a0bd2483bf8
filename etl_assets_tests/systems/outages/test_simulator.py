"""The simulated outage API over real HTTP: what it serves, and how strictly it judges a delivery."""

import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from pydantic import SecretStr

from etl_assets.core.sources.http.client import ApiClient
from etl_assets.simulators.faults import KINDS
from etl_assets.simulators.server import serve
from etl_assets.systems.outages.simulator import OutagesSimulator
from etl_assets_tests.limits import STALL_S, limits_for

CUTOFF = "2022-01-01T00:00:00.000Z"
KEY = {"x-api-key": "k"}
SITE = "norwich-pear-tree"


class Api:
    """The calls that a client makes."""

    def __init__(self, simulator: OutagesSimulator, url: str) -> None:
        self.simulator = simulator
        self.url = url

    def get(self, path: str, headers: dict[str, str] = KEY) -> requests.Response:
        return requests.get(self.url + path, headers=headers, timeout=5)

    def outages(self) -> list[Any]:
        rows: list[Any] = self.get("/outages").json()
        return rows

    def post(self, rows: Any, *, site: str = SITE, key: str | None = None) -> requests.Response:
        headers = KEY if key is None else {**KEY, "Idempotency-Key": key}
        body = rows if isinstance(rows, bytes) else json.dumps(rows).encode()
        return requests.post(f"{self.url}/site-outages/{site}", data=body, headers=headers, timeout=5)

    def expected(self, site: str = SITE) -> list[dict[str, str]]:
        """The delivery of a site, made from what the API serves by the rule as its users know it."""
        names = {device["id"]: device["name"] for device in self.get(f"/site-info/{site}").json()["devices"]}
        rows: list[dict[str, str]] = []
        for row in self.outages():
            named = {"id": row["id"], "name": names.get(row["id"], ""), "begin": row["begin"], "end": row["end"]}
            if row["id"] in names and row["begin"] >= CUTOFF and named not in rows:
                rows.append(named)
        return rows


@pytest.fixture(scope="module")
def served() -> Iterator[Api]:
    simulator = OutagesSimulator(api_key="k")
    with serve(simulator.app) as url:
        yield Api(simulator, url)


@pytest.fixture
def api(served: Api) -> Api:
    served.simulator.reset()
    served.simulator.conflict_on_replay = False
    return served


# What it serves


def test_a_site_has_a_name_and_eight_named_devices(api: Api) -> None:
    info = api.get(f"/site-info/{SITE}").json()
    assert (info["id"], info["name"]) == (SITE, "Norwich Pear Tree")
    assert [device["name"] for device in info["devices"]] == [f"Battery {i}" for i in range(1, 9)]
    assert all(set(device) == {"id", "name"} for device in info["devices"])
    assert len({device["id"] for device in info["devices"]}) == 8


def test_each_site_has_its_outages_and_some_are_of_no_site(api: Api) -> None:
    rows = api.outages()
    devices = {s: {d["id"] for d in api.get(f"/site-info/{s}").json()["devices"]} for s in (SITE, "kingfisher")}
    assert all(set(row) == {"id", "begin", "end"} for row in rows)
    assert len(rows) == 2 * (108 + 2)
    assert [sum(row["id"] in ids for row in rows) for ids in devices.values()] == [108, 108]
    assert {row["id"] for row in rows} > devices[SITE] | devices["kingfisher"]


def test_the_rows_at_the_edge_are_planted(api: Api) -> None:
    ids = {device["id"] for device in api.get(f"/site-info/{SITE}").json()["devices"]}
    rows = [row for row in api.outages() if row["id"] in ids]
    begins = Counter(row["begin"] for row in rows)
    assert (begins[CUTOFF], begins["2021-12-31T23:59:59.999Z"]) == (1, 1)
    assert any(row["begin"] < CUTOFF < row["end"] and row["begin"] == "2021-12-29T00:00:00.000Z" for row in rows)
    assert sorted(Counter(json.dumps(row) for row in rows).values())[-2:] == [1, 2]
    assert all(row["begin"] < row["end"] for row in rows)
    kept = [row["begin"] for row in api.expected()]
    assert CUTOFF in kept
    assert min(kept) == CUTOFF
    assert 60 < len(kept) < 100


def test_the_array_is_interleaved_and_not_sorted(api: Api) -> None:
    rows = api.outages()
    ids = {device["id"] for device in api.get(f"/site-info/{SITE}").json()["devices"]}
    changes = sum((a["id"] in ids) != (b["id"] in ids) for a, b in itertools.pairwise(rows))
    assert changes > 50
    assert [row["begin"] for row in rows] != sorted(row["begin"] for row in rows)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(api: Api) -> None:
    document = api.get("/outages").content
    assert OutagesSimulator(seed=0).outages_document() == document
    assert OutagesSimulator(seed=1).outages_document() != document


def test_a_site_exists_as_soon_as_it_is_named_and_leaves_the_others_in_order(api: Api) -> None:
    before = api.outages()
    assert api.get("/site-info/hill-top-7").json()["name"] == "Hill Top 7"
    after = api.outages()
    assert len(after) == len(before) + 110
    assert [row for row in after if row in before] == before
    assert OutagesSimulator(sites=("hill-top-7", "kingfisher", SITE)).outages() == after


@pytest.mark.parametrize("site", ["unknown-site", "unknown", "UPPER", "-dash", "with%20space", "caf%C3%A9"])
def test_some_sites_do_not_exist(api: Api, site: str) -> None:
    for answer in (api.get(f"/site-info/{site}"), api.post([], site=site)):
        assert answer.status_code == 404
        assert answer.json()["message"].startswith("there is no site '")
    assert len(api.outages()) == 220


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "wrong"}])
def test_without_the_right_key_nothing_is_served(api: Api, headers: dict[str, str]) -> None:
    for path in ("/outages", f"/site-info/{SITE}"):
        answer = api.get(path, headers)
        assert (answer.status_code, answer.json()) == (403, {"message": "the x-api-key is missing or wrong"})
    refused = requests.post(f"{api.url}/site-outages/{SITE}", data=b"[]", headers=headers, timeout=5)
    assert refused.status_code == 403
    assert api.simulator.deliveries == []


@pytest.mark.parametrize(("path", "status"), [("/nowhere", 404), ("/site-outages/x", 405)])
def test_other_routes_answer_with_a_message(api: Api, path: str, status: int) -> None:
    answer = api.get(path)
    assert (answer.status_code, set(answer.json())) == (status, {"message"})


@pytest.mark.long
def test_a_hundred_sites_are_served_quickly() -> None:
    simulator = OutagesSimulator(sites=[f"site-{i}" for i in range(100)])
    first = simulator.outages_document()
    assert all(simulator.outages_document() is first for _ in range(1000))
    assert len(json.loads(first)) == 11_000


@pytest.mark.parametrize("wrong", [{"outages_per_site": 4}, {"devices_per_site": 0}])
def test_a_site_that_cannot_hold_the_planted_rows_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a simulated site has at least 5 outages and 1 device"):
        OutagesSimulator(**wrong)


# How it judges


def test_a_right_delivery_is_acknowledged_row_by_row(api: Api) -> None:
    rows = api.expected()
    answer = api.post(rows)
    assert (answer.status_code, answer.json()) == (200, {"accepted": len(rows)})
    assert api.simulator.acknowledged(SITE) == rows
    assert api.simulator.pending(SITE) == []
    assert set(api.simulator.delivered_rows(SITE).values()) == {1}
    assert api.simulator.delivered_rows(SITE).total() == len(rows)
    assert api.simulator.delivered_rows("kingfisher").total() == 0
    [delivery] = api.simulator.deliveries
    assert (delivery.site, delivery.key, delivery.rows, delivery.body) == (SITE, None, rows, json.dumps(rows))


def test_the_same_delivery_without_a_key_is_refused(api: Api) -> None:
    rows = api.expected()
    assert api.post(rows).status_code == 200
    answer = api.post(rows)
    assert answer.status_code == 400
    assert answer.json()["message"].startswith(f"{len(rows)} rows, expected 0: row 0 is too many: ('")
    assert len(api.simulator.deliveries) == 1


def altered(rows: list[dict[str, str]], how: str) -> Any:
    first, second, *rest = rows
    return {
        "sorted": sorted(rows, key=lambda row: row["begin"]),
        "swapped": [second, first, *rest],
        "first lost": rows[1:],
        "last lost": rows[:-1],
        "twice": [first, *rows],
        "one too many": [*rows, first],
        "name": [{**first, "name": "Battery X"}, second, *rest],
        "time text": [{**first, "end": first["end"].replace("Z", "+00:00")}, second, *rest],
        "extra field": [{**first, "x": "1"}, second, *rest],
        "missing field": [{"id": first["id"]}, second, *rest],
        "number": [{**first, "begin": 1}, second, *rest],
        "none": [],
        "object": {"outages": rows},
        "not JSON": b"[{",
    }[how]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("sorted", "row 0: "),
        ("swapped", "row 0: "),
        ("first lost", "row 0: "),
        ("last lost", "{less} rows, expected {n}: row {less} is missing: ('"),
        ("twice", "row 1: "),
        ("one too many", "{more} rows, expected {n}: row {n} is too many: ('"),
        ("name", "row 0: name is 'Battery X', expected 'Battery "),
        ("time text", "row 0: end is '"),
        ("extra field", "row 0 is not an object with exactly id, name, begin, end, each of them text"),
        ("missing field", "row 0 is not an object with exactly id, name, begin, end"),
        ("number", "row 0 is not an object with exactly id, name, begin, end, each of them text"),
        ("none", "0 rows, expected {n}: row 0 is missing: ('"),
        ("object", "the body is not an array"),
        ("not JSON", "the body is not JSON: "),
    ],
)
def test_a_wrong_delivery_is_refused_with_its_first_difference(api: Api, how: str, message: str) -> None:
    rows = api.expected()
    answer = api.post(altered(rows, how), key="k1")
    n = len(rows)
    assert answer.status_code == 400
    assert answer.json()["message"].startswith(message.format(n=n, less=n - 1, more=n + 1))
    assert (api.simulator.deliveries, api.simulator.acknowledged(SITE)) == ([], [])
    [refusal] = api.simulator.refusals
    assert (refusal.site, refusal.key, refusal.status) == (SITE, "k1", 400)
    assert api.post(rows, key="k1").status_code == 200


@pytest.mark.parametrize("begin", ["2021-12-31T23:59:59.999Z", "2021-12-29T00:00:00.000Z"])
def test_a_row_from_before_the_cutoff_does_not_belong_to_a_delivery(api: Api, begin: str) -> None:
    names = {device["id"]: device["name"] for device in api.get(f"/site-info/{SITE}").json()["devices"]}
    early = next(row for row in api.outages() if row["id"] in names and row["begin"] == begin)
    rows = [{**early, "name": names[early["id"]]}, *api.expected()]
    assert api.post(rows).status_code == 400


def test_a_replay_is_answered_without_a_second_effect(api: Api) -> None:
    rows = api.expected()
    answers = [api.post(rows, key="k1") for _ in range(3)]
    assert [(a.status_code, a.json()) for a in answers] == [(200, {"accepted": len(rows)})] * 3
    assert (len(api.simulator.deliveries), api.simulator.replays) == (1, 2)
    assert set(api.simulator.delivered_rows(SITE).values()) == {1}


def test_a_replay_gets_409_where_the_api_is_like_that(api: Api) -> None:
    rows = api.expected()
    api.simulator.conflict_on_replay = True
    assert api.post(rows, key="k1").status_code == 200
    answer = api.post(rows, key="k1")
    assert answer.status_code == 409
    assert answer.json() == {"message": "the request with the idempotency key k1 was already processed"}
    assert (len(api.simulator.deliveries), api.simulator.replays) == (1, 1)


def test_a_key_with_another_body_or_site_is_refused(api: Api) -> None:
    rows = api.expected()
    assert api.post(rows, key="k1").status_code == 200
    for answer in (api.post([], key="k1"), api.post(rows, key="k1", site="kingfisher")):
        assert answer.status_code == 422
        assert answer.json() == {"message": "the idempotency key k1 was used for another request"}
    assert (len(api.simulator.deliveries), api.simulator.replays) == (1, 0)


def test_a_lost_response_has_taken_effect_and_the_repeat_has_not(api: Api) -> None:
    rows = api.expected()
    api.simulator.faults.script("site-outages", ["response-lost", "none"])
    with pytest.raises(requests.ConnectionError):
        api.post(rows, key="k1")
    assert len(api.simulator.deliveries) == 1
    assert api.post(rows, key="k1").status_code == 200
    assert (len(api.simulator.deliveries), api.simulator.replays) == (1, 1)


def test_a_late_row_is_delivered_alone(api: Api) -> None:
    assert api.post(api.expected()).status_code == 200
    late = api.simulator.add_outage(SITE, 0, "2022-02-01T00:00:00.000Z", "2022-02-02T00:00:00.000Z")
    api.simulator.add_outage(SITE, 0, "2021-02-01T00:00:00.000Z", "2021-02-02T00:00:00.000Z")
    assert api.outages()[-2] == late
    row = {"id": late["id"], "name": "Battery 1", "begin": late["begin"], "end": late["end"]}
    assert api.simulator.pending(SITE) == [row]
    assert api.post([row]).status_code == 200
    assert api.simulator.acknowledged(SITE)[-1] == row


def test_a_batch_frozen_before_a_late_row_is_still_right(api: Api) -> None:
    frozen = api.expected()
    api.simulator.add_outage(SITE, 1, "2022-02-01T00:00:00.000Z", "2022-02-02T00:00:00.000Z")
    assert len(api.expected()) == len(frozen) + 1
    assert api.post(frozen[:-1]).status_code == 400
    assert api.post(frozen).status_code == 200
    assert len(api.simulator.pending(SITE)) == 1


def test_a_late_row_of_no_device_is_refused(api: Api) -> None:
    with pytest.raises(ValueError, match=f"{SITE} has 8 devices, counted from 0: there is no 8"):
        api.simulator.add_outage(SITE, 8, CUTOFF, CUTOFF)


def test_given_data_are_served_as_they_are_and_judged_by_their_well_formed_rows(api: Api) -> None:
    good = {"id": "d1", "begin": "2022-01-01T01:00:00+01:00", "end": "2022-01-03T00:00:00Z", "extra": 1}
    malformed: list[Any] = [
        None,
        {},
        {"id": "d1", "begin": "soon", "end": "2022-01-03T00:00:00Z"},
        {"id": "d1", "begin": 1641081600, "end": "2022-01-03T00:00:00Z"},
        {"id": "d1", "begin": "2022-01-02T00:00:00", "end": "2022-01-03T00:00:00"},
        {"id": ["d1"], "begin": "2022-01-02T00:00:00Z", "end": "2022-01-03T00:00:00Z"},
        {"id": "d2", "begin": "2022-01-02T00:00:00Z", "end": "2022-01-03T00:00:00Z"},
    ]
    info = {"id": "s", "name": "S", "devices": [{"id": "d1", "name": "One"}, {"id": 7, "name": "Two"}, "three"]}
    backwards = {"id": "d1", "begin": "2022-01-03T00:00:00Z", "end": "2022-01-02T00:00:00Z"}
    api.simulator.serve_exactly([*malformed, good, good, backwards], {"s": info})
    assert api.outages() == [*malformed, good, good, backwards]
    assert api.get("/site-info/s").json() == info
    assert api.get(f"/site-info/{SITE}").status_code == 404
    rows = [{"id": "d1", "name": "One", "begin": row["begin"], "end": row["end"]} for row in (good, backwards)]
    assert api.post(rows, site="s").status_code == 200
    late = api.simulator.add_outage("s", 0, CUTOFF, CUTOFF)
    assert api.simulator.pending("s") == [{"id": "d1", "name": "One", "begin": late["begin"], "end": late["end"]}]


def test_given_data_may_be_no_json(api: Api) -> None:
    api.simulator.serve_exactly([{"x": float("nan")}], {"s": float("inf"), "t": None})
    assert api.get("/outages").text == '[{"x":NaN}]'
    assert (api.get("/site-info/s").text, api.get("/site-info/t").text) == ("Infinity", "null")
    assert api.simulator.pending("s") == []


# With the platform's own client


@pytest.fixture
def client(api: Api, request: pytest.FixtureRequest) -> Iterator[ApiClient]:
    api.simulator.faults.stall_s = STALL_S
    limits = limits_for(request.node.callspec.params["kind"])
    key = ("x-api-key", SecretStr("k"))

    def brief(seconds: float) -> None:
        """Dates have whole seconds, which nobody need wait for here."""
        time.sleep(min(seconds, 0.01))

    with ApiClient("outages", api.url, secret_header=key, limits=limits, sleep=brief) as client:
        yield client


# "slow" is not among them: a body of this length, a byte at a time, ends at any deadline.
QUICK_KINDS = [
    pytest.param(kind, marks=pytest.mark.long if kind.startswith("timeout") else ())
    for kind in sorted(set(KINDS) - {"slow"})
]


@pytest.mark.parametrize("kind", QUICK_KINDS)
def test_the_client_reads_through_each_fault(api: Api, client: ApiClient, kind: str) -> None:
    api.simulator.faults.retry_after_s = 0
    api.simulator.faults.script("outages", [kind, kind])
    assert client.get_json("/outages") == api.simulator.outages()
    assert api.simulator.faults.counts()["outages"] == {"none": 1, kind: 2}


@pytest.mark.parametrize("kind", QUICK_KINDS)
def test_a_delivery_takes_effect_once_through_each_fault(api: Api, client: ApiClient, kind: str) -> None:
    api.simulator.faults.retry_after_s = 0
    api.simulator.faults.script("site-outages", [kind, kind])
    body = json.dumps(api.expected()).encode()
    assert client.post_json(f"/site-outages/{SITE}", body, headers={"Idempotency-Key": "k1"}).status == 200
    assert set(api.simulator.delivered_rows(SITE).values()) == {1}
    assert api.simulator.pending(SITE) == []


# Controls


def control(api: Api, method: str, path: str, body: Any = None) -> requests.Response:
    return requests.request(method, f"{api.url}/_control{path}", json=body, timeout=5)


def test_the_controls_read_and_steer_over_http(api: Api) -> None:
    rows = api.expected()
    assert api.post(rows, key="k1").status_code == 200
    assert api.post(rows, key="k1").status_code == 200
    assert api.post(rows).status_code == 400
    read = control(api, "GET", "/deliveries").json()
    assert [(d["site"], d["key"], d["rows"], d["body"]) for d in read["deliveries"]] == [
        (SITE, "k1", rows, json.dumps(rows))
    ]
    assert [refusal["status"] for refusal in read["refusals"]] == [400]
    assert read["replays"] == 1
    late = {"site": SITE, "device_index": 2, "begin": CUTOFF, "end": "2022-02-02T00:00:00.000Z"}
    assert control(api, "POST", "/outages", late).json()["begin"] == CUTOFF
    sites = control(api, "GET", "/sites").json()
    assert sites[SITE] == {"acknowledged": len(rows), "pending": 1}
    assert set(sites) == {SITE, "kingfisher"}
    assert control(api, "POST", "/outages", {**late, "device_index": 9}).status_code == 422
    assert control(api, "PUT", "/data", {"outages": [1], "site_infos": {}}).status_code == 200
    assert api.outages() == [1]


def test_a_reset_is_the_beginning(api: Api) -> None:
    document = api.get("/outages").content
    assert api.post(api.expected(), key="k1").status_code == 200
    api.get("/site-info/another")
    api.simulator.faults.rates("outages", {"500": 1.0})
    api.simulator.add_outage(SITE, 0, CUTOFF, CUTOFF)
    assert control(api, "POST", "/reset").status_code == 200
    assert api.get("/outages").content == document
    assert (api.simulator.deliveries, api.simulator.acknowledged(SITE)) == ([], [])
    assert api.post(api.expected(), key="k1").status_code == 200
