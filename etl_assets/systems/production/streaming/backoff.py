"""How long something that fails is tried again: until nothing has come of it for too long."""

import logging
import random
import threading
import time
from collections.abc import Callable

from etl_assets.core.sources.http.client import Limits
from etl_assets.errors import PlatformError, TransientError

_log = logging.getLogger(__name__)


class Patience:
    """Pauses between attempts, capped and with full jitter; attempts and deadline count from the last progress.

    Args:
        what: what is tried, for messages.
        limits: attempts, delays and deadline.
        endless: go on for ever.
        stop: ends a pause.
        clock: for tests.
    """

    def __init__(
        self,
        what: str,
        limits: Limits,
        *,
        endless: bool,
        stop: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._limits = limits
        self._endless = endless
        self._stop = stop
        self._clock = clock
        self.progressed()

    def progressed(self) -> None:
        """Begin to count anew."""
        self._attempts = 0
        self._since = self._clock()

    def is_over(self) -> bool:
        """Whether there was no progress for longer than the deadline."""
        return not self._endless and self._clock() - self._since >= self._limits.deadline_s

    def pause(self, failure: PlatformError) -> None:
        """Wait before the next attempt; not shorter than the failure asks for.

        Raises:
            TransientError: if the attempts or the time are used up; says the failure.
        """
        self._attempts += 1
        # Beyond some exponent only the cap matters, and the power would overflow.
        ceiling = min(self._limits.max_delay_s, self._limits.base_delay_s * 2.0 ** min(self._attempts - 1, 60))
        wait_s = max(random.uniform(0.0, ceiling), getattr(failure, "retry_after_s", None) or 0.0)
        elapsed_s = self._clock() - self._since
        if not self._endless and (
            self._attempts >= self._limits.max_attempts or elapsed_s + wait_s >= self._limits.deadline_s
        ):
            times = "once" if self._attempts == 1 else f"{self._attempts} times"
            raise TransientError(
                f"{self._what}: tried {times} in {elapsed_s:.1f} s without progress (deadline"
                f" {self._limits.deadline_s:g} s), at last: {failure}"
            ) from failure
        _log.warning(
            "%s: %s; attempt %d without progress, again in %.2f s", self._what, failure, self._attempts, wait_s
        )
        self._stop.wait(wait_s)
