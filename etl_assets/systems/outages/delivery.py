"""Deliver what is pending for a site, once: freeze a batch, post it, record what became of it.

| happens | the batch | next run |
|---|---|---|
| 200 | delivered | sends what is new |
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
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import pandas as pd
from psycopg import Connection, sql
from psycopg.rows import dict_row

from etl_assets.core.database.connections import Database
from etl_assets.core.slices.ledger import ledger_statement
from etl_assets.core.slices.slice import Slice
from etl_assets.core.sources.http.client import ApiRefused, ApiUnavailable, ConflictError
from etl_assets.errors import PermanentError
from etl_assets.systems.outages.api import OutagesApi
from etl_assets.systems.outages.contracts import DeliveredSiteOutages
from etl_assets.systems.outages.transform import batch_key, delivery_key, payload

# Refusals that say something about us or the address, not about the payload.
NOT_ABOUT_THE_PAYLOAD = (401, 403, 404)
LOCK_TIMEOUT_S = 600


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
                same = batch_key(pending(connection, site)["delivery_key"]) == waiting.batch_key
                if same or _state(connection, waiting) != "refused":
                    raise
        fresh = freeze(connection, site)
        if fresh is not None:
            settled.append(send(connection, api, fresh, run_id=run_id))
        total, watermark = history(connection, site)
        return Delivery(
            site=site,
            delivered=sum(batch.outages for batch in settled),
            batches=tuple(batch.batch_key for batch in settled),
            total=total,
            watermark=watermark,
        )


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
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            "SELECT batch_key, site_id, body, outages, state, attempts, may_have_arrived FROM outages.delivery_batches"
            " WHERE site_id = %s AND state IN ('frozen', 'disputed') ORDER BY frozen_at LIMIT 1",
            (site,),
        ).fetchone()
    if row is None:
        return None
    batch = Batch(**row)
    if batch.state == "disputed":
        raise PermanentError(disputed(batch))
    return batch


def disputed(batch: Batch) -> str:
    """What to do about a batch of which nobody knows whether it was taken."""
    return (
        f"delivery {batch.batch_key[:12]} of {batch.outages} outages for {batch.site_id} is disputed: an answer was lost and a later"
        " attempt was refused. Ask the API's owner whether it was taken, then run"
        f" `etl-assets outages settle {batch.batch_key[:12]} --as delivered` (or `--as pending`)"
    )


def pending(connection: Connection[Any], site: str) -> pd.DataFrame:
    """The outages of a site that the API has not acknowledged, rows of `SiteOutages` in input order."""
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            "SELECT device_id, name, begin_text, end_text, position, delivery_key FROM outages.site_outages AS o"
            " WHERE site_id = %s AND NOT EXISTS (SELECT FROM outages.delivered_site_outages AS d"
            " WHERE d.delivery_key = o.delivery_key) ORDER BY position",
            (site,),
        ).fetchall()
    columns = ["device_id", "name", "begin_text", "end_text", "position", "delivery_key"]
    return pd.DataFrame(rows, columns=columns)


def freeze(connection: Connection[Any], site: str) -> Batch | None:
    """Make what is pending a batch that will not change any more; None if nothing is pending."""
    with connection.transaction():
        rows = pending(connection, site)
        if rows.empty:
            return None
        batch = Batch(batch_key(rows["delivery_key"]), site, payload(rows), len(rows), "frozen", 0, False)
        # The same outages were refused before: the same batch is tried once more.
        connection.execute(
            "INSERT INTO outages.delivery_batches"
            " (batch_key, site_id, body, outages, state, attempts, may_have_arrived, frozen_at)"
            " VALUES (%s, %s, %s, %s, 'frozen', 0, false, clock_timestamp())"
            " ON CONFLICT (batch_key) DO UPDATE SET state = 'frozen', settled_at = NULL, may_have_arrived = false,"
            " body = excluded.body, frozen_at = excluded.frozen_at",
            (batch.batch_key, site, batch.body, batch.outages),
        )
    return batch


def send(connection: Connection[Any], api: OutagesApi, batch: Batch, *, run_id: str) -> Batch:
    """Post a frozen batch and record what became of it; returns it when it was acknowledged.

    Raises:
        ApiUnavailable, ApiRefused: what the API said, after it was recorded.
    """
    earlier = batch.may_have_arrived
    # Written before the call: killed in the middle of it, the next run knows that the payload may have arrived.
    record_attempt(connection, batch)
    try:
        answer = api.deliver(batch.site_id, batch.body, batch_key=batch.batch_key)
    except ConflictError as error:
        if not (earlier or error.outcome_unknown):
            settle(connection, batch, "refused", error)
            raise
        return acknowledge(connection, batch, status=409, response=str(error), run_id=run_id)
    except ApiRefused as error:
        unclear = earlier or error.outcome_unknown
        if error.status in NOT_ABOUT_THE_PAYLOAD:
            keep_frozen(connection, batch, error, may_have_arrived=unclear)
        else:
            settle(connection, batch, "disputed" if unclear else "refused", error)
        if unclear and error.status not in NOT_ABOUT_THE_PAYLOAD:
            raise ApiRefused(
                f"{error}. {disputed(batch)}", status=error.status, attempts=error.attempts, outcome_unknown=True
            ) from error
        raise
    except ApiUnavailable as error:
        keep_frozen(connection, batch, error, may_have_arrived=earlier or error.outcome_unknown)
        raise
    return acknowledge(connection, batch, status=answer.status, response=answer.text, run_id=run_id)


def record_attempt(connection: Connection[Any], batch: Batch) -> None:
    """Note that the batch is about to be sent."""
    connection.execute(
        "UPDATE outages.delivery_batches SET attempts = attempts + 1, may_have_arrived = true WHERE batch_key = %s",
        (batch.batch_key,),
    )


def keep_frozen(
    connection: Connection[Any], batch: Batch, error: ApiUnavailable | ApiRefused, *, may_have_arrived: bool
) -> None:
    """Leave the batch for the next run, which posts it again unchanged."""
    connection.execute(
        "UPDATE outages.delivery_batches SET may_have_arrived = %s, http_status = %s, response = %s WHERE batch_key = %s",
        (may_have_arrived, error.status, storable(str(error)), batch.batch_key),
    )


def settle(connection: Connection[Any], batch: Batch, state: str, error: ApiRefused) -> None:
    """Record that the batch was refused or is disputed."""
    connection.execute(
        "UPDATE outages.delivery_batches SET state = %s, may_have_arrived = %s, http_status = %s, response = %s,"
        " settled_at = clock_timestamp() WHERE batch_key = %s",
        (state, state == "disputed", error.status, storable(str(error)), batch.batch_key),
    )


def acknowledge(connection: Connection[Any], batch: Batch, *, status: int | None, response: str, run_id: str) -> Batch:
    """Record in one transaction that every outage of the batch was delivered."""
    rows = [
        (
            delivery_key(batch.site_id, row["id"], row["begin"], row["end"], row["name"]),
            batch.site_id,
            row["id"],
            row["name"],
            row["begin"],
            row["end"],
            batch.batch_key,
        )
        for row in json.loads(batch.body)
    ]
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO outages.delivered_site_outages"
            " (delivery_key, site_id, device_id, name, begin_text, end_text, batch_key, delivered_at)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, clock_timestamp()) ON CONFLICT (delivery_key) DO NOTHING",
            sorted(rows),
        )
        inserted = max(cursor.rowcount, 0)
        cursor.execute(
            "UPDATE outages.delivery_batches SET state = 'delivered', may_have_arrived = true, http_status = %s, response = %s,"
            " settled_at = clock_timestamp() WHERE batch_key = %s",
            (status, storable(response), batch.batch_key),
        )
        cursor.execute(ledger_statement(Slice(DeliveredSiteOutages, batch.site_id), _entry(batch, inserted, run_id)))
    return replace(batch, state="delivered")


def _entry(batch: Batch, inserted: int, run_id: str) -> dict[str, Any]:
    counts = dict.fromkeys(("updated", "deleted", "deduplicated", "quarantined", "flagged"), 0)
    return {
        "commit_id": uuid.uuid4().hex,
        "run_id": run_id,
        "mode": "delivery",
        "received": batch.outages,
        "inserted": inserted,
        "unchanged": batch.outages - inserted,
        **counts,
        "size": len(batch.body),
        "content_hash": batch.batch_key,
        "source_position": json.dumps({"batch": batch.batch_key}),
        "seconds": 0.0,
    }


def history(connection: Connection[Any], site: str) -> tuple[int, datetime | None]:
    """How many outages of a site were ever acknowledged, and when the newest was. The time is shown; it filters nothing."""
    row = connection.execute(
        "SELECT count(*), max(delivered_at) FROM outages.delivered_site_outages WHERE site_id = %s", (site,)
    ).fetchone()
    return row or (0, None)


def _state(connection: Connection[Any], batch: Batch) -> str:
    row = connection.execute(
        "SELECT state FROM outages.delivery_batches WHERE batch_key = %s", (batch.batch_key,)
    ).fetchone()
    return str(row[0]) if row else ""


def storable(text: str) -> str:
    """An answer of somebody else's server, short and without what Postgres cannot hold."""
    return text.replace("\x00", "\\0").encode("utf-8", "replace").decode()[:2000]


def settle_by_hand(database: Database, prefix: str, *, delivered: bool) -> Batch:
    """Settle a disputed batch as its API's owner says.

    Args:
        prefix: the beginning of the batch's key.
        delivered: whether it was taken; if not, its outages are pending again.

    Raises:
        PermanentError: if no single disputed batch has that key.
    """
    with database.connect(autocommit=True) as connection, connection.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(
            "SELECT batch_key, site_id, body, outages, state, attempts, may_have_arrived FROM outages.delivery_batches"
            " WHERE state = 'disputed' AND starts_with(batch_key, %s)",
            (prefix,),
        ).fetchall()
        if len(found) != 1:
            raise PermanentError(f"{len(found)} disputed deliveries have a key that begins with {prefix!r}")
        batch = Batch(**found[0])
        with site_lock(connection, batch.site_id):
            if delivered:
                return acknowledge(connection, batch, status=None, response="settled by hand", run_id="script")
            cursor.execute(
                "UPDATE outages.delivery_batches SET state = 'refused', may_have_arrived = false, settled_at = clock_timestamp(),"
                " response = 'settled by hand' WHERE batch_key = %s",
                (batch.batch_key,),
            )
            return replace(batch, state="refused")
