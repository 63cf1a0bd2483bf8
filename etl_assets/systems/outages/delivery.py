"""Deliver what is pending for a site, exactly one time: freeze a batch, post it, record what became of it.

What each answer means to a batch is the table of `answers`. The next delivery of the site begins with what is open:

| the batch is | the next delivery |
|---|---|
| delivered | sends what is new |
| refused | freezes anew what is pending |
| frozen, and may have arrived | posts it unchanged with its key, before anything newer; where the API ignores keys, it is disputed instead |
| frozen, nothing of it can have arrived | posts it unchanged while the source still says all of it; else thaws it, and freezes what is pending |
| disputed | stops, naming the command: nothing more goes to this site until somebody has said which outages were taken |

What is new is decided by the delivery keys alone. The lock of the site's outages keeps two senders apart, and who derives them: who lost it freezes and sends nothing
any more. A post that is under way meanwhile is known to have been begun, so that the other one sends the same batch with its key.
"""

import contextlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from psycopg import Connection

from etl_assets.core.database.connections import Database
from etl_assets.core.slices.entries import SHORTEST_PREFIX
from etl_assets.core.slices.lock import Lock, locked
from etl_assets.core.sources.http.client import ApiRefused, ApiUnavailable
from etl_assets.errors import ConfigurationError, PermanentError, PlatformError, combined
from etl_assets.systems.outages import outbox
from etl_assets.systems.outages.answers import IN_PROGRESS, TOO_LARGE, Meaning, meaning_of
from etl_assets.systems.outages.contracts import SiteOutages, site_slice
from etl_assets.systems.outages.outbox import Batch, Outbox
from etl_assets.systems.outages.source import OutagesApi
from etl_assets.systems.outages.transform import delivery_keys

# Whoever is asked so often, in as many calls with waits of their own, is not at work on the request any more.
CONFLICTS_AT_MOST = 10
# An API that takes no outage at all, however small the batch, is not asked for each of thousands.
TOO_LARGE_AT_MOST = 10


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


def deliver(
    database: Database, api: OutagesApi, site: str, *, lock: Lock | None = None, run_id: str = "script"
) -> Delivery:
    """Post what the API has not acknowledged yet: first a batch that is still open, then what is new.

    Args:
        lock: of the site's outages, where it is held already; nothing is frozen or sent after it was lost to somebody else.

    Raises:
        Outdated: if that has happened; the other one delivers.
        ApiUnavailable: if the API does not answer, or is still at work on the request; the batch stays frozen.
        ApiRefused: if it refuses; see the table of `answers`. Outages that are too large alone are named when all others are out.
        PermanentError: if a batch is disputed; names the command that settles it.
    """
    settled: list[Batch] = []
    # What was too large is not remembered for the next call: a limit may be raised, and to find it again costs few posts.
    at_most: int | None = None
    too_large: dict[str, PlatformError] = {}
    held = contextlib.nullcontext(lock) if lock else locked(database, [site_slice(SiteOutages, site)])
    with held as lock, outbox.opened(database, lock) as box:
        batch = _standing(box, api, site) or outbox.freeze(box, site)
        while batch is not None and len(too_large) < TOO_LARGE_AT_MOST:
            try:
                settled.append(send(box, api, batch, run_id=run_id))
            except ApiRefused as error:
                if error.outcome_unknown or meaning(api, error.status) is not TOO_LARGE:
                    raise
                at_most = (batch.outages + 1) // 2
                if batch.outages == 1:
                    at_most = None
                    too_large[delivery_keys(site, batch.rows)[0]] = _named(error, batch)
            batch = outbox.freeze(box, site, at_most=at_most, without=tuple(too_large))
        if too_large:
            raise combined(list(too_large.values()))
        total, watermark = outbox.history(box.connection, site)
        delivered, keys = (
            sum(batch.outages - batch.left_out for batch in settled),
            tuple(batch.batch_key for batch in settled),
        )
        return Delivery(site, delivered, keys, total, watermark)


def _standing(box: Outbox, api: OutagesApi, site: str) -> Batch | None:
    """The batch of an earlier call that is to be sent first.

    Raises:
        PermanentError: if it is disputed.
    """
    batch = outbox.open_batch(box.connection, site)
    if batch is None:
        return None
    if batch.state == "frozen" and batch.may_have_arrived and not api.heeds_keys:
        # The process ended in the call, or the API heeded keys when that was made.
        batch = replace(batch, state="disputed", response=batch.response or "no answer was recorded")
        outbox.record_outcome(box.connection, batch)
    if batch.state == "disputed":
        raise PermanentError(disputed(batch))
    if not batch.may_have_arrived and not outbox.is_pending_unchanged(box.connection, batch):
        outbox.thaw(box, batch)
        return None
    return batch


def _named(error: ApiRefused, batch: Batch) -> ApiRefused:
    (row,) = batch.rows
    return ApiRefused(
        f"{error}: the outage of {row['id']} from {row['begin']} to {row['end']} is too large alone",
        status=error.status,
        attempts=error.attempts,
    )


