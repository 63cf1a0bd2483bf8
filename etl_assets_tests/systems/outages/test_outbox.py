"""The outbox: what becomes of a batch in each case of its table, and that no outage takes effect twice."""

import datetime
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from etl_assets.core.slices import lock
from etl_assets.core.slices.lock import LookOutdated, locked
from etl_assets.core.sources.http.client import ApiRefused, ApiUnavailable
from etl_assets.errors import PermanentError, TransientError
from etl_assets.simulators.controls import Refusal
from etl_assets.systems.outages import delivery, outbox
from etl_assets.systems.outages.contracts import SiteOutages, site_slice
from etl_assets.systems.outages.delivery import deliver
from etl_assets.systems.outages.transform import payload
from etl_assets_tests.systems.outages.machine import Outbox
from etl_assets_tests.systems.outages.world import SITE, Crash, World, crashing, info, outage, quick_api

A, B, C = (f"2022-0{month}-01T00:00:00.000Z" for month in (1, 2, 3))
LOST = ["response-lost", "500", "502"]  # three attempts, all in vain, the first took effect
NOT_COMMITTED = ["timeout-before-commit", "reset", "503"]
NEVER_ARRIVED = ["429", "429-retry-after", "429"]


@pytest.fixture
def two(world: World) -> World:
    """Two outages of the site are stored and wait for their delivery."""
    world.serve([outage("d1", A), outage("d2", B)])
    world.store()
    return world


def fail(world: World, faults: list[str]) -> ApiUnavailable:
    """A delivery during which every attempt fails."""
    world.simulator.faults.script("site-outages", faults)
    with pytest.raises(ApiUnavailable) as caught:
        world.deliver()
    return caught.value


