"""Local servers from wheels: a real PostgreSQL and a real broker without Docker, root privileges or a system service.

    with EmbeddedPostgres(data_dir) as url:
        ...

`acquire` starts the server or attaches to it, and takes a reference that lasts until `release` or the end of the
process; the server stops after its last user, also when that one was killed. One data folder has one server of each
kind, and any number of processes may ask for it at the same time.

How it is done: `files` (locks, reference count), `server` (start, attach, stop), `supervisor` (the process that watches the
reference count), `postgres` with `binaries`, and `broker`.
"""

from etl_assets.core.embedded.broker import EmbeddedBroker
from etl_assets.core.embedded.files import EmbeddedServerError
from etl_assets.core.embedded.postgres import EmbeddedPostgres

__all__ = ["EmbeddedBroker", "EmbeddedPostgres", "EmbeddedServerError"]
