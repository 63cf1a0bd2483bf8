"""SIGKILL for `etl-assets experiments load`, at its steps and at random instants, while somebody looks at the tables.

At every look each table is as before the load or as after it; after the next load all of them are what the files come to. Some are only paused,
until another has read the files anew and has stored that: what they go on with never takes its place.
"""

import random
import time
from pathlib import Path

import psycopg

from etl_assets.core.database.connections import Database
from etl_assets.systems import experiments
from etl_assets_tests.systems.experiments.kills import (
    AS_OF,
    EARLIER,
    PAUSED_AT,
    Bench,
    Witness,
    assert_books_balance,
    steps,
    versions,
)
from etl_assets_tests.systems.outages.forker import Forker

SEED = 1
INSTANTS, COMMANDS, PAUSED_AT_ANY_INSTANT = 11, 3, 4


def test_loads_that_are_killed_leave_whole_tables_and_the_next_one_is_right(
    database: Database, data_dir: Path, tmp_path: Path, forker: Forker
) -> None:
    dice = random.Random(SEED)
    environment = {"ETL_DATA_DIR": str(data_dir), "ETL_POSTGRES_URL": database.url}
    with psycopg.connect(database.url, autocommit=True) as connection:
        loaded = versions(connection, tmp_path)
        first, other, _ = loaded
        bench = Bench(connection, database, forker, environment, Witness(database.url, first), first)
        for day in (EARLIER, AS_OF):
            experiments.load(first.folder, as_of=day, database=database)
        bench.witness.start()
        try:
            taken = bench.traced(other, tmp_path / "trace")
            for step in steps(taken, dice):
                bench.killed_at(first if bench.current is other else other, step)
            for task, kills, begin in (("load", INSTANTS, 0.0), ("command", COMMANDS, 0.4)):
                started = time.monotonic()
                assert bench.load(bench.current, task).wait() == 0
                lasts = time.monotonic() - started
                while bench.kills[task] < kills:
                    target = dice.choice([version for version in loaded if version is not bench.current])
                    bench.killed_after(target, dice.uniform(begin, 1) * lasts, task)
            bench.witness.rest()
            with Forker(tmp_path / "others") as another:
                for step in dice.sample(
                    [*PAUSED_AT, *[None] * PAUSED_AT_ANY_INSTANT], len(PAUSED_AT) + PAUSED_AT_ANY_INSTANT
                ):
                    target = dice.sample(loaded, 2)
                    bench.overtaken(step, *target, tmp_path / "paused", another, dice.uniform(0.1, 0.9) * lasts)
        finally:
            bench.witness.end()
        print(f"\n{bench.summary()}, seed {SEED}")
        assert bench.witness.failure is None
        assert bench.witness.partial == []
        assert (bench.lost, bench.twice, bench.missed) == (0, 0, [])
        assert bench.replaced == 0
        assert bench.paused >= 10
        assert bench.kills.total() >= 60
        # The witness was there between the tables of one load.
        assert bench.witness.mixed >= 60
        assert_books_balance(connection, loaded)
