"""A server that answers byte by byte as a test writes it, also what no server should send."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Step = bytes | Callable[[socket.socket], None]


class ScriptedServer:
    """Answers each connection with the next step of a script, the last one again and again; keeps the requests."""

    def __init__(self, steps: tuple[Step, ...]) -> None:
        self.requests: list[bytes] = []
        self._steps = list(steps)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def gives(self, *steps: Step) -> None:
        """Begins anew with these steps."""
        self.requests, self._steps = [], list(steps)

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(timeout=5)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
            self._threads.append(threading.Thread(target=self._answer, args=(connection, step)))
            self._threads[-1].start()

    def _answer(self, connection: socket.socket, step: Step) -> None:
        with connection:
            connection.settimeout(2)
            try:
                self.requests.append(_request(connection))
                if callable(step):
                    step(connection)
                else:
                    connection.sendall(step)
            except OSError:
                # The client has gone, as some of the tests want it to.
                return


def _request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65536)
        # A TLS greeting has no end of a head to wait for.
        if not chunk or chunk.startswith(b"\x16"):
            return data
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-length:")), 0)
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


@contextmanager
def serving(*steps: Step) -> Iterator[ScriptedServer]:
    server = ScriptedServer(steps)
    try:
        yield server
    finally:
        server.stop()


def answer(status: int, body: bytes = b"", *, content_type: str = "application/json", **headers: str) -> bytes:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    sent = {"Content-Type": content_type, "Content-Length": str(len(body)), "Connection": "close"} | given
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in sent.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def answer_with(status: int, message: str, **headers: str) -> bytes:
    return answer(status, json.dumps({"message": message}).encode(), **headers)


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    connection.close()


def reset_in_mid_body(connection: socket.socket) -> None:
    connection.sendall(answer(200, b"[1, 2, 3]")[:-4])
    time.sleep(0.02)
    reset(connection)


def reset_in_headers(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 X\r\nContent-Type: a")
    time.sleep(0.02)
    reset(connection)


def stall_in_mid_body(connection: socket.socket) -> None:
    connection.sendall(answer(200, b"[1, 2, 3]")[:-4])
    connection.recv(1)


def silence(connection: socket.socket) -> None:
    connection.recv(1)


def drip(head: bytes, body: bytes) -> Callable[[socket.socket], None]:
    def step(connection: socket.socket) -> None:
        connection.sendall(head)
        for i in range(len(body)):
            connection.sendall(body[i : i + 1])
            time.sleep(0.05)

    return step
