"""A database of the revision that told outages apart by the text of their times, and the first syncs after its upgrade."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from etl_assets.core.database.connections import Database
from etl_assets.core.migrations.upgrade import upgrade
from etl_assets.core.registry import histories
from etl_assets.systems.outages.checks import each_delivered_once
from etl_assets_tests.systems.outages.forker import Command
from etl_assets_tests.systems.outages.receiver import Receiver, served
from etl_assets_tests.systems.outages.test_assets import judged
from etl_assets_tests.systems.outages.world import World, outage

A, B = outage("d1", "2022-01-01T10:00:00.000Z", "2022-01-02T10:00:00.000Z"), outage("d2", "2022-02-01T10:00:00.000Z")
RESPELLED = outage("d1", "2022-01-01T11:00:00+01:00", "2022-01-02T10:00:00Z")
BRIEFLY = outage("d1", "2022-01-01T10:00:00Z", "2022-01-02T10:00:00Z")
NEW = outage("d2", "2022-03-01T10:00:00.000Z")
NAMES = {"d1": "One", "d2": "Two"}


def old_key(site: str, row: dict[str, str]) -> str:
    """What was delivered once, at the revision before."""
    identity = [site, row["id"], row["begin"], row["end"], NAMES[row["id"]]]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


class Old:
    """The tables as that revision left them."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url, autocommit=True)
        self.number = 0

    def batch(self, site: str, rows: list[dict[str, str]], *, state: str, arrived: bool = True) -> tuple[str, str]:
        """A batch, with what was delivered by it; gives its key and its payload."""
        self.number += 1
        keys = [old_key(site, row) for row in rows]
        key = hashlib.sha256("\n".join(keys).encode()).hexdigest()
        named = [{"id": r["id"], "name": NAMES[r["id"]], "begin": r["begin"], "end": r["end"]} for r in rows]
        body = json.dumps(named)
        self.connection.execute(
            "INSERT INTO outages.delivery_batches (batch_key, site_id, body, outages, state, attempts, may_have_arrived,"
            " frozen_at) VALUES (%s, %s, %s, %s, %s, 1, %s, now() - interval '1 day' + %s * interval '1 minute')",
            (key, site, body, len(rows), state, arrived, self.number),
        )
        for row_key, row in zip(keys, named, strict=True):
            if state == "delivered":
                self.connection.execute(
                    "INSERT INTO outages.delivered_site_outages VALUES"
                    " (%s, %s, %s, %s, %s, %s, %s, now() - interval '1 day' + %s * interval '1 minute')",
                    (row_key, site, *row.values(), key, self.number),
                )
        return key, body

    def outages(self, site: str, rows: list[dict[str, str]]) -> None:
        """What the site's table has."""
        for position, row in enumerate(rows):
            name, begin, end = NAMES[row["id"]], row["begin"], row["end"]
            self.connection.execute(
                "INSERT INTO outages.site_outages VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
                (site, row["id"], name, begin, end, begin, end, position, old_key(site, row)),
            )


@pytest.fixture
def old(empty_database_url: str) -> Iterator[Old]:
    """A database at the revision before."""
    heads = {history.name: history.head for history in histories("platform")}
    upgrade(empty_database_url, database="platform", to={**heads, "outages": "0001"})
    old = Old(empty_database_url)
    with old.connection:
        yield old


