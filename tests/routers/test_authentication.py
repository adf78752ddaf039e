"""The door over real HTTP: who gets in, whose results are read, and that nothing of a key leaks."""

import io
import json
import logging
import socket
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image

from main import create_app
from models.schemas import ModelId
from routers.authentication import OPEN_PATHS
from services.container import open_services
from services.tokens import ResultTokens, Signer
from tests.conftest import Server, artwork, make_settings, problem, serving
from tests.fakes import FakeRemover

ISNET, KNOCKOUT = ModelId.LOCAL_ISNET, ModelId.LOCAL_KNOCKOUT
SHOP, TILL = "a-key-of-the-shop", "a-key-of-the-till"
API_KEYS = f"shop:{SHOP},till:{TILL}"
SECRET = "what the tests' tokens are signed with"  # noqa: S105  # the tests' own
NOBODY = "0" * 32


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(
        tmp_path_factory.mktemp("door"),
        stand_ins={ISNET: FakeRemover(ISNET)},
        api_keys=API_KEYS,
        signing_secret=SECRET,
    ) as server:
        yield server


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def shoot(server: Server, key: str, path: str = "/remove-background") -> dict[str, Any]:
    answer = server.client.post(
        path, files={"image": artwork()}, data={"models": KNOCKOUT}, headers=bearer(key)
    )
    record: dict[str, Any] = answer.raise_for_status().json()
    return record


def test_the_open_addresses_want_no_key(server: Server) -> None:
    for path in OPEN_PATHS:
        assert server.client.get(path).status_code in {200, 503}, path


def test_every_other_route_wants_a_key(server: Server) -> None:
    """Also one that is added tomorrow: the list is the application's own."""
    paths = server.client.get("/openapi.json").json()["paths"]
    asked = 0
    for path, operations in paths.items():
        address = path.format(request_id=NOBODY, model=KNOCKOUT)
        for method in operations:
            if path.startswith("/v1.0/"):  # told as remove.bg tells it
                answer = server.client.request(method, address)
                assert answer.status_code == 403
                assert answer.json()["errors"][0]["code"] == "auth_failed"
            elif path not in OPEN_PATHS:
                refused = server.client.request(method, address)
                problem(refused, 401, "missing_key")
                assert refused.headers["www-authenticate"] == "Bearer"
                problem(
                    server.client.request(method, address, headers=bearer("no-such-key-at-all")),
                    401,
                    "invalid_key",
                )
                asked += 1
    assert asked >= 7
    problem(server.client.get("/no-such-route"), 401, "missing_key")
    problem(server.client.get("/no-such-route", headers=bearer(SHOP)), 404, "not_found")


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {SHOP}"},
        {"Authorization": f"bearer  {SHOP}"},
        {"X-API-Key": SHOP},
        {"x-api-key": SHOP, "Authorization": "Basic c2hvcDo="},
    ],
)
def test_a_key_may_come_in_either_header(server: Server, headers: dict[str, str]) -> None:
    assert server.client.get("/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_key"),
        ({"Authorization": "Bearer"}, "missing_key"),
        ({"Authorization": f"Basic {SHOP}"}, "missing_key"),
        ({"X-API-Key": ""}, "missing_key"),
        ({"X-API-Key": SHOP[:-1]}, "invalid_key"),
        ({"X-API-Key": SHOP.upper()}, "invalid_key"),
        ({"X-API-Key": f"shop:{SHOP}"}, "invalid_key"),
        ({"Authorization": "Bearer no-key", "X-API-Key": SHOP}, "invalid_key"),
        ({b"x-api-key": b"\xe9\xff" * 10}, "invalid_key"),
    ],
)
def test_everything_else_is_refused(server: Server, headers: Any, code: str) -> None:  # noqa: ANN401  # text or bytes
    problem(server.client.get("/models", headers=headers), 401, code)


def test_a_key_in_the_query_is_none(server: Server) -> None:
    for name in ("token", "api_key", "x-api-key"):
        problem(server.client.get("/models", params={name: SHOP}), 401, "missing_key")


