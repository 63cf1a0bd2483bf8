"""The environment variables of the outages system."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from etl_assets.settings import Settings, split


class OutagesSettings(Settings):
    """Settings of one process that runs the outages system."""

    source_variables: ClassVar[tuple[str, ...]] = ("OUTAGES_API_URL", "OUTAGES_API_KEY")

    outages_api_url: str | None = Field(None, repr=False, description="Base URL of the outage API")
    outages_api_key: SecretStr | None = Field(None, description="Key of the outage API, sent as x-api-key")
    outages_conflict_means: Literal["in_progress", "delivered"] = Field(
        "in_progress",
        description="What a 409 to a POST says, by the API's owner: the same request is still worked on; or it was taken before, whole",
    )
    outages_idempotency_keys: Literal["heeded", "ignored"] = Field(
        "heeded",
        description="What the API makes of an Idempotency-Key; where it is ignored, no POST that may have arrived is sent again",
    )
    outages_sites: Annotated[tuple[str, ...], NoDecode] = Field(
        ("norwich-pear-tree", "kingfisher"), description="Sites to follow, comma-separated"
    )

    @field_validator("outages_sites", mode="before")
    @classmethod
    def _split_list(cls, value: Any) -> Any:
        value = split(value)
        if not value:
            raise ValueError("must name at least one site")
        return value


SETTINGS = OutagesSettings
