"""What the gateway counts about itself, for Prometheus; in a registry of its own, so that nothing else is in it.

Requests are counted by the template of their route, never by their path: a scanner that asks for a million paths makes
one series.
"""

import platform
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
UNKNOWN_ROUTE = "(none)"
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30)

_registry = CollectorRegistry()
_requests = Counter(
    "gateway_requests",
    "Requests answered, by route template, method and status.",
    ("route", "method", "status"),
    registry=_registry,
)
_seconds = Histogram(
    "gateway_request_seconds",
    "Time from the request to the end of its answer.",
    ("route", "method"),
    buckets=SECONDS,
    registry=_registry,
)
_triggers = Counter(
    "gateway_triggers",
    "Triggers by name and outcome: taken, or the reason why one was refused.",
    ("trigger", "outcome"),
    registry=_registry,
)
Info("gateway_build", "Version of the gateway.", registry=_registry).info(
    {"version": version("etl-assets"), "python": platform.python_version()}
)


def request(*, route: str | None, method: str, status: int, seconds: float) -> None:
    """Count an answered request; `route` is the template of its route, None where there is no such path."""
    labels = (route or UNKNOWN_ROUTE, method if method in METHODS else "(other)")
    _requests.labels(*labels, str(status)).inc()
    _seconds.labels(*labels).observe(seconds)


def trigger(name: str, outcome: str) -> None:
    """Count a trigger, by its name; `outcome` is `taken` or one of a few fixed reasons."""
    _triggers.labels(name, outcome).inc()


def exposition() -> bytes:
    """All that was counted, in the text format of Prometheus."""
    return generate_latest(_registry)
