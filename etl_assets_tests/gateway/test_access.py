"""Who may ask the gateway, and how much may be sent."""

import http.client
import socket
from urllib.parse import urlsplit

import pytest

from etl_assets.core import registry
from etl_assets.errors import ConfigurationError
from etl_assets.gateway.access import is_loopback, require_loopback, token_of
from etl_assets.gateway.app import MAX_BODY_BYTES
from etl_assets.settings import Settings
from etl_assets_tests.gateway.conftest import TOKEN, Client


def test_a_call_without_the_token_is_told_how_to_authenticate(guarded_client: Client) -> None:
    answer = guarded_client.get("/v1/runs")
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="etl-assets"'
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert guarded_client.dagster.asked == []


@pytest.mark.parametrize(
    "sent", ["Bearer wrong", "Bearer ", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer \xe9"]
)
def test_a_wrong_token_is_refused_and_not_repeated(guarded_client: Client, sent: str) -> None:
    answer = guarded_client.get("/v1/runs", headers={"Authorization": sent.encode("latin-1")})
    assert answer.status_code == 401
    assert TOKEN not in answer.text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_token_lets_pass(guarded_client: Client, scheme: str) -> None:
    assert guarded_client.get("/v1/runs", headers={"Authorization": f"{scheme} {TOKEN}"}).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/status", "/openapi.json", "/docs", "/docs/swagger-ui.css"])
def test_what_holds_no_data_needs_no_token(guarded_client: Client, path: str) -> None:
    assert guarded_client.get(path).status_code == 200


@pytest.mark.parametrize(
    "path", ["/metrics", "/trigger-etl", "/v1/jobs", "/check/table", "/nothing", "/healthz/", "//healthz"]
)
def test_everything_else_needs_it(guarded_client: Client, path: str) -> None:
    assert guarded_client.get(path).status_code == 401


def test_with_a_token_any_host_name_will_do(guarded_client: Client) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Host": "gateway.example.com", "Sec-Fetch-Site": "cross-site"}
    assert guarded_client.get("/v1/runs", headers=headers).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:5000", "LOCALHOST", "[::1]:5000", "127.1.2.3"])
def test_without_a_token_the_names_of_this_machine_are_answered(gateway_client: Client, host: str) -> None:
    assert gateway_client.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:5000", "10.0.0.1", "[", ""]
)
def test_without_a_token_a_name_that_was_bent_to_loopback_is_refused(gateway_client: Client, host: str) -> None:
    answer = gateway_client.get("/trigger-etl", headers={"Host": host})
    assert answer.status_code == 403
    assert "ETL_GATEWAY_TOKEN" in answer.json()["detail"]
    assert gateway_client.dagster.asked == []


@pytest.mark.parametrize(
    "headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {"Origin": "null"}]
)
def test_without_a_token_what_another_sites_page_asks_is_refused(
    gateway_client: Client, headers: dict[str, str]
) -> None:
    answer = gateway_client.post("/trigger-etl", headers=headers)
    assert answer.status_code == 403
    assert gateway_client.dagster.asked == []


@pytest.mark.parametrize(
    "headers", [{"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {"Origin": "http://localhost:5000"}]
)
def test_without_a_token_pages_of_this_machine_are_answered(gateway_client: Client, headers: dict[str, str]) -> None:
    assert gateway_client.get("/v1/jobs", headers=headers).status_code == 200


def test_a_body_of_the_greatest_length_is_read(gateway_client: Client) -> None:
    body = b'{"job": "table_job"}'.ljust(MAX_BODY_BYTES)
    answer = gateway_client.post("/v1/runs", data=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 201


@pytest.mark.parametrize("length", [MAX_BODY_BYTES + 1, 4 * MAX_BODY_BYTES])
def test_a_longer_body_is_refused(gateway_client: Client, length: int) -> None:
    answer = gateway_client.post("/v1/runs", data=b" " * length)
    assert answer.status_code == 413
    assert answer.json()["detail"] == "the body is longer than 65536 bytes: send less"


def test_a_longer_body_in_chunks_is_refused(gateway_client: Client) -> None:
    answer = gateway_client.post("/v1/runs", data=iter([b" " * 1000] * 100))
    assert answer.status_code == 413
    assert gateway_client.dagster.runs == []


def test_a_body_that_is_announced_as_endless_is_refused_before_it_comes(gateway_client: Client) -> None:
    place = urlsplit(gateway_client.url)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=10)
    connection.putrequest("POST", "/v1/runs")
    connection.putheader("Content-Length", str(10**12))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_a_client_that_goes_away_in_its_body_leaves_the_gateway_serving(gateway_client: Client) -> None:
    place = urlsplit(gateway_client.url)
    with socket.create_connection((str(place.hostname), place.port)) as connection:
        connection.sendall(b"POST /v1/runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    assert gateway_client.get("/healthz").status_code == 200
    assert gateway_client.dagster.runs == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "gateway.example.com", ""])
def test_without_a_token_only_loopback_may_be_listened_on(host: str) -> None:
    with pytest.raises(ConfigurationError, match="set ETL_GATEWAY_TOKEN, or listen on 127.0.0.1"):
        require_loopback(host, Settings())
    require_loopback(host, Settings(etl_gateway_token=TOKEN))


def test_loopback_needs_no_token() -> None:
    for host in ("127.0.0.1", "localhost", "::1"):
        require_loopback(host, Settings())
    assert not is_loopback(None)


@pytest.mark.parametrize("token", [" ", "two\nlines", "trailing ", "ümlaut"])
def test_a_token_that_no_header_can_carry_is_a_configuration_error(token: str) -> None:
    with pytest.raises(ConfigurationError, match="ETL_GATEWAY_TOKEN") as met:
        token_of(Settings(etl_gateway_token=token))
    assert token.strip() not in str(met.value) or not token.strip()


def test_every_secret_of_the_settings_is_known_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTAGES_API_KEY", "key")
    settings = Settings(etl_gateway_token=TOKEN, etl_postgres_url="postgresql://u:p@h/d")
    assert {TOKEN, "postgresql://u:p@h/d", "p", "key"} <= set(registry.secrets(settings))
    in_urls = Settings(etl_storage_url="s3://u:a%2Fb@h/d?t=token", dagster_graphql_url="https://u:pw@h")
    assert {"a%2Fb", "a/b", "token", "pw"} <= set(registry.secrets(in_urls))
