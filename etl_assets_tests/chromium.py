"""A headless Chromium that a test looks at pages with: over its debugging pipe, without any driver or library."""

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE_S = 60
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--disable-extensions", "--hide-scrollbars",
    "--remote-debugging-pipe",
)  # fmt: skip
# What a page is asked: its width and the window's.
OVERFLOW = "[document.documentElement.scrollWidth, innerWidth]"
OPEN_ALL = "document.querySelectorAll('details').forEach(details => details.open = true)"
# Letters of a drawing that are beyond its edge, by more than the rounding of a pixel.
CUT_OFF = """[...document.querySelectorAll('figure svg')].flatMap(svg => {
  const edge = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter(text => {
    const box = text.getBoundingClientRect();
    return box.left < edge.left - 1 || box.right > edge.right + 1 || box.top < edge.top - 1 || box.bottom > edge.bottom + 1;
  }).map(text => text.textContent);
})"""
# The least contrast of text against what is behind it, by the formula of WCAG 2.
CONTRAST = """(() => {
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255).map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, at) => sum + c * [.2126, .7152, .0722][at], 0);
  const behind = element => {
    for (; element; element = element.parentElement) {
      const colour = parts(getComputedStyle(element).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
  };
  const ratio = (a, b) => (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  const drawn = element => element instanceof SVGElement ? 'fill' : 'color';
  return Math.min(...[...document.querySelectorAll('p, a, dt, dd, li, th, td, summary, figcaption, svg text, .verdict')]
    .map(element => ratio(light(parts(getComputedStyle(element)[drawn(element)])), light(behind(element)))));
})()"""
# The browser reads commands from descriptor 3 and writes to 4; they are moved there by a process that then becomes it, by way
# of free descriptors above both: whatever numbers the pipes have, none takes the other's place.
LAUNCH = (
    "import fcntl, os, sys; pipes = [fcntl.fcntl(int(given), fcntl.F_DUPFD, 10) for given in sys.argv[1:3]]; "
    "[os.dup2(pipe, place) for pipe, place in zip(pipes, (3, 4))]; os.execv(sys.argv[3], sys.argv[3:])"
)


def chromium() -> str | None:
    """The path of a Chromium, if there is one on the PATH."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


@dataclass
class Page:
    """A page that was opened.

    Attributes:
        console: everything that was said on the console, and every exception.
        requested: URLs of everything that was fetched or tried.
    """

    browser: "Browser"
    session: str
    console: list[str] = field(default_factory=list)
    requested: list[str] = field(default_factory=list)

    def call(self, method: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol for this page."""
        return self.browser.call(method, self.session, **parameters)

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript gives; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, path: Path, *, height: int | None = None) -> None:
        """The page from its top as a PNG; all of it, or so many pixels."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": height or size["height"], "scale": 1}
        image = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(image["data"]))


@dataclass
class Browser:
    """A running browser."""

    commands: int
    events: int
    pages: dict[str, Page] = field(default_factory=dict)
    sent: int = 0
    unread: bytes = b""
    happened: list[tuple[str | None, str]] = field(default_factory=list)

    def open(self, url: str, *, width: int, height: int = 900, scheme: str = "light") -> Page:
        """Open a page in a window of that size, in CSS pixels, and wait until it is loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self.pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.happened.clear()
        page.call("Page.navigate", url=url)
        while (session, "Page.loadEventFired") not in self.happened:
            self._receive()
        # Two frames later everything is laid out, and what a load sets off has been said.
        page.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return page

    def call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """Send a command and wait for its answer."""
        self.sent += 1
        command = {"id": self.sent, "method": method, "params": parameters}
        text = json.dumps(command | ({"sessionId": session} if session else {}))
        os.write(self.commands, text.encode() + b"\0")
        while True:
            message = self._receive()
            if message.get("id") == self.sent:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_S
        while b"\0" not in self.unread:
            ready, _, _ = select.select([self.events], [], [], max(0, deadline - time.monotonic()))
            piece = os.read(self.events, 1 << 20) if ready else b""
            assert piece, f"the browser is gone, or said nothing for {PATIENCE_S} s"
            self.unread += piece
        text, _, self.unread = self.unread.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._note(message)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        session, method, parameters = message.get("sessionId"), message.get("method", ""), message.get("params")
        self.happened.append((session, method))
        page = self.pages.get(session or "")
        if page is None:
            return
        if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            page.console.append(json.dumps(parameters))
        if method == "Network.requestWillBeSent":
            page.requested.append(message["params"]["request"]["url"])


@contextlib.contextmanager
def running(path: str, profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile, for as long as the block lasts."""
    to_browser, from_browser = os.pipe(), os.pipe()
    theirs = (to_browser[0], from_browser[1])
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", LAUNCH, *map(str, theirs), path, *FLAGS, f"--user-data-dir={profile}"],
        pass_fds=theirs,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    for descriptor in theirs:
        os.close(descriptor)
    try:
        yield Browser(to_browser[1], from_browser[0])
    finally:
        # Its own group holds all that it started, and nothing else.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(to_browser[1])
        os.close(from_browser[0])
