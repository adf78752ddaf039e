"""The layers around the routes: what is on every answer, whom they believe, whom they refuse."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from config import NetworkSettings
from models.schemas import ModelId
from routers.perimeter import EXPOSED_HEADERS
from tests.conftest import ROOT, Server, artwork, problem, serving
from tests.ports import unused_port

SHOP = "a-key-of-the-shop"
KEY = {"Authorization": f"Bearer {SHOP}"}
ORIGIN = "https://shop.example"
KNOCKOUT = ModelId.LOCAL_KNOCKOUT
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,idempotency-key",
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """As it is by default, with a key."""
    with serving(tmp_path_factory.mktemp("plain"), api_keys=f"shop:{SHOP}") as server:
        yield server


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Behind a proxy at 127.0.0.1, with names, an origin and no documentation."""
    with serving(
        tmp_path_factory.mktemp("edge"),
        api_keys=f"shop:{SHOP}",
        trusted_proxies="127.0.0.1",
        allowed_hosts="cutouts.example",
        public_base_url="https://prints.example/api",
        cors_origins=ORIGIN,
        docs_enabled=False,
        rate_limit_per_minute=60,
    ) as server:
        yield server


def guarded(answer: httpx.Response) -> httpx.Response:
    """The answer, which has what every answer has."""
    headers = answer.headers
    assert headers["x-request-id"]
    assert headers["server-timing"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] in {"same-origin", "cross-origin"}
    assert headers["cache-control"]
    assert "frame-ancestors" in headers["content-security-policy"]
    assert len(headers.get_list("content-security-policy")) == 1
    return answer


def test_every_answer_has_them_whoever_gives_it(plain: Server, edge: Server) -> None:
    answers = {
        "answer": plain.client.get("/models", headers=KEY),
        "no body": plain.client.head("/"),
        "page": plain.client.get("/"),
        "no key": plain.client.get("/models"),
        "no route": plain.client.get("/no-such-route", headers=KEY),
        "wrong method": plain.client.put("/health", headers=KEY),
        "bad request": plain.client.post("/remove-background", headers=KEY),
        "remove.bg": plain.client.post("/v1.0/removebg"),
        "wrong host": edge.client.get("/models", headers={"Host": "evil.example"}),
        "preflight": edge.client.options("/process", headers=PREFLIGHT),
        "no preflight": edge.client.options(
            "/process", headers=PREFLIGHT | {"Origin": "https://x"}
        ),
    }
    statuses = {name: guarded(answer).status_code for name, answer in answers.items()}
    assert list(statuses.values()) == [200, 200, 200, 401, 404, 405, 400, 403, 421, 200, 400]
    for name in ("answer", "no key", "bad request", "wrong host"):
        headers = answers[name].headers
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert (headers["x-frame-options"], headers["cache-control"]) == ("DENY", "no-store")
    assert answers["page"].headers["cache-control"] == "no-cache"


def test_a_crash_has_them_too(plain: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("services.container.Services.model_table")
    problem(guarded(plain.client.get("/models", headers=KEY)), 500, "internal_error")


def test_every_refusal_of_a_layer_is_logged_under_its_id(
    edge: Server, caplog: pytest.LogCaptureFixture
) -> None:
    asked = [
        ("GET", "/models", {"Host": "evil.example"}),
        ("OPTIONS", "/process", PREFLIGHT | {"Origin": "https://evil.example"}),
        ("GET", "/models", {}),
    ]
    for number, (method, path, headers) in enumerate(asked):
        edge.client.request(method, path, headers=headers | {"X-Request-ID": f"layer-{number}"})
    edge.client.get("/health")  # the line of a request is written when its answer has gone
    logged = {
        each.__dict__["request_id"]: each.__dict__["status"]
        for each in caplog.records
        if each.message == "request"
    }
    assert [logged[f"layer-{number}"] for number in range(3)] == [421, 400, 401]


def test_a_results_picture_may_be_shown_by_the_shops_page(plain: Server) -> None:
    shot = plain.client.post(
        "/remove-background", files={"image": artwork()}, data={"models": KNOCKOUT}, headers=KEY
    )
    link = shot.raise_for_status().json()["results"][0]["url"]
    picture = guarded(plain.client.get(link)).raise_for_status()
    assert picture.headers["cross-origin-resource-policy"] == "cross-origin"
    assert picture.headers["cache-control"].startswith("private")
    assert shot.headers["cross-origin-resource-policy"] == "same-origin"


def test_a_page_says_itself_who_may_frame_it(tmp_path: Path) -> None:
    with serving(tmp_path, page_embedded_by=ORIGIN) as server:
        page = guarded(server.client.get("/"))
    assert f"frame-ancestors {ORIGIN}" in page.headers["content-security-policy"]
    assert "x-frame-options" not in page.headers


def test_https_alone_is_only_wanted_where_a_trusted_proxy_speaks_it(
    plain: Server, edge: Server
) -> None:
    def told(server: Server, **headers: str) -> str | None:
        answer = server.client.get("/health", headers=headers)
        policy: str | None = answer.headers.get("strict-transport-security")
        return policy

    https = {"X-Forwarded-Proto": "https"}
    assert told(plain, **https) is None
    assert told(plain, **https, **{"X-Forwarded-For": "198.51.100.1"}) is None
    assert told(edge, **https) == "max-age=31536000"
    assert told(edge, **{"X-Forwarded-Proto": "https, http"}) is None
    assert told(edge, **{"X-Forwarded-Proto": "gopher"}) is None
    assert told(edge) is None


def test_no_foreign_origin_is_let_in_by_default(plain: Server) -> None:
    answer = plain.client.get("/models", headers=KEY | {"Origin": ORIGIN})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    problem(plain.client.options("/process", headers=PREFLIGHT), 401, "missing_key")


def test_a_preflight_of_an_allowed_origin_needs_no_key(edge: Server) -> None:
    answer = edge.client.options("/process", headers=PREFLIGHT)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, ORIGIN)
    assert "access-control-allow-credentials" not in answer.headers
    refusal = edge.client.get("/models", headers={"Origin": ORIGIN})
    problem(refusal, 401, "missing_key")
    assert refusal.headers["access-control-allow-origin"] == ORIGIN
    exposed = refusal.headers["access-control-expose-headers"].split(", ")
    assert exposed == list(EXPOSED_HEADERS)
    other = edge.client.get("/models", headers=KEY | {"Origin": "https://evil.example"})
    assert other.status_code == 200
    assert "access-control-allow-origin" not in other.headers


