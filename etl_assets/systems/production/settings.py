"""The environment variables of the production system."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from etl_assets.settings import Settings


class ProductionSettings(Settings):
    """Settings of one process that runs the production system."""

    source_variables: ClassVar[tuple[str, ...]] = ("PRODUCTION_API_URL",)

    production_api_url: str | None = Field(None, repr=False, description="Base URL of the two production streams")
    production_metrics_file: Path | None = Field(None, description="File that our metrics API serves; unset: generated")
    production_workorders_file: Path | None = Field(
        None, description="File that our work order API serves; unset: generated"
    )


SETTINGS = ProductionSettings
