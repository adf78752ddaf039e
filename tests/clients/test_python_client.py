"""The Python client against the real service, and behind a proxy that breaks what it can."""

import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import httpx
import pytest
from PIL import Image

from clients.python import dtf_images as client_module
from clients.python.dtf_images import (
    Accepted,
    Done,
    DtfImages,
    DtfImagesError,
    Entry,
    Landed,
    Record,
    verify_webhook,
)
from sandbox.opening import Sandbox
from sandbox.options import Options, Times
from services.webhooks import signature
from tests.answering import ISNET, KIE, KNOCKOUT, RMBG, Cutter, table
from tests.clients.flaky import Fault, Proxy, proxying
from tests.conftest import ROOT, Server, artwork, serving
from tests.receiver import receiving
from tests.sandbox_thread import provider_settings, running_sandbox

KEY, SECRET = "k" * 40, "a secret of the webhooks"
PICTURE = artwork(width=300, height=280)
FREE = "local-knockout"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox(Options(times=Times(kie_step_s=0.02))) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def server(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = provider_settings(sandbox)
    folder = tmp_path_factory.mktemp("client")
    with serving(
        folder, api_keys=f"shop:{KEY}", public_base_url="https://cut.example", **settings
    ) as server:
        yield server


@pytest.fixture(scope="module")
def proxy(server: Server) -> Iterator[Proxy]:
    with proxying(server.url) as proxy:
        yield proxy


@pytest.fixture
def flaky(proxy: Proxy) -> Proxy:
    assert proxy.faults.empty()
    proxy.seen.clear()
    proxy.mark = b""
    return proxy


@pytest.fixture(autouse=True)
def no_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def images(server: Server) -> Iterator[DtfImages]:
    with DtfImages(server.url, KEY) as images:
        yield images


@pytest.fixture
def through(flaky: Proxy) -> Iterator[DtfImages]:
    """The client behind the proxy."""
    with DtfImages(flaky.url, KEY, first_wait_s=0.01) as images:
        yield images


def test_a_record_has_every_field_that_the_service_sent(images: DtfImages) -> None:
    record = images.remove_background(PICTURE, models=[KNOCKOUT, KIE], triage="off")
    assert record.status == "complete"
    assert record.created_at < record.expires_at
    assert (record.image.width, record.image.height) == (300, 280)
    assert [each.model for each in record.results] == [KIE, KNOCKOUT]
    for entry in record.results:
        for name in set(entry.raw) - {"bbox", "flags"}:
            assert getattr(entry, name) == entry.raw[name]
        assert list(entry.bbox or ()) == entry.raw["bbox"]
    assert record.best == record.candidates[0]
    assert record.best is not None
    assert (record.best.model, record.best.rank) == (record.recommended, 1)
    assert images.result(record.request_id).results == record.results


def test_every_kind_of_picture_is_taken(images: DtfImages, tmp_path: Path) -> None:
    path = tmp_path / "customer.png"
    path.write_bytes(PICTURE)
    shots = [images.remove_background(each, models=FREE) for each in (path, io.BytesIO(PICTURE))]
    assert len({each.image.sha256 for each in shots}) == 1
    with pytest.raises(DtfImagesError) as refused:
        images.remove_background("http://127.0.0.1/a.png", models=FREE)
    assert refused.value.code == "image_url_refused"  # so the address arrived
    with pytest.raises(ValueError, match="Path"):
        images.remove_background("customer.png", models=FREE)


def test_a_refusal_is_told_as_the_service_tells_it(server: Server, images: DtfImages) -> None:
    with pytest.raises(DtfImagesError) as bad:
        images.remove_background(PICTURE, models="local-nothing")
    assert (bad.value.status, bad.value.code) == (400, "invalid_parameter")
    assert bad.value.request_id
    assert not bad.value.retryable
    with DtfImages(server.url, "no key") as stranger, pytest.raises(DtfImagesError) as unknown:
        stranger.result("0" * 32)
    assert (unknown.value.status, unknown.value.code) == (401, "invalid_key")


def test_what_is_downloaded_is_the_cutout_and_its_print(images: DtfImages, tmp_path: Path) -> None:
    record = images.process(PICTURE, models=FREE, scale=2)
    (entry,) = record.candidates
    assert entry.url is not None
    assert entry.url.startswith("https://cut.example/")  # the key never went there
    saved = images.download(entry, tmp_path / "cutout.png")
    assert (saved.sha256, saved.bytes) == (entry.sha256, entry.bytes)
    images.download_print(entry, tmp_path / "print.png")
    images.download_print(entry, tmp_path / "small.png", scale=0.5, trim=True)
    images.upscale(PICTURE, tmp_path / "large.png", scale=3)
    sizes = {}
    for path in tmp_path.iterdir():
        with Image.open(path) as picture:
            picture.load()
            sizes[path.stem] = picture.size
    left, top, right, bottom = entry.bbox or ()
    assert sizes.pop("small") == (round((right - left) / 2), round((bottom - top) / 2))
    assert sizes == {"cutout": (300, 280), "print": (600, 560), "large": (900, 840)}


def test_there_is_nothing_to_download_of_a_model_that_failed(tmp_path: Path) -> None:
    entry = Entry.of({"model": "kie-recraft", "status": "failed", "error": {"code": "new"}})
    with DtfImages("http://127.0.0.1:9") as images, pytest.raises(DtfImagesError) as nothing:
        images.download(entry, tmp_path / "cutout.png")
    assert nothing.value.code == client_module.NO_CUTOUT
    assert not any(tmp_path.iterdir())


def test_a_pick_may_be_told_again_and_all_be_forgotten(images: DtfImages) -> None:
    shot = images.remove_background(PICTURE, models=FREE)
    pick = images.pick(shot.request_id, FREE, shown=[FREE], metadata={"order": 7})
    assert images.pick(shot.request_id, FREE, shown=[FREE], metadata={"order": 7}) == pick
    images.delete(shot.request_id)
    images.delete(shot.request_id)
    with pytest.raises(DtfImagesError) as gone:
        images.result(shot.request_id)
    assert gone.value.code == "result_not_found"


@pytest.mark.parametrize("fault", [Fault.LOSE_ANSWER, Fault.GATEWAY])
def test_an_answer_that_was_lost_is_charged_once(
    sandbox: Sandbox, flaky: Proxy, through: DtfImages, fault: Fault
) -> None:
    before = sandbox.bill.total_usd
    flaky.faults.put(fault)
    record = through.remove_background(PICTURE, models=RMBG)
    assert [each.status for each in record.results] == ["succeeded"]
    assert len(flaky.keys()) == 2
    assert len(set(flaky.keys())) == 1
    assert sandbox.bill.total_usd - before == Decimal("0.018")


def test_a_silence_is_given_up_and_charged_once(sandbox: Sandbox, flaky: Proxy) -> None:
    before = sandbox.bill.total_usd
    flaky.faults.put(Fault.STALL)
    with DtfImages(flaky.url, KEY, timeout_s=1, first_wait_s=0.01) as impatient:
        record = impatient.remove_background(PICTURE, models=RMBG)
    assert [each.status for each in record.results] == ["succeeded"]
    assert len(flaky.keys()) >= 2
    assert len(set(flaky.keys())) == 1
    assert sandbox.bill.total_usd - before == Decimal("0.018")


def test_what_never_arrived_and_what_was_too_much_is_sent_again(
    flaky: Proxy, through: DtfImages
) -> None:
    for fault in (Fault.REFUSE, Fault.BUSY):
        flaky.faults.put(fault)
    assert through.process(PICTURE, models=FREE).best
    assert len(set(flaky.keys())) == 1


def test_attempts_end_and_the_error_says_how_to_go_on(flaky: Proxy) -> None:
    for _ in range(2):
        flaky.faults.put(Fault.GATEWAY)
    with DtfImages(flaky.url, KEY, attempts=2, first_wait_s=0.01) as images:
        with pytest.raises(DtfImagesError) as given_up:
            images.remove_background(PICTURE, models=FREE)
        error = given_up.value
        assert (error.status, error.code, error.retryable) == (504, "gateway_error", True)
        again = images.remove_background(
            PICTURE, models=FREE, idempotency_key=error.idempotency_key or ""
        )
    assert again.best
    assert len(flaky.keys()) == 3
    assert len(set(flaky.keys())) == 1


def test_a_refusal_is_not_sent_again(flaky: Proxy, through: DtfImages) -> None:
    with pytest.raises(DtfImagesError):
        through.remove_background(b"no picture", models=FREE)
    assert len(flaky.seen) == 1


def test_total_time_ends_it_before_a_wait_that_is_too_long() -> None:
    with (
        receiving(*[503] * 3) as receiver,
        DtfImages(f"http://{receiver.place}", total_s=0) as images,
    ):
        with pytest.raises(DtfImagesError) as late:
            images.pick("0" * 32, FREE)
        assert receiver.arrived.qsize() == 1
    assert late.value.status == 503


def test_a_picture_cut_short_leaves_no_file_and_is_fetched_again(
    flaky: Proxy, through: DtfImages, tmp_path: Path
) -> None:
    flaky.faults.put(Fault.CUT)
    saved = through.upscale(PICTURE, tmp_path / "large.png", scale=2)
    assert saved.path.read_bytes().endswith(b"IEND\xaeB`\x82")
    assert len(flaky.seen) == 2
    flaky.faults.put(Fault.CUT)
    with DtfImages(flaky.url, KEY, attempts=1) as once, pytest.raises(DtfImagesError) as cut:
        once.upscale(PICTURE, tmp_path / "half.png", scale=2)
    assert cut.value.retryable
    assert list(tmp_path.iterdir()) == [saved.path]


def test_a_whole_body_that_is_half_a_picture_is_not_kept(tmp_path: Path) -> None:
    whole = httpx.Response(200, headers={"content-type": "image/png"}, content=PICTURE[:-4])
    with pytest.raises(DtfImagesError) as half:
        client_module._save(whole, tmp_path / "half.png")
    assert half.value.code == client_module.INCOMPLETE
    assert not any(tmp_path.iterdir())


def test_a_stream_tells_each_model_and_ends_with_the_record(images: DtfImages) -> None:
    first, *landed, last = images.stream_removal(PICTURE, models=[KNOCKOUT, RMBG])
    assert isinstance(first, Accepted)
    assert set(first.models) == {KNOCKOUT, RMBG}
    assert {each.entry.model for each in landed if isinstance(each, Landed)} == {KNOCKOUT, RMBG}
    assert isinstance(last, Done)
    assert last.record.request_id == first.request_id
    assert last.record.status == "complete"


def test_a_stream_that_breaks_goes_on_with_the_record(tmp_path: Path) -> None:
    """Models that were sent go on without their client; it heard of neither."""
    cutters = [Cutter(RMBG, sends=True, held=True), Cutter(ISNET, sends=True, held=True)]
    with (
        serving(tmp_path, stand_ins=table(*cutters)) as server,
        proxying(server.url) as flaky,
        DtfImages(flaky.url) as images,
    ):
        flaky.faults.put(Fault.CUT)
        flaky.mark = b'"event":"result"'
        events = images.stream_removal(PICTURE, models=[RMBG, ISNET])
        assert isinstance(next(events), Accepted)
        for cutter in cutters:
            assert cutter.asked.wait(20)
            cutter.release()
        *landed, done = events
        told = {each.entry.model: each.entry.status for each in landed if isinstance(each, Landed)}
        assert told == {RMBG: "succeeded", ISNET: "succeeded"}
        assert len(landed) == 2
        assert isinstance(done, Done)
        assert done.record.status == "complete"
        assert len(flaky.keys()) == 1  # the other requests asked for the record


def test_a_stream_whose_beginning_was_lost_is_answered_with_the_record(
    sandbox: Sandbox, flaky: Proxy, through: DtfImages
) -> None:
    before = sandbox.bill.total_usd
    flaky.faults.put(Fault.LOSE_ANSWER)
    landed, done = through.stream_removal(PICTURE, models=KIE)
    assert isinstance(landed, Landed)
    assert isinstance(done, Done)
    assert sandbox.bill.total_usd - before == Decimal("0.005")
    assert len(set(flaky.keys())) == 1


def test_a_shot_promised_is_waited_for(tmp_path: Path) -> None:
    late = Cutter(ISNET, held=True)
    with serving(tmp_path, stand_ins=table(late)) as server, DtfImages(server.url) as images:
        begun = images.remove_background(PICTURE, models=ISNET, wait=False)
        assert (begun.status, begun.results[0].status) == ("running", "pending")
        assert images.wait(begun.request_id, timeout_s=0).status == "running"
        late.release()
        assert images.wait(begun.request_id, timeout_s=30).status == "complete"


def test_the_first_try_still_running_is_waited_for(tmp_path: Path) -> None:
    """Two workers of a shop with one order: the second learns what the first got."""
    late = Cutter(ISNET, held=True)
    with serving(tmp_path, stand_ins=table(late)) as server, DtfImages(server.url) as images:
        got: list[Record] = []

        def shoot() -> None:
            got.append(images.remove_background(PICTURE, models=ISNET, idempotency_key="order-7"))

        first = threading.Thread(target=shoot)
        first.start()
        assert late.asked.wait(10)
        impatient = DtfImages(server.url, total_s=1)
        with impatient, pytest.raises(DtfImagesError) as in_flight:
            impatient.remove_background(PICTURE, models=ISNET, idempotency_key="order-7")
        assert (in_flight.value.status, in_flight.value.code) == (409, "idempotency_in_flight")
        assert client_module._is_repeatable(in_flight.value)
        assert in_flight.value.retry_after_s
        late.release()
        first.join(20)
        again = images.remove_background(PICTURE, models=ISNET, idempotency_key="order-7")
    assert again.request_id == got[0].request_id


def test_what_a_later_service_says_is_kept() -> None:
    raw = {
        "request_id": "0" * 32, "status": "resting", "created_at": "2026-11-24T09:00:00Z",
        "expires_at": "2026-11-25T09:00:00Z", "mood": "good",
        "image": {"width": 1, "height": 1, "format": "JXL", "bytes": 1, "sha256": "", "kind": "x"},
        "results": [{"model": "a-new-one", "status": "dreaming", "flags": ["blue"], "dream": 1}],
    }  # fmt: skip
    record = Record.of(raw)
    assert (record.status, record.raw["mood"]) == ("resting", "good")
    assert (record.results[0].status, record.results[0].raw["dream"]) == ("dreaming", 1)
    assert record.candidates == []


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"results": 1}'])
def test_an_answer_of_somebody_else_is_an_error(body: bytes) -> None:
    with pytest.raises(DtfImagesError) as strange:
        client_module._read(Record, client_module._json(httpx.Response(200, content=body)))
    assert strange.value.code == client_module.UNEXPECTED
    assert not client_module._is_repeatable(strange.value)


