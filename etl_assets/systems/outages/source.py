"""The outage API as Python calls and as a Dagster resource; retries, deadlines and classification are the client's."""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import dagster as dg
from pydantic import SecretStr

from etl_assets.core.sources.http.client import ApiClient, ApiResponse, Limits
from etl_assets.errors import ContractError
from etl_assets.systems.outages.settings import OutagesSettings


class OutagesApi:
    """The three calls of the outage API.

    Args:
        base_url: where the API is.
        key: sent as `x-api-key`.
        limits: time-outs and retries of each call.
    """

    def __init__(self, base_url: str, key: SecretStr, *, limits: Limits | None = None) -> None:
        self._client = ApiClient(
            "outages",
            base_url,
            url_variable="OUTAGES_API_URL",
            secret_header=("x-api-key", key),
            secret_variable="OUTAGES_API_KEY",
            limits=limits or Limits(),
        )

    @classmethod
    def from_settings(cls, settings: OutagesSettings, *, limits: Limits | None = None) -> "OutagesApi":
        """The API that the settings name.

        Raises:
            ConfigurationError: if its URL or key is not set.
        """
        url, key = settings.required("outages_api_url"), SecretStr(settings.required("outages_api_key"))
        return cls(url, key, limits=limits)

    def outages(self) -> Sequence[Any]:
        """All outages of all sites, as received.

        Raises:
            ApiUnavailable, ApiRefused: as the client classifies.
            ContractError: if the answer is no array.
        """
        answer = self._client.get_json("/outages")
        if not isinstance(answer, list):
            raise ContractError(f"outages API answered GET /outages with {_kind(answer)}, not with an array")
        return answer

    def site_info(self, site: str) -> Mapping[str, Any]:
        """One site with its devices, as received.

        Raises:
            ApiUnavailable, ApiRefused: as the client classifies.
            ContractError: if the answer is not about that site or has no array of devices.
        """
        path = f"/site-info/{quote(site, safe='')}"
        answer = self._client.get_json(path)
        if not isinstance(answer, dict) or not isinstance(answer.get("devices"), list):
            raise ContractError(f"outages API answered GET {path} with {_kind(answer)} without an array of devices")
        if answer.get("id") != site:
            raise ContractError(f"outages API answered GET {path} with the site {answer.get('id')!r}")
        return answer

    def deliver(self, site: str, body: str, *, batch_key: str) -> ApiResponse:
        """Post a batch; the key makes a repeated post of the same batch have no second effect.

        Raises:
            ApiUnavailable, ApiRefused, ConflictError: as the client classifies.
        """
        return self._client.post_json(
            f"/site-outages/{quote(site, safe='')}", body.encode(), headers={"Idempotency-Key": batch_key}
        )


def _kind(answer: Any) -> str:
    names = {dict: "an object", list: "an array", str: "text", type(None): "null"}
    return names.get(type(answer), json.dumps(answer)[:40])


class OutagesApiResource(dg.ConfigurableResource[Any]):
    """The API at OUTAGES_API_URL; settings are read when a run needs it, so that no secret is in a run config."""

    def connect(self) -> OutagesApi:
        """The API, ready to be called.

        Raises:
            ConfigurationError: if its URL or key is not set.
        """
        return OutagesApi.from_settings(OutagesSettings.load())
