"""The outage API as Python calls and as a Dagster resource; retries, deadlines and classification are the client's."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any
from urllib.parse import quote

import dagster as dg
from pydantic import SecretStr

from etl_assets.core.sources.http.client import (
    ApiClient,
    ApiRefused,
    ApiResponse,
    ApiUnavailable,
    ConflictError,
    Limits,
)
from etl_assets.core.sources.http.outcomes import OtherForm, described, parse_json
from etl_assets.systems.outages.settings import OutagesSettings


class OutagesApi:
    """The three calls of the outage API.

    Args:
        base_url: where the API is.
        key: sent as `x-api-key`.
        conflict_means: what a 409 says, as `OUTAGES_CONFLICT_MEANS`.
        heeds_keys: whether it looks at Idempotency-Keys. Where it does not, a POST is sent once, and never again within a call.
        limits: time-outs and retries of each call.
    """

    def __init__(
        self,
        base_url: str,
        key: SecretStr,
        *,
        conflict_means: str = "in_progress",
        heeds_keys: bool = True,
        limits: Limits | None = None,
    ) -> None:
        self.conflict_means, self.heeds_keys = conflict_means, heeds_keys
        self._limits = limits or Limits()

        def opened(limits: Limits) -> ApiClient:
            return ApiClient(
                "outages",
                base_url,
                url_variable="OUTAGES_API_URL",
                secret_header=("x-api-key", key),
                secret_variable="OUTAGES_API_KEY",
                limits=limits,
            )

        self._client = opened(self._limits)
        self._sender = self._client if heeds_keys else opened(replace(self._limits, max_attempts=1))

    @classmethod
    def from_settings(cls, settings: OutagesSettings, *, limits: Limits | None = None) -> "OutagesApi":
        """The API that the settings name.

        Raises:
            ConfigurationError: if its URL or key is not set.
        """
        url, key = settings.required("outages_api_url"), SecretStr(settings.required("outages_api_key"))
        heeds_keys = settings.outages_idempotency_keys == "heeded"
        return cls(url, key, conflict_means=settings.outages_conflict_means, heeds_keys=heeds_keys, limits=limits)

    def outages(self) -> Sequence[Any]:
        """All outages of all sites, as received.

        Raises:
            ApiUnavailable, ApiRefused: as the client classifies; what is no array is refused.
        """
        return self._client.get_array("/outages")

    def site_info(self, site: str) -> Mapping[str, Any]:
        """One site with its devices, as received; the devices of all its pages.

        Raises:
            ApiUnavailable, ApiRefused: as the client classifies.
            ApiRefused: also for an answer that is not about that site or has no array of devices.
        """
        first, *more = self._client.get_pages(
            f"/site-info/{quote(site, safe='')}", lambda _, body: _site_info(body, site)
        )
        return {**first, "devices": list(chain(first["devices"], *(page["devices"] for page in more)))}

    def deliver(self, site: str, body: str, *, batch_key: str) -> ApiResponse:
        """Post a batch; the key makes a repeated post of the same batch have no second effect.

        Where a 409 says that the request with this key is in progress, it is asked again with growing waits, for as long and as
        often as the client asks again at all.

        Raises:
            ApiUnavailable: as the client classifies, and for a 409 of a request that is still in progress.
            ApiRefused, ConflictError: as the client classifies.
        """
        from tenacity import (
            Retrying,
            retry_if_exception_type,
            stop_after_attempt,
            stop_before_delay,
            wait_random_exponential,
        )

        limits = self._limits
        retrying = Retrying(
            retry=retry_if_exception_type(ConflictError),
            stop=stop_after_attempt(limits.max_attempts) | stop_before_delay(limits.deadline_s),
            wait=wait_random_exponential(multiplier=limits.base_delay_s, max=limits.max_delay_s),
            reraise=True,
        )
        path, headers = f"/site-outages/{quote(site, safe='')}", {"Idempotency-Key": batch_key}
        if self.conflict_means != "in_progress" or not self.heeds_keys:
            return self._sender.post_json(path, body.encode(), headers=headers)
        try:
            return retrying(self._sender.post_json, path, body.encode(), headers=headers)
        except ConflictError as error:
            raise ApiUnavailable(
                f"{error}; by OUTAGES_CONFLICT_MEANS the same request is still in progress: the next delivery asks again",
                status=error.status,
                attempts=error.attempts,
                outcome_unknown=True,
            ) from error
        except (ApiRefused, ApiUnavailable) as error:
            # After a 409 that said so, the payload is there.
            error.outcome_unknown |= retrying.statistics["attempt_number"] > 1
            raise


def _site_info(body: bytes, site: str) -> dict[str, Any]:
    answer = parse_json(body)
    if not isinstance(answer, dict) or not isinstance(answer.get("devices"), list):
        raise OtherForm(f"{described(answer)} without an array of devices")
    if answer.get("id") != site:
        raise OtherForm(f"the site {answer.get('id')!r}")
    return answer


class OutagesApiResource(dg.ConfigurableResource[Any]):
    """The API at OUTAGES_API_URL; settings are read when a run needs it, so that no secret is in a run config."""

    def connect(self) -> OutagesApi:
        """The API, ready to be called.

        Raises:
            ConfigurationError: if its URL or key is not set.
        """
        return OutagesApi.from_settings(OutagesSettings.load())
