"""Deliver what is pending for a site, exactly one time: freeze a batch, post it, record what became of it.

| happens | the batch | next run |
|---|---|---|
| 2xx, whatever becomes of the body behind it | delivered | sends what is new |
| refused (400, 422, …), nothing of it can have arrived | refused, its outages are free again | maps and freezes anew |
| refused after an attempt whose answer was lost | disputed: it may have been taken, so nothing more goes to this site until somebody settles it | stops, naming the command |
| 401, 403, 404 | stays frozen | posts the same batch |
| 409 after an attempt whose answer was lost | delivered: the API knows the key | sends what is new |
| 409 to the first attempt | refused | maps and freezes anew |
| no answer, 5xx, 429 until the deadline; killed before the record | stays frozen | posts the same batch, unchanged, before anything newer |

What is new is decided by the delivery keys alone. A lock per site keeps two senders apart; would it be lost, the Idempotency-Key
makes the second post of a batch have no effect.
"""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields, replace
from datetime import datetime
from typing import Any, LiteralString

from psycopg import Connection, sql
from psycopg.rows import class_row, dict_row

from etl_assets.core.database.connections import Database
from etl_assets.core.slices.ledger import ledger_statement
from etl_assets.core.slices.slice import Slice
from etl_assets.core.sources.http.client import ApiRefused, ApiUnavailable, ConflictError
from etl_assets.errors import PermanentError
from etl_assets.systems.outages.contracts import DeliveredSiteOutages
from etl_assets.systems.outages.source import OutagesApi
from etl_assets.systems.outages.transform import batch_key, delivery_key, payload

# Refusals that say something about us or the address, not about the payload.
NOT_ABOUT_THE_PAYLOAD = (401, 403, 404)
LOCK_TIMEOUT_S = 600
OPEN = ("frozen", "disputed")


@dataclass(frozen=True)
class Batch:
    """A frozen payload of one site."""

    batch_key: str
    site_id: str
    body: str
    outages: int
    state: str
    attempts: int
    may_have_arrived: bool


@dataclass(frozen=True)
class Delivery:
    """What a call of `deliver` did.

    Attributes:
        delivered: outages acknowledged by this call.
        batches: keys of the batches that were acknowledged.
        total: outages of the site that were ever acknowledged.
        watermark: when the newest delivery of the site was recorded; None if there never was one.
    """

    site: str
    delivered: int
    batches: tuple[str, ...]
    total: int
    watermark: datetime | None


def deliver(database: Database, api: OutagesApi, site: str, *, run_id: str = "script") -> Delivery:
    """Post what the API has not acknowledged yet: first a batch that is still frozen, unchanged, then what is new.

    Raises:
        ApiUnavailable: if the API does not answer; the batch stays frozen.
        ApiRefused: if it refuses; see the table above.
        PermanentError: if a batch is disputed; names the command that settles it.
    """
    settled: list[Batch] = []
    with database.connect(autocommit=True) as connection, site_lock(connection, site):
        waiting = open_batch(connection, site)
        if waiting is not None:
            try:
                settled.append(send(connection, api, waiting, run_id=run_id))
            except ApiRefused:
                # The data may have moved on since it was frozen: what is pending now is then judged on its own.
                same = _key_of(pending(connection, site)) == waiting.batch_key
                if same or not _batches(connection, "batch_key = %s AND state = 'refused'", waiting.batch_key):
                    raise
        fresh = freeze(connection, site)
        if fresh is not None:
            settled.append(send(connection, api, fresh, run_id=run_id))
        total, watermark = history(connection, site)
        delivered, keys = sum(batch.outages for batch in settled), tuple(batch.batch_key for batch in settled)
        return Delivery(site, delivered, keys, total, watermark)


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
    """The batch of a site that is frozen and not settled, if there is one.

    Raises:
        PermanentError: if it is disputed.
    """
    found = _batches(connection, "site_id = %s AND state = ANY(%s) ORDER BY frozen_at LIMIT 1", site, list(OPEN))
    if found and found[0].state == "disputed":
        raise PermanentError(disputed(found[0]))
    return found[0] if found else None


