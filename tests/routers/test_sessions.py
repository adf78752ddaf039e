"""POST /sessions and what a browser may do with the token: shoot within limits, read its own."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx
import pytest

from models.errors import FailureCode, RemoverError
from models.images import Cutout, SourceImage
from models.schemas import ModelId
from services.remover import RemovalOptions
from services.tokens import Signer, new_session, session_token
from tests.conftest import Server, artwork, problem, serving
from tests.fakes import FakeRemover
from utils.clock import Deadline

KNOCKOUT, ISNET = ModelId.LOCAL_KNOCKOUT, ModelId.LOCAL_ISNET
DEAR, FAILING = ModelId.RUNWARE_RMBG, ModelId.KIE_RECRAFT
SHOP = "a-key-of-the-shop"
SECRET = "what the tests' tokens are signed with"  # noqa: S105  # the tests' own


class DearRemover(FakeRemover):
    """Costs two cents a picture."""

    async def remove(
        self, image: SourceImage, *, options: RemovalOptions, deadline: Deadline
    ) -> Cutout:
        cutout = await super().remove(image, options=options, deadline=deadline)
        return replace(cutout, cost_usd=Decimal("0.02"))


@pytest.fixture(scope="module")
def late() -> FakeRemover:
    return DearRemover(ISNET, held=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, late: FakeRemover) -> Iterator[Server]:
    charged = RemoverError(FailureCode.PROVIDER_BAD_RESULT, "no", cost_usd=Decimal("0.03"))
    with serving(
        tmp_path_factory.mktemp("sessions"),
        stand_ins={
            DEAR: DearRemover(DEAR),
            FAILING: FakeRemover(FAILING, error=charged),
            ISNET: late,
        },
        api_keys=f"shop:{SHOP},till:a-key-of-the-till",
        signing_secret=SECRET,
        session_shots=6,
    ) as server:
        yield server


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}


def minted(server: Server, **asked: object) -> str:
    answer = server.client.post("/sessions", json=asked, headers=bearer(SHOP))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["token"])


def shoot(
    server: Server, credential: str, *models: ModelId, path: str = "/remove-background", **more: str
) -> httpx.Response:
    return server.client.post(
        path,
        files={"image": artwork()},
        data={"models": ",".join(models or (KNOCKOUT,)), **more},
        headers=bearer(credential),
    )


def test_a_session_is_what_the_settings_allow(server: Server) -> None:
    life, before = timedelta(seconds=1800), datetime.now(UTC)
    answer = server.client.post("/sessions", headers=bearer(SHOP))
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert set(body) == {"token", "expires_at", "shots", "max_cost_usd"}
    assert (body["shots"], body["max_cost_usd"]) == (6, 1)
    began = datetime.fromisoformat(body["expires_at"]) - life
    assert before.replace(microsecond=0) <= began <= datetime.now(UTC)
    assert SHOP not in body["token"]


def test_the_body_may_ask_for_less(server: Server) -> None:
    asked = {"ttl_s": 60, "shots": 1, "max_cost_usd": 0.2}
    body = server.client.post("/sessions", json=asked, headers=bearer(SHOP)).json()
    assert (body["shots"], body["max_cost_usd"]) == (1, 0.2)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"shots": 7}, "shots"),
        ({"shots": 0}, "shots"),
        ({"ttl_s": 1801}, "ttl_s"),
        ({"max_cost_usd": 1.01}, "max_cost_usd"),
        ({"max_cost_usd": -1}, "max_cost_usd"),
        ({"max_cost_usd": "NaN"}, "max_cost_usd"),
        ({"key_id": "till"}, "key_id"),
    ],
)
def test_more_or_nonsense_is_a_bad_parameter(
    server: Server, asked: dict[str, object], field: str
) -> None:
    answer = server.client.post("/sessions", json=asked, headers=bearer(SHOP))
    assert problem(answer, 400, "invalid_parameter")["field"] == field


@pytest.mark.parametrize("body", [b"[]", b"{", b"\xff", b"[" * 10_000])
def test_a_body_that_is_no_object_is_a_bad_parameter(server: Server, body: bytes) -> None:
    answer = server.client.post("/sessions", content=body, headers=bearer(SHOP))
    problem(answer, 400, "invalid_parameter")


def test_a_body_without_end_is_not_read_to_its_end(server: Server) -> None:
    answer = server.client.post("/sessions", content=b" " * 20_000, headers=bearer(SHOP))
    problem(answer, 413, "file_too_large")


def test_a_session_may_not_do_what_is_not_listed(server: Server) -> None:
    token = minted(server)
    record = shoot(server, token).json()
    mine = f"/results/{record['request_id']}"
    for method, path in [
        ("POST", "/sessions"),
        ("GET", "/models"),
        ("DELETE", mine),
        ("PUT", mine),
        ("POST", f"{mine}/whatever-comes-next"),
        ("GET", "/remove-background"),
        ("GET", "/results"),
        ("POST", "/what-is-built-tomorrow"),
    ]:
        answer = server.client.request(method, path, headers=bearer(token))
        problem(answer, 403, "not_allowed")
    assert server.client.get(mine, headers=bearer(token)).status_code == 200


def test_a_session_reads_what_it_made_and_its_key_reads_it_too(server: Server) -> None:
    first, second = minted(server), minted(server)
    till = "a-key-of-the-till"
    record = shoot(server, first).json()
    mine = f"/results/{record['request_id']}"
    keys_own = f"/results/{shoot(server, SHOP).json()['request_id']}"
    for credential in (first, SHOP):
        for path in (mine, f"{mine}/{KNOCKOUT}.png"):
            assert server.client.get(path, headers=bearer(credential)).status_code == 200
    for credential, path in [(second, mine), (till, mine), (first, keys_own)]:
        answer = server.client.get(path, headers=bearer(credential))
        problem(answer, 404, "result_not_found")
    assert server.client.get(record["results"][0]["url"]).status_code == 200


@pytest.mark.parametrize("path", ["/remove-background", "/process", "/upscale"])
def test_every_kind_of_work_is_a_shot(server: Server, path: str) -> None:
    token = minted(server, shots=1)
    more = {} if path == "/upscale" else {"models": KNOCKOUT}
    for status in (200, 403):
        answer = server.client.post(
            path, files={"image": artwork()}, data=more, headers=bearer(token)
        )
        assert answer.status_code == status
    body = problem(answer, 403, "session_exhausted")
    assert (body["limit"], body["actual"]) == (1, 2)


def test_what_never_became_a_shot_is_not_counted(server: Server) -> None:
    token = minted(server, shots=1)
    problem(shoot(server, token, deadline_s="900"), 400, "invalid_parameter")
    answer = server.client.post("/remove-background", headers=bearer(token))
    problem(answer, 400, "missing_source")
    assert shoot(server, token).status_code == 200


def test_a_used_up_session_is_refused_before_its_upload_is_read_and_still_reads(
    server: Server,
) -> None:
    token = minted(server, shots=1)
    record = shoot(server, token).json()
    for path in ("/remove-background", "/process", "/upscale"):
        nothing = server.client.post(path, headers=bearer(token))  # read, it would be 400
        problem(nothing, 403, "session_exhausted")
    path = f"/results/{record['request_id']}"
    assert server.client.get(path, headers=bearer(token)).status_code == 200


def test_money_is_counted_when_models_land_failed_ones_included(server: Server) -> None:
    token = minted(server, max_cost_usd=0.05)
    assert shoot(server, token, DEAR).json()["cost_usd"] == 0.02
    shoot(server, token, FAILING, KNOCKOUT).raise_for_status()
    body = problem(shoot(server, token, KNOCKOUT), 403, "session_exhausted")
    assert (body["limit"], body["actual"]) == (0.05, 0.05)


def test_what_a_session_has_left_holds_before_anything_is_sent(server: Server) -> None:
    token = minted(server, max_cost_usd=0.021)
    shoot(server, token, DEAR).raise_for_status()
    problem(shoot(server, token, DEAR), 402, "budget_exhausted")
    record = shoot(server, token, DEAR, KNOCKOUT).json()
    assert [each.get("reason") for each in record["results"]] == ["budget", None]


def test_money_of_a_late_model_is_counted_as_well(server: Server, late: FakeRemover) -> None:
    token = minted(server, max_cost_usd=0.01)
    record = shoot(server, token, ISNET, deadline_s="1").json()
    assert record["status"] == "running"
    shoot(server, token, KNOCKOUT).raise_for_status()
    late.release()
    path = f"/results/{record['request_id']}"
    for _ in range(1000):
        if server.client.get(path, headers=bearer(SHOP)).json()["status"] == "complete":
            break
    problem(shoot(server, token, KNOCKOUT), 403, "session_exhausted")


def test_an_expired_or_forged_session_is_not_known(server: Server) -> None:
    now = int(datetime.now(UTC).timestamp())
    ours, theirs = Signer(SECRET.encode()), Signer(b"another secret")

    def token(key_id: str, *, expires_at: int, signer: Signer) -> str:
        made = new_session(key_id, expires_at=expires_at, shots=4, max_cost_usd=Decimal(1))
        return session_token(made, signer)

    assert shoot(server, token("shop", expires_at=now + 60, signer=ours)).status_code == 200
    for each in (
        token("shop", expires_at=now - 1, signer=ours),
        token("shop", expires_at=now + 60, signer=theirs),
        token("who", expires_at=now + 60, signer=ours),
    ):
        problem(shoot(server, each), 401, "invalid_key")


def test_a_sessions_token_opens_nothing_as_a_links_token(server: Server) -> None:
    token = minted(server)
    record = shoot(server, token).json()
    answer = server.client.get(f"/results/{record['request_id']}", params={"token": token})
    problem(answer, 401, "invalid_key")
    link = record["results"][0]["url"].partition("token=")[2]
    problem(server.client.get("/models", headers=bearer(link)), 401, "invalid_key")


def test_without_keys_there_are_no_sessions(tmp_path_factory: pytest.TempPathFactory) -> None:
    with serving(tmp_path_factory.mktemp("open")) as server:
        problem(server.client.post("/sessions"), 403, "not_allowed")
