"""What an HTTP answer means for the caller: try again or not, may it have taken effect, what to change.

One table for statuses; the table for exceptions needs the HTTP library's types and is in `transport`. Nothing here
opens a connection.
"""

import json
import re
import time
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any

from etl_assets.core.sources.nesting import NestedTooDeeply, bounded_nesting
from etl_assets.redaction import hidden

MAX_MESSAGE_CHARS = 200
_SECONDS = re.compile(r"\d+(\.\d+)?")


class Action(Enum):
    """What the client does next."""

    RETRY = "retry"
    FAIL = "fail"


@dataclass(frozen=True)
class Rule:
    """The meaning of one outcome.

    `may_have_applied` says whether a POST with this outcome can have taken effect. `hint` says what to change; `{key}`
    stands for the variable of the key, `{base_url}` for the API's address, `{address}` for the variable that sets it.
    """

    action: Action
    may_have_applied: bool
    hint: str

    def advice(self, *, key: str, user: bool, base_url: str, address: str) -> str:
        """The hint for an API.

        Args:
            key: the variable of its key; empty for an API that has none.
            user: whether a user name or password is in the base URL.
            base_url: without credentials.
            address: what sets the base URL.
        """
        hint = self.hint
        if hint == _KEY and not key:
            hint = _WRONG_USER if user else _NO_KEY
        return hint.format(key=key, base_url=base_url, address=address)


_LATER = "try again later; if it lasts, tell those who run {base_url}"
_KEY = "set {key} to a key that {base_url} accepts"
_NO_KEY = "{base_url} refuses access: if it wants credentials, put them into {address}, as https://user:password@host"
_PAYLOAD = "the server has judged the payload: correct what is sent"
_WRONG_USER = "{base_url} does not accept the user name and password in {address}: correct them"
_MOVED = "set {address} to where the API is now, instead of {base_url}"
_TAKEN = "the server already has something else in this place: compare before sending again"
_SUCCESS = "a GET is expected to be answered with 200: check that {base_url} is the API"
_CLIENT = "the API's interface may have changed: compare the request with its documentation"

# What each status that is not a success means; the first row that has it decides.
STATUS_RULES: tuple[tuple[Container[int], Rule], ...] = (
    ((301, 302, 303), Rule(Action.FAIL, True, _MOVED)),
    ((307, 308), Rule(Action.FAIL, False, _MOVED)),
    ((400, 422), Rule(Action.FAIL, False, _PAYLOAD)),
    ((401, 403), Rule(Action.FAIL, False, _KEY)),
    ((404,), Rule(Action.FAIL, False, "there is no such thing at {base_url}: check the name asked for and {address}")),
    ((405, 406, 415, 501, 505), Rule(Action.FAIL, False, _CLIENT)),
    ((407,), Rule(Action.FAIL, False, "the proxy wants credentials: correct HTTP_PROXY or HTTPS_PROXY")),
    # A gateway may say 408 after it has passed the request on.
    ((408,), Rule(Action.RETRY, True, _LATER)),
    ((409,), Rule(Action.FAIL, False, _TAKEN)),
    ((410,), Rule(Action.FAIL, False, "it was removed for good: stop asking for it")),
    ((413,), Rule(Action.FAIL, False, "the payload is too large for the server: send less at a time")),
    ((425,), Rule(Action.RETRY, False, _LATER)),
    ((429,), Rule(Action.RETRY, False, "ask less often, or ask those who run {base_url} for a larger quota")),
    ((431,), Rule(Action.FAIL, False, "the headers are too large for the server: shorten what is sent")),
    (range(200, 300), Rule(Action.FAIL, True, _SUCCESS)),
    (range(300, 400), Rule(Action.FAIL, True, _MOVED)),
    (range(400, 500), Rule(Action.FAIL, False, _CLIENT)),
    (range(500, 600), Rule(Action.RETRY, True, _LATER)),
)
_NOT_HTTP = Rule(Action.FAIL, True, "check that {base_url} is an HTTP API")

MALFORMED_RULE = Rule(Action.RETRY, True, "if it lasts, check that {base_url} is the API itself, not a page before it")
FORM_RULE = Rule(Action.FAIL, True, "compare what {base_url} sends with its documentation: to ask again does not help")
TOO_LONG_RULE = Rule(Action.FAIL, True, "ask for less at a time, or raise max_body_bytes")


