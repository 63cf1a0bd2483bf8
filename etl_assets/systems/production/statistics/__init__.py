"""What goes with the output of each product, and what that is worth: the steps from rows to ranked correlations."""

from etl_assets.systems.production.statistics.alignment import AlignmentRules, OutputSummary, aligned, outputs
from etl_assets.systems.production.statistics.correlation import FEWEST, OUTPUT_OF, TOP, Method, correlations

__all__ = [
    "FEWEST", "OUTPUT_OF", "TOP", "AlignmentRules", "Method", "OutputSummary", "aligned", "correlations", "outputs",
]  # fmt: skip
