"""Local servers from wheels: a real PostgreSQL and a real broker without Docker, root privileges or a system service.

    with EmbeddedPostgres(data_dir) as url:
        ...

`acquire` starts the server or attaches to it, and takes a lease that lasts until `release` or the end of the process;
the server stops after its last user, also when that one was killed. One data folder has one server of each kind, and
any number of processes may ask for it at once.

How it is done: `embedded_lease` (locks), `embedded_server` (start, attach, stop), `embedded_keeper` (the process that
watches the lease), `embedded_postgres` with `embedded_binaries`, and `embedded_broker`.
"""

from etl_assets.core.embedded.broker import EmbeddedBroker
from etl_assets.core.embedded.lease import EmbeddedServerError
from etl_assets.core.embedded.postgres import EmbeddedPostgres

__all__ = ["EmbeddedBroker", "EmbeddedPostgres", "EmbeddedServerError"]
