"""The failures of the platform, classified once: what may succeed when tried again, and what will not.

A failure is transient (the same call may succeed later: time-outs, resets, 5xx, 429, deadlocks) or permanent (somebody
must change something first). The text of each says what happened, where, and what to do; it never carries a secret.
How Dagster is told that a permanent failure stops all retries is in `etl_assets.contracts.dagster`.
"""


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
