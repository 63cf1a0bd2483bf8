"""The failures of the platform, classified once: what may succeed when tried again, and what will not.

A failure is transient (the same call may succeed later: time-outs, resets, 5xx, 429, deadlocks) or permanent (somebody
must change something first). The text of each says what happened, where, and what to do; it never carries a secret.
How Dagster is told that a permanent failure stops all retries is in `etl_assets.core.dagster.contract_types`.
"""

import contextlib
import errno
from collections.abc import Iterator, Sequence

FULL = (errno.ENOSPC, errno.EDQUOT)
# Of a folder or a file that this process may not use as it wants to.
NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG)


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


def of_system(error: OSError, *, place: str | None = None, variable: str = "ETL_DATA_DIR") -> PlatformError:
    """What the operating system has refused, classified once, in one line that says what to do.

    Args:
        place: the file or folder that it was about; by default the one that the error names.
        variable: names another folder.
    """
    said = error.strerror or f"{error}" or type(error).__name__
    where = place or (str(error.filename) if error.filename else "a file or a connection")
    if error.errno in FULL:
        return TransientError(f"{where} cannot be written, the disk is full ({said}): make room on it")
    if error.errno in NOT_OURS:
        return PermanentError(
            f"{where} cannot be used ({said}): let {variable} name a folder that this process may write to and read"
        )
    if isinstance(error, FileNotFoundError):
        return PermanentError(f"{where} is not there ({said}): see who has removed it, then try again")
    if error.errno == errno.EIO:
        return TransientError(f"{where} cannot be used, its disk fails ({said}): look into it, then try again")
    return TransientError(f"{where} cannot be used, the system says: {said}; try again, and look into it if that lasts")


def combined(failures: Sequence[PlatformError]) -> PlatformError:
    """One failure for several that happened side by side; permanent if one of them is, and then it speaks of those."""
    if len(failures) == 1:
        return failures[0]
    permanent = [failure for failure in failures if isinstance(failure, PermanentError)]
    kind = PermanentError if permanent else TransientError
    return kind("; ".join(map(str, permanent or failures)))
