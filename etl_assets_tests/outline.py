"""What a page of HTML is made of, for tests to look at."""

import html.parser

VOID = {"meta", "link", "br", "path", "circle", "rect"}


class Outline(html.parser.HTMLParser):
    """What a page is made of; a tag that is not closed in its order fails the test."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1:] == [tag], f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        """All that is written on the page, white space as one blank."""
        return " ".join("".join(self.words).split())

    def count(self, tag: str, of_class: str = "") -> int:
        """How many elements there are with a tag, and a class."""
        return sum(
            name == tag and (not of_class or of_class in (given.get("class") or "").split())
            for name, given in self.tags
        )