def disputed(batch: Batch) -> str:
    """What to do about a batch of which nobody knows what was taken."""
    key = batch.batch_key[:12]
    return (
        f"delivery {key} of {batch.outages} outages for {batch.site_id} is disputed, nobody knows which of them were taken; at last:"
        f" {batch.response}. Ask the API's owner, then run `etl-assets outages settle {key} --as delivered` (or `--as pending`;"
        " with `--except N` for each outage of which the other is true: `etl-assets outages disputed` lists them)"
    )


def meaning(api: OutagesApi, status: int | None) -> Meaning:
    """What an answer of this API means to a batch."""
    return meaning_of(status, conflict_means=api.conflict_means)


def send(box: Outbox, api: OutagesApi, batch: Batch, *, run_id: str) -> Batch:
    """Post a frozen batch and record what became of it; returns it when it was acknowledged.

    Raises:
        ApiUnavailable, ApiRefused: what the API answered, after it was recorded.
    """
    # Written before the call: killed in the middle of it, the next run knows that the payload may have arrived.
    outbox.record_attempt(box, batch)
    failure: ApiRefused | ApiUnavailable | None = None
    status: int | None
    try:
        answer = api.deliver(batch.site_id, batch.body, batch_key=batch.batch_key)
        status, said = answer.status, answer.text
    except (ApiRefused, ApiUnavailable) as error:
        status, said, failure = error.status, str(error), error
    unclear = batch.may_have_arrived or (failure is not None and failure.outcome_unknown)
    after = state_after(api, batch, status, unclear=unclear)
    if after.state == "delivered":
        return outbox.acknowledge(box.database, replace(after, response=said), run_id=run_id)
    if failure is None:
        said = f"outages API, POST /site-outages/{batch.site_id}: answered {status}, no success of the whole: {said}"
    after = replace(after, response=said)
    outbox.record_outcome(box.connection, after)
    if after.state == "disputed":
        raise ApiRefused(disputed(after), status=status, outcome_unknown=True) from failure
    assert failure is not None
    raise failure


def state_after(api: OutagesApi, batch: Batch, status: int | None, *, unclear: bool) -> Batch:
    """What a batch is after an answer, by the table.

    Args:
        unclear: whether this call, or one before, had an attempt without an answer that rules out its effect.
    """
    found = meaning(api, status)
    conflicts = batch.conflicts + 1 if found is IN_PROGRESS else 0
    unclear = unclear or found is IN_PROGRESS
    state = found.unclear if unclear else found.clear
    if state == "frozen" and ((unclear and not api.heeds_keys) or conflicts >= CONFLICTS_AT_MOST):
        state = "disputed"
    return replace(batch, state=state, may_have_arrived=unclear, conflicts=conflicts, http_status=status)


def disputed_deliveries(database: Database) -> list[Batch]:
    """All batches that somebody must settle, the oldest first."""
    with database.connect() as connection:
        return outbox.disputed_batches(connection)


def settle_by_hand(
    database: Database, prefix: str, *, delivered: bool, others: Collection[int] = ()
) -> tuple[Batch, int]:
    """Settle a disputed batch as its API's owner says; gives it with the number of its outages that were taken.

    Args:
        prefix: the beginning of the batch's key.
        delivered: whether its outages were taken; those that were not are pending again.
        others: places, from 1, of the outages of which the other is true.

    Raises:
        ConfigurationError: for so short a beginning that it may be a slip.
        PermanentError: if no single disputed batch has that key, or it has no outage at such a place.
    """
    with database.connect(autocommit=True) as connection:
        batch = _disputed(connection, prefix)
        with locked(database, [site_slice(SiteOutages, batch.site_id)]):
            # Somebody else may have settled it before the lock was free.
            batch = _disputed(connection, batch.batch_key)
            for place in others:
                if not 1 <= place <= batch.outages:
                    raise PermanentError(
                        f"there is no outage {place}: the delivery has {batch.outages}, counted from 1"
                    )
            batch = replace(batch, response=f"settled by hand; before that: {batch.response}")
            taken = [row for place, row in enumerate(batch.rows, start=1) if delivered != (place in others)]
            if not taken:
                batch = replace(batch, state="refused", may_have_arrived=False)
                outbox.record_outcome(connection, batch)
                return batch, 0
            keys = set(delivery_keys(batch.site_id, taken))
            recorded = len(keys) - outbox.delivered_elsewhere(connection, batch, list(keys))
            batch = replace(batch, left_out=batch.outages - recorded)
            return outbox.acknowledge(database, batch, run_id="script", taken=taken), len(taken)


def _disputed(connection: Connection[Any], prefix: str) -> Batch:
    if len(prefix) < SHORTEST_PREFIX:
        raise ConfigurationError(f"{prefix!r} is no key: give {SHORTEST_PREFIX} of its characters at least")
    found = outbox.disputed_batches(connection, prefix)
    if len(found) != 1:
        raise PermanentError(
            f"{len(found)} disputed deliveries have a key that begins with {prefix!r}: `etl-assets outages disputed` lists them"
        )
    return found[0]
