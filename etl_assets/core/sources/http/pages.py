"""The pages of one answer: where the next one is, and whether all rows have come, as the headers say (`Link`, `Content-Range`)."""

import re
from typing import TYPE_CHECKING

from etl_assets.core.sources.http.address import target_of_key
from etl_assets.core.sources.http.outcomes import OtherForm
from etl_assets.redaction import public_url

if TYPE_CHECKING:
    import requests

MOST_PAGES = 1_000
_NEXT = re.compile(r"""\brel\s*=\s*(?:"[^"]*?|'[^']*?)?(?<![\w-])next(?![\w-])""", re.IGNORECASE)
# `items 0-999/1440`, also without a unit, without rows (`*/0`) and of an unknown whole (`0-999/*`).
_RANGE = re.compile(r"(?:[\w-]+\s+)?(?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)", re.ASCII)


class Pages:
    """The pages of an answer so far.

    Args:
        most: how many there may be.

    Attributes:
        length: bytes of them.
    """

    def __init__(self, most: int = MOST_PAGES) -> None:
        self.length = 0
        self._most = most
        self._seen: list[str] = []
        self._body: bytes | None = None
        self._rows = 0

    def after(self, page: "requests.Response", body: bytes) -> str | None:
        """Where the page behind this one is; None behind the last.

        Raises:
            OtherForm: if it is on another origin, or the pages do not end, or are not all rows.
        """
        self.length += len(body)
        before, self._body = self._body, body
        self._seen.append(page.url)
        there = _next_of(page)
        if there is None:
            self._require_all(page)
            return None
        target = target_of_key(page.url, there)
        if target is None:
            raise OtherForm(f"a Link to a next page on another origin, {_shown(there)}, which is not followed")
        if target in self._seen:
            raise OtherForm(f"a Link to a next page that was read before, {_shown(target)}: its pages do not end")
        if body == before:
            raise OtherForm(
                f"the page before once more, and a Link to a next one, {_shown(target)}: its pages do not end"
            )
        if len(self._seen) >= self._most:
            many = f"more than {self._most:,} pages: they do not end" if self._most > 1 else "one page of several"
            raise OtherForm(f"{many}; the Link leads to {_shown(target)}")
        self._count(page)
        return target

    def _require_all(self, last: "requests.Response") -> None:
        whole = self._count(last)
        if whole is not None and self._rows < whole:
            raise OtherForm(
                f"{self._rows:,} of {whole:,} rows (Content-Range: {last.headers['Content-Range'][:60]}) and no Link to the rest"
            )

    def _count(self, page: "requests.Response") -> int | None:
        """Counts the rows that a page says it has; gives how many there are in all, as far as it says that."""
        said = _RANGE.fullmatch(page.headers.get("Content-Range", "").strip())
        if said is None:
            return None
        first, last, whole = said.groups()
        if first is not None:
            self._rows += int(last) - int(first) + 1
        return None if whole == "*" else int(whole)


def _next_of(page: "requests.Response") -> str | None:
    """Where the Link of a page leads.

    Raises:
        OtherForm: if there is one and it cannot be read.
    """
    for link in page.links.values():
        if "next" in link.get("rel", "").lower().split():
            return str(link["url"])
    header = page.headers.get("Link", "")
    if _NEXT.search(header):
        raise OtherForm(f"a Link to a next page that cannot be read ({_shown(header)})")
    return None


def _shown(url: str) -> str:
    """Where a URL leads; its query may be long, and have a token."""
    return public_url(url).partition("?")[0]
