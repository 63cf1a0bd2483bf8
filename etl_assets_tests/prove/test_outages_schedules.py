"""Ten thousand schedules of faults against an API that counts effects: nothing twice, nothing lost, what is unclear is named.

A schedule is a site of its own: the source changes, deliveries meet faults before and after the effect, 409, 207, 413, a process
ends between any two statements, a sender loses its session while it has the payload and another takes over, batches are thawed,
a person settles what is disputed. Then all is quiet, and what is left must come out. API and client are in this process, the
tables are real. The same seeds give the same schedules.
"""

import contextlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from etl_assets.core.database.connections import Database
from etl_assets.core.sources.http.client import ApiRefused, ApiResponse, ApiUnavailable, ConflictError, Limits
from etl_assets.core.sources.http.outcomes import Action, rule_for_status
from etl_assets.errors import PlatformError
from etl_assets.systems.outages import delivery
from etl_assets.systems.outages.source import OutagesApi
from etl_assets.systems.outages.transform import delivery_keys
from etl_assets_tests.systems.outages.world import Crash

SEED = 20220101
SCHEDULES = {("heeded", "in_progress"): 5000, ("heeded", "delivered"): 2500, ("ignored", "in_progress"): 2500}
ATTEMPTS = 3  # of a client within a call
CONFLICTS_AT_MOST = 3
SPELLINGS = (("T{:02}:00:00.000Z", 0), ("T{:02}:00:00Z", 0), ("T{:02}:00:00+01:00", 1))
NAMES = {"d1": "One", "d2": "Two"}
QUIET = {"none": 1}
# How an attempt ends, and how often. Where the body breaks, the client gives the answer that the status line is.
FAULTS = {
    "none": 12, "no connection": 3, "429": 2, "401": 1, "400": 1, "413": 1, "503 before": 2, "lost before": 2, "500 after": 2,
    "lost after": 3, "body breaks": 1, "works on": 4, "crash before": 1, "crash after": 1, "takeover before": 1, "takeover after": 1,
}  # fmt: skip
# What the client sees, None for a lost connection, 0 for none at all: the API has not got it; has done nothing; has done its work.
NOT_ARRIVED = {"no connection": 0, "429": 429, "401": 401, "400": 400, "413": 413}
WITHOUT_EFFECT = {"503 before": 503, "lost before": None}
ANSWER_LOST = {"500 after": 500, "lost after": None}

Identity = tuple[str, int, int]  # device, day of the begin, hour of the end


def spelled(identity: Identity, spelling: int) -> dict[str, str]:
    """An outage as the source writes it."""
    device, day, hour = identity
    form, shift = SPELLINGS[spelling]
    begin, end = (f"2022-03-{day:02}" + form.format(at + shift) for at in (1, hour))
    return {"id": device, "name": NAMES[device], "begin": begin, "end": end}


def identity_of(row: dict[str, str]) -> Identity:
    """The outage that a payload means, whatever its spelling."""
    hour = int(row["end"][11:13]) - (1 if row["end"].endswith("+01:00") else 0)
    return row["id"], int(row["begin"][8:10]), hour


@dataclass
class Work:
    """A request that the API is at work on when its connection is gone."""

    rows: list[dict[str, str]]
    posts_left: int
    succeeds: bool