@pytest.fixture
def world(old: Old, empty_database_url: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The same database for today's code; the environment names it."""
    monkeypatch.setenv("ETL_POSTGRES_URL", empty_database_url)
    monkeypatch.setenv("OUTAGES_API_KEY", "key")
    return World(Database(empty_database_url), None, "", None)  # type: ignore[arg-type]


@pytest.fixture
def receiver(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    receiver = Receiver()
    with served(receiver) as url:
        monkeypatch.setenv("OUTAGES_API_URL", url)
        yield receiver


def consistent(world: World) -> bool:
    """Whether the check says that each outage is in one acknowledged batch."""
    return bool(judged(each_delivered_once, world)[0])


@pytest.mark.parametrize("spelling", [A, RESPELLED, BRIEFLY], ids=["as delivered", "another zone", "briefly"])
def test_what_was_delivered_is_not_delivered_again_however_it_is_spelled(
    old: Old, world: World, receiver: Receiver, etl_assets: Command, spelling: Any
) -> None:
    old.batch("s", [A, B], state="delivered")
    receiver.outages = [spelling, B]
    assert etl_assets("outages", "sync", "s") == 0
    assert "nothing to deliver" in etl_assets.out
    assert receiver.posts == []
    assert consistent(world)


def test_a_delivery_without_a_fetch_posts_only_what_is_new(
    old: Old, world: World, receiver: Receiver, etl_assets: Command
) -> None:
    old.batch("s", [A], state="delivered")
    old.outages("s", [RESPELLED, NEW, BRIEFLY])
    world.database.prepare()
    assert world.rows("SELECT begin_text FROM outages.site_outages ORDER BY position") == [
        {"begin_text": RESPELLED["begin"]},
        {"begin_text": NEW["begin"]},
    ]
    receiver.outages = [NEW]
    assert etl_assets("outages", "sync", "s") == 0
    assert [row["begin"] for row in receiver.taken] == [NEW["begin"]]


def test_of_two_delivered_outages_that_are_one_the_first_stays_and_both_batches_are_explained(
    old: Old, world: World, receiver: Receiver, etl_assets: Command
) -> None:
    first, _ = old.batch("s", [A, B], state="delivered")
    second, _ = old.batch("s", [RESPELLED, NEW], state="delivered")
    old.batch("other", [A], state="delivered")
    world.database.prepare()
    rows = world.rows("SELECT batch_key, begin_text FROM outages.delivered_site_outages WHERE site_id = 's'")
    assert {(row["batch_key"], row["begin_text"]) for row in rows} == {
        (first, A["begin"]),
        (first, B["begin"]),
        (second, NEW["begin"]),
    }
    assert [batch["left_out"] for batch in world.batches("s")] == [0, 1]
    assert consistent(world)
    world.execute("DELETE FROM outages.delivered_site_outages WHERE begin_text = %s", NEW["begin"])
    assert not consistent(world)


@pytest.mark.parametrize("rows", [[NEW], [NEW, B], [RESPELLED, NEW], [A, RESPELLED, BRIEFLY, NEW]])
def test_an_open_batch_goes_out_unchanged_under_its_old_key_and_is_recorded_by_the_new_identity(
    old: Old, world: World, receiver: Receiver, etl_assets: Command, rows: list[Any]
) -> None:
    old.batch("s", [BRIEFLY], state="delivered")
    key, body = old.batch("s", rows, state="frozen")
    receiver.outages = [A, B, NEW]
    assert etl_assets("outages", "sync", "s") == 0
    assert (receiver.posts[0].key, receiver.posts[0].body) == (key, body)
    others = [row["begin"] for post in receiver.posts[1:] for row in post.rows]
    assert others == ([] if B in rows else [B["begin"]])
    assert etl_assets("outages", "sync", "s") == 0
    assert "nothing to deliver" in etl_assets.out
    assert consistent(world)
    world.assert_books_balance()


@pytest.mark.parametrize(
    ("arguments", "posted"),
    [
        (["--as", "delivered"], []),
        (["--as", "delivered", "--except", "2"], [NEW]),
        (["--as", "delivered", "--except", "1"], []),
        (["--as", "pending"], [NEW]),
    ],
)
def test_a_disputed_batch_is_settled_by_the_new_identity(
    old: Old, world: World, receiver: Receiver, etl_assets: Command, arguments: list[str], posted: list[Any]
) -> None:
    old.batch("s", [BRIEFLY], state="delivered")
    key, _ = old.batch("s", [RESPELLED, NEW], state="disputed")
    receiver.outages = [A, NEW]
    assert etl_assets("outages", "sync", "s") == 1
    assert etl_assets("outages", "settle", key[:12], *arguments) == 0
    assert etl_assets("outages", "sync", "s") == 0
    assert [row["begin"] for row in receiver.taken] == [row["begin"] for row in posted]
    assert consistent(world)


def test_a_frozen_batch_that_cannot_have_arrived_is_thawed_where_it_repeats_what_was_delivered(
    old: Old, world: World, receiver: Receiver, etl_assets: Command
) -> None:
    old.batch("s", [A], state="delivered")
    old.batch("s", [RESPELLED, NEW], state="frozen", arrived=False)
    receiver.outages = [RESPELLED, NEW]
    assert etl_assets("outages", "sync", "s") == 0
    assert [row["begin"] for row in receiver.taken] == [NEW["begin"]]
    assert world.states("s") == ["delivered", "thawed", "delivered"]


def test_what_nobody_can_read_any_more_keeps_its_key(old: Old, world: World) -> None:
    unreadable = outage("d1", "soon", "later")
    old.batch("s", [unreadable, A], state="delivered")
    world.database.prepare()
    rows = world.rows("SELECT delivery_key, begin_text FROM outages.delivered_site_outages")
    assert {row["begin_text"]: row["delivery_key"] == old_key("s", unreadable) for row in rows} == {
        "soon": True,
        A["begin"]: False,
    }


def test_the_upgrade_waits_for_a_sender_of_the_revision_before(old: Old, world: World) -> None:
    old.outages("s", [A])
    old.connection.execute("SELECT pg_advisory_lock(hashtextextended('outages delivery s', 0))")
    with pytest.raises(Exception, match="another writer held the lock for too long"):
        Database(f"{world.database.url}?options=-c%20lock_timeout%3D100").prepare()
    old.connection.execute("SELECT pg_advisory_unlock_all()")
    world.database.prepare()
