"""The production system as a simulator: two streams of records, generated with planted effects or served from files."""

from etl_assets.systems.production.simulator.app import ProductionSimulator
from etl_assets.systems.production.simulator.data import PLANTED, write_files
from etl_assets.systems.production.simulator.files import FileRejected, inspect

__all__ = ["PLANTED", "FileRejected", "ProductionSimulator", "inspect", "write_files"]
