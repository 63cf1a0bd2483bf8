"""The page of a day: its charts as HTML, and a picture of each turbine for the asset's metadata."""

from etl_assets.systems.turbines.page.day import DAYS_DRAWN, DayPage, write_day_page
from etl_assets.systems.turbines.page.svg import as_markdown

__all__ = ["DAYS_DRAWN", "DayPage", "as_markdown", "write_day_page"]
