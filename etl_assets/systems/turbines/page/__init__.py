"""The page of a day: its charts as HTML, and a picture of each turbine for the asset's metadata."""

from etl_assets.systems.turbines.page.day import DAYS_DRAWN, DayPage, as_markdown, write_day_page, write_page

__all__ = ["DAYS_DRAWN", "DayPage", "as_markdown", "write_day_page", "write_page"]
