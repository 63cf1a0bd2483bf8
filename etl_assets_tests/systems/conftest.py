"""Fixtures of the gateway for the tests of the systems' routes."""

from etl_assets_tests.gateway.conftest import (
    _dagster_served,
    _gateway_served,
    _guarded_served,
    dagster_api,
    gateway_client,
    gateway_with,
    guarded_client,
)

__all__ = [
    "_dagster_served",
    "_gateway_served",
    "_guarded_served",
    "dagster_api",
    "gateway_client",
    "gateway_with",
    "guarded_client",
]