def test_a_posted_record_is_verified(tmp_path: Path) -> None:
    with (
        receiving() as receiver,
        serving(
            tmp_path, webhook_secret=SECRET, webhook_allowed_hosts=frozenset([receiver.place])
        ) as server,
        DtfImages(server.url) as images,
    ):
        record = images.remove_background(PICTURE, models=FREE, callback_url=receiver.url)
        delivery = receiver.next()
    event = verify_webhook(delivery.headers, delivery.body, SECRET)
    assert event.record.results == record.results
    assert event.request_id == record.request_id
    assert event.type == "shot.complete"


def test_a_webhook_that_is_not_ours_or_old_is_refused() -> None:
    body = json.dumps({"event_id": "evt_1"}).encode()
    now = str(int(time.time()))
    for secret, timestamp, sent in [
        ("another", now, body),
        (SECRET, now, body + b" "),
        (SECRET, str(int(now) - 400), body),
        (SECRET, str(int(now) + 400), body),
        (SECRET, "soon", body),
    ]:
        signed = signature(secret, event_id="evt_1", timestamp=timestamp, body=body)
        headers = {
            "X-Webhook-Id": "evt_1",
            "X-Webhook-Timestamp": timestamp,
            "X-Webhook-Signature": signed,
        }
        for given in (headers, {**headers, "X-Webhook-Signature": "v1=é"}, {}):
            with pytest.raises(DtfImagesError) as refused:
                verify_webhook(given, sent, SECRET)
            assert refused.value.code == client_module.BAD_WEBHOOK


def test_the_readme_works_when_pasted(server: Server, tmp_path: Path) -> None:
    """Its blocks are one program, run where only the module and a picture lie."""
    page = (ROOT / "clients" / "python" / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    program = "\n".join(blocks).replace("http://localhost:8000", server.url)
    for source in (ROOT / "clients/python/dtf_images.py", ROOT / "tests/data/car-1.jpg"):
        (tmp_path / source.name).symlink_to(source)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "DTF_IMAGES_KEY": KEY, "WEBHOOK_SECRET": SECRET},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in ("cutout.png", "print.png", "large.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
