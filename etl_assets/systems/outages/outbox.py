"""The outbox in the database: what is pending for a site, the batches frozen of it, and what became of each.

What is pending is `site_outages` without `delivered_site_outages`, by delivery key. Nothing here speaks to the API.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields, replace
from datetime import datetime
from typing import Any, LiteralString

import pyarrow as pa
from psycopg import Connection, sql
from psycopg.rows import class_row, dict_row

from etl_assets.core.database.connections import Database
from etl_assets.core.slices.commit import Loaded, Part, Write, commit
from etl_assets.core.slices.heads import Head
from etl_assets.core.slices.lock import Lock
from etl_assets.core.slices.merging import Change
from etl_assets.core.slices.session import Session
from etl_assets.core.slices.transaction import Transaction, names
from etl_assets.systems.outages.contracts import DeliveredSiteOutages, SiteOutages, site_slice
from etl_assets.systems.outages.transform import batch_key, delivery_keys, payload

OPEN = ("frozen", "disputed")
RECORDED = ("delivery_key", "site_id", "device_id", "name", "begin_text", "end_text", "batch_key")


@dataclass(frozen=True)
class Batch:
    """A payload of one site and what is known of it; attributes as the columns of `DeliveryBatches`."""

    batch_key: str
    site_id: str
    body: str
    outages: int
    left_out: int = 0
    state: str = "frozen"
    attempts: int = 0
    may_have_arrived: bool = False
    conflicts: int = 0
    http_status: int | None = None
    response: str | None = None

    @property
    def rows(self) -> list[dict[str, str]]:
        """The outages of the payload, in its order."""
        rows: list[dict[str, str]] = json.loads(self.body)
        return rows


@dataclass(frozen=True)
class Outbox:
    """The outbox of a site whose outages are locked.

    Attributes:
        connection: each statement is a transaction of its own.
        lock: of the outages.
    """

    database: Database
    connection: Connection[Any]
    lock: Lock

    @contextmanager
    def still_locked(self, site: str) -> Iterator[None]:
        """A transaction that nobody else has had the lock before, since it was taken.

        Raises:
            Outdated: if somebody has.
        """
        with self.connection.transaction():
            self.lock.require(self.connection, site_slice(SiteOutages, site))
            yield


@contextmanager
def opened(database: Database, lock: Lock) -> Iterator[Outbox]:
    """The outbox, for one who holds the lock."""
    with database.spare() as connection:
        yield Outbox(database, connection, lock)


def open_batch(connection: Connection[Any], site: str) -> Batch | None:
    """The batch of a site that is frozen or disputed, if there is one."""
    found = _batches(connection, "site_id = %s AND state = ANY(%s) ORDER BY frozen_at LIMIT 1", site, list(OPEN))
    return found[0] if found else None


def disputed_batches(connection: Connection[Any], prefix: str = "") -> list[Batch]:
    """The disputed batches whose key begins with this."""
    return _batches(connection, "state = 'disputed' AND starts_with(batch_key, %s) ORDER BY frozen_at", prefix)


def _batches(connection: Connection[Any], condition: LiteralString, *values: Any) -> list[Batch]:
    query = sql.SQL("SELECT {} FROM outages.delivery_batches WHERE {}").format(_columns(), sql.SQL(condition))
    with connection.cursor(row_factory=class_row(Batch)) as cursor:
        return cursor.execute(query, values).fetchall()


def _columns() -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(field.name) for field in fields(Batch))


def pending(connection: Connection[Any], site: str, *, without: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The outages of a site that the API has not acknowledged, rows of `SiteOutages` in input order.

    Args:
        without: delivery keys to leave out.
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            "SELECT device_id, name, begin_text, end_text, position, delivery_key FROM outages.site_outages AS o"
            " WHERE site_id = %s AND delivery_key <> ALL(%s) AND NOT EXISTS (SELECT FROM outages.delivered_site_outages AS d"
            " WHERE d.delivery_key = o.delivery_key) ORDER BY position",
            (site, list(without)),
        ).fetchall()


def pending_of(connection: Connection[Any], keys: Sequence[str]) -> int:
    """How many of these delivery keys the API has not acknowledged."""
    query = "SELECT count(*) FROM outages.delivered_site_outages WHERE delivery_key = ANY(%s)"
    (acknowledged,) = connection.execute(query, (list(keys),)).fetchone() or (0,)
    return len(keys) - int(acknowledged)


def is_pending_unchanged(connection: Connection[Any], batch: Batch) -> bool:
    """Whether the source still says each outage of the batch, as it is in the payload."""
    said = {tuple(row.values()) for row in json.loads(payload(pending(connection, batch.site_id)))}
    return said.issuperset(tuple(row.values()) for row in batch.rows)


def freeze(box: Outbox, site: str, *, at_most: int | None = None, without: Sequence[str] = ()) -> Batch | None:
    """Make what is pending, the first outages of it, a batch that will not change any more; None if nothing is pending."""
    with box.still_locked(site):
        rows = pending(box.connection, site, without=without)[:at_most]
        if not rows:
            return None
        body = payload(rows)
        batch = Batch(batch_key(site, body), site, body, len(rows))
        # The same outages were refused before: the same batch is tried once more.
        box.connection.execute(
            sql.SQL(
                "INSERT INTO outages.delivery_batches ({}, frozen_at) VALUES ({}, clock_timestamp())"
                " ON CONFLICT (batch_key) DO UPDATE SET state = 'frozen', settled_at = NULL, may_have_arrived = false,"
                " conflicts = 0, left_out = 0, frozen_at = excluded.frozen_at"
            ).format(_columns(), sql.SQL(", ").join([sql.Placeholder()] * len(fields(Batch)))),
            astuple(batch),
        )
    return batch


def thaw(box: Outbox, batch: Batch) -> None:
    """Give up a batch of which nothing can have arrived; what is pending now will be frozen."""
    with box.still_locked(batch.site_id):
        record_outcome(box.connection, replace(batch, state="thawed"))


def record_attempt(box: Outbox, batch: Batch) -> None:
    """Record that the batch is about to be sent."""
    with box.still_locked(batch.site_id):
        box.connection.execute(
            "UPDATE outages.delivery_batches SET attempts = attempts + 1, may_have_arrived = true WHERE batch_key = %s",
            (batch.batch_key,),
        )


def record_outcome(connection: Connection[Any], batch: Batch) -> None:
    """Record what became of a batch that is open, unless it was settled meanwhile."""
    connection.execute(_outcome_statement(batch))


def _outcome_statement(batch: Batch) -> sql.Composed:
    # The text of the answer is kept short and without what Postgres cannot hold.
    response = (batch.response or "").replace("\x00", "\\0").encode("utf-8", "replace").decode()[:2000]
    values = {**vars(batch), "response": response or None, "open": list(OPEN)}
    return sql.SQL(
        "UPDATE outages.delivery_batches SET state = {state}, may_have_arrived = {may_have_arrived},"
        " conflicts = {conflicts}, left_out = {left_out}, http_status = {http_status}, response = {response},"
        " settled_at = CASE {state} WHEN 'frozen' THEN settled_at ELSE clock_timestamp() END"
        " WHERE batch_key = {batch_key} AND state = ANY({open})"
    ).format(**{name: sql.Literal(value) for name, value in values.items()})


def acknowledge(
    database: Database, batch: Batch, *, run_id: str, taken: Sequence[Mapping[str, str]] | None = None
) -> Batch:
    """Record in one commit that outages of the batch were delivered: all that is written of it is written here.

    Whoever holds the lock of the site by now: what was taken is to be known.

    Args:
        batch: with the answer, and what is left out.
        taken: the outages that were; by default all of the batch.
    """
    outages = batch.rows if taken is None else taken
    rows = [
        (key, batch.site_id, row["id"], row["name"], row["begin"], row["end"], batch.batch_key)
        for key, row in zip(delivery_keys(batch.site_id, outages), outages, strict=True)
    ]
    delivered = replace(batch, state="delivered", may_have_arrived=True, conflicts=0)
    table = pa.Table.from_pylist([dict(zip(RECORDED, row, strict=True)) for row in sorted(rows)])

    def load(transaction: Transaction, _: Head) -> Loaded:
        inserted = transaction.changed(
            sql.SQL(
                "INSERT INTO outages.delivered_site_outages ({c}, delivered_at) SELECT {c}, clock_timestamp() FROM {s}"
                " ORDER BY delivery_key ON CONFLICT (delivery_key) DO NOTHING"
            ).format(c=names(RECORDED), s=transaction.stage(table))
        )
        transaction.run(_outcome_statement(delivered))
        return Loaded(
            Change(inserted=inserted, unchanged=len(rows) - inserted),
            received=len(rows),
            size=len(batch.body),
            content_hash=batch.batch_key,
        )

    how = Write("delivery", run_id=run_id, source_position={"batch": batch.batch_key})
    with Session(database) as session:
        commit(session, [Part(site_slice(DeliveredSiteOutages, batch.site_id), "delivery", load)], how)
    return delivered


def history(connection: Connection[Any], site: str) -> tuple[int, datetime | None]:
    """How many outages of a site were ever acknowledged, and when the newest was. The time is for people; it filters nothing."""
    query = "SELECT count(*), max(delivered_at) FROM outages.delivered_site_outages WHERE site_id = %s"
    return connection.execute(query, (site,)).fetchone() or (0, None)


def delivered_elsewhere(connection: Connection[Any], batch: Batch, keys: Sequence[str]) -> int:
    """How many of these delivery keys were recorded with another batch."""
    query = "SELECT count(*) FROM outages.delivered_site_outages WHERE delivery_key = ANY(%s) AND batch_key <> %s"
    (count,) = connection.execute(query, (list(keys), batch.batch_key)).fetchone() or (0,)
    return int(count)
