"""A server that gives answers as they are written out, also such that no framework would give."""

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from etl_assets.simulators.server import TRANSPORT, serve


@dataclass(frozen=True)
class Canned:
    """An answer; `broken_after` closes the connection after so many bytes of the body."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    broken_after: int | None = None


@dataclass
class CannedServer:
    """Gives its answers one by one, the last one again and again, and keeps the headers of the requests."""

    url: str = ""
    answers: list[Canned] = field(default_factory=list)
    requests: list[dict[str, str]] = field(default_factory=list)

    def gives(self, *answers: Canned) -> "CannedServer":
        """Begins anew with these answers."""
        self.answers, self.requests = list(answers), []
        return self

    @contextmanager
    def served(self) -> Iterator["CannedServer"]:
        with serve(self) as self.url:
            yield self

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise RuntimeError("no lifespan")
        self.requests.append({name.decode(): value.decode() for name, value in scope["headers"]})
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        headers = {"content-length": str(len(answer.body)), **answer.headers}
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": pairs})
        if answer.broken_after is None:
            await send({"type": "http.response.body", "body": answer.body})
        else:
            await send({"type": "http.response.body", "body": answer.body[: answer.broken_after], "more_body": True})
            scope["state"][TRANSPORT].close()
            await receive()