@pytest.fixture
def refusing(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets the API refuse every POST with a status, before it looks at it; None ends that."""
    accept = world.simulator.deliver

    def refuse(status: int | None) -> None:
        def refused(*args: Any, **kwargs: Any) -> int:
            raise Refusal(status or 500, f"refused with {status}")

        monkeypatch.setattr(world.simulator, "deliver", refused if status else accept)

    return refuse


# 200


def test_what_is_pending_goes_out_in_one_post_and_is_marked(two: World) -> None:
    delivery = two.deliver()
    assert (delivery.delivered, len(delivery.batches), two.posts()) == (2, 1, 1)
    assert two.begins() == [[A, B]]
    [batch] = two.batches()
    assert (batch["state"], batch["attempts"], batch["http_status"], batch["response"]) == (
        "delivered",
        1,
        200,
        '{"accepted":2}',
    )
    assert batch["batch_key"] == two.simulator.deliveries[0].key == delivery.batches[0]
    assert batch["body"] == two.simulator.deliveries[0].body
    assert delivery.watermark == two.column("SELECT max(delivered_at) FROM outages.delivered_site_outages")[0]
    two.assert_delivered_once()
    two.assert_books_balance()


def test_a_second_delivery_posts_nothing(two: World) -> None:
    first = two.deliver()
    second = two.deliver()
    assert (second.delivered, second.batches, second.watermark) == (0, (), first.watermark)
    assert two.posts() == 1


def test_with_nothing_to_deliver_there_is_no_post(world: World) -> None:
    world.serve([outage("stranger", A)])
    world.store()
    delivery = world.deliver()
    assert (delivery.delivered, delivery.batches, delivery.watermark) == (0, (), None)
    assert (world.posts(), world.batches()) == (0, [])


def test_an_empty_answer_with_200_is_an_acknowledgement(two: World) -> None:
    two.simulator.faults.script("site-outages", ["empty"])
    assert two.deliver().delivered == 2
    two.assert_delivered_once()


# What is new


def test_a_late_outage_with_an_old_begin_goes_out_alone(two: World) -> None:
    two.deliver()
    two.simulator.add_outage(SITE, 0, "2022-01-01T00:00:00.000Z", C)
    two.store()
    assert two.deliver().delivered == 1
    assert two.begins() == [[A, B], ["2022-01-01T00:00:00.000Z"]]
    two.assert_delivered_once()


def test_late_rows_follow_the_frozen_batch_which_does_not_change(two: World) -> None:
    fail(two, NEVER_ARRIVED)
    [frozen] = two.batches()
    two.simulator.add_outage(SITE, 1, C, C)
    two.store()
    delivery = two.deliver()
    assert (delivery.delivered, delivery.batches[0]) == (3, frozen["batch_key"])
    assert two.begins() == [[A, B], [C]]
    assert two.batches()[0]["body"] == frozen["body"]
    two.assert_delivered_once()


def test_a_renamed_device_is_delivered_anew_under_its_new_name(two: World) -> None:
    two.deliver()
    two.serve([outage("d1", A), outage("d2", B)], info(d1="One", d2="Zwei"))
    two.store()
    assert two.deliver().delivered == 1
    assert [row["name"] for row in two.simulator.deliveries[-1].rows] == ["Zwei"]
    two.assert_delivered_once()


@pytest.mark.long
def test_a_row_that_is_withdrawn_before_the_delivery_does_not_go_out(two: World) -> None:
    two.serve([outage("d2", B)])
    two.store()
    two.deliver()
    assert two.begins() == [[B]]


@pytest.mark.long
def test_a_row_that_is_withdrawn_after_the_delivery_stays_delivered_and_is_not_sent_again(two: World) -> None:
    two.deliver()
    two.serve([outage("d2", B)])
    two.store()
    assert two.deliver().delivered == 0
    two.serve([outage("d1", A), outage("d2", B)])
    two.store()
    assert two.deliver().delivered == 0
    assert two.begins() == [[A, B]]


@pytest.mark.long
def test_a_batch_that_the_data_left_behind_is_thawed_and_what_is_pending_now_goes_out(two: World) -> None:
    fail(two, NEVER_ARRIVED)
    two.serve([outage("d2", B), outage("d1", C)])
    two.store()
    done = two.deliver()
    assert done.delivered == 2
    assert two.begins() == [[B, C]]
    assert two.states() == ["thawed", "delivered"]
    two.assert_delivered_once()


@pytest.mark.long
def test_sites_do_not_hold_each_other_up(world: World) -> None:
    world.serve([outage("d1", A)], info(d1="One"), info("other", d1="Eins"))
    world.store()
    world.store("other")
    fail(world, NOT_COMMITTED)
    assert world.deliver("other").delivered == 1
    assert (world.states(), world.states("other")) == (["frozen"], ["delivered"])


# No answer


@pytest.mark.long
@pytest.mark.parametrize(
    "faults",
    [NOT_COMMITTED, NEVER_ARRIVED, LOST, ["timeout", "504", "408"]],
)
def test_without_an_answer_the_same_batch_goes_out_again(two: World, faults: list[str]) -> None:
    error = fail(two, faults)
    assert "outages API, POST /site-outages/kingfisher: tried 3 times" in str(error)
    [frozen] = two.batches()
    assert (frozen["state"], frozen["attempts"]) == ("frozen", 1)
    assert frozen["may_have_arrived"] is (faults is not NEVER_ARRIVED)
    assert frozen["http_status"] == error.status
    assert frozen["response"] == str(error)
    assert two.deliver().delivered == 2
    [sent] = two.batches()
    assert (sent["batch_key"], sent["body"], sent["attempts"]) == (frozen["batch_key"], frozen["body"], 2)
    two.assert_delivered_once()


@pytest.mark.parametrize("fault", ["short-body", "reset-mid-body", "truncated-json", "html", "empty"])
def test_a_success_is_its_status_whatever_becomes_of_the_body(two: World, fault: str) -> None:
    two.simulator.conflict_on_replay = True
    two.simulator.faults.script("site-outages", [fault])
    assert two.deliver().delivered == 2
    assert two.simulator.faults.counts()["site-outages"] == {fault: 1}
    assert [(batch["state"], batch["attempts"], batch["http_status"]) for batch in two.batches()] == [
        ("delivered", 1, 200)
    ]


@pytest.mark.long
def test_a_response_that_was_lost_on_the_way_is_repeated_within_the_call(two: World) -> None:
    two.simulator.faults.script("site-outages", ["response-lost", "timeout"])
    assert two.deliver().delivered == 2
    assert (len(two.simulator.deliveries), two.simulator.replays) == (1, 2)
    two.assert_delivered_once()


def test_a_host_that_does_not_answer_leaves_the_batch_frozen_and_surely_not_arrived(two: World) -> None:
    with pytest.raises(ApiUnavailable, match="no connection was accepted"):
        two.deliver(api=quick_api("http://127.0.0.1:9", "k"))
    assert [(b["state"], b["may_have_arrived"]) for b in two.batches()] == [("frozen", False)]
    assert two.deliver().delivered == 2


# 409: where it means delivered


@pytest.fixture
def conflicting(two: World) -> World:
    """An API that answers a repeated key with 409, and whose owner says so."""
    two.simulator.conflict_on_replay = True
    two.api = quick_api(two.url, two.simulator.api_key, conflict_means="delivered")
    return two


def test_a_409_after_a_lost_answer_means_delivered(conflicting: World) -> None:
    fail(conflicting, LOST)
    assert conflicting.deliver().delivered == 2
    [batch] = conflicting.batches()
    assert (batch["state"], batch["http_status"]) == ("delivered", 409)
    assert conflicting.posts() == 4
    conflicting.assert_delivered_once()


def test_a_409_after_a_lost_answer_within_the_call_means_delivered(conflicting: World) -> None:
    conflicting.simulator.faults.script("site-outages", ["response-lost"])
    assert conflicting.deliver().delivered == 2
    conflicting.assert_delivered_once()


# Refused


@pytest.mark.long
@pytest.mark.parametrize("status", [400, 405, 410, 422])
def test_a_refused_batch_frees_its_outages_and_is_mapped_anew(two: World, refusing: Any, status: int) -> None:
    refusing(status)
    with pytest.raises(ApiRefused, match=f"answered {status} "):
        two.deliver()
    assert (two.posts(), two.states()) == (1, ["refused"])
    assert two.batches()[0]["settled_at"] is not None
    refusing(None)
    two.simulator.add_outage(SITE, 0, C, C)
    two.store()
    assert two.deliver().delivered == 3
    assert two.states() == ["refused", "delivered"]
    two.assert_delivered_once()


def test_a_batch_that_is_refused_again_and_again_is_sent_once_per_run(two: World, refusing: Any) -> None:
    refusing(400)
    for runs in (1, 2, 3):
        with pytest.raises(ApiRefused):
            two.deliver()
        assert (two.posts(), two.states()) == (runs, ["refused"])


def test_a_frozen_batch_that_is_refused_is_not_frozen_again_by_the_same_run(two: World, refusing: Any) -> None:
    fail(two, NEVER_ARRIVED)
    refusing(400)
    with pytest.raises(ApiRefused):
        two.deliver()
    assert two.states() == ["refused"]
    assert two.posts() == 4


@pytest.mark.long
@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_that_is_not_about_the_payload_keeps_the_batch(two: World, refusing: Any, status: int) -> None:
    refusing(status)
    with pytest.raises(ApiRefused, match=f"answered {status} "):
        two.deliver()
    [frozen] = two.batches()
    assert (frozen["state"], frozen["may_have_arrived"], frozen["http_status"]) == ("frozen", False, status)
    refusing(None)
    two.simulator.add_outage(SITE, 0, C, C)
    two.store()
    assert two.deliver().batches[0] == frozen["batch_key"]
    assert two.begins() == [[A, B], [C]]


def test_a_wrong_key_says_which_variable_to_set_and_shows_no_key(two: World) -> None:
    with pytest.raises(ApiRefused, match="answered 403 .*: set OUTAGES_API_KEY to a key") as caught:
        two.deliver(api=quick_api(two.url, "a-wrong-key"))
    assert "a-wrong-key" not in str(caught.value)
    assert "a-wrong-key" not in str(two.batches())


def test_a_payload_changed_under_the_same_key_is_refused_and_nothing_takes_effect_twice(two: World) -> None:
    two.deliver()
    [batch] = two.batches()
    two.execute("DELETE FROM outages.delivered_site_outages")
    two.execute("UPDATE outages.delivery_batches SET state = 'frozen', may_have_arrived = false, body = body || ' '")
    with pytest.raises(ApiRefused, match=f"answered 422 .*{batch['batch_key']} was used for another request"):
        two.deliver()
    assert set(two.simulator.delivered_rows(SITE).values()) == {1}


# Disputed


@pytest.fixture
def contested(two: World, refusing: Any) -> World:
    """The answer to the batch was lost, and then it was refused."""
    fail(two, LOST)
    refusing(400)
    with pytest.raises(
        ApiRefused, match="is disputed, nobody knows which of them were taken; at last: .* answered 400"
    ):
        two.deliver()
    refusing(None)
    return two


def test_a_refusal_after_a_lost_answer_is_disputed_and_stops_the_site(contested: World) -> None:
    [batch] = contested.batches()
    assert (batch["state"], batch["may_have_arrived"]) == ("disputed", True)
    posts = contested.posts()
    with pytest.raises(PermanentError, match=f"etl-assets outages settle {batch['batch_key'][:12]} --as delivered"):
        contested.deliver()
    assert contested.posts() == posts


def test_a_refusal_after_a_lost_answer_within_one_call_is_disputed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.serve([outage("d1", A)])
    world.store()
    accept = world.simulator.deliver
    calls: list[int] = []

    def lost_then_refused(*args: Any, **kwargs: Any) -> int:
        calls.append(1)
        if len(calls) > 1:
            raise Refusal(400, "now I refuse")
        return accept(*args, **kwargs)

    monkeypatch.setattr(world.simulator, "deliver", lost_then_refused)
    world.simulator.faults.script("site-outages", ["response-lost"])
    with pytest.raises(ApiRefused, match="is disputed"):
        world.deliver()
    assert world.states() == ["disputed"]


def test_a_disputed_batch_that_was_taken_is_settled_as_delivered(contested: World) -> None:
    key = contested.batches()[0]["batch_key"]
    assert delivery.settle_by_hand(contested.database, key[:12], delivered=True)[1] == 2
    posts = contested.posts()
    assert contested.deliver().delivered == 0
    assert contested.posts() == posts
    contested.assert_delivered_once()
    contested.assert_books_balance()


def test_a_disputed_batch_that_is_settled_as_pending_goes_out_again(contested: World) -> None:
    delivery.settle_by_hand(contested.database, contested.batches()[0]["batch_key"], delivered=False)
    assert contested.states() == ["refused"]
    assert contested.deliver().delivered == 2
    # It had been taken after all: the key of the batch is the same, so that nothing took effect twice.
    assert contested.simulator.replays == 1
    contested.assert_delivered_once()


@pytest.mark.parametrize("prefix", ["ffff", "0000"])
def test_settling_what_is_not_disputed_is_refused(two: World, prefix: str) -> None:
    with pytest.raises(PermanentError, match=f"0 disputed deliveries have a key that begins with '{prefix}'"):
        delivery.settle_by_hand(two.database, prefix, delivered=True)


def test_a_settled_batch_cannot_be_settled_the_other_way(contested: World) -> None:
    key = contested.batches()[0]["batch_key"]
    delivery.settle_by_hand(contested.database, key, delivered=True)
    with pytest.raises(PermanentError, match="0 disputed deliveries"):
        delivery.settle_by_hand(contested.database, key, delivered=False)


# Crashes

CRASHES = [("freeze", False), ("freeze", True), ("record_attempt", False), ("record_attempt", True), ("_outcome_statement", True),
           ("acknowledge", False), ("acknowledge", True), ("payload", True), ("delivery_keys", True)]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(("name", "after"), CRASHES)
def test_after_a_crash_the_next_run_ends_as_if_nothing_had_happened(two: World, name: str, after: bool) -> None:
    with crashing(outbox, name, after=after), pytest.raises(Crash):
        two.deliver()
    two.deliver()
    assert two.begins() == [[A, B]]
    assert two.states() == ["delivered"]
    two.assert_delivered_once()


def test_a_crash_between_the_answer_and_the_mark_leads_to_one_repetition_before_anything_newer(two: World) -> None:
    with crashing(outbox, "acknowledge"), pytest.raises(Crash):
        two.deliver()
    two.simulator.add_outage(SITE, 0, C, C)
    two.store()
    assert two.deliver().delivered == 3
    assert (two.begins(), two.simulator.replays) == ([[A, B], [C]], 1)
    two.assert_delivered_once()


def test_a_crash_before_the_send_counts_as_an_attempt_that_may_have_arrived(two: World) -> None:
    with crashing(two.api, "deliver"), pytest.raises(Crash):
        two.deliver()
    [batch] = two.batches()
    assert (batch["state"], batch["attempts"], batch["may_have_arrived"]) == ("frozen", 1, True)


# Two at once


def test_of_two_senders_at_once_one_posts_and_the_other_finds_nothing_to_do(two: World) -> None:
    delivered: list[int] = []
    go = threading.Barrier(2)

    def send() -> None:
        api = quick_api(two.url, two.simulator.api_key)
        go.wait()
        delivered.append(two.deliver(api=api).delivered)

    senders = [threading.Thread(target=send) for _ in range(2)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert sorted(delivered) == [0, 2]
    assert (two.posts(), two.simulator.replays) == (1, 0)
    two.assert_delivered_once()


def test_a_sender_that_has_lost_its_lock_to_another_sends_nothing(two: World) -> None:
    with locked(two.database, [site_slice(SiteOutages, SITE)]) as lost:
        two.execute("SELECT pg_terminate_backend(%s)", lost.pid)
        assert two.deliver().delivered == 2
        two.serve([outage("d1", A), outage("d2", B), outage("d2", C)])
        two.store()
        with pytest.raises(
            LookOutdated, match=r"the lock of outages.site_outages\[.*\] was lost, and another writer has had it"
        ):
            deliver(two.database, two.api, SITE, lock=lost)
    assert two.posts() == 1


def test_a_sender_that_waits_too_long_for_the_lock_says_so_and_sends_nothing(
    two: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "LOCK_TIMEOUT", datetime.timedelta(milliseconds=50))
    monkeypatch.setattr(lock, "LOOKED_AT_EVERY_S", 0.02)
    with locked(two.database, [site_slice(SiteOutages, SITE)]):
        with pytest.raises(TransientError, match=r"another writer has held the lock of outages.site_outages"):
            two.deliver()
    assert two.posts() == 0
    assert two.deliver().delivered == 2


def test_an_answer_is_recorded_though_the_connection_was_cut_after_it(
    two: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    acknowledge = outbox.acknowledge

    def cut(*args: Any, **kwargs: Any) -> Any:
        two.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return acknowledge(*args, **kwargs)

    monkeypatch.setattr(outbox, "acknowledge", cut)
    with pytest.raises(TransientError, match="could not use the platform database: "):
        two.deliver()
    monkeypatch.undo()
    assert two.deliver().delivered == 0
    assert two.posts() == 1
    two.assert_delivered_once()


# What the API says


def test_an_answer_that_postgres_cannot_hold_is_kept_as_far_as_it_can(
    two: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = quick_api(two.url, two.simulator.api_key)
    post = api._client.post_json
    monkeypatch.setattr(
        api._client, "post_json", lambda *a, **k: replace(post(*a, **k), text="a\x00b\ud800" + "x" * 9000)
    )
    assert two.deliver(api=api).delivered == 2
    [batch] = two.batches()
    assert batch["response"].startswith("a\\0b?x")
    assert len(batch["response"]) == 2000


def test_the_body_is_what_the_transform_makes_of_the_pending_rows(two: World) -> None:
    with two.database.connect() as connection:
        rows = outbox.pending(connection, SITE)
    two.deliver()
    assert two.batches()[0]["body"] == payload(rows)


# Against the model


@pytest.mark.long
def test_whatever_happens_each_outage_takes_effect_once(world: World) -> None:
    run_state_machine_as_test(
        type("OutboxOfThisTest", (Outbox,), {"world": world}),
        settings=settings(max_examples=4, stateful_step_count=8, deadline=None, database=None),
    )
