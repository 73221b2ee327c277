"""By which name a request comes, and from whose page."""

import pytest

from fluxserve.api.perimeter import Hosts
from tests.api.conftest import ORIGIN, Door, cat

pytestmark = pytest.mark.anyio

CREATE = "/api/v1/task"
OWN = Hosts(frozenset({"localhost", "[::1]", "pictures.example.com"}))


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "[::1]", "[::1]:8000", "pictures.example.com:443"])
def test_a_name_of_ours_is_taken_at_any_port(host: str) -> None:
    assert OWN.take(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":8000",
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "evil.example/localhost",
        "evil.example,localhost",
        "localhost,localhost",
        "user@localhost",
        "localhost:8000:8000",
        "localhost:http",
        "localhost.",
        "127.0.0.1",
        "0.0.0.0",
        "192.168.1.7:8000",
        "::1",
        "[::1",
        "[::2]",
        "\u0661\u0662",
    ],
)
def test_any_other_name_is_not(host: str) -> None:
    assert not OWN.take(host)


def test_any_address_can_be_allowed_and_is_still_no_name() -> None:
    hosts = Hosts(frozenset({"localhost"}), any_address=True)

    assert all(hosts.take(host) for host in ("192.168.1.7", "192.168.1.7:8000", "[fe80::1]:8000", "localhost"))
    assert not any(
        hosts.take(host) for host in ("evil.example", "1.2.3", "1.2.3.4.evil.example", "0x7f.1", "2130706433")
    )


def test_a_star_takes_everything() -> None:
    assert all(Hosts(frozenset({"*"})).take(host) for host in ("evil.example", "", "[", "192.168.1.7"))


@pytest.mark.parametrize("path", [CREATE, "/healthz", f"/files/{'0' * 32}.png", "/nowhere", "/api/docs"])
@pytest.mark.parametrize("host", ["evil.example", ""])
async def test_a_request_by_another_name_is_refused_wherever_it_goes(door: Door, path: str, host: str) -> None:
    answer = await door.client.get(path, headers={"Host": host})

    assert answer.status_code == 421
    message = answer.json()["message" if path.startswith("/api/") else "error"]
    assert message == f"Host: '{host}' is not allowed; allowed are the names that FLUXSERVE_HOSTS lists"
    if path.startswith("/api/"):
        assert answer.json() == {"code": 421, "data": None, "message": message}


async def test_letters_of_a_name_may_be_capital(door: Door) -> None:
    assert (await door.client.post(CREATE, json=cat(), headers={"Host": "FluxServe.Test:80"})).status_code == 200


async def test_a_request_has_one_name(door: Door) -> None:
    twice = [("Host", "fluxserve.test"), ("Host", "evil.example")]

    assert (await door.client.get(CREATE, headers=twice)).status_code == 421
    assert (await door.client.get(CREATE, headers=twice[::-1])).status_code == 421


STRANGERS = [
    "https://evil.example",
    "null",
    "http://shop.test",
    "https://shop.test:8443",
    "https://shop.test.evil.example",
    "https://sub.shop.test",
    "https://SHOP.TEST",
    "http://fluxserve.test:8000",
    "ftp://fluxserve.test",
    "https://shop.test, https://evil.example",
]


@pytest.mark.parametrize("origin", STRANGERS)
@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT", "PATCH", "OPTIONS", "BREW"])
async def test_a_strangers_page_changes_nothing(door: Door, origin: str, method: str) -> None:
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}

    answer = await door.client.request(method, CREATE, json=cat(), headers=headers)

    assert answer.status_code == 403
    assert answer.json()["code"] == 403
    assert answer.json()["message"].startswith(f"Origin: '{origin}' is not allowed; allowed are this server's own")
    assert "FLUXSERVE_ORIGINS" in answer.json()["message"]
    assert not any(name.startswith("access-control-allow") for name in answer.headers)
    assert (await door.accounts.get(door.account_id)).frozen == 0


@pytest.mark.parametrize("origin", STRANGERS)
async def test_a_strangers_page_may_not_read_what_it_gets(door: Door, origin: str) -> None:
    task_id = await door.create()

    answer = await door.client.get(f"{CREATE}/{task_id}", headers={"Origin": origin})

    assert not any(name.startswith("access-control-allow") for name in answer.headers)


@pytest.mark.parametrize(
    "origin",
    ["http://fluxserve.test", "https://fluxserve.test", "http://pictures.test", ORIGIN],
    ids=["our own", "our own behind TLS", "that of our public address", "one that the settings allow"],
)
async def test_pages_of_ours_and_of_allowed_origins_may_call(door: Door, origin: str) -> None:
    answer = await door.client.post(CREATE, json=cat(), headers={"Origin": origin})

    assert answer.status_code == 200
    assert answer.headers.get("access-control-allow-origin") == (ORIGIN if origin == ORIGIN else None)
    assert "access-control-allow-credentials" not in answer.headers
    assert answer.headers["vary"] == "Origin"


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_the_browser_of_an_allowed_origin_is_told_so_beforehand(door: Door, method: str) -> None:
    headers = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "content-type,x-api-key",
    }

    answer = await door.client.options(CREATE, headers=headers)

    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert method in answer.headers["access-control-allow-methods"]
    assert "x-api-key" in answer.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in answer.headers


async def test_an_allowed_origin_reads_refusals_and_when_to_come_again(door: Door) -> None:
    answer = await door.client.post(CREATE, json={}, headers={"Origin": ORIGIN})

    assert answer.status_code == 400
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "Retry-After" in answer.headers["access-control-expose-headers"].split(", ")
