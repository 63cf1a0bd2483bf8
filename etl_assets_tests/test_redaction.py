"""URLs and texts without what may be secret in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl_assets.redaction import hidden, public_url, public_urls, secrets_of, without_secrets


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("/var/lib/lake", "/var/lib/lake"),
        ("/data/a@b?c=1234", "/data/a@b?c=1234"),
        ("file:///data/a@b#c", "file:///data/a@b#c"),
        ("s3://bucket/lake", "s3://bucket/lake"),
        ("s3://user:pw@host/bucket", "s3://***@host/bucket"),
        ("https://token@host:8443/x", "https://***@host:8443/x"),
        ("postgresql://:pw@[::1]:5432/etl", "postgresql://***@[::1]:5432/etl"),
        ("s3://user:p%40w%2F@host/bucket", "s3://***@host/bucket"),
        ("s3://user:p@w/?#@host/bucket", "s3://***@host/bucket"),
        ("abfs://box/x?token=abcd&sv=2", "abfs://box/x?token=***&sv=***"),
        ("https://host/x?abcd#efgh", "https://host/x?***#***"),
        ("https://host/x?to=a@b&token=abcd", "https://***@b&token=***"),
        ("https://host/x?a=", "https://host/x?a="),
        ("simplecache::s3://user:pw@host/b::file:///tmp/a@b", "simplecache::s3://***@host/b::file:///tmp/a@b"),
        ("zip://a.zip::https://u:pw@host/x?t=abcd", "zip://a.zip::https://***@host/x?t=***"),
        ("S3://user:pw\nx@host", "S3://***@host"),
        ("postgres:/me:pw@host/x", "postgres:/***@host/x"),
    ],
)
def test_a_url_is_shown_without_credentials_and_values(url: str, shown: str) -> None:
    assert public_url(url) == shown
    assert without_secrets(f"cannot read {url}", url) == f"cannot read {shown}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("user:pw%2F1@host/bucket/outages", "***@host/bucket/outages"),
        ("login failed for 'pw/1' (pw%2F1)", "login failed for '***' (***)"),
        ("no such token: a b+c", "no such token: ***"),
        ("the server is away", "the server is away"),
    ],
)
def test_a_text_about_a_url_has_none_of_its_secrets_in_any_spelling(text: str, shown: str) -> None:
    assert without_secrets(text, "s3://user:pw%2F1@host/bucket?token=a+b%2Bc") == shown


def test_a_short_secret_is_not_taken_out_of_words() -> None:
    assert hidden("check that k is the key of kingfisher", ["k"]) == "check that *** is the key of kingfisher"
    assert hidden("?key=secret&x", ["secret"]) == "?key=***&x"
    assert hidden("monkeys", ["key"]) == "monkeys"
    assert hidden("the tokens", ["toke"]) == "the ***ns"


def test_a_text_without_a_url_stays_as_it_is() -> None:
    assert without_secrets("the server is away", "") == "the server is away"
    for url in ("postgresql://etl:pw@host/etl", "postgresql://etl@host/etl"):
        assert without_secrets("role etl may not", url) == "role etl may not"
    assert without_secrets("no token t0ken", "https://t0ken@host/etl") == "no token ***"


def test_urls_that_nobody_knows_are_found_in_a_text() -> None:
    text = "PUT https://u:pw@host/x?sig=abcd failed, s3://bucket/y did not"
    assert public_urls(text) == "PUT https://***@host/x?sig=*** failed, s3://bucket/y did not"


@given(
    user=st.text(st.characters(categories=["L", "N"]), max_size=5),
    password=st.text(st.characters(exclude_characters="*@:\n"), min_size=1, max_size=8).map(lambda text: f"0{text}0"),
    query=st.text(st.characters(categories=["L", "N"]), max_size=5).map(lambda text: f"1{text}1111"),
)
def test_whatever_is_in_a_url_its_password_and_its_token_are_not_shown(user: str, password: str, query: str) -> None:
    url = f"s3://{user}:{password}@host/bucket?token={query}"
    assert public_url(url) == "s3://***@host/bucket?token=***"
    assert {password, query} <= secrets_of(url)
