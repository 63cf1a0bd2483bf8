"""Two hundred runs in which half of all calls fail: each ends delivered or fails clearly, and nothing is lost or sent twice."""

import random
import re
from collections import Counter

import dagster as dg
import pytest

from etl_assets.core.sources.http.client import Limits
from etl_assets.errors import PlatformError
from etl_assets.simulators.faults import KINDS
from etl_assets_tests.systems.outages import world as worlds
from etl_assets_tests.systems.outages.runs import Runs, failed_steps, failure
from etl_assets_tests.systems.outages.world import QUICK, World, quick_api

RUNS, SITES, SEED = 200, 10, 20220101
HASTY = Limits(
    connect_timeout_s=1, read_timeout_s=0.15, deadline_s=0.8, max_attempts=3, base_delay_s=0.001, max_delay_s=0.002
)
# What happened, where, and what to do.
CLEAR = re.compile(
    r"outages API, (GET|POST) /\S+: (tried .* at last: .+|answered .+): (try again|if it lasts|check|ask)\b"
)


def as_script(world: World, site: str) -> str | None:
    """Runs the script; what it says when it fails."""
    try:
        world.sync(site)
    except PlatformError as error:
        return str(error)
    return None


def as_job(world: World, site: str) -> str | None:
    """Runs the job; what its failed steps say when it fails."""
    runs = Runs.of(world)
    result = runs(site)
    steps = failed_steps(result)
    assert result.success is not bool(steps)
    return "\n".join(failure(result, step) for step in steps) or None


def test_two_hundred_runs_of_which_half_of_all_calls_fail(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dg.RetryPolicy, "calculate_delay", lambda policy, attempt: 0.001)
    monkeypatch.setattr(worlds, "QUICK", HASTY)
    monkeypatch.setattr(worlds.quick_api, "__kwdefaults__", {"limits": HASTY})
    monkeypatch.setenv("OUTAGES_CONFLICT_MEANS", "delivered")  # as the simulator means it
    dice, simulator = random.Random(SEED), world.simulator
    patient = quick_api(world.url, simulator.api_key, limits=QUICK, conflict_means="delivered")
    sites = [f"site-{number}" for number in range(SITES)]
    for site in sites:
        simulator.site_info(site)
    world.api = quick_api(world.url, simulator.api_key, limits=HASTY, conflict_means="delivered")
    faulty = dict.fromkeys(KINDS, 0.5 / len(KINDS))
    for call in ("outages", "site-info", "site-outages"):
        simulator.faults.rates(call, faulty)
    ended: Counter[str] = Counter()
    for number in range(RUNS):
        site = dice.choice(sites)
        simulator.conflict_on_replay = dice.random() < 0.5
        if dice.random() < 0.5:
            begin = f"2022-{dice.randrange(1, 13):02}-{dice.randrange(1, 29):02}T00:00:00.{dice.randrange(1000):03}Z"
            simulator.add_outage(site, dice.randrange(3), begin, "2023-01-01T00:00:00.000Z")
        said = as_job(world, site) if number % 10 == 0 else as_script(world, site)
        ended["failed clearly" if said else "delivered"] += 1
        assert said is None or CLEAR.search(said), f"run {number} at {site} said: {said}"
        assert all(set(simulator.delivered_rows(site).values()) <= {1} for site in sites)
    counts = simulator.faults.counts()
    calls, passed = (
        sum(sum(kinds.values()) for kinds in counts.values()),
        sum(kinds["none"] for kinds in counts.values()),
    )
    assert 0.4 < passed / calls < 0.6
    simulator.faults.clear()
    world.api = patient
    quiet = 0
    while any(result.delivered for result in world.sync(*sites)):
        quiet += 1
        assert quiet < 3
    lost = sum(len(simulator.pending(site)) for site in sites)
    twice = sum(times > 1 for site in sites for times in simulator.delivered_rows(site).values())
    for site in sites:
        world.assert_delivered_once(site)
    world.assert_books_balance()
    print(
        f"\noutages, {RUNS} runs at 50 % faults ({calls} calls, {simulator.replays} replays):"
        f" delivered {ended['delivered']}, failed clearly {ended['failed clearly']}, lost {lost}, twice {twice}"
    )
    assert ended["delivered"] >= 20
    assert ended["failed clearly"] >= 20
