"""The world of the everyday tests, for the long proofs."""

from etl_assets_tests.systems.outages.conftest import forker, served, world

__all__ = ["forker", "served", "world"]
