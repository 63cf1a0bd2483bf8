"""The failures of the platform, classified once: what may succeed when tried again, and what will not.

A failure is transient (the same call may succeed later: time-outs, resets, 5xx, 429, deadlocks) or permanent (somebody
must change something first). The text of each says what happened, where, and what to do; it never carries a secret.
How Dagster is told that a permanent failure stops all retries is in `etl_assets.core.dagster.contract_types`.
"""

from collections.abc import Sequence


class PlatformError(Exception):
    """A failure with a message for the person who has to act on it."""


class TransientError(PlatformError):
    """The same call may succeed later; retries within the deadline are used up."""


class PermanentError(PlatformError):
    """Trying again cannot help: input, configuration or code must change first."""


class ConfigurationError(PermanentError):
    """A setting is missing or wrong; the message names the variable."""


class ContractError(PermanentError):
    """Data or a table do not have the shape that the contract says; the message names the column."""


def combined(failures: Sequence[PlatformError]) -> PlatformError:
    """One failure for several that happened side by side; permanent if one of them is, and then it speaks of those."""
    if len(failures) == 1:
        return failures[0]
    permanent = [failure for failure in failures if isinstance(failure, PermanentError)]
    kind = PermanentError if permanent else TransientError
    return kind("; ".join(map(str, permanent or failures)))
