"""The settings of alignment and statistics as a Dagster resource, so that all assets of a run have the same."""

from typing import Any, Literal

import dagster as dg
from pydantic import Field

from etl_assets.systems.production.statistics.alignment import AlignmentRules
from etl_assets.systems.production.statistics.correlation import Method


class ReportMethod(dg.ConfigurableResource[Any]):
    """How readings are aligned with work orders, and how strict the statistics are."""

    interpolation: Literal["last", "linear"] = Field(
        default="last", description="What a parameter was between two readings"
    )
    max_age_spacings: float = Field(
        default=3.0,
        gt=0,
        allow_inf_nan=False,
        description="Maximum age of a reading, in median spacings of its parameter",
    )
    min_coverage: float = Field(default=0.5, ge=0, le=1, description="Share of a work order that readings must cover")
    level: float = Field(default=0.04, gt=0, lt=1, description="Largest q of the verdict `supported`")
    correction: Literal["bh", "by"] = Field(
        default="bh", description="Benjamini and Hochberg, or the cautious Benjamini and Yekutieli"
    )

    def alignment(self) -> AlignmentRules:
        """The rules of alignment."""
        return AlignmentRules(self.interpolation, self.max_age_spacings, self.min_coverage)

    def statistics(self) -> Method:
        """The settings of the statistics."""
        return Method(level=self.level, correction=self.correction, min_coverage=self.min_coverage)
