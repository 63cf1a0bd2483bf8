"""The failures of the platform, classified once: what may succeed when tried again, and what will not.

A failure is transient (the same call may succeed later: time-outs, resets, 5xx, 429, deadlocks) or permanent (somebody
must change something first). The text of each says what happened, where, and what to do; it never carries a secret.
How Dagster is told that a permanent failure stops all retries is in `etl_assets.core.dagster.contract_types`.
"""

import contextlib
from collections.abc import Iterator, Sequence


class PlatformError(Exception):
    """A failure with a message for the person who has to act on it."""


class TransientError(PlatformError):
    """The same call may succeed later; retries within the deadline are used up."""


class PermanentError(PlatformError):
    """Trying again cannot help: input, configuration or code must change first."""


class ConfigurationError(PermanentError):
    """A setting is missing or wrong; the message names the variable."""


class InputRefused(PermanentError):
    """A file or an answer of which nothing, or too little, can be loaded: nothing was changed."""


class ContractError(PermanentError):
    """Data or a table do not have the shape that the contract says; the message names the column."""


@contextlib.contextmanager
def given_by_a_person() -> Iterator[None]:
    """An input that is refused in here was given by a person, who has to give another: wrong usage, and no failure of a source.

    Raises:
        ConfigurationError: in place of `InputRefused`.
    """
    try:
        yield
    except InputRefused as refused:
        raise ConfigurationError(str(refused)) from refused


def combined(failures: Sequence[PlatformError]) -> PlatformError:
    """One failure for several that happened side by side; permanent if one of them is, and then it speaks of those."""
    if len(failures) == 1:
        return failures[0]
    permanent = [failure for failure in failures if isinstance(failure, PermanentError)]
    kind = PermanentError if permanent else TransientError
    return kind("; ".join(map(str, permanent or failures)))
