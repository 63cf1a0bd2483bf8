"""What may be secret in a URL, and how URLs and texts are shown without it.

Every URL that a setting names may carry a user and a password, or a token in its query. Here is the one place that takes these
out, for whatever is seen by others: messages, logs, metadata of assets, the output of commands.
"""

import re
from collections.abc import Iterable, Iterator
from urllib.parse import unquote, unquote_plus

HIDDEN = "***"
# Of a chain of fsspec (`simplecache::s3://…::file:///…`) each URL goes up to the next one. One slash is a slip.
_URL = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*://?)(?P<rest>.*?)(?=::[A-Za-z][\w+.-]*(?:::|://)|$)", re.DOTALL)
_URL_IN_TEXT = re.compile(r"[A-Za-z][\w+.-]*://\S+")
_QUERY = re.compile(r"[?&#].*", re.DOTALL)
_PARAMETER = re.compile(r"(?P<begin>[?&;#])(?P<name>[^=?&;#]*=)?(?P<value>[^?&;#]*)")
_OF_THIS_MACHINE = ("file:", "local:")
# What is shorter hides nothing, and may stand anywhere in a text.
_SHORTEST = 4


def public_url(url: str) -> str:
    """A URL without user, password and the values of its query and fragment; a path of this machine as it is.

    Where a password has a `/`, `?` or `#` that nobody has quoted, more is left out rather than less.
    """
    return _URL.sub(_public, url)


def public_urls(text: str) -> str:
    """A text, with each URL in it as by `public_url`: for what somebody else says of URLs that nobody here knows."""
    return _URL_IN_TEXT.sub(lambda found: public_url(found[0]), text)


def without_secrets(text: str, url: str) -> str:
    """A text, such as a driver's message or a path in a file system, in which nothing secret of a URL stands, in whichever spelling."""
    return hidden(text.replace(url, public_url(url)) if url else text, secrets_of(url))


def hidden(text: str, secrets: Iterable[str]) -> str:
    """A text in which each secret is `***`; the longest first, since one that contains another must not leave its rest behind.

    One of a letter or a few is taken out where it stands alone: as a part of words it tells nothing, and its absence would.
    """
    for secret in sorted({secret for secret in secrets if secret}, key=len, reverse=True):
        if len(secret) < _SHORTEST:
            text = re.sub(rf"(?<![^\W_]){re.escape(secret)}(?![^\W_])", HIDDEN, text)
        else:
            text = text.replace(secret, HIDDEN)
    return text


def secrets_of(url: str) -> set[str]:
    """What of a URL nobody may be shown: its credentials and the values of its query, as written and as meant."""
    return {spelled for secret in _secrets(url) for spelled in (secret, unquote(secret), unquote_plus(secret))} - {""}


def _secrets(url: str) -> Iterator[str]:
    for found in _URL.finditer(url):
        if found["scheme"].lower().rstrip("/") not in _OF_THIS_MACHINE:
            userinfo, _, place = found["rest"].rpartition("@")
            user, colon, password = userinfo.partition(":")
            if colon:
                yield from (userinfo, password)
            elif not found["scheme"].lower().startswith("postgres"):
                yield user  # a token; a database names a role there, which may be the name of anything
            for query in _QUERY.findall(place):
                yield from (part["value"] for part in _PARAMETER.finditer(query) if len(part["value"]) >= _SHORTEST)


def _public(url: re.Match[str]) -> str:
    if url["scheme"].lower().rstrip("/") in _OF_THIS_MACHINE:
        return url[0]
    _, at, place = url["rest"].rpartition("@")
    shown = _QUERY.sub(lambda query: _PARAMETER.sub(_without_value, query[0]), place)
    return f"{url['scheme']}{HIDDEN}@{shown}" if at else f"{url['scheme']}{shown}"


def _without_value(part: re.Match[str]) -> str:
    return f"{part['begin']}{part['name'] or ''}{HIDDEN if part['value'] else ''}"
