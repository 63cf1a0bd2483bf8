"""What the assets are given: the production API, and the settings of alignment and statistics."""

from typing import Any, Literal

import dagster as dg
from pydantic import Field

from etl_assets.systems.production.settings import ProductionSettings
from etl_assets.systems.production.source import ProductionApi
from etl_assets.systems.production.statistics import AlignmentRules, Method


class ProductionApiResource(dg.ConfigurableResource[Any]):
    """The API at PRODUCTION_API_URL; settings are read when a run needs it, so that no address is in a run config."""

    def connect(self) -> ProductionApi:
        """The API, ready to be read.

        Raises:
            ConfigurationError: if its URL is not set.
        """
        return ProductionApi.from_settings(ProductionSettings.load())


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
