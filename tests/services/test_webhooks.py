"""A shop is told of its complete shot: signed, tried again, and only at a public address."""

import asyncio
import hashlib
import hmac
import json
import logging
import shutil
import ssl
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from models.errors import InvalidParameter
from models.schemas import ImageInfo, ShotRecord
from services.fetcher import Resolver, resolve
from services.webhooks import TRIES, Webhooks
from tests.receiver import Delivery, receiving

pytestmark = pytest.mark.anyio

SECRET = "a secret that only the shop has"  # noqa: S105  # a test's own
PUBLIC = "93.184.215.14"


def webhooks(*allowed: str, pace: float = 0.0005, resolver: Resolver | None = None) -> Webhooks:
    return Webhooks(
        secret=SECRET, allowed_hosts=frozenset(allowed), pace=pace, resolver=resolver or resolve
    )


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for shop.test that vouches for itself, and its key."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=shop.test", "-addext",
         "subjectAltName=DNS:shop.test", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return folder / "cert.pem", folder / "key.pem"


def record() -> ShotRecord:
    image = ImageInfo(width=3, height=2, format="PNG", bytes=70, sha256="0" * 64, had_alpha=False)
    now = datetime.now(UTC)
    return ShotRecord(
        request_id="9f2c4be1a1d84f0c8a3d5e6f70819203",
        status="complete",
        created_at=now,
        image=image,
        results=[],
        cost_usd=0.0,
        latency_ms=12,
        expires_at=now,
    )


class Names:
    """A resolver that gives one answer a call, the last one again and again."""

    def __init__(self, *answers: list[str] | OSError) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int) -> list[str]:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if isinstance(answer, OSError):
            raise answer
        return answer


def signed_by_hand(delivery: Delivery) -> str:
    event_id, stamp = (delivery.headers[f"x-webhook-{name}"] for name in ("id", "timestamp"))
    content = b".".join([event_id.encode(), stamp.encode(), delivery.body])
    return "v1=" + hmac.new(SECRET.encode(), content, hashlib.sha256).hexdigest()


async def test_the_record_arrives_once_and_signed() -> None:
    with receiving() as receiver:
        hooks = webhooks(receiver.place)
        hooks.send(receiver.url, record())
        await hooks.settled()
        delivery = receiver.next()
        assert receiver.arrived.empty()
    body = json.loads(delivery.body)
    assert delivery.path == "/done?shop=7"
    assert delivery.headers["content-type"] == "application/json"
    assert delivery.headers["x-webhook-id"] == body["event_id"]
    assert delivery.headers["x-webhook-signature"] == signed_by_hand(delivery)
    assert abs(int(delivery.headers["x-webhook-timestamp"]) - datetime.now(UTC).timestamp()) < 60
    assert body["type"] == "shot.complete"
    assert body["request_id"] == body["record"]["request_id"] == record().request_id
    assert body["record"]["image"]["width"] == 3


@pytest.mark.parametrize("statuses", [(500,), (503, 429), (500, 502, 504, 429)])
async def test_a_server_in_trouble_is_tried_again_until_it_takes_it(
    statuses: tuple[int, ...],
) -> None:
    with receiving(*statuses) as receiver:
        hooks = webhooks(receiver.place)
        hooks.send(receiver.url, record())
        await hooks.settled()
        deliveries = [receiver.next() for _ in range(len(statuses) + 1)]
        assert receiver.arrived.empty()
    assert len({each.headers["x-webhook-id"] for each in deliveries}) == 1
    assert len({each.body for each in deliveries}) == 1
    for each in deliveries:
        assert each.headers["x-webhook-signature"] == signed_by_hand(each)


async def test_tries_are_bounded() -> None:
    with receiving(*[500] * 20) as receiver:
        hooks = webhooks(receiver.place)
        hooks.send(receiver.url, record())
        await hooks.settled()
        assert receiver.arrived.qsize() == TRIES == 5


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 401, 404, 410])
async def test_a_refusal_or_a_redirect_is_final_and_not_followed(status: int) -> None:
    with receiving(status) as receiver:
        hooks = webhooks(receiver.place)
        hooks.send(receiver.url, record())
        await hooks.settled()
        assert receiver.next().path == "/done?shop=7"
        assert receiver.arrived.empty()


async def test_a_server_that_is_not_there_yet_is_tried_again() -> None:
    with receiving() as receiver:
        names = Names(OSError("no such host"), ["127.0.0.1"])
        hooks = webhooks(f"shop.test:{receiver.port}", resolver=names)
        hooks.send(f"http://shop.test:{receiver.port}/done", record())
        await hooks.settled()
        assert receiver.next().headers["host"] == f"shop.test:{receiver.port}"
    assert names.asked == 2


async def test_nobody_listening_is_tried_again() -> None:
    with receiving() as receiver:
        place = receiver.place
    names = Names(["127.0.0.1"])
    hooks = webhooks(place, resolver=names)
    hooks.send(f"http://{place}/", record())
    await hooks.settled()
    assert names.asked == TRIES