def rule_for_status(status: int) -> Rule:
    """The rule for a status that is not a success."""
    return next((rule for statuses, rule in STATUS_RULES if status in statuses), _NOT_HTTP)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """How long the server asks to wait: seconds or an HTTP date; None when it does not say or says nonsense.

    A date is counted from the server's own `Date`, so that a clock that differs does not matter.
    """
    text = headers.get("Retry-After", "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    until = _epoch_s(text)
    if until is None:
        return None
    now = _epoch_s(headers.get("Date", ""))
    return max(0.0, until - (time.time() if now is None else now))


def _epoch_s(http_date: str) -> float | None:
    try:
        return parsedate_to_datetime(http_date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


class MalformedAnswer(ValueError):
    """A 200 whose body is not what was asked for; the text completes 'the server answered 200 with …'."""


class OtherForm(MalformedAnswer):
    """A body that came whole and is well formed, and is not of the form that is meant: another attempt brings the same."""


def _refuse_constant(name: str) -> None:
    raise MalformedAnswer(f"{name}, which JSON does not have")


def parse_json(body: bytes, *, parse_constant: Callable[[str], Any] = _refuse_constant) -> Any:
    """The document in a body, strictly: UTF-8 (or UTF-16/32) as JSON demands, no NaN or Infinity.

    The declared charset and content type are not asked: servers declare wrong ones over right bodies.

    Args:
        body: as received.
        parse_constant: what to make of NaN, Infinity and -Infinity, for APIs of which they are known.

    Raises:
        MalformedAnswer: if the body is empty, a page, cut off, or not JSON.
        OtherForm: if it is several values one after another, or an object has a name twice, of which nobody knows which counts.
    """
    if not body.strip():
        raise MalformedAnswer("an empty body")
    refuse_page(body)
    try:
        text = body.decode(json.detect_encoding(body))
        with bounded_nesting():
            return json.loads(text, parse_constant=parse_constant, object_pairs_hook=_each_once)
    except MalformedAnswer:
        raise
    except UnicodeDecodeError as error:
        raise MalformedAnswer(f"text that is not {error.encoding} at byte {error.start}") from None
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text[error.pos] in "[{":
            raise OtherForm(
                f"several JSON values one after another (NDJSON), the second at character {error.pos}, where one is expected"
            ) from None
        fault = error.msg.removesuffix(" starting at")
        cut_off = error.pos >= len(text.rstrip()) or fault == "Unterminated string"
        end = ": it is cut off" if cut_off else ""
        raise MalformedAnswer(f"invalid JSON ({fault} at character {error.pos} of {len(text)}{end})") from None
    except NestedTooDeeply as error:
        raise MalformedAnswer(f"JSON {error}") from None
    except ValueError:
        raise MalformedAnswer("JSON with a number of too many digits") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for at, (name, _) in enumerate(pairs) if name in dict(pairs[:at]))
        raise OtherForm(f"JSON in which an object has the name {twice[:60]!r} twice")
    return found


def parse_array(body: bytes, *, parse_constant: Callable[[str], Any] = _refuse_constant) -> list[Any]:
    """The elements of the array in a body; as `parse_json`.

    Raises:
        OtherForm: also for what is no array; says what it is.
    """
    document = parse_json(body, parse_constant=parse_constant)
    if not isinstance(document, list):
        raise OtherForm(f"{described(document)}, not with an array")
    return document


def described(document: Any) -> str:
    """What a document is, for a message: of an object what it says, or else its fields."""
    if not isinstance(document, dict):
        names = {list: "an array", str: "text", type(None): "null"}
        return names.get(type(document), json.dumps(document)[:40])
    if said := message_of(document):
        return f"an object (“{said}”)"
    return f"an object ({_printable(', '.join(document))})" if document else "an empty object"


def refuse_page(body: bytes, *, instead_of: str = "JSON") -> None:
    """Raises MalformedAnswer for HTML or XML: it comes from something in front of the API, not from the API."""
    if body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise MalformedAnswer(f"a page (HTML or XML) instead of {instead_of}")


def server_message(body: bytes) -> str:
    """What the server itself says in an error body (`{"message": …}`, a `detail` list of FastAPI's), on one line; empty when it says nothing."""
    try:
        with bounded_nesting():
            content = json.loads(body)
    except ValueError:
        return ""
    return message_of(content) if isinstance(content, dict) else ""


def message_of(content: Mapping[str, Any]) -> str:
    """What an object says to people; empty when it says nothing."""
    texts = (_faults_in(content.get(name)) for name in ("message", "error", "detail"))
    return next((" ".join(_printable(text).split()) for text in texts if isinstance(text, str)), "")


def _faults_in(said: Any) -> Any:
    """The faults of a list as FastAPI gives it, each with its place; anything else as it is."""
    if not isinstance(said, list) or not all(
        isinstance(fault, dict) and isinstance(fault.get("msg"), str) for fault in said
    ):
        return said
    places = [".".join(map(str, place)) if isinstance(place := fault.get("loc"), list) else "" for fault in said]
    return "; ".join(
        f"{place}: {fault['msg']}" if place else fault["msg"] for place, fault in zip(places, said, strict=True)
    )


def _printable(text: str) -> str:
    """Somebody else's text without what a terminal would obey, and no database or stream takes: control letters, halves of letters."""
    return "".join(
        letter if letter.isprintable() or letter.isspace() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


class Redactor:
    """Replaces secrets in text by `***`; its own repr does not show them."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = set(secrets)

    def __call__(self, text: str) -> str:
        return hidden(text, self._secrets)

    def shorten(self, text: str) -> str:
        """The text without secrets, then cut: a cut first could leave half a secret."""
        text = self(text)
        return text if len(text) <= MAX_MESSAGE_CHARS else text[: MAX_MESSAGE_CHARS - 1] + "…"