def test_the_body_of_an_upload_is_not_read_without_a_key(server: Server) -> None:
    """Headers alone: 100 Continue would come first if anybody had begun to read."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as line:
        line.sendall(
            b"POST /remove-background HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 50000000\r\n\r\n"
        )
        answer = line.recv(65536)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"100 Continue" not in answer


def test_a_result_is_its_keys_alone_and_anothers_never_was(server: Server) -> None:
    request_id = shoot(server, SHOP)["request_id"]
    client = server.client
    for method, path in [
        ("GET", f"/results/{request_id}"),
        ("GET", f"/results/{request_id}/{KNOCKOUT}.png"),
        ("DELETE", f"/results/{request_id}"),
        ("GET", f"/results/{request_id}/whatever-comes-next"),
    ]:
        refused = client.request(method, path, headers=bearer(TILL))
        body = problem(refused, 404, "result_not_found")
        missing = client.get(f"/results/{NOBODY}", headers=bearer(TILL))
        never = problem(missing, 404, "result_not_found")
        for each in (body, never):
            each.pop("request_id")
            each["detail"] = str(each["detail"]).replace(request_id, "…").replace(NOBODY, "…")
        assert body == never
    assert client.get(f"/results/{request_id}", headers=bearer(SHOP)).status_code == 200
    assert client.delete(f"/results/{request_id}", headers=bearer(SHOP)).status_code == 204


def test_who_made_a_result_is_kept_and_never_shown(server: Server) -> None:
    record = shoot(server, SHOP)
    (kept,) = (server.temp_dir / "data" / "records").glob(f"*/{record['request_id']}.json")
    assert json.loads(kept.read_text())["owner"] == "shop"
    read = server.client.get(f"/results/{record['request_id']}", headers=bearer(SHOP)).json()
    assert "owner" not in {*record, *read}
    schemas = server.client.get("/openapi.json").json()["components"]["schemas"]
    assert "owner" not in schemas["ShotRecord"]["properties"]


def test_the_links_of_a_record_open_its_pictures_without_a_key(server: Server) -> None:
    (entry,) = shoot(server, SHOP, "/process")["results"]
    for name, kind in [("url", "PNG"), ("preview_url", "WEBP"), ("print_url", "PNG")]:
        answer = server.client.get(entry[name])
        assert answer.status_code == 200, name
        assert Image.open(io.BytesIO(answer.content)).format == kind
    assert "?preview=512&token=" in entry["preview_url"]


def test_a_links_token_stays_the_same_and_browsers_need_not_load_twice(server: Server) -> None:
    record = shoot(server, SHOP)
    again = server.client.get(f"/results/{record['request_id']}", headers=bearer(SHOP)).json()
    assert again["results"] == record["results"]
    url = record["results"][0]["url"]
    etag = server.client.get(url).headers["etag"]
    assert server.client.get(url, headers={"If-None-Match": etag}).status_code == 304


def test_a_token_opens_record_and_pictures_of_its_result_with_get_alone(server: Server) -> None:
    first, second = shoot(server, SHOP), shoot(server, SHOP)
    query = urlsplit(first["results"][0]["url"]).query
    client, mine, other = server.client, first["request_id"], second["request_id"]
    assert client.get(f"/results/{mine}?{query}").json()["request_id"] == mine
    for path in (f"/results/{other}", f"/results/{other}/{KNOCKOUT}.png"):
        problem(client.get(f"{path}?{query}"), 401, "invalid_key")
    for path in ("/models", f"/results?{query}", f"/results/?{query}"):
        problem(client.get(f"{path}?{query}"), 401, "missing_key")
    problem(client.delete(f"/results/{mine}?{query}"), 401, "missing_key")
    problem(client.post(f"/results/{mine}?{query}"), 401, "missing_key")
    problem(client.post(f"/remove-background?{query}"), 401, "missing_key")
    assert client.get(f"/results/{mine}?{query}").status_code == 200


def test_a_tampered_or_expired_token_opens_nothing(server: Server) -> None:
    request_id = shoot(server, SHOP)["request_id"]
    path = f"/results/{request_id}/{KNOCKOUT}.png"
    signer, now = Signer(SECRET.encode()), datetime.now(UTC)
    good = ResultTokens(signer).token(request_id, now + timedelta(hours=1))
    assert server.client.get(path, params={"token": good}).status_code == 200
    expired = ResultTokens(signer).token(request_id, now - timedelta(seconds=2))
    foreign = ResultTokens(Signer(b"another")).token(request_id, now + timedelta(hours=1))
    swapped = good[:-1] + ("A" if good[-1] != "A" else "B")
    for token in (expired, foreign, swapped, good[:-1], good + "A", "A" * 28):
        refused = server.client.get(path, params={"token": token})
        problem(refused, 401, "invalid_key")
    problem(server.client.get(path, params={"token": ""}), 401, "missing_key")


def test_a_link_from_before_a_restart_still_opens(tmp_path: Path) -> None:
    with serving(tmp_path, api_keys=API_KEYS) as server:
        url = shoot(server, SHOP)["results"][0]["url"]
    secret = tmp_path / "data" / "signing.key"
    assert secret.stat().st_mode & 0o777 == 0o600
    kept = secret.read_bytes()
    with serving(tmp_path, api_keys=API_KEYS) as server:
        assert server.client.get(url).status_code == 200
        request_id = url.split("/")[2]
        own = server.client.get(f"/results/{request_id}", headers=bearer(SHOP))
        assert own.status_code == 200
        problem(
            server.client.get(f"/results/{request_id}", headers=bearer(TILL)),
            404,
            "result_not_found",
        )
    assert secret.read_bytes() == kept


def test_without_keys_nothing_is_asked_signed_or_written(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        record = server.shoot(artwork(), models=KNOCKOUT).json()
        url = record["results"][0]["url"]
        assert url == f"/results/{record['request_id']}/{KNOCKOUT}.png"
        assert server.client.get(f"{url}?token=of-another-time").status_code == 200
        assert server.client.get("/models", headers=bearer("whatever")).status_code == 200
    assert not (tmp_path / "data" / "signing.key").exists()


def test_what_was_made_before_there_were_keys_is_nobodys(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        request_id = server.shoot(artwork(), models=KNOCKOUT).json()["request_id"]
    with serving(tmp_path, api_keys=API_KEYS) as server:
        refused = server.client.get(f"/results/{request_id}", headers=bearer(SHOP))
        problem(refused, 404, "result_not_found")


def test_absolute_links_carry_the_token_as_well(tmp_path: Path) -> None:
    base = "https://cutouts.example"
    with serving(tmp_path, api_keys=API_KEYS, public_base_url=base) as server:
        (entry,) = shoot(server, SHOP, "/process")["results"]
        for name in ("url", "preview_url", "print_url"):
            assert entry[name].startswith(f"{base}/results/")
            assert entry[name].count("token=") == 1
            assert server.client.get(entry[name].removeprefix(base)).status_code == 200


def test_the_log_names_the_key_by_its_id_and_holds_no_secret(tmp_path: Path) -> None:
    log = io.StringIO()
    with serving(tmp_path, api_keys=API_KEYS, signing_secret=SECRET, log_level="DEBUG") as server:
        (handler,) = logging.root.handlers
        assert isinstance(handler, logging.StreamHandler)
        usual = handler.setStream(log)
        url = shoot(server, SHOP)["results"][0]["url"]
        session = server.client.post("/sessions", headers=bearer(SHOP)).json()["token"]
        server.client.get(url).raise_for_status()
        for headers in (bearer("a-wrong-key-altogether"), bearer(session), {}):
            server.client.get("/models", headers=headers)
        server.client.get(f"{url}x")
        server.client.post(f"/remove-background?token={SHOP}", headers=bearer(SHOP))
        server.client.get("/health")
    handler.setStream(usual)
    token = urlsplit(url).query.removeprefix("token=")
    for secret in (SHOP, TILL, SECRET, token, session, session[8:], "a-wrong-key-altogether"):
        assert secret not in log.getvalue()
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    outcome = next(line for line in lines if line["event"] == "outcome")
    assert outcome["key_id"] == "shop"
    requests = Counter(line["key_id"] for line in lines if line["event"] == "request")
    assert requests == {"shop": 4, "link": 1, "unknown": 3, "open": 1}


@pytest.mark.anyio
@pytest.mark.parametrize(("keys", "said"), [("", 1), (API_KEYS, 0)])
async def test_the_start_warns_of_paid_providers_only_where_the_door_is_open(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, keys: str, said: int
) -> None:
    settings = make_settings(tmp_path, kie_api_key="a-paid-key", api_keys=keys)
    async with open_services(settings, version="0", stand_ins={}):
        pass
    warnings = [each for each in caplog.records if each.msg == "paid_provider_open_to_anybody"]
    assert len(warnings) == said
    assert all(each.__dict__["setting"] == "KIE_API_KEY" for each in warnings)
    assert any(each.msg == "provider_unconfigured" for each in caplog.records)


def test_the_document_says_how_to_show_who_asks(tmp_path: Path) -> None:
    document = create_app(make_settings(tmp_path)).openapi()
    schemes = document["components"]["securitySchemes"]
    assert schemes["bearer"]["scheme"] == "bearer"
    assert (schemes["apiKey"]["in"], schemes["apiKey"]["name"]) == ("header", "X-API-Key")
    by_path = document["paths"]
    assert "security" not in by_path["/health"]["get"]
    assert by_path["/upscale"]["post"]["security"] == [{"bearer": []}, {"apiKey": []}]
    result = by_path["/results/{request_id}"]
    assert {"resultLink": []} in result["get"]["security"]
    assert {"resultLink": []} not in result["delete"]["security"]
    examples = by_path["/upscale"]["post"]["responses"]
    assert set(examples["401"]["content"]["application/problem+json"]["examples"]) == {
        "missing_key",
        "invalid_key",
    }
    assert set(examples["403"]["content"]["application/problem+json"]["examples"]) == {
        "not_allowed",
        "session_exhausted",
    }


def test_a_real_browsers_cross_site_question_is_refused_like_any_other(server: Server) -> None:
    problem(server.client.options("/remove-background"), 401, "missing_key")


def test_two_callers_at_once_are_not_mixed_up(server: Server) -> None:
    """Each connection keeps its own caller, whatever the other one asks in between."""
    with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as other:
        for _ in range(3):
            mine = shoot(server, SHOP)["request_id"]
            answer = other.get(f"/results/{mine}", headers=bearer(TILL))
            problem(answer, 404, "result_not_found")
            assert server.client.get(f"/results/{mine}", headers=bearer(SHOP)).status_code == 200
