"""The outbox in the database: what is pending for a site, the batches frozen of it, and what became of each.

What is pending is `site_outages` without `delivered_site_outages`, by delivery key. Nothing here speaks to the API.
"""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields, replace
from datetime import datetime
from typing import Any, LiteralString

from psycopg import Connection, sql
from psycopg.rows import class_row, dict_row

from etl_assets.core.slices.ledger import ledger_statement
from etl_assets.core.slices.slice import Slice
from etl_assets.systems.outages.contracts import DeliveredSiteOutages
from etl_assets.systems.outages.transform import batch_key, delivery_keys, payload

LOCK_TIMEOUT_S = 600
OPEN = ("frozen", "disputed")


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


@contextmanager
def site_lock(connection: Connection[Any], site: str) -> Iterator[None]:
    """Keep other senders of this site out for as long as the connection lives."""
    identity = f"outages delivery {site}"
    connection.execute(sql.SQL("SET lock_timeout = {}").format(LOCK_TIMEOUT_S * 1000))
    connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (identity,))
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", (identity,))


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


def is_pending_unchanged(connection: Connection[Any], batch: Batch) -> bool:
    """Whether the source still says each outage of the batch, as it is in the payload."""
    said = {tuple(row.values()) for row in json.loads(payload(pending(connection, batch.site_id)))}
    return said.issuperset(tuple(row.values()) for row in batch.rows)


def freeze(
    connection: Connection[Any], site: str, *, at_most: int | None = None, without: Sequence[str] = ()
) -> Batch | None:
    """Make what is pending, the first outages of it, a batch that will not change any more; None if nothing is pending."""
    with connection.transaction():
        rows = pending(connection, site, without=without)[:at_most]
        if not rows:
            return None
        body = payload(rows)
        batch = Batch(batch_key(site, body), site, body, len(rows))
        # The same outages were refused before: the same batch is tried once more.
        connection.execute(
            sql.SQL(
                "INSERT INTO outages.delivery_batches ({}, frozen_at) VALUES ({}, clock_timestamp())"
                " ON CONFLICT (batch_key) DO UPDATE SET state = 'frozen', settled_at = NULL, may_have_arrived = false,"
                " conflicts = 0, left_out = 0, frozen_at = excluded.frozen_at"
            ).format(_columns(), sql.SQL(", ").join([sql.Placeholder()] * len(fields(Batch)))),
            astuple(batch),
        )
    return batch


def thaw(connection: Connection[Any], batch: Batch) -> None:
    """Give up a batch of which nothing can have arrived; what is pending now will be frozen."""
    record_outcome(connection, replace(batch, state="thawed"))


def record_attempt(connection: Connection[Any], batch: Batch) -> None:
    """Record that the batch is about to be sent."""
    connection.execute(
        "UPDATE outages.delivery_batches SET attempts = attempts + 1, may_have_arrived = true WHERE batch_key = %s",
        (batch.batch_key,),
    )


def record_outcome(connection: Connection[Any], batch: Batch) -> None:
    """Record what became of a batch that is open, unless it was settled meanwhile."""
    # The text of the answer is kept short and without what Postgres cannot hold.
    response = (batch.response or "").replace("\x00", "\\0").encode("utf-8", "replace").decode()[:2000]
    connection.execute(
        "UPDATE outages.delivery_batches SET state = %(state)s, may_have_arrived = %(may_have_arrived)s,"
        " conflicts = %(conflicts)s, left_out = %(left_out)s, http_status = %(http_status)s, response = %(response)s,"
        " settled_at = CASE %(state)s WHEN 'frozen' THEN settled_at ELSE clock_timestamp() END"
        " WHERE batch_key = %(batch_key)s AND state = ANY(%(open)s)",
        {**vars(batch), "response": response or None, "open": list(OPEN)},
    )


def acknowledge(
    connection: Connection[Any], batch: Batch, *, run_id: str, taken: Sequence[Mapping[str, str]] | None = None
) -> Batch:
    """Record in one transaction that outages of the batch were delivered: all that is written of it is written here.

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
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO outages.delivered_site_outages"
            " (delivery_key, site_id, device_id, name, begin_text, end_text, batch_key, delivered_at)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, clock_timestamp()) ON CONFLICT (delivery_key) DO NOTHING",
            sorted(rows),
        )
        inserted = max(cursor.rowcount, 0)
        record_outcome(connection, delivered)
        entry = _entry(batch, len(rows), inserted, run_id)
        cursor.execute(ledger_statement(Slice(DeliveredSiteOutages, batch.site_id), entry))
    return delivered


def _entry(batch: Batch, received: int, inserted: int, run_id: str) -> dict[str, Any]:
    return {
        "commit_id": uuid.uuid4().hex,
        "run_id": run_id,
        "mode": "delivery",
        "received": received,
        "inserted": inserted,
        "unchanged": received - inserted,
        **dict.fromkeys(("updated", "deleted", "deduplicated", "quarantined", "flagged"), 0),
        "size": len(batch.body),
        "content_hash": batch.batch_key,
        "source_position": json.dumps({"batch": batch.batch_key}),
        "seconds": 0.0,
    }


def history(connection: Connection[Any], site: str) -> tuple[int, datetime | None]:
    """How many outages of a site were ever acknowledged, and when the newest was. The time is for people; it filters nothing."""
    query = "SELECT count(*), max(delivered_at) FROM outages.delivered_site_outages WHERE site_id = %s"
    return connection.execute(query, (site,)).fetchone() or (0, None)


def delivered_elsewhere(connection: Connection[Any], batch: Batch, keys: Sequence[str]) -> int:
    """How many of these delivery keys were recorded with another batch."""
    query = "SELECT count(*) FROM outages.delivered_site_outages WHERE delivery_key = ANY(%s) AND batch_key <> %s"
    (count,) = connection.execute(query, (list(keys), batch.batch_key)).fetchone() or (0,)
    return int(count)
