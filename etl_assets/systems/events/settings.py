"""The environment variables of the events system."""

from datetime import date
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from etl_assets.settings import Settings, split


class EventsSettings(Settings):
    """Settings of one process that runs the events system."""

    source_variables: ClassVar[tuple[str, ...]] = ("EVENTS_FEED_URL", "EVENTS_START_DATE")
    own_variables: ClassVar[tuple[str, ...] | None] = ("EVENTS_FEED_URL",)

    events_feed_url: str = Field(
        "http://data.gdeltproject.org/gdeltv2", repr=False, description="Folder of the feed's lists and files"
    )
    events_us_rule: Literal["country_code", "bounding_box"] = Field(
        "country_code", description="Which events are US events"
    )
    events_us_country_codes: Annotated[tuple[str, ...], NoDecode] = Field(
        ("US",), description="Countries of US events, FIPS 10-4, comma-separated: RQ is Puerto Rico, GM Germany"
    )
    events_start_date: date = Field(
        date(2015, 2, 18),
        ge=date(2015, 1, 1),
        description="First day of the events, not before the year of the feed's first",
    )
    events_late_hours: int = Field(24, ge=1, le=720, description="So long after its interval the feed may bring a file")

    @field_validator("events_us_country_codes", mode="before")
    @classmethod
    def _split_codes(cls, value: Any) -> Any:
        return split(value)


SETTINGS = EventsSettings
