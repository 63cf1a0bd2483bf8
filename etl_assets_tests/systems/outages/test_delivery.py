"""Deliveries to an API that answers as real ones do, by the command: each outage takes effect once, or is named."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from etl_assets_tests.systems.outages.forker import Command
from etl_assets_tests.systems.outages.receiver import Answer, Post, Receiver, served, takes_all
from etl_assets_tests.systems.outages.world import SITE, Outage, World, outage, quick_api

A, B, C = (f"2022-0{month}-01T10:00:00.000Z" for month in (1, 2, 3))
ONE, TWO = outage("d1", A), outage("d2", B)
TAKEN_ONCE = {("d1", A): 1, ("d2", B): 1}


@pytest.fixture
def receiver(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """An API with two outages to deliver; the environment names it."""
    receiver = Receiver([ONE, TWO])
    with served(receiver) as url:
        monkeypatch.setenv("OUTAGES_API_URL", url)
        yield receiver


class Sync:
    """`etl-assets outages sync` of the site, with the exit code and what it says."""

    def __init__(self, etl_assets: Command) -> None:
        self.etl_assets = etl_assets
        self.said = ""

    def __call__(self, *, quick: bool = True, **environment: str) -> int:
        code = self.etl_assets("outages", "sync", SITE, quick=quick, **environment)
        self.said = self.etl_assets.out + self.etl_assets.err
        return code


@pytest.fixture
def sync(etl_assets: Command) -> Sync:
    return Sync(etl_assets)


def recorded(world: World) -> list[tuple[str, str]]:
    """The outages that the database has as delivered, by device and begin."""
    return sorted((device, begin) for device, _, begin, _ in world.marked())


def of_day(day: int) -> Outage:
    return outage("d1", f"2022-03-{day:02}T10:00:00.000Z")


# A success is its status line


@pytest.mark.parametrize(
    "broken",
    [
        Answer(body=b"{", length=50),
        Answer(body=b"<html>We took it</html>"),
        Answer(body=b"{", length=1),
        Answer(status=204, body=b""),
        Answer(status=202, body=b"accepted"),
    ],
    ids=["cut off", "a page", "no JSON", "204", "202"],
)
def test_a_success_is_its_status_line_whatever_becomes_of_the_body(
    world: World, receiver: Receiver, sync: Sync, broken: Answer
) -> None:
    receiver.heeds_keys = False
    receiver.decide = lambda post: Answer(broken.status, broken.body, post.rows, broken.length)
    assert sync() == 0
    assert "2 delivered" in sync.said
    assert sync() == 0
    assert "nothing to deliver" in sync.said
    assert receiver.sizes() == [2]
    assert recorded(world) == [("d1", A), ("d2", B)]


# 409


def in_progress(*, until: float) -> Any:
    """The first POST loses its connection and comes to nothing; until then its key is in progress."""

    def decide(post: Post) -> Answer:
        if post.number == 1:
            return Answer(None)
        if time.monotonic() < until:
            return Answer(409, {"message": "a request with this key is in progress"})
        return takes_all(post)

    return decide


def test_a_409_that_says_in_progress_is_asked_again_within_the_call(
    world: World, receiver: Receiver, sync: Sync
) -> None:
    receiver.decide = in_progress(until=time.monotonic() + 2)
    assert sync(quick=False) == 0
    assert "2 delivered" in sync.said
    assert receiver.times() == TAKEN_ONCE
    assert len({post.key for post in receiver.posts}) == 1
    assert len(receiver.posts) > 2


def test_a_409_that_lasts_is_asked_again_by_the_next_sync(world: World, receiver: Receiver, sync: Sync) -> None:
    receiver.decide = in_progress(until=float("inf"))
    assert sync() == 1
    assert "answered 409 (“a request with this key is in progress”)" in sync.said
    assert "OUTAGES_CONFLICT_MEANS" in sync.said
    assert world.states() == ["frozen"]
    assert recorded(world) == []
    receiver.decide = takes_all
    assert sync() == 0
    assert receiver.times() == TAKEN_ONCE
    assert len({post.key for post in receiver.posts}) == 1


def test_a_409_without_end_is_disputed_and_a_person_is_asked(world: World, receiver: Receiver, sync: Sync) -> None:
    receiver.decide = lambda post: Answer(409, {"message": "no"})
    syncs = 0
    while world.states() != ["disputed"]:
        assert sync() == 1
        syncs += 1
        assert syncs <= 10
    assert syncs == 10
    posts = len(receiver.posts)
    assert sync() == 1
    assert f"etl-assets outages settle {world.batches()[0]['batch_key'][:12]} --as delivered" in sync.said
    assert len(receiver.posts) == posts
    assert recorded(world) == []


def test_a_409_means_delivered_where_the_owner_of_the_api_says_so(world: World, receiver: Receiver, sync: Sync) -> None:
    def decide(post: Post) -> Answer:
        return Answer(None, taken=post.rows) if post.number == 1 else Answer(409, {"message": "I have it"})

    receiver.decide = decide
    assert sync(OUTAGES_CONFLICT_MEANS="delivered") == 0
    assert "2 delivered" in sync.said
    assert receiver.times() == TAKEN_ONCE
    assert recorded(world) == [("d1", A), ("d2", B)]


def test_another_meaning_of_a_409_is_refused(receiver: Receiver, sync: Sync) -> None:
    assert sync(OUTAGES_CONFLICT_MEANS="perhaps") == 2
    assert "OUTAGES_CONFLICT_MEANS" in sync.said


# 207


def refuses_d2(post: Post) -> Answer:
    """Takes what is not of d2, and says of each outage what became of it."""
    items = [{"index": at, "status": 422 if row["id"] == "d2" else 200} for at, row in enumerate(post.rows)]
    taken = [row for row in post.rows if row["id"] != "d2"]
    return Answer(207 if taken else 422, items if taken else {"message": "no such device"}, taken)


def test_a_207_is_no_success_and_is_settled_outage_by_outage(
    world: World, receiver: Receiver, sync: Sync, etl_assets: Command
) -> None:
    receiver.decide = refuses_d2
    for _ in range(3):
        assert sync() == 1
        assert "answered 207" in sync.said
        assert '{"index": 1, "status": 422}' in sync.said
    assert (receiver.sizes(), recorded(world), world.states()) == ([2], [], ["disputed"])
    key = world.batches()[0]["batch_key"][:12]

    assert etl_assets("outages", "disputed") == 0
    assert [line.split()[:2] for line in etl_assets.out.splitlines()[1:]] == [["1", "d1"], ["2", "d2"]]
    assert etl_assets("outages", "settle", key, "--as", "delivered", "--except", "2") == 0
    assert etl_assets.out == "1 outage of kingfisher is now delivered, 1 pending\n"
    assert recorded(world) == [("d1", A)]
    world.assert_books_balance()

    for _ in range(2):
        assert sync() == 1
        assert "no such device" in sync.said
    assert [[row["id"] for row in post.rows] for post in receiver.posts] == [["d1", "d2"], ["d2"], ["d2"]]
    receiver.decide = takes_all
    assert sync() == 0
    assert receiver.times() == TAKEN_ONCE
    assert recorded(world) == [("d1", A), ("d2", B)]


@pytest.mark.parametrize(
    ("settled", "expected", "said"),
    [
        (["--as", "pending"], [], "0 outages of kingfisher are now delivered, 2 pending"),
        (["--as", "pending", "--except", "1"], ["d1"], "1 outage of kingfisher is now delivered, 1 pending"),
        (["--as", "delivered"], ["d1", "d2"], "2 outages of kingfisher are now delivered, 0 pending"),
        (["--as", "pending", "--except", "2", "--except", "1"], ["d1", "d2"], "2 outages of kingfisher are now"),
    ],
)
def test_a_disputed_delivery_is_settled_in_whole_or_in_part(
    world: World,
    receiver: Receiver,
    sync: Sync,
    etl_assets: Command,
    settled: list[str],
    expected: list[str],
    said: str,
) -> None:
    receiver.decide = refuses_d2
    assert sync() == 1
    key = world.batches()[0]["batch_key"]
    assert etl_assets("outages", "settle", key, *settled) == 0
    assert said in etl_assets.out
    assert [device for device, _ in recorded(world)] == expected
    assert world.states() == ["delivered" if expected else "refused"]
    assert etl_assets("outages", "settle", key, *settled) == 1
    assert "0 disputed deliveries" in etl_assets.err


@pytest.mark.parametrize("place", ["0", "3"])
def test_a_place_that_the_batch_does_not_have_settles_nothing(
    world: World, receiver: Receiver, sync: Sync, etl_assets: Command, place: str
) -> None:
    receiver.decide = refuses_d2
    assert sync() == 1
    key = world.batches()[0]["batch_key"]
    assert etl_assets("outages", "settle", key, "--as", "delivered", "--except", place) == 1
    assert f"there is no outage {place}: the delivery has 2" in etl_assets.err
    assert (world.states(), recorded(world)) == (["disputed"], [])


# What is delivered once


def test_an_outage_that_is_spelled_otherwise_is_the_same_one(world: World, receiver: Receiver, sync: Sync) -> None:
    assert sync() == 0
    receiver.outages = [{**row, "begin": row["begin"].replace(".000Z", "Z")} for row in (ONE, TWO)]
    assert sync() == 0
    assert "nothing to deliver" in sync.said
    assert receiver.times() == TAKEN_ONCE


def test_of_two_spellings_in_one_answer_the_first_goes_out_as_it_came(
    world: World, receiver: Receiver, sync: Sync
) -> None:
    receiver.outages = [outage("d1", "2022-01-01T11:00:00+01:00"), TWO, ONE]
    assert sync() == 0
    assert "2 outages, 2 delivered" in sync.said
    assert [row["begin"] for row in receiver.taken] == ["2022-01-01T11:00:00+01:00", B]
    assert [
        row["deduplicated"] for row in world.rows("SELECT * FROM etl.ledger WHERE asset = 'outages.site_outages'")
    ] == [1]


def test_a_corrected_end_is_another_outage(world: World, receiver: Receiver, sync: Sync) -> None:
    assert sync() == 0
    receiver.outages = [outage("d1", A, "2022-06-01T00:00:00.001Z"), TWO]
    assert sync() == 0
    assert receiver.sizes() == [2, 1]


# 413


def at_most(largest: int) -> Any:
    """Refuses a POST of more outages than that."""

    def decide(post: Post) -> Answer:
        return takes_all(post) if len(post.rows) <= largest else Answer(413, {"message": f"at most {largest}"})

    return decide


@pytest.mark.parametrize("largest", [1, 10, 24])
def test_a_batch_that_is_too_large_goes_out_in_parts(
    world: World, receiver: Receiver, sync: Sync, largest: int
) -> None:
    receiver.outages = [of_day(day) for day in range(1, 26)]
    receiver.decide = at_most(largest)
    assert sync() == 0
    assert "25 outages, 25 delivered" in sync.said
    assert receiver.times() == {("d1", row["begin"]): 1 for row in receiver.outages}
    assert [row["begin"] for row in receiver.taken] == [row["begin"] for row in receiver.outages]
    assert sync() == 0
    assert "nothing to deliver" in sync.said
    assert max(size for size in receiver.sizes() if size <= largest) <= largest


def test_one_outage_that_is_too_large_alone_is_refused_and_named_and_the_others_are_delivered(
    world: World, receiver: Receiver, sync: Sync
) -> None:
    receiver.outages = [of_day(day) for day in range(1, 8)]
    large = receiver.outages[2]

    def decide(post: Post) -> Answer:
        return (
            Answer(413, {"message": "too large"})
            if large["begin"] in [row["begin"] for row in post.rows]
            else takes_all(post)
        )

    receiver.decide = decide
    for _ in range(2):
        assert sync() == 1
        assert "answered 413" in sync.said
        assert "d1 from 2022-03-03T10:00:00.000Z" in sync.said
    assert receiver.times() == {("d1", row["begin"]): 1 for row in receiver.outages if row != large}


def test_a_413_after_a_lost_answer_is_disputed_and_never_halved(world: World, receiver: Receiver, sync: Sync) -> None:
    receiver.decide = lambda post: Answer(None) if post.number == 1 else Answer(413, {"message": "too large"})
    assert sync() == 1
    assert "is disputed" in sync.said
    assert receiver.sizes() == [2, 2]


# Frozen and thawed


NOT_ARRIVED = [401, 403, 404, 429]


@pytest.mark.parametrize("status", NOT_ARRIVED)
def test_what_the_source_has_withdrawn_is_not_sent_when_nothing_can_have_arrived(
    world: World, receiver: Receiver, sync: Sync, status: int
) -> None:
    receiver.decide = lambda post: Answer(status, {"message": "no"})
    assert sync() == 1
    assert world.states() == ["frozen"]
    receiver.outages = [outage("d1", A, "2022-06-01T12:00:00.000Z")]
    receiver.decide = takes_all
    assert sync() == 0
    assert "1 delivered" in sync.said
    assert [(row["id"], row["end"]) for row in receiver.taken] == [("d1", "2022-06-01T12:00:00.000Z")]
    assert world.states() == ["thawed", "delivered"]


def test_a_refused_connection_is_no_arrival(world: World, receiver: Receiver, sync: Sync) -> None:
    world.serve([ONE, TWO])
    world.store()
    with pytest.raises(Exception, match="no connection was accepted"):
        world.deliver(api=quick_api("http://127.0.0.1:9", "key"))
    receiver.outages = [TWO]
    assert sync() == 0
    assert receiver.times() == {("d2", B): 1}


def test_when_all_is_withdrawn_nothing_is_sent(world: World, receiver: Receiver, sync: Sync) -> None:
    receiver.decide = lambda post: Answer(429)
    assert sync() == 1
    receiver.outages = []
    receiver.decide = takes_all
    assert sync() == 0
    assert "nothing to deliver, no POST" in sync.said
    assert world.states() == ["thawed"]


def test_what_may_have_arrived_goes_out_unchanged_before_anything_newer(
    world: World, receiver: Receiver, sync: Sync
) -> None:
    receiver.decide = lambda post: Answer(500, taken=post.rows if post.number == 1 else [])
    assert sync() == 1
    receiver.outages = [outage("d1", C)]
    receiver.decide = lambda post: Answer() if post.number == 4 else takes_all(post)
    assert sync() == 0
    assert [[row["begin"] for row in post.rows] for post in receiver.posts] == [[A, B]] * 4 + [[C]]
    assert len({post.key for post in receiver.posts[:4]}) == 1


# An API that does not look at keys


@pytest.mark.parametrize("answer", [Answer(None), Answer(500), Answer(503)], ids=["lost", "500", "503"])
def test_without_keys_what_may_have_arrived_is_never_sent_again(
    world: World, receiver: Receiver, sync: Sync, answer: Answer
) -> None:
    receiver.heeds_keys = False
    receiver.decide = lambda post: Answer(answer.status, {}, post.rows)
    for _ in range(3):
        assert sync(OUTAGES_IDEMPOTENCY_KEYS="ignored") == 1
        assert "is disputed" in sync.said
    assert receiver.times() == TAKEN_ONCE
    assert world.states() == ["disputed"]


def test_without_keys_what_surely_has_not_arrived_is_sent_again(world: World, receiver: Receiver, sync: Sync) -> None:
    receiver.heeds_keys = False
    receiver.decide = lambda post: Answer(429) if post.number == 1 else takes_all(post)
    assert sync(OUTAGES_IDEMPOTENCY_KEYS="ignored") == 1
    assert sync(OUTAGES_IDEMPOTENCY_KEYS="ignored") == 0
    assert receiver.times() == TAKEN_ONCE


def test_without_keys_a_process_that_ended_in_the_call_leaves_a_dispute(
    world: World, receiver: Receiver, sync: Sync
) -> None:
    receiver.heeds_keys = False
    world.serve([ONE, TWO])
    world.store()
    world.crash_in_call()
    assert sync(OUTAGES_IDEMPOTENCY_KEYS="ignored") == 1
    assert "is disputed" in sync.said
    assert receiver.posts == []
