"""Random histories of a feed, of those who run the system and of their accidents; in the end everything is as the feed has it."""

import contextlib
import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from etl_assets.cli import run
from etl_assets.core.slices import parquet as parquet_files
from etl_assets.errors import PlatformError
from etl_assets.systems.events import manifest as manifest
from etl_assets.systems.events import raw_layer as intake
from etl_assets.systems.events import us_events as us_store
from etl_assets.systems.events.us_events import StoredIntervals, totals
from etl_assets_tests.systems.events.sensor import Sensor
from etl_assets_tests.systems.events.test_script import damage
from etl_assets_tests.systems.events.world import World, quarter
from etl_assets_tests.systems.outages.runs import QUIET

HISTORIES, STEPS = 12, (8, 14, 20)
INTERVALS = 4
# Where a run can end without a word: before or after a step, the first or a later time.
ENDS = {
    "rows": (intake, "store_files"),
    "commit": (parquet_files, "commit"),
    "copy": (parquet_files, "publish"),
    "manifest": (manifest, "record"),
    "transaction": (us_store, "write_together"),
}


class Killed(BaseException):
    """The end of a process, in which no handler has a say."""


class History:
    """A world in which something happens at each step.

    Attributes:
        told: what has happened, for who reads a failure.
    """

    def __init__(self, world: World, sensor: Sensor, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world, self.sensor, self.monkeypatch = world, sensor, monkeypatch
        self.dice = random.Random(seed)
        self.told: list[str] = []
        feed: dict[Callable[[int], object], int] = {
            self.republish: 4,
            self.spoil: 4,
            self.withdraw: 5,
            self.halve: 1,
            self.hold: 3,
            self.mend: 5,
            self.fail: 1,
        }
        people = {self.load: 5, self.follow: 6, self.whole_day: 3, self.file: 14, self.accept: 3, self.replay: 3}
        accidents = {self.kill: 4, self.damage: 3, self.wait: 5}
        self.steps = {**feed, **people, **accidents}

    def step(self) -> None:
        """Something happens, to one of the intervals; then what is stored is in order."""
        happens = self.dice.choices(list(self.steps), list(self.steps.values()))[0]
        number = self.dice.randrange(INTERVALS)
        self.told.append(f"{happens.__name__} {number}")
        try:
            happens(number)
        except PlatformError as error:
            self.told.append(f"  {type(error).__name__}: {error}")
        self.judge()

    # --- the feed

    def republish(self, number: int) -> None:
        self.world.simulator.republish(quarter(number))

    def spoil(self, number: int) -> None:
        self.world.simulator.change(quarter(number), defect=self.dice.choice(["truncated", "nested", "bad-rows"]))

    def withdraw(self, number: int) -> None:
        self.world.simulator.change(quarter(number), withdrawn=True, withdrawn_as=self.dice.choice([404, 403]))

    def halve(self, number: int) -> None:
        self.world.simulator.change(quarter(number), halves=self.dice.choice([1, 30]))

    def hold(self, number: int) -> None:
        self.world.simulator.change(quarter(number), held=True)

    def mend(self, number: int) -> None:
        self.world.simulator.change(quarter(number), held=False, withdrawn=False, halves=0, defect="")

    def fail(self, number: int) -> None:
        self.world.simulator.faults.script("files", ["500"] * self.dice.choice([1, 3, 6]))

    # --- those who run it

    def load(self, number: int) -> None:
        before = len(self.world.us())
        done = self.world.load_all() if self.dice.random() < 0.5 else self.world.load(number)
        self.adds_up(done.stored, before)

    def file(self, number: int) -> None:
        before = len(self.world.us())
        shared = [{"global_event_id": str(self.dice.randrange(10, 12))}, number]
        broken = {"global_event_id": str(5_000 + len(self.told)), "action_geo_lat": "95"}
        self.adds_up(self.world.load_own(number, *shared, broken, 900 + number).stored, before)

    def follow(self, number: int) -> None:
        """What the sensor asks for is run, and is not asked for again a minute later."""
        asked = self.sensor.tick()
        if isinstance(asked, str):
            return
        done = {self.cause(request) for request in asked if self.sensor.run(request).success}
        self.world.ahead += timedelta(minutes=1)
        again = self.sensor.tick()
        assert isinstance(again, str) or not done & {self.cause(request) for request in again}
        if len(done) == len(asked):
            underived = [entry for entry in manifest.unsettled(self.world.database) if entry.state == "fetched"]
            assert not underived or not isinstance(again, str)

    def whole_day(self, number: int) -> None:
        job = self.sensor.definitions.resolve_job_def("events_job")
        job.execute_in_process(
            instance=self.sensor.instance, partition_key="2019-01-21", run_config=dict(QUIET), raise_on_error=False
        )

    def accept(self, number: int) -> None:
        manifest.accept(self.world.database, quarter(number), quarter(number + 1), reason=f"step {len(self.told)}")

    def replay(self, number: int) -> None:
        rows = self.world.query(
            "SELECT id FROM etl.quarantine WHERE status = 'open' AND faults LIKE '%action_geo_lat%'"
        )
        if rows:
            run(["quarantine", "replay", self.dice.choice(sorted(rows))[0], "--set", "action_geo_lat=61.2"])

    # --- accidents

    def kill(self, number: int) -> None:
        place, name = ENDS[end := self.dice.choice(sorted(ENDS))]
        at, before = self.dice.randrange(3), self.dice.random() < 0.5
        original, calls = getattr(place, name), 0

        def ended(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if before and calls == at + 1:
                raise Killed
            done = original(*args, **options)
            if calls == at + 1:
                raise Killed
            return done

        self.told.append(f"  {'before' if before else 'after'} {end} {at + 1}")
        with self.monkeypatch.context() as broken:
            broken.setattr(place, name, ended)
            # What runs on the way out of a function does not in a process that is killed.
            broken.setattr(
                intake,
                "record_unless_changed",
                lambda *args, **options: calls > at or manifest.record_unless_changed(*args, **options),
            )
            with contextlib.suppress(Killed):
                self.world.load_all()

    def damage(self, number: int) -> None:
        path = self.world.raw_file(number)
        if path.exists() and self.dice.random() < 0.7:
            damage(path)
        else:
            path.unlink(missing_ok=True)

    def wait(self, number: int) -> None:
        self.world.ahead += timedelta(minutes=self.dice.choice([1, 6, 20, 60]))

    # --- what must hold

    @staticmethod
    def cause(request: Any) -> str:
        return str(request.tags["etl/file"]).partition(", attempt")[0]

    def adds_up(self, stored: Sequence[StoredIntervals], before: int) -> None:
        counts, _ = totals(stored)
        assert counts["received"] == sum(counts[name] for name in ("inserted", "updated", "unchanged", "deduplicated"))
        assert len(self.world.us()) - before == counts["inserted"] - counts["deleted"]

    def judge(self) -> None:
        """No event is stored twice; an interval that is loaded has the events of its raw file, as many as the manifest says."""
        us = self.world.us()
        for number, entry in self.world.manifest().items():
            if entry.state != "loaded":
                continue
            mine = {identity for identity, (interval, *_) in us.items() if interval == quarter(number)}
            assert len(mine) == entry.rows_us
            try:
                raw = self.world.raw(number).to_pylist()
            except PlatformError:
                continue
            there = {row["global_event_id"] for row in raw if row["action_geo_country_code"] == "US"}
            if entry.md5:
                assert there <= us.keys() and mine <= there

    def end(self) -> None:
        """The feed mends; after some hours of the sensor and a run of the day everything is as the feed has it."""
        self.world.simulator.faults.clear()
        for number in range(INTERVALS):
            self.mend(number)
        sought = [
            number
            for number, entry in self.world.manifest().items()
            if number < INTERVALS and entry.state not in ("absent", "refused")
            if not (entry.accepted or entry.refused_md5) and (entry.reason or entry.md5 is None)
        ]
        for _ in range(5):
            self.world.ahead += timedelta(minutes=30)
            self.follow(0)
        for number in sought:
            assert self.world.manifest()[number].md5 == self.world.simulator.listed(quarter(number)).md5
        for _ in range(2):
            self.whole_day(0)
        accepted = [number for number, entry in self.world.manifest().items() if entry.accepted]
        for number in range(INTERVALS):
            entry, listed = self.world.manifest()[number], self.world.simulator.listed(quarter(number))
            assert number in accepted or (entry.state, entry.md5, entry.reason) == ("loaded", listed.md5, None)
        if not accepted:
            us, served = self.world.us(), self.world.in_the_us(*range(INTERVALS))
            assert {identity: us.get(identity) for identity in served} == served
        self.judge()


@pytest.mark.long
@pytest.mark.parametrize("seed", range(HISTORIES))
def test_whatever_happens_the_events_are_those_of_the_feed_in_the_end(
    world: World, sensor: Sensor, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(us_store, "STORED_TOGETHER", 1 + seed % 3)
    history = History(world, sensor, seed, monkeypatch)
    try:
        for _ in range(history.dice.choice(STEPS)):
            history.step()
        history.end()
    except AssertionError as error:
        told = "\n".join([*history.told, *(str(world.manifest().get(number)) for number in range(INTERVALS))])
        raise AssertionError(f"seed {seed}:\n{told}") from error