def test_a_script_may_read_every_header_of_our_own() -> None:
    sources = "".join(path.read_text() for path in sorted((ROOT / "routers").glob("*.py")))
    ours = set(re.findall(r'"(X-[A-Z][\w-]+|Idempotent-\w+|Preference-\w+)"', sources))
    unread = {"X-API-Key", "X-Content-Type-Options", "X-Accel-Buffering"}
    assert ours - unread <= set(EXPOSED_HEADERS)
    assert len(ours) > 20


@pytest.mark.parametrize(
    "host",
    ["cutouts.example", "CUTOUTS.example:8443", "prints.example", "localhost:8000", "127.0.0.1",
     "[::1]", "[::1]:8000"],
)  # fmt: skip
def test_the_service_answers_to_its_names(edge: Server, host: str) -> None:
    assert edge.client.get("/ready", headers={"Host": host}).status_code in {200, 503}


@pytest.mark.parametrize(
    "host",
    ["evil.example", "cutouts.example.evil.example", "x.cutouts.example", "10.0.0.7", "cutouts",
     "", "cutouts.example:", "cutouts.example:80:80", "cutouts.example@evil.example"],
)  # fmt: skip
def test_the_service_answers_to_no_other(edge: Server, host: str) -> None:
    problem(edge.client.get("/ready", headers={"Host": host}), 421, "unknown_host")
    assert edge.client.get("/health", headers={"Host": host}).status_code == 200


def test_by_default_any_name_will_do(plain: Server) -> None:
    assert plain.client.get("/models", headers=KEY | {"Host": "any.example"}).status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"])
def test_the_documentation_may_be_switched_off(plain: Server, edge: Server, path: str) -> None:
    assert guarded(plain.client.get(path)).status_code == 200
    problem(edge.client.get(path), 404, "not_found")


def test_every_counted_route_documents_what_refuses_it_here(plain: Server) -> None:
    paths = plain.client.get("/openapi.json").json()["paths"]
    for path, operations in paths.items():
        for operation in operations.values():
            documented = {"421", "429"} & set(operation["responses"])
            assert len(documented) == (0 if path == "/health" else 2), path


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("trusted_proxies", "*"),
        ("trusted_proxies", "10.0.0.1/8"),
        ("trusted_proxies", "proxy.example"),
        ("allowed_hosts", "https://cutouts.example"),
        ("allowed_hosts", "cutouts.example:8000"),
        ("allowed_hosts", "*"),
        ("cors_origins", "*"),
        ("cors_origins", "shop.example"),
        ("cors_origins", "null"),
        ("key_rate_limits", "shop"),
        ("key_rate_limits", "shop=-1"),
        ("key_rate_limits", "shop=many"),
        ("rate_limit_per_minute", "-1"),
    ],
)
def test_a_setting_that_would_open_or_shut_too_much_stops_the_start(name: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=name):
        NetworkSettings(_env_file=None, **{name: wrong})  # type: ignore[arg-type]


README = "uvicorn main:app --reload --port 8000"


@contextmanager
def started(arguments: list[str], folder: Path) -> Iterator[httpx.Client]:
    """The service as somebody types it, two refusals a minute for an address."""
    port = str(unused_port())
    environment = {
        **{name: value for name, value in os.environ.items() if "FORWARDED" not in name},
        "API_KEYS": f"shop:{SHOP}",
        "REFUSAL_LIMIT_PER_MINUTE": "2",
        "UVICORN_SERVER_HEADER": "false",  # as in the image
        "TEMP_DIR": str(folder),
        "DATA_DIR": str(folder),
        "WEIGHTS_DOWNLOAD": "false",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", *(port if each == "8000" else each for each in arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            wait_for(client, process)
            yield client
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_for(client: httpx.Client, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(2400):
        assert process.poll() is None, "it ended"
        try:
            client.get("/health")
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    pytest.fail("it does not answer")


def test_as_it_is_started_nobody_on_this_machine_is_believed(tmp_path: Path) -> None:
    """uvicorn by itself believes whatever a peer at 127.0.0.1 says of itself."""
    assert README in (ROOT / "README.md").read_text()
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "UVICORN_SERVER_HEADER=false" in dockerfile
    assert "--forwarded-allow-ips" not in dockerfile
    with started(README.split(), tmp_path) as client:
        made_up = [
            client.get(
                "/models",
                headers={"X-Forwarded-For": f"198.51.100.{n}", "X-Forwarded-Proto": "https"},
            )
            for n in range(4)
        ]
    assert [answer.status_code for answer in made_up][:2] == [401, 401]
    assert made_up[-1].status_code == 429
    for answer in made_up:
        assert not {"strict-transport-security", "server"} & set(answer.headers)
