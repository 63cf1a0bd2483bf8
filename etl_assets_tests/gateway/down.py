"""The ways in which a database is down, each as the address of one that is."""

import contextlib
import secrets
import socket
import struct
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from etl_assets.core.database.connections import Database


def at(database: Database, *, port: int) -> Database:
    """The same database behind another port."""
    parts = urlsplit(database.url)
    return Database(parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{port}").geturl())


@contextlib.contextmanager
def refusing(database: Database) -> Iterator[Database]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening
        yield at(database, port=taken.getsockname()[1])


@contextlib.contextmanager
def silent(database: Database) -> Iterator[Database]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield at(database, port=listener.getsockname()[1])


@contextlib.contextmanager
def hanging_up(database: Database, greeting: bytes = b"") -> Iterator[Database]:
    """A server that sends at most one message and closes the connection."""

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            # A client whose time is over is gone before it has sent anything.
            with connection, contextlib.suppress(OSError, struct.error):
                # The client begins by asking for encryption, which is not to be had, or at once with its greeting.
                if struct.unpack("!II", connection.recv(8, socket.MSG_WAITALL))[1] == 80877103:
                    connection.sendall(b"N")
                    connection.recv(8, socket.MSG_WAITALL)
                connection.recv(4096)
                connection.sendall(greeting)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield at(database, port=listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(timeout=5)


@contextlib.contextmanager
def starting_up(database: Database) -> Iterator[Database]:
    fields = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0"
    with hanging_up(database, b"E" + struct.pack("!I", len(fields) + 4) + fields) as down:
        yield down


@contextlib.contextmanager
def guest(database: Database, *, limit: int) -> Iterator[Database]:
    """The database as somebody who may open a limited number of connections."""
    name, password = f"guest_{secrets.token_hex(4)}", secrets.token_hex(8)
    parts = urlsplit(database.url)
    role = sql.Identifier(name)
    with psycopg.connect(database.url, autocommit=True) as owner:
        owner.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} CONNECTION LIMIT {}").format(
                role, sql.Literal(password), sql.Literal(limit)
            )
        )
        owner.execute(sql.SQL("GRANT pg_read_all_data TO {}").format(role))
        try:
            yield Database(parts._replace(netloc=f"{name}:{password}@{parts.hostname}:{parts.port}").geturl())
        finally:
            owner.execute(sql.SQL("DROP ROLE {}").format(role))


def limit_connections(database: Database, guest: Database, limit: int) -> None:
    role = sql.Identifier(str(urlsplit(guest.url).username))
    with psycopg.connect(database.url, autocommit=True) as owner:
        owner.execute(sql.SQL("ALTER ROLE {} CONNECTION LIMIT {}").format(role, sql.Literal(limit)))


@contextlib.contextmanager
def without_connections(database: Database) -> Iterator[Database]:
    with guest(database, limit=0) as full:
        yield full


@contextlib.contextmanager
def wrong_password(database: Database) -> Iterator[Database]:
    yield Database(database.url.replace(str(urlsplit(database.url).password), "Wr0ng-Passw0rd"))


@contextlib.contextmanager
def unreadable_url(database: Database) -> Iterator[Database]:
    yield Database(database.url.replace(str(urlsplit(database.url).password), "Wr0ng-Passw0rd%zz"))


@contextlib.contextmanager
def no_such_database(database: Database) -> Iterator[Database]:
    yield Database(database.url + "_that_is_not_there")


@contextlib.contextmanager
def broken_launcher(database: Database) -> Iterator[Database]:
    def url() -> str:
        raise OSError(f"cannot start {database.url}")

    yield Database(url)


WAYS = (
    refusing,
    silent,
    hanging_up,
    starting_up,
    without_connections,
    wrong_password,
    unreadable_url,
    no_such_database,
    broken_launcher,
)
