"""What goes with the output of each product, and what that is worth: the steps from rows to ranked correlations."""

from etl_assets.systems.production.statistics.alignment import AlignmentRules, OutputSummary, aligned, outputs
from etl_assets.systems.production.statistics.correlation import FEWEST, TOP, Method, correlations

__all__ = ["FEWEST", "TOP", "AlignmentRules", "Method", "OutputSummary", "aligned", "correlations", "outputs"]