@dataclass
class Model:
    """The API of one site: what took effect, and what it has answered to which key."""

    dice: random.Random
    heeds_keys: bool
    conflict_means: str
    largest: int
    refused: set[str]
    tally: Counter[str]
    faults: dict[str, int] = field(default_factory=lambda: FAULTS)
    effects: Counter[Identity] = field(default_factory=Counter)
    bodies: dict[str, str] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)
    work: dict[str, Work] = field(default_factory=dict)
    reached: set[str] = field(default_factory=set)
    takeover: Callable[[], None] = lambda: None
    may_send: Callable[[str, list[dict[str, str]]], None] = lambda key, rows: None

    def attempt(self, key: str, body: str) -> int | None:
        """One request; its status, None where the connection is lost, 0 where there was none."""
        rows = json.loads(body)
        self.may_send(key, rows)
        fault = self.dice.choices([*self.faults], [*self.faults.values()])[0]
        self.tally["requests"] += 1
        if fault in NOT_ARRIVED:
            return NOT_ARRIVED[fault]
        self.interrupted(fault, "before")
        self.reached.add(key)
        if fault in WITHOUT_EFFECT:
            return WITHOUT_EFFECT[fault]
        if fault == "works on" and key not in self.answers and key not in self.work and self.judged(rows) == 200:
            self.work[key] = Work(rows, self.dice.randint(1, 12), self.dice.random() < 0.5)
            self.bodies.setdefault(key, body)
            return None
        status = self.handled(key, body, rows)
        self.tally[f"answered {status}"] += 1
        self.interrupted(fault, "after")
        return ANSWER_LOST.get(fault, status)

    def interrupted(self, fault: str, when: str) -> None:
        """The sender's process ends here, or another sender comes, one at a time."""
        if fault == f"crash {when}":
            raise Crash
        if fault == f"takeover {when}":
            takeover, self.takeover = self.takeover, lambda: None
            takeover()
            self.takeover = takeover

    def judged(self, rows: list[dict[str, str]]) -> int:
        """The status of a payload that is new."""
        if len(rows) > self.largest:
            return 413
        refused = sum(row["id"] in self.refused for row in rows)
        # Whose 409 means delivered takes a request whole or not at all.
        whole = self.conflict_means == "delivered" or refused == len(rows)
        return 200 if refused == 0 else 422 if whole else 207

    def handled(self, key: str, body: str, rows: list[dict[str, str]]) -> int:
        """What the API does with a request that it has whole."""
        if self.heeds_keys:
            # A key stands for one payload.
            assert self.bodies.setdefault(key, body) == body
            if key in self.work:
                self.work[key].posts_left -= 1
                if self.work[key].posts_left > 0:
                    return 409 if self.conflict_means == "in_progress" else 503
                self.end_work(key)
            if key in self.answers:
                return self.answers[key] if self.conflict_means == "in_progress" else 409
        status = self.judged(rows)
        if status in (200, 207):
            self.effects.update(identity_of(row) for row in rows if row["id"] not in self.refused)
            self.answers[key] = status
        return status

    def end_work(self, key: str) -> None:
        """The request that was worked on has its effect, or comes to nothing."""
        work = self.work.pop(key)
        if work.succeeds:
            self.effects.update(identity_of(row) for row in work.rows)
            self.answers[key] = 200

    def end_all_work(self) -> None:
        """Some time passes."""
        for key in list(self.work):
            self.end_work(key)


@dataclass
class Client:
    """The HTTP client as the system knows it: tries again what may succeed, says whether an attempt may have had its effect."""

    model: Model
    attempts: int

    def post_json(self, path: str, body: bytes, *, headers: dict[str, str]) -> ApiResponse:
        """One call."""
        unknown = False
        for attempt in range(1, self.attempts + 1):
            status = self.model.attempt(headers["Idempotency-Key"], body.decode())
            if status and 200 <= status < 300:
                return ApiResponse(status, "", attempt)
            rule = rule_for_status(status) if status else None
            unknown |= rule.may_have_applied if rule else status is None
            if rule and rule.action is Action.FAIL:
                kind = ConflictError if status == 409 else ApiRefused
                raise kind(f"answered {status}", status=status, attempts=attempt, outcome_unknown=unknown)
        raise ApiUnavailable("in vain", status=status or None, attempts=self.attempts, outcome_unknown=unknown)