def _batches(connection: Connection[Any], condition: LiteralString, *values: Any) -> list[Batch]:
    columns = sql.SQL(", ").join(sql.Identifier(field.name) for field in fields(Batch))
    query = sql.SQL("SELECT {} FROM outages.delivery_batches WHERE {}").format(columns, sql.SQL(condition))
    with connection.cursor(row_factory=class_row(Batch)) as cursor:
        return cursor.execute(query, values).fetchall()


def disputed(batch: Batch) -> str:
    """What to do about a batch of which nobody knows whether it was taken."""
    return (
        f"delivery {batch.batch_key[:12]} of {batch.outages} outages for {batch.site_id} is disputed: an answer was lost and a later"
        " attempt was refused. Ask the API's owner whether it was taken, then run"
        f" `etl-assets outages settle {batch.batch_key[:12]} --as delivered` (or `--as pending`)"
    )


def pending(connection: Connection[Any], site: str) -> list[dict[str, Any]]:
    """The outages of a site that the API has not acknowledged, rows of `SiteOutages` in input order."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            "SELECT device_id, name, begin_text, end_text, position, delivery_key FROM outages.site_outages AS o"
            " WHERE site_id = %s AND NOT EXISTS (SELECT FROM outages.delivered_site_outages AS d"
            " WHERE d.delivery_key = o.delivery_key) ORDER BY position",
            (site,),
        ).fetchall()


def _key_of(rows: list[dict[str, Any]]) -> str:
    return batch_key(row["delivery_key"] for row in rows)


def freeze(connection: Connection[Any], site: str) -> Batch | None:
    """Make what is pending a batch that will not change any more; None if nothing is pending."""
    with connection.transaction():
        rows = pending(connection, site)
        if not rows:
            return None
        batch = Batch(_key_of(rows), site, payload(rows), len(rows), "frozen", 0, False)
        # The same outages were refused before: the same batch is tried once more.
        connection.execute(
            "INSERT INTO outages.delivery_batches"
            " (batch_key, site_id, body, outages, state, attempts, may_have_arrived, frozen_at)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, clock_timestamp())"
            " ON CONFLICT (batch_key) DO UPDATE SET state = 'frozen', settled_at = NULL, may_have_arrived = false,"
            " body = excluded.body, frozen_at = excluded.frozen_at",
            astuple(batch),
        )
    return batch


def send(connection: Connection[Any], api: OutagesApi, batch: Batch, *, run_id: str) -> Batch:
    """Post a frozen batch and record what became of it; returns it when it was acknowledged.

    Raises:
        ApiUnavailable, ApiRefused: what the API answered, after it was recorded.
    """
    # Written before the call: killed in the middle of it, the next run knows that the payload may have arrived.
    record_attempt(connection, batch)
    try:
        answer = api.deliver(batch.site_id, batch.body, batch_key=batch.batch_key)
    except (ApiRefused, ApiUnavailable) as error:
        unclear = batch.may_have_arrived or error.outcome_unknown
        state = state_after(error, unclear=unclear)
        if state == "delivered":
            return acknowledge(connection, batch, status=error.status, response=str(error), run_id=run_id)
        record_outcome(connection, batch, state, arrived=unclear, status=error.status, response=str(error))
        if state == "disputed":
            raise ApiRefused(
                f"{error}. {disputed(batch)}", status=error.status, attempts=error.attempts, outcome_unknown=True
            ) from error
        raise
    return acknowledge(connection, batch, status=answer.status, response=answer.text, run_id=run_id)


def state_after(error: ApiRefused | ApiUnavailable, *, unclear: bool) -> str:
    """What a batch is after a POST that was not acknowledged, by the table above.

    Args:
        unclear: whether this attempt, or one before, ended without an answer that rules out its effect.
    """
    if isinstance(error, ApiUnavailable) or error.status in NOT_ABOUT_THE_PAYLOAD:
        return "frozen"
    if isinstance(error, ConflictError):
        return "delivered" if unclear else "refused"
    return "disputed" if unclear else "refused"


def record_attempt(connection: Connection[Any], batch: Batch) -> None:
    """Record that the batch is about to be sent."""
    connection.execute(
        "UPDATE outages.delivery_batches SET attempts = attempts + 1, may_have_arrived = true WHERE batch_key = %s",
        (batch.batch_key,),
    )


def record_outcome(
    connection: Connection[Any], batch: Batch, state: str, *, arrived: bool, status: int | None, response: str
) -> None:
    """Record what became of the batch; one that stays frozen is for the next run, which posts it again unchanged.

    Args:
        arrived: whether it may have.
        response: text of the answer, or the failure; kept short and without what Postgres cannot hold.
    """
    connection.execute(
        "UPDATE outages.delivery_batches SET state = %(state)s, may_have_arrived = %(arrived)s, http_status = %(status)s,"
        " response = %(response)s, settled_at = CASE %(state)s WHEN 'frozen' THEN settled_at ELSE clock_timestamp() END"
        " WHERE batch_key = %(key)s",
        {
            "state": state,
            "arrived": arrived,
            "status": status,
            "response": response.replace("\x00", "\\0").encode("utf-8", "replace").decode()[:2000],
            "key": batch.batch_key,
        },
    )


def acknowledge(connection: Connection[Any], batch: Batch, *, status: int | None, response: str, run_id: str) -> Batch:
    """Record in one transaction that every outage of the batch was delivered."""
    rows = []
    for row in json.loads(batch.body):
        device, name, begin, end = row["id"], row["name"], row["begin"], row["end"]
        key = delivery_key(batch.site_id, device, begin, end, name)
        rows.append((key, batch.site_id, device, name, begin, end, batch.batch_key))
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO outages.delivered_site_outages"
            " (delivery_key, site_id, device_id, name, begin_text, end_text, batch_key, delivered_at)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, clock_timestamp()) ON CONFLICT (delivery_key) DO NOTHING",
            sorted(rows),
        )
        inserted = max(cursor.rowcount, 0)
        record_outcome(connection, batch, "delivered", arrived=True, status=status, response=response)
        cursor.execute(ledger_statement(Slice(DeliveredSiteOutages, batch.site_id), _entry(batch, inserted, run_id)))
    return replace(batch, state="delivered")


def _entry(batch: Batch, inserted: int, run_id: str) -> dict[str, Any]:
    return {
        "commit_id": uuid.uuid4().hex,
        "run_id": run_id,
        "mode": "delivery",
        "received": batch.outages,
        "inserted": inserted,
        "unchanged": batch.outages - inserted,
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


def settle_by_hand(database: Database, prefix: str, *, delivered: bool) -> Batch:
    """Settle a disputed batch as its API's owner says.

    Args:
        prefix: the beginning of the batch's key.
        delivered: whether it was taken; if not, its outages are pending again.

    Raises:
        PermanentError: if no single disputed batch has that key.
    """
    with database.connect(autocommit=True) as connection:
        found = _batches(connection, "state = 'disputed' AND starts_with(batch_key, %s)", prefix)
        if len(found) != 1:
            raise PermanentError(f"{len(found)} disputed deliveries have a key that begins with {prefix!r}")
        (batch,) = found
        with site_lock(connection, batch.site_id):
            if delivered:
                return acknowledge(connection, batch, status=None, response="settled by hand", run_id="script")
            connection.execute(
                "UPDATE outages.delivery_batches SET state = 'refused', may_have_arrived = false, settled_at = clock_timestamp(),"
                " response = 'settled by hand' WHERE batch_key = %s",
                (batch.batch_key,),
            )
            return replace(batch, state="refused")
