"""US events on a map, as a picture for the metadata of their day."""

from etl_assets.systems.events.map.picture import as_markdown, us_map_svg

__all__ = ["as_markdown", "us_map_svg"]
