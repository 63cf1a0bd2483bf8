"""An outage API whose every answer to a POST a test decides, over HTTP."""

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from etl_assets_tests.systems.outages.world import Outage, info


@dataclass
class Post:
    """A POST that reached the API: its key, its body and the outages in it, its number from 1."""

    key: str
    body: str
    rows: list[Outage]
    number: int


@dataclass
class Answer:
    """What becomes of a POST.

    Attributes:
        status: None ends the connection without an answer.
        body: JSON, or the bytes as they are.
        taken: the outages that take effect.
        length: what the header says of the body's length, where that is not its own.
    """

    status: int | None = 200
    body: Any = field(default_factory=dict)
    taken: list[Outage] = field(default_factory=list)
    length: int | None = None


def takes_all(post: Post) -> Answer:
    """The API as it should be."""
    return Answer(taken=post.rows)


@dataclass
class Receiver:
    """An API of sites that have the devices d1 and d2, all the same outages. A key whose POST had a success gets the same answer again.

    Attributes:
        outages: what `GET /outages` answers.
        decide: what becomes of a POST.
        heeds_keys: whether it looks at Idempotency-Keys.
    """

    outages: list[Outage] = field(default_factory=list)
    decide: Callable[[Post], Answer] = takes_all
    heeds_keys: bool = True
    posts: list[Post] = field(default_factory=list)
    taken: list[Outage] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)

    def post(self, key: str, body: str) -> Answer:
        """One POST."""
        self.posts.append(Post(key, body, json.loads(body), len(self.posts) + 1))
        if self.heeds_keys and key in self.answers:
            return self.answers[key]
        answer = self.decide(self.posts[-1])
        self.taken += answer.taken
        if answer.status in (200, 207):
            self.answers[key] = answer
        return answer

    def times(self) -> Counter[tuple[str, str]]:
        """How often each outage took effect, by device and begin."""
        return Counter((row["id"], row["begin"]) for row in self.taken)

    def sizes(self) -> list[int]:
        """How many outages each POST had."""
        return [len(post.rows) for post in self.posts]


@contextlib.contextmanager
def served(receiver: Receiver) -> Iterator[str]:
    """The API at a URL."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            site = self.path.rsplit("/", 1)[-1]
            self.answer(Answer(body=receiver.outages if site == "outages" else info(site, d1="One", d2="Two")))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            with lock:
                answer = receiver.post(self.headers["Idempotency-Key"], body)
            self.answer(answer)

        def answer(self, answer: Answer) -> None:
            if answer.status is None:
                self.close_connection = True
                return
            body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(body) if answer.length is None else answer.length))
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = answer.length is not None

        def log_message(self, *_: Any) -> None:
            """Tests say what is to be known."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
