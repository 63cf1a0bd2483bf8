"""SIGKILL for relay and drain, at every step and at random instants, over and over, while the files grow and broker, database
and API fail as well: in the end the tables are what the files come to, and at no moment were they anything else than what the
first records come to. Some are only paused, until another has taken over, and go on beside it.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from etl_assets.core.embedded import EmbeddedBroker, EmbeddedPostgres
from etl_assets.core.migrations.upgrade import ensure_head
from etl_assets.simulators.server import serve
from etl_assets.systems.production.contracts import METRICS, STREAMS, WORKORDERS
from etl_assets.systems.production.simulator import ProductionSimulator
from etl_assets_tests.systems.production import kills_records
from etl_assets_tests.systems.production.kills import GrowingFile, Lives, Servers, Storm, faulty, finish, plans
from etl_assets_tests.systems.production.kills_records import Expected
from etl_assets_tests.systems.production.kills_tasks import (
    DRAIN_PAUSED_AT,
    DRAIN_STEPS,
    RELAY_PAUSED_AT,
    RELAY_STEPS,
)
from etl_assets_tests.systems.production.kills_witness import Judgement, Witness, judge

SEED = 1
READINGS, ORDERS = 300_000, 30_000
DISTURBANCES = (
    *["broker killed"] * 4,
    *["broker stopped"] * 2,
    *["broker flushed"] * 3,
    *["database killed"] * 3,
    *["database stopped"] * 2,
)
LIMIT_S = 240.0


@pytest.fixture
def servers(data_dir: Path) -> Iterator[Servers]:
    """A database at head and a broker, for this test alone."""
    servers = Servers(EmbeddedPostgres(data_dir), EmbeddedBroker(data_dir))
    try:
        ensure_head(servers.database_url, database="platform")
        yield servers
    finally:
        servers.close()


@pytest.fixture(scope="module")
def texts() -> dict[str, list[str]]:
    """By stream, the texts of its records."""
    dice = random.Random(SEED)
    return {
        METRICS.name: kills_records.records(kills_records.METRICS, READINGS, kills_records.PARAMETERS, dice),
        WORKORDERS.name: kills_records.records(kills_records.WORKORDERS, ORDERS, kills_records.PRODUCTS, dice),
    }


@pytest.fixture(scope="module")
def expected(texts: dict[str, list[str]]) -> dict[str, Expected]:
    """By stream, what its records come to."""
    return {
        METRICS.name: Expected.of(texts[METRICS.name], kills_records.METRICS),
        WORKORDERS.name: Expected.of(texts[WORKORDERS.name], kills_records.WORKORDERS),
    }


def test_relay_and_drain_that_are_killed_a_hundred_times_lose_nothing_and_store_nothing_twice(
    servers: Servers, texts: dict[str, list[str]], expected: dict[str, Expected], tmp_path: Path
) -> None:
    dice = random.Random(SEED)
    files = [GrowingFile(tmp_path / f"{name}.ndjson", records) for name, records in texts.items()]
    simulator = ProductionSimulator(files[0].path, files[1].path, seed=SEED, source="files:growing")
    relays = plans(RELAY_STEPS, each=3, instants=18, commands=6, pauses=RELAY_PAUSED_AT, dice=dice)
    drains = plans(DRAIN_STEPS, each=2, instants=8, commands=4, pauses=DRAIN_PAUSED_AT, dice=dice)
    with serve(simulator.app) as url:
        storm = Storm(
            servers,
            files,
            Lives("relay", tmp_path / "relay", servers, url, relays, random.Random(f"{SEED} relay")),
            Lives("drain", tmp_path / "drain", servers, url, drains, random.Random(f"{SEED} drain")),
            Witness(lambda: servers.database_url, expected),
            dice.sample(DISTURBANCES, len(DISTURBANCES)),
        )
        faulty(simulator)
        storm.rage(limit_s=LIMIT_S)
        simulator.faults.clear()
        finish(servers, url, tmp_path / "end")
    judgement = Judgement()
    with psycopg.connect(servers.database_url) as connection:
        for stream in STREAMS:
            judge(connection, stream, expected[stream.name], judgement)
    print(f"\n{storm.summary(judgement)}, seed {SEED}")
    assert storm.witness.partial == []
    assert judgement == Judgement()
    assert storm.kills >= 100
    assert storm.paused == len(RELAY_PAUSED_AT) + len(DRAIN_PAUSED_AT)
    assert set(storm.relay.steps) == set(RELAY_STEPS)
    assert set(storm.drain.steps) == set(DRAIN_STEPS)
    # The witness was there while the tables grew.
    assert len(storm.witness.positions) >= 10
