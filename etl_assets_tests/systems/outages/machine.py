"""The outbox against a model: rows come, deliveries fail or are killed at any step, servers go and come back."""

import contextlib
import itertools
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from etl_assets.errors import TransientError
from etl_assets.simulators.faults import KINDS
from etl_assets.simulators.server import serve
from etl_assets.systems.outages import delivery, outbox
from etl_assets_tests.systems.outages.world import Crash, World, crashing, quick_api

# "timeout…" and "slow" cost the client its whole read time-out and are left to the other proofs.
QUICK_KINDS = sorted(kind for kind in KINDS if not kind.startswith("timeout") and kind != "slow")
STEPS = dict.fromkeys(("freeze", "record_attempt", "acknowledge", "record_outcome", "history", "open_batch"), outbox)
STEPS["send"] = delivery
numbers = itertools.count()


class Outbox(RuleBasedStateMachine):
    """One site, from its first row to the moment at which nothing is left to deliver.

    The model is the simulator, which takes exactly the rows that it has not taken yet, in order and as text.
    """

    world: World

    @initialize()
    def begin(self) -> None:
        """A site of its own, since the database is shared by all examples."""
        self.servers = contextlib.ExitStack()
        self.simulator = self.world.simulator
        self.simulator.reset()
        self.simulator.faults.retry_after_s = 0.0
        self.site = f"site-{next(numbers)}"
        self.simulator.site_info(self.site)
        self.api = quick_api(self.world.url, self.simulator.api_key, conflict_means="delivered")
        self.world.store(self.site)

    @rule(device=st.integers(0, 2), day=st.integers(1, 28), stored=st.booleans())
    def a_row_comes(self, device: int, day: int, stored: bool) -> None:
        self.simulator.add_outage(self.site, device, f"2022-02-{day:02}T00:00:00.000Z", "2022-03-01T00:00:00.000Z")
        if stored:
            self.world.store(self.site)

    @rule()
    def what_the_api_has_is_stored(self) -> None:
        self.world.store(self.site)

    @rule(faults=st.lists(st.sampled_from(QUICK_KINDS), max_size=4), conflicts=st.booleans())
    def a_delivery_meets_faults(self, faults: list[str], conflicts: bool) -> None:
        self.simulator.conflict_on_replay = conflicts
        self.simulator.faults.script("site-outages", faults)
        with contextlib.suppress(TransientError):
            self.deliver()

    @rule(
        step=st.sampled_from(sorted(STEPS)),
        after=st.booleans(),
        faults=st.lists(st.sampled_from(QUICK_KINDS), max_size=4),
    )
    def a_delivery_is_killed(self, step: str, after: bool, faults: list[str]) -> None:
        self.simulator.faults.script("site-outages", faults)
        with contextlib.suppress(TransientError, Crash), crashing(STEPS[step], step, after=after):
            self.deliver()

    @rule()
    def the_api_restarts(self) -> None:
        self.servers.close()
        url = self.servers.enter_context(serve(self.simulator.app))
        self.api = quick_api(url, self.simulator.api_key, conflict_means="delivered")

    def deliver(self) -> Any:
        return self.world.deliver(self.site, api=self.api)

    @invariant()
    def nothing_took_effect_twice_and_nothing_is_marked_that_did_not(self) -> None:
        taken, marked = self.simulator.delivered_rows(self.site), self.world.marked(self.site)
        assert set(taken.values()) <= {1}
        assert marked <= taken

    def teardown(self) -> None:
        """Without faults, one more run delivers all the rest, and another finds nothing to do."""
        if not hasattr(self, "site"):
            return
        self.simulator.faults.clear()
        self.world.store(self.site)
        self.deliver()
        assert self.deliver().batches == ()
        assert set(self.world.states(self.site)) <= {"delivered"}
        self.world.assert_delivered_once(self.site)
        self.servers.close()
