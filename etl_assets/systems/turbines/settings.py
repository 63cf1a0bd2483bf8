"""The environment variables of the turbines system."""

from datetime import date
from typing import Annotated, ClassVar, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import NoDecode

from etl_assets.settings import Settings, postgres_url, split


def _known_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):  # the last for a folder of zones, such as Europe
        raise ValueError("must be a name like UTC or Europe/Lisbon") from None
    return value


class TurbinesSettings(Settings):
    """Settings of one process that runs the turbines system."""

    source_variables: ClassVar[tuple[str, ...]] = ("TURBINES_API_URL", "TURBINES_START_DATE", "TURBINES_END_DATE")
    own_variables: ClassVar[tuple[str, ...] | None] = ("TURBINES_API_URL", "TURBINES_TARGET_URL")

    turbines_api_url: str | None = Field(None, repr=False, description="Base URL of the API of 1-minute signals")
    turbines_target_url: Annotated[SecretStr | None, AfterValidator(postgres_url)] = Field(
        None, description="Database of the 10-minute statistics; unset: `alvo`, beside the platform's"
    )
    turbines: Annotated[tuple[str, ...], NoDecode, BeforeValidator(split)] = Field(
        (), description="Turbines to ask for, comma-separated; unset: the source has one and knows no names"
    )
    turbines_zone: Annotated[str, AfterValidator(_known_zone)] = Field(
        "UTC", description="Zone of the source's timestamps, a name like Europe/Lisbon"
    )
    turbines_start_date: date = Field(date(2024, 5, 20), description="First day of the statistics")
    turbines_end_date: date | None = Field(None, description="Last day of the statistics; unset: yesterday")

    @model_validator(mode="after")
    def _end_after_start(self) -> Self:
        if self.turbines_end_date is not None and self.turbines_end_date < self.turbines_start_date:
            raise ValueError("TURBINES_END_DATE is before TURBINES_START_DATE")
        return self


SETTINGS = TurbinesSettings