async def test_the_address_is_judged_again_at_each_try() -> None:
    """A name that turned from public to private since it was accepted is not posted to."""
    with receiving() as receiver:
        names = Names([PUBLIC], OSError("no such host"), [PUBLIC, "127.0.0.1"])
        hooks = webhooks(resolver=names)
        await hooks.check("https://shop.test/done")
        hooks.send("https://shop.test/done", record())
        await hooks.settled()
        assert receiver.arrived.empty()
    assert names.asked == 3


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.1.2.3", "192.168.0.9", "169.254.169.254", "::1", "fd00::1"]
)
async def test_a_private_address_is_refused_before_the_shot(address: str) -> None:
    for names in (Names([address]), Names([PUBLIC, address])):
        with pytest.raises(InvalidParameter, match="public address") as refusal:
            await webhooks(resolver=names).check("https://shop.test/done")
        assert refusal.value.field == "callback_url"


@pytest.mark.parametrize(
    "url",
    ["", "done", "http://shop.test/done", "ftp://shop.test/", "https://shop.test:8443/",
     "https://me:word@shop.test/", "https:///done", "https://[::1/", "https://shop.test:x/",
     "//shop.test/done", "http://127.0.0.1:80/"],
)  # fmt: skip
async def test_an_address_is_judged_by_its_spelling(url: str) -> None:
    names = Names([PUBLIC])
    with pytest.raises(InvalidParameter, match=r"^callback_url: "):
        await webhooks(resolver=names).check(url)
    assert names.asked == 0


async def test_what_may_be_posted_to_is_let_through() -> None:
    await webhooks(resolver=Names([PUBLIC])).check("https://shop.test/done")
    await webhooks(resolver=Names(OSError("not now"))).check("https://shop.test/done")
    await webhooks("127.0.0.1:8443").check("http://127.0.0.1:8443/done")
    with pytest.raises(InvalidParameter):
        await webhooks("127.0.0.1:8443").check("http://127.0.0.1:8444/done")


async def test_without_a_secret_no_callback_is_accepted() -> None:
    hooks = Webhooks(secret=None)
    await hooks.check(None)
    with pytest.raises(InvalidParameter, match="WEBHOOK_SECRET"):
        await hooks.check("https://shop.test/done")


async def test_an_endless_answer_is_not_read() -> None:
    with receiving(200, endless=True) as receiver:
        hooks = webhooks(receiver.place)
        hooks.send(receiver.url, record())
        await asyncio.wait_for(hooks.settled(), timeout=20)
        assert receiver.arrived.qsize() == 1


async def test_closing_stops_the_tries() -> None:
    with receiving(500) as receiver:
        hooks = webhooks(receiver.place, pace=1)
        hooks.send(receiver.url, record())
        await asyncio.to_thread(receiver.next)
        await hooks.close()
        assert receiver.arrived.empty()
    assert not hooks._under_way


async def test_a_flood_is_dropped_and_not_kept() -> None:
    with receiving() as receiver:
        hooks = Webhooks(secret=SECRET, allowed_hosts=frozenset({receiver.place}), most_waiting=3)
        for _ in range(5):
            hooks.send(receiver.url, record())
        await hooks.settled()
        assert receiver.arrived.qsize() == 3


async def test_the_log_has_the_host_and_nothing_else_of_the_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with receiving(500) as receiver:
        hooks = webhooks(receiver.place)
        hooks.send(receiver.url, record())
        await hooks.settled()
        event_id = receiver.next().headers["x-webhook-id"]
    said = [each.__dict__ for each in caplog.records if each.name == "services.webhooks"]
    assert [each["message"] for each in said] == ["webhook_not_taken", "webhook_delivered"]
    assert {each["webhook"] for each in said} == {event_id}
    assert {each["host"] for each in said} == {"127.0.0.1"}
    everything = " ".join(str(each.__dict__) for each in caplog.records)
    assert "shop=7" not in everything
    assert SECRET not in everything


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")
async def test_tls_is_verified_by_the_name_in_the_address(tmp_path: Path) -> None:
    """An https post to a server whose certificate is another's never gives the record away."""
    certificate, key = make_certificate(tmp_path)
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(certificate, key)
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_side)
    port = server.sockets[0].getsockname()[1]
    trust = ssl.create_default_context(cafile=certificate)
    for host in ("other.test", "shop.test"):
        hooks = Webhooks(
            secret=SECRET,
            allowed_hosts=frozenset({f"{host}:{port}"}),
            pace=0.0005,
            resolver=Names(["127.0.0.1"]),
            ssl_context=trust,
        )
        hooks.send(f"https://{host}:{port}/done", record())
        await hooks.settled()
    server.close()
    assert len(heads) == 1
    assert f"host: shop.test:{port}".encode() in heads[0].lower()
