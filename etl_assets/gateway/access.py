"""Who may call: holders of the bearer token, or without one this machine only.

Without a token the gateway listens on loopback only. A web page can still reach it there through the browser of somebody on
this machine: by a name of its own that it lets point to loopback (the Host header gives that away), or straight by a link, a
form or an image (the browser marks those as cross-site).
"""

import hmac
import ipaddress
from functools import partial
from urllib.parse import urlsplit

from pydantic import SecretStr
from starlette.datastructures import Headers

from etl_assets.core.sources.http.address import checked_key
from etl_assets.errors import ConfigurationError
from etl_assets.gateway.docs_page import ICON, PAGE, SCRIPT, STYLE
from etl_assets.gateway.problems import Problem
from etl_assets.settings import Settings

# What anybody may call: whether it lives, and how it is used. They hold no data.
OPEN_PATHS = frozenset(("/healthz", "/readyz", "/status", "/openapi.json", PAGE, SCRIPT, STYLE, ICON))
TOKEN_VARIABLE = "ETL_GATEWAY_TOKEN"

host_not_allowed = partial(
    Problem,
    403,
    "Foreign name",
    "without a token the gateway answers only to the names of this machine: call it as http://127.0.0.1:…,"
    f" or set {TOKEN_VARIABLE}",
)
cross_site = partial(
    Problem,
    403,
    "Foreign page",
    f"a page of another site made this request: call the gateway from a program or its own page, or set {TOKEN_VARIABLE}",
)


def unauthorized(what: str = "this call needs the token of the gateway", *, fault: str = "") -> Problem:
    """A call without the token; `fault` is what its challenge says beside the realm."""
    return Problem(
        401,
        "Unauthorized",
        f"{what}: send `Authorization: Bearer …` with the value of {TOKEN_VARIABLE}",
        {"WWW-Authenticate": f'Bearer realm="etl-assets"{fault}'},
    )


def token_of(settings: Settings) -> SecretStr | None:
    """The token of the gateway, if it can be sent in a header.

    Raises:
        ConfigurationError: if it cannot; names the variable.
    """
    if settings.etl_gateway_token is not None:
        checked_key(settings.etl_gateway_token, "gateway", TOKEN_VARIABLE)
    return settings.etl_gateway_token


def require_loopback(host: str, settings: Settings) -> None:
    """Let a gateway without a token listen on loopback only.

    Raises:
        ConfigurationError: if it would listen elsewhere; names the variable.
    """
    if token_of(settings) is None and not is_loopback(host):
        raise ConfigurationError(
            f"the gateway would listen on {host} for anybody: set {TOKEN_VARIABLE}, or listen on 127.0.0.1"
        )


def is_loopback(name: str | None) -> bool:
    """Whether a host name or address means this machine, for whoever resolves it."""
    if name is None or name.lower() == "localhost":
        return name is not None
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def require_access(headers: Headers, path: str, token: SecretStr | None) -> None:
    """Let a request pass that has the token, or where none is set comes from a program or page of this machine.

    Raises:
        Problem: 401 or 403.
    """
    # Not Starlette's TrustedHostMiddleware: it knows names, not networks (127.0.0.0/8), and does not look at Origin.
    if token is None:
        if not is_loopback(_hostname(f"//{headers.get('host', '')}")):
            raise host_not_allowed()
        origin = headers.get("origin")
        if headers.get("sec-fetch-site", "").lower() == "cross-site" or (origin and not is_loopback(_hostname(origin))):
            raise cross_site()
    elif path not in OPEN_PATHS:
        scheme, _, sent = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise unauthorized()
        if not hmac.compare_digest(sent.strip().encode(), token.get_secret_value().encode()):
            raise unauthorized("this is not the token of the gateway", fault=', error="invalid_token"')


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