class Kept(Database):
    """A database whose connections are kept for the next schedule."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.free: list[psycopg.Connection[Any]] = []
        self.used: list[psycopg.Connection[Any]] = []
        # Of locks, the first taken first.
        self.locks: list[psycopg.Connection[Any]] = []

    @contextlib.contextmanager
    def spare(self) -> Iterator[psycopg.Connection[Any]]:
        with super().spare() as connection:
            self.locks.append(connection)
            try:
                yield connection
            finally:
                self.locks.remove(connection)

    @contextlib.contextmanager
    def connect(self, *, autocommit: bool = False) -> Iterator[psycopg.Connection[Any]]:
        """A connection that commits each statement."""
        with self.translated("use the {} database"):
            connection = self.free.pop() if self.free else psycopg.connect(self.url, autocommit=True)
            self.used.append(connection)
            try:
                yield connection
            finally:
                self.used.remove(connection)
                if not connection.closed:
                    connection.rollback()
                    self.free.append(connection)

    def close(self) -> None:
        """Close what is kept."""
        for connection in self.free:
            connection.close()


@dataclass
class Steps:
    """Counts what a process does in the database, and ends it before or after one of that."""

    left: int | None = None
    after: bool = False

    def ended(self, *, after: bool) -> bool:
        """Whether the process ends here."""
        if self.left is None or after is not self.after:
            return False
        self.left -= 1
        if self.left >= 0:
            return False
        self.left = None
        return True


@pytest.fixture
def clean() -> Iterator[contextlib.ExitStack]:
    """Closes what a test has opened."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """Every statement and every end of a transaction is a step."""
    steps = Steps()
    leave = psycopg.Transaction.__exit__

    def stepping(name: str) -> None:
        original = getattr(psycopg.Cursor, name)

        def step(*args: Any, **kwargs: Any) -> Any:
            if steps.ended(after=False):
                raise Crash
            result = original(*args, **kwargs)
            if steps.ended(after=True):
                raise Crash
            return result

        monkeypatch.setattr(psycopg.Cursor, name, step)

    def end(transaction: Any, kind: Any, error: Any, traceback: Any) -> Any:
        if kind is None and steps.ended(after=False):
            leave(transaction, Crash, Crash(), None)
            raise Crash
        result = leave(transaction, kind, error, traceback)
        if kind is None and steps.ended(after=True):
            raise Crash
        return result

    stepping("execute")
    stepping("executemany")
    monkeypatch.setattr(psycopg.Transaction, "__exit__", end)
    return steps


@dataclass
class Schedule:
    """One site from its first outage to the moment at which nothing is left."""

    site: str
    dice: random.Random
    database: Kept
    api: OutagesApi
    model: Model
    steps: Steps
    tally: Counter[str]
    source: list[tuple[Identity, int]] = field(default_factory=list)
    unsure: set[str] = field(default_factory=set)

    def run(self) -> None:
        """All of it."""
        self.model.takeover, self.model.may_send = self.another_sender, self.may_send
        operations = [self.source_changes] * 3 + [self.deliver] * 4 + [self.crash, self.person, self.model.end_all_work]
        self.source_changes()
        for _ in range(self.dice.randint(3, 8)):
            self.dice.choice(operations)()
            self.nothing_twice()
        self.all_comes_out()

    # What happens

    def source_changes(self) -> None:
        """Outages come, go, are corrected and spelled otherwise."""
        for _ in range(self.dice.randint(1, 3)):
            new = (self.dice.choice(["d1", "d2"]), self.dice.randint(1, 9), self.dice.choice([11, 12]))
            if new not in [identity for identity, _ in self.source]:
                self.source.append((new, self.dice.randrange(len(SPELLINGS))))
        if self.dice.random() < 0.5:
            self.source.pop(self.dice.randrange(len(self.source)))
        if self.dice.random() < 0.3:
            self.source = [(identity, self.dice.randrange(len(SPELLINGS))) for identity, _ in self.source]
        rows = [spelled(identity, spelling) for identity, spelling in self.source]
        keys = delivery_keys(self.site, rows) if rows else []
        with self.database.connect() as connection, connection.transaction(), connection.cursor() as cursor:
            cursor.execute("DELETE FROM outages.site_outages WHERE site_id = %s", (self.site,))
            cursor.executemany(
                "INSERT INTO outages.site_outages VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
                [
                    (self.site, r["id"], r["name"], r["begin"], r["end"], r["begin"], r["end"], position, key)
                    for position, (r, key) in enumerate(zip(rows, keys, strict=True))
                ],
            )

    def deliver(self) -> delivery.Delivery | None:
        """A delivery; a failure is one of ours, and names what is disputed."""
        self.tally["deliveries"] += 1
        said = ""
        try:
            return delivery.deliver(self.database, self.api, self.site)
        except PlatformError as error:
            said = str(error)
        except Crash:
            pass
        finally:
            self.steps.left = None
        if said:
            self.named(said)
        else:
            self.tally["crashes"] += 1
            self.unsure.add(self.open_key("frozen") or "")
        return None

    def crash(self) -> None:
        """A delivery whose process ends at a statement."""
        self.steps.left, self.steps.after = self.dice.randint(0, 14), self.dice.random() < 0.5
        self.deliver()

    def another_sender(self) -> None:
        """The session of the sender that has the payload ends, and with it its lock; another does its work."""
        self.tally["takeovers"] += 1
        self.steps.left = None
        self.database.locks[0].close()
        faults, self.model.faults = self.model.faults, QUIET
        self.deliver()
        self.model.faults = faults

    def person(self) -> None:
        """Somebody asks the API's owner, who knows what was taken when no work is under way, and settles what is disputed."""
        key = self.open_key("disputed")
        if key is None:
            return
        self.model.end_all_work()
        self.tally["settled"] += 1
        [body] = self.column("SELECT body FROM outages.delivery_batches WHERE batch_key = %s", key)
        taken = [self.model.effects[identity_of(row)] > 0 for row in json.loads(body)]
        delivered = self.dice.random() < 0.5
        others = [place for place, was in enumerate(taken, start=1) if was is not delivered]
        delivery.settle_by_hand(self.database, key, delivered=delivered, others=others)

    # What must be true

    def may_send(self, key: str, rows: list[dict[str, str]]) -> None:
        """What the source has withdrawn or corrected goes out only where it may have arrived before."""
        said = [spelled(identity, spelling) for identity, spelling in self.source]
        assert key in self.model.reached | self.unsure or all(row in said for row in rows)

    def named(self, said: str) -> None:
        """A failure names what is disputed, unless the database itself failed, or another sender has done the work and has named it."""
        key = self.open_key("disputed")
        elsewhere = ("could not use the platform database", "another writer has had it since")
        assert key is None or f"outages settle {key[:12]}" in said or any(why in said for why in elsewhere)

    def nothing_twice(self) -> None:
        """No effect came twice, and what is recorded as delivered was taken."""
        assert set(self.model.effects.values()) <= {1}, self.model.effects
        assert self.recorded() <= set(self.model.effects)

    def all_comes_out(self) -> None:
        """Without faults, with what is disputed settled, all that the source says is taken, and all that was taken is recorded."""
        self.model.faults, self.model.refused = QUIET, set()
        for _ in range(12):
            self.model.end_all_work()
            self.person()
            done = self.deliver()
            self.nothing_twice()
            if done is not None and not done.batches:
                break
        else:
            pytest.fail("it does not come to an end")
        assert {identity for identity, _ in self.source} <= set(self.model.effects)
        assert self.recorded() == set(self.model.effects)
        assert self.open_key("frozen") is self.open_key("disputed") is None
        [unexplained] = self.column(
            "SELECT coalesce(sum(outages - left_out), 0)::int - (SELECT count(*)::int FROM outages.delivered_site_outages"
            " WHERE site_id = %s) FROM outages.delivery_batches WHERE site_id = %s AND state = 'delivered'",
            self.site,
            self.site,
        )
        assert unexplained == 0
        self.tally.update(
            self.column("SELECT state FROM outages.delivery_batches WHERE site_id = %s AND state = 'thawed'", self.site)
        )
        self.tally["outages"] += len(self.model.effects)

    def recorded(self) -> set[Identity]:
        """The outages that the database has as delivered."""
        query = "SELECT device_id, begin_text, end_text FROM outages.delivered_site_outages WHERE site_id = %s"
        with self.database.connect() as connection:
            rows = connection.execute(query, (self.site,)).fetchall()
        found = [identity_of({"id": device, "begin": begin, "end": end}) for device, begin, end in rows]
        assert len(set(found)) == len(found)
        return set(found)

    def open_key(self, state: str) -> str | None:
        """The key of the site's batch in this state."""
        query = "SELECT batch_key FROM outages.delivery_batches WHERE site_id = %s AND state = %s"
        keys = self.column(query, self.site, state)
        assert len(keys) <= 1
        return keys[0] if keys else None

    def column(self, query: Any, *values: Any) -> list[Any]:
        with self.database.connect() as connection:
            return [row[0] for row in connection.execute(query, values).fetchall()]


