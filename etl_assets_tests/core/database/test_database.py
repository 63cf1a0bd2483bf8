"""What is said of a database that cannot be used: everything but its password."""

import traceback
from urllib.parse import urlsplit, urlunsplit

import pytest

from etl_assets.core.database.connections import Database
from etl_assets.errors import PermanentError, PlatformError

PASSWORD = "s3cr:t@word"
ENCODED = "s3cr%3At%40word"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://etl:{ENCODED}@127.0.0.1:notaport/etl",
        f"postgresql://etl:{ENCODED}@127.0.0.1:1/etl",
        f"postgresql://etl:{ENCODED}@[::1/etl",
        f"postgresql://etl:{PASSWORD}@127.0.0.1:1/etl?no_such_option=1",
    ],
    ids=["port", "refused", "bracket", "option"],
)
@pytest.mark.parametrize("use", ["connect", "adbc"])
def test_no_driver_tells_the_password_of_a_url_that_does_not_lead_anywhere(
    url: str, use: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(url)
    if use == "adbc":
        monkeypatch.setattr(Database, "prepare", lambda self: None)
    with pytest.raises(PlatformError) as failure, getattr(database, use)():
        pass
    told = "".join(traceback.format_exception(failure.value))
    for secret in (PASSWORD, ENCODED, "s3cr"):
        assert secret not in told
    assert "could not" in str(failure.value)


@pytest.mark.long
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"netloc": "nobody:wrong@{host}"}, "could not prepare the target database: .*authentication failed"),
        ({"path": "/nowhere"}, 'could not prepare the target database: .*database "nowhere" does not exist'),
    ],
    ids=["password", "database"],
)
def test_a_login_that_is_refused_is_not_tried_again(database: Database, change: dict[str, str], said: str) -> None:
    parts = urlsplit(database.url)
    host = f"{parts.hostname}:{parts.port}"
    url = urlunsplit(parts._replace(**{name: value.format(host=host) for name, value in change.items()}))
    with pytest.raises(PermanentError, match=said):
        Database(url, name="target").prepare()
