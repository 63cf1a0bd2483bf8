"""The simulated outage API: generated sites with planted edge cases, and a strict receiver of deliveries."""

from etl_assets.systems.outages.simulator.api import OutagesSimulator

__all__ = ["OutagesSimulator"]