@pytest.fixture(scope="module")
def tally() -> Iterator[Counter[str]]:
    """Counts over the module, printed at its end."""
    tally: Counter[str] = Counter()
    yield tally
    print(
        f"\noutages, schedules: {', '.join(f'{name} {number}' for name, number in sorted(tally.items()))}, twice 0, lost 0"
    )


@pytest.mark.parametrize(("keys", "conflict_means"), SCHEDULES)
def test_no_schedule_does_an_effect_twice_or_loses_one(
    database: Database,
    steps: Steps,
    tally: Counter[str],
    clean: contextlib.ExitStack,
    monkeypatch: pytest.MonkeyPatch,
    keys: str,
    conflict_means: str,
) -> None:
    monkeypatch.setattr(delivery, "CONFLICTS_AT_MOST", CONFLICTS_AT_MOST)
    kept = clean.enter_context(contextlib.closing(Kept(database.url)))
    heeds_keys = keys == "heeded"
    limits = Limits(max_attempts=ATTEMPTS, base_delay_s=0, max_delay_s=0)
    api = OutagesApi(
        "http://model", SecretStr("key"), conflict_means=conflict_means, heeds_keys=heeds_keys, limits=limits
    )
    attempts = api._sender._limits.max_attempts
    for number in range(SCHEDULES[keys, conflict_means]):
        dice = random.Random(f"{SEED}/{keys}/{conflict_means}/{number}")
        refused = {"d2"} if dice.random() < 0.25 else set()
        model = Model(dice, heeds_keys, conflict_means, dice.choice([1, 2, 3, 99, 99, 99]), refused, tally)
        api._sender = Client(model, attempts)  # type: ignore[assignment]
        tally["schedules"] += 1
        try:
            Schedule(f"s{number}", dice, kept, api, model, steps, tally).run()
        except BaseException as error:
            error.add_note(f"schedule {number} with keys {keys}, 409 means {conflict_means}")
            raise
