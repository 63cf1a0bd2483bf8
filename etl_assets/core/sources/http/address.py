"""Where an API is and what may be sent there: base URL, key, redirects, links."""

from urllib.parse import urljoin, urlsplit, urlunsplit

from pydantic import SecretStr

from etl_assets.errors import ConfigurationError

_DEFAULT_PORTS = {"http": 80, "https": 443}


def without_credentials(name: str, base_url: str) -> tuple[str, str, str]:
    """The base URL without a trailing slash and without its user name and password, and those two."""
    try:
        parts = urlsplit(base_url.strip())
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or parts.query or parts.fragment:
        # Not quoted: a URL that does not parse may still carry a password.
        raise ConfigurationError(f"{name} API: the base URL is not of the form https://host/path: correct it")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    place = host if port is None else f"{host}:{port}"
    clean = urlunsplit((parts.scheme, place, parts.path.rstrip("/"), "", ""))
    return clean, parts.username or "", parts.password or ""


def checked_key(secret: SecretStr, name: str, variable: str) -> str:
    """The key, if it can be a header; the HTTP library's own error would quote it."""
    key = secret.get_secret_value()
    if not key or key != key.strip() or not key.isascii() or not key.isprintable():
        raise ConfigurationError(
            f"{name} API: {variable} is empty or has characters that a header cannot carry: is there a space or line"
            " break at its end?"
        )
    return key


def target_of_key(here: str, location: str) -> str | None:
    """Where a redirect or a link leads, if the key may go along: same host and port, or the host's move from http to https."""
    try:
        there = urljoin(here, location)
        a, b = urlsplit(here), urlsplit(there)
        ports = (a.port or _DEFAULT_PORTS.get(a.scheme), b.port or _DEFAULT_PORTS.get(b.scheme))
    except ValueError:
        return None
    same = a.scheme == b.scheme and ports[0] == ports[1]
    moved = (a.scheme, b.scheme, *ports) == ("http", "https", 80, 443)
    return there if a.hostname == b.hostname and (same or moved) else None
