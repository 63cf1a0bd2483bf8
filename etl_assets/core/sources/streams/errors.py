"""The broker's errors, classified as transient or permanent, with what to do."""

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from etl_assets.core.sources.http.outcomes import Redactor
from etl_assets.errors import PermanentError, PlatformError, TransientError

if TYPE_CHECKING:
    import redis

# The code that an error of the server begins with; a script's error has it somewhere inside.
TRANSIENT_CODES = {
    "LOADING": "it is still loading its file",
    "BUSY": "it is busy with a script",
    "OOM": "its memory is full: trim the streams, or raise maxmemory",
    "MISCONF": "it cannot write to its disk",
    "READONLY": "it is a replica: a failover is under way, or the URL names the wrong server",
    "MASTERDOWN": "its primary is away: a failover is under way",
    "CLUSTERDOWN": "the cluster is not complete",
    "TRYAGAIN": "the cluster is moving keys",
    "NOREPLICAS": "too few replicas are connected",
    "UNBLOCKED": "a failover is under way",
}
PERMANENT_CODES = {
    "NOAUTH": "it wants a password: put it into ETL_BROKER_URL",
    "WRONGPASS": "it refused user name or password: correct ETL_BROKER_URL",
    "NOPERM": "its user may not do this: grant it EVAL and the stream commands",
    "WRONGTYPE": "something else is stored under the stream's key: delete that, or use another prefix",
    "MOVED": "it is one node of a cluster: name a server or proxy that holds all keys",
    "CROSSSLOT": "it is one node of a cluster: name a server or proxy that holds all keys",
}
# The driver takes the code off where it has a class for the error.
CODE_OF_CLASS = {
    "BusyLoadingError": "LOADING",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "MasterDownError": "MASTERDOWN",
    "ClusterDownError": "CLUSTERDOWN",
    "TryAgainError": "TRYAGAIN",
    "MovedError": "MOVED",
    "AskError": "TRYAGAIN",
    "ClusterCrossSlotError": "CROSSSLOT",
    "AuthorizationError": "NOPERM",
    "NoPermissionError": "NOPERM",
    "AuthenticationError": "WRONGPASS",
    "AuthenticationWrongNumberOfArgsError": "WRONGPASS",
}
_OTHER = "look the answer up in the documentation of the broker; it must be Redis 6.2 or newer, or Valkey"


def failure_of(error: Exception, *, doing: str, client: "redis.Redis") -> PlatformError | None:
    """The platform's failure for what the driver raised, classified and without secrets; None if it is not the driver's.

    To be raised outside of the handler: the driver's exceptions quote the server's answer.

    Args:
        doing: what was going on, to follow `could not`.
        client: whose password is redacted.
    """
    import redis

    if not isinstance(error, redis.exceptions.RedisError | OSError):
        return None
    transient, reason = _judged(error)
    detail = " ".join(str(error).split())
    kind = TransientError if transient else PermanentError
    return kind(
        _without_secrets(client)(f"could not {doing} on the broker: {reason}" + (f" ({detail})" if detail else ""))
    )


def _judged(error: Exception) -> tuple[bool, str]:
    """Whether it may pass by itself, and what it means."""
    import ssl

    import redis.exceptions as errors

    text = str(error)
    if "Authentication required" in text:
        return False, PERMANENT_CODES["NOAUTH"]
    for codes, transient in ((PERMANENT_CODES, False), (TRANSIENT_CODES, True)):
        for code, reason in codes.items():
            if CODE_OF_CLASS.get(type(error).__name__) == code or re.search(rf"\b{code}\b", text):
                return transient, reason
    if isinstance(error.__cause__ or error.__context__, ssl.SSLCertVerificationError):
        return False, "its certificate is not trusted: correct it, or name the authority in ETL_BROKER_URL"
    if isinstance(error, errors.TimeoutError | TimeoutError):
        return True, "it did not answer in time"
    # An answer that is none in the protocol is what a connection in disorder gives, or a server that is going down.
    if isinstance(error, errors.ConnectionError | errors.InvalidResponse | OSError) or "max number of clients" in text:
        return True, "it cannot be reached, or the connection broke: see that it runs where ETL_BROKER_URL says"
    return False, _OTHER


def _without_secrets(client: Any) -> Redactor:
    options = client.connection_pool.connection_kwargs
    secrets = [str(options[name]) for name in ("password",) if options.get(name)]
    return Redactor([*secrets, *(quote(secret, safe="") for secret in secrets)])
