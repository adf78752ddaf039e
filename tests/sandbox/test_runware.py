"""The Runware look-alike keeps every point of its protocol, told by raw clients."""

import asyncio
import base64
import json
from dataclasses import replace
from decimal import Decimal

import httpx
import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from sandbox.opening import Sandbox, open_sandbox
from sandbox.options import Limits, Options
from tests.conftest import artwork, png_bytes
from tests.sandbox.conftest import (
    FAST,
    Clock,
    alpha_of,
    connected,
    data_uri,
    decoded,
    dialled,
    done,
    new_uuid,
    only,
    poll,
    removal,
)

pytestmark = pytest.mark.anyio


# --- frames and authentication


async def test_a_good_key_opens_a_session(sandbox: Sandbox) -> None:
    async with dialled(sandbox) as wire:
        assert len(await wire.authenticate()) == 36


async def test_a_wrong_key_is_an_error_without_a_task_and_leaves_the_socket_open(
    sandbox: Sandbox,
) -> None:
    async with dialled(sandbox) as wire:
        error = only(await wire.ask({"taskType": "authentication", "apiKey": "wrong"}), "errors")
        assert (error["code"], error["taskType"]) == ("invalidApiKey", "authentication")
        assert (error["parameter"], error["taskUUID"]) == ("apiKey", "N/A")
        await wire.authenticate()


async def test_authentication_takes_no_further_fields(sandbox: Sandbox) -> None:
    async with dialled(sandbox) as wire:
        login = {"taskType": "authentication", "apiKey": "sandbox", "taskUUID": new_uuid()}
        assert only(await wire.ask(login), "errors")["code"] == "unknownParameter"


async def test_nothing_is_done_before_authentication(sandbox: Sandbox) -> None:
    async with dialled(sandbox) as wire:
        for task in (removal(), {"taskType": "ping", "ping": True}):
            assert only(await wire.ask(task), "errors")["code"] == "missingAuthentication"
    assert not list(sandbox.bill.entries())


async def test_only_the_documented_path_is_a_socket(sandbox: Sandbox) -> None:
    with pytest.raises(InvalidStatus):
        await connect(sandbox.runware_ws + "/other", proxy=None)


@pytest.mark.parametrize("frame", ["{", '{"taskType":"ping"}', "[1]", "[]", "null"])
async def test_a_frame_must_be_an_array_of_objects(sandbox: Sandbox, frame: str) -> None:
    async with connected(sandbox) as wire:
        await wire.socket.send(frame)
        assert "taskUUID" not in only(await wire.receive(), "errors")


async def test_answers_come_as_text_frames_with_an_object(sandbox: Sandbox) -> None:
    async with connected(sandbox) as wire:
        await wire.send({"taskType": "ping", "ping": True})
        frame = await wire.socket.recv()
        assert isinstance(frame, str)
        assert json.loads(frame) == {"data": [{"taskType": "ping", "pong": True}]}


async def test_the_sockets_own_pings_work_beside_it(sandbox: Sandbox) -> None:
    async with dialled(sandbox) as wire:
        await asyncio.wait_for(await wire.socket.ping(), 5)


async def test_an_unknown_task_type_is_refused(sandbox: Sandbox) -> None:
    async with connected(sandbox) as wire:
        task = {"taskType": "paint", "taskUUID": new_uuid()}
        error = only(await wire.ask(task), "errors")
        assert (error["code"], error["taskUUID"]) == ("invalidTaskType", task["taskUUID"])


async def test_a_frame_beyond_the_limit_closes_the_socket() -> None:
    options = Options(limits=Limits(message_bytes=1000))
    async with open_sandbox(options) as sandbox, connected(sandbox) as wire:
        await wire.socket.send("[" + " " * 2000 + "]")
        await wire.socket.wait_closed()
        assert wire.socket.close_code == 1009


async def test_a_silent_socket_is_closed() -> None:
    options = Options(times=replace(FAST, idle_close_s=0.05))
    async with open_sandbox(options) as sandbox, dialled(sandbox) as wire:
        await asyncio.wait_for(wire.socket.wait_closed(), 5)


# --- removals


async def test_a_sync_removal_answers_with_an_address_of_a_real_cut_out(
    sandbox: Sandbox, http: httpx.AsyncClient
) -> None:
    async with connected(sandbox) as wire:
        task = removal(outputType="URL", deliveryMethod="sync")
        item = only(await wire.ask(task))
    assert (item["taskType"], item["taskUUID"]) == ("removeBackground", task["taskUUID"])
    assert {"imageUUID", "inputImageUUID", "imageURL"} <= set(item)
    assert "cost" not in item
    reply = await http.get(item["imageURL"])
    assert reply.headers["Content-Type"] == "image/png"
    alpha = alpha_of(reply.content)
    assert alpha.shape == (48, 64)
    assert (alpha[0, 0], alpha[24, 32]) == (0, 255)


async def test_the_default_output_is_jpg_and_has_no_alpha(
    sandbox: Sandbox, http: httpx.AsyncClient
) -> None:
    async with connected(sandbox) as wire:
        task = removal()
        del task["outputFormat"]
        item = only(await wire.ask(task))
    image = decoded((await http.get(item["imageURL"])).content)
    assert (image.format, image.mode) == ("JPEG", "RGB")
    assert item["imageURL"].endswith(".jpg")


@pytest.mark.parametrize(("wanted", "found"), [("PNG", "PNG"), ("WEBP", "WEBP")])
async def test_formats_with_alpha(
    sandbox: Sandbox, http: httpx.AsyncClient, wanted: str, found: str
) -> None:
    async with connected(sandbox) as wire:
        item = only(await wire.ask(removal(outputFormat=wanted)))
    image = decoded((await http.get(item["imageURL"])).content)
    assert (image.format, image.mode) == (found, "RGBA")


async def test_base64_and_data_uri_outputs(sandbox: Sandbox) -> None:
    async with connected(sandbox) as wire:
        bare = only(await wire.ask(removal(outputType="base64Data")))["imageBase64Data"]
        uri = only(await wire.ask(removal(outputType="dataURI")))["imageDataURI"]
    assert uri == "data:image/png;base64," + bare
    assert decoded(base64.b64decode(bare)).mode == "RGBA"


async def test_the_old_task_shape_is_taken_and_answered_under_its_own_name(
    sandbox: Sandbox,
) -> None:
    task = {
        "taskType": "imageBackgroundRemoval",
        "taskUUID": new_uuid(),
        "inputImage": data_uri(artwork()),
        "outputFormat": "PNG",
        "includeCost": True,
        "model": "runware:112@10",
        "rgba": [255, 255, 255, 0],
    }
    async with connected(sandbox) as wire:
        item = only(await wire.ask(task))
    assert (item["taskType"], item["cost"]) == ("imageBackgroundRemoval", 0.0006)


async def test_costs_are_told_when_asked_and_billed_exactly(sandbox: Sandbox) -> None:
    async with connected(sandbox) as wire:
        portrait = only(await wire.ask(removal(includeCost=True)))
        rmbg = only(await wire.ask(removal(includeCost=True, model="bria:2@1")))
    assert (portrait["cost"], rmbg["cost"]) == (0.0006, 0.018)
    assert sandbox.bill.total_usd == Decimal("0.0186")
    assert sandbox.bill.line("bria:2@1").usd == Decimal("0.018")


async def test_two_models_answer_differently(sandbox: Sandbox, http: httpx.AsyncClient) -> None:
    async with connected(sandbox) as wire:
        urls = [
            only(await wire.ask(removal(model=model)))["imageURL"]
            for model in ("bria:2@1", "runware:112@10")
        ]
    alphas = [alpha_of((await http.get(url)).content) for url in urls]
    assert not np.array_equal(alphas[0], alphas[1])


async def test_several_tasks_in_one_array_are_answered_one_by_one(sandbox: Sandbox) -> None:
    good, bad = removal(), removal(model="runware:112@4")
    async with connected(sandbox) as wire:
        await wire.send(good, bad)
        replies = [await wire.receive(), await wire.receive()]
    answered = {
        entry["taskUUID"]: entry
        for reply in replies
        for entry in (*reply.get("data", []), *reply.get("errors", []))
    }
    assert answered[bad["taskUUID"]]["code"] == "invalidModel"
    assert "imageURL" in answered[good["taskUUID"]]


@pytest.mark.parametrize(
    ("change", "code", "parameter"),
    [
        ({"model": None}, "missingModel", "model"),
        ({"model": "runware:112@4"}, "invalidModel", "model"),
        ({"model": "runware:110@1"}, "invalidModel", "model"),
        ({"model": "recraft/remove-background"}, "invalidModel", "model"),
        ({"taskUUID": "7"}, "invalidTaskUUID", "taskUUID"),
        ({"inputs": None}, "missingInputs", "inputs"),
        ({"inputs": {}}, "missingImage", "image"),
        ({"inputs": {"image": "bm8gcGljdHVyZQ=="}}, "invalidInputImage", "inputs.image"),
        ({"inputs": {"image": "data:image/png,raw"}}, "invalidInputImage", "inputs.image"),
        ({"outputType": ["URL"]}, "invalidOutputType", "outputType"),
        ({"outputFormat": "GIF"}, "invalidOutputFormat", "outputFormat"),
        ({"outputQuality": 19}, "invalidOutputQuality", "outputQuality"),
        ({"outputQuality": 100}, "invalidOutputQuality", "outputQuality"),
        ({"deliveryMethod": "later"}, "invalidDeliveryMethod", "deliveryMethod"),
        ({"includeCost": "yes"}, "invalidIncludeCost", "includeCost"),
        ({"ttl": 59}, "invalidTtl", "ttl"),
        ({"ttl": 60, "outputType": "dataURI"}, "incompatibleParameters", "ttl"),
        ({"settings": {"alphaMatting": True}}, "unsupportedParameter", "settings"),
        (
            {"providerSettings": {"bria": {"preserveAlpha": True}}},
            "unsupportedParameter",
            "providerSettings",
        ),
        ({"inputImage": "x"}, "unknownParameter", "inputImage"),
        ({"numberResults": 1}, "unknownParameter", "numberResults"),
    ],
)
async def test_a_bad_field_is_a_validation_error_of_its_task(
    sandbox: Sandbox, change: dict[str, object], code: str, parameter: str
) -> None:
    task = {name: value for name, value in {**removal(), **change}.items() if value is not None}
    async with connected(sandbox) as wire:
        error = only(await wire.ask(task), "errors")
    assert (error["code"], error["parameter"]) == (code, parameter)
    assert error["taskUUID"] == task["taskUUID"]
    assert sandbox.bill.total_usd == 0


async def test_settings_belong_to_one_model_and_preserve_alpha_to_another(
    sandbox: Sandbox,
) -> None:
    async with connected(sandbox) as wire:
        rembg = removal(model="runware:109@1", settings={"alphaMatting": True})
        bria = removal(model="bria:2@1", providerSettings={"bria": {"preserveAlpha": False}})
        for task in (rembg, bria):
            assert "imageURL" in only(await wire.ask(task))


async def test_a_retired_model_can_be_brought_back_at_its_old_price() -> None:
    options = Options(times=FAST, retired=frozenset())
    async with open_sandbox(options) as sandbox, connected(sandbox) as wire:
        task = removal(model="runware:110@1", includeCost=True)
        assert only(await wire.ask(task))["cost"] == 0.0006


async def test_pictures_come_as_base64_address_or_upload_too(
    sandbox: Sandbox, http: httpx.AsyncClient
) -> None:
    picture = artwork()
    upload = {"taskType": "imageUpload", "taskUUID": new_uuid(), "image": data_uri(picture)}
    storage = {
        "taskType": "mediaStorage",
        "taskUUID": new_uuid(),
        "operation": "upload",
        "media": base64.b64encode(picture).decode(),
    }
    async with connected(sandbox) as wire:
        uploaded = only(await wire.ask(upload))
        stored = only(await wire.ask(storage))
        given = (
            base64.b64encode(picture).decode(),
            uploaded["imageUUID"],
            uploaded["imageURL"],
            stored["mediaUUID"],
            stored["mediaURL"],
        )
        for image in given:
            assert "imageURL" in only(await wire.ask(removal(inputs={"image": image})))
    assert (await http.get(uploaded["imageURL"])).content == picture


async def test_a_kept_picture_is_at_most_2048_pixels_wide(
    sandbox: Sandbox, http: httpx.AsyncClient
) -> None:
    wide = png_bytes(np.full((20, 4096, 3), 255, np.uint8))
    async with connected(sandbox) as wire:
        item = only(await wire.ask(removal(wide)))
    assert decoded((await http.get(item["imageURL"])).content).size == (2048, 10)


async def test_a_picture_with_too_many_pixels_is_refused() -> None:
    options = Options(limits=Limits(input_pixels=1000))
    async with open_sandbox(options) as sandbox, connected(sandbox) as wire:
        assert only(await wire.ask(removal()), "errors")["code"] == "invalidInputImage"


# --- async delivery


async def test_async_acknowledges_then_answers_polls(sandbox: Sandbox) -> None:
    task = removal(deliveryMethod="async", includeCost=True)
    async with connected(sandbox) as wire:
        acknowledged = only(await wire.ask(task))
        item = only(await done(wire, task))
    assert acknowledged == {"taskType": "removeBackground", "taskUUID": task["taskUUID"]}
    assert (item["status"], item["cost"]) == ("success", 0.0006)
    assert "imageURL" in item


async def test_a_running_task_is_processing() -> None:
    options = Options(times=replace(FAST, runware_task_s=60))
    async with open_sandbox(options) as sandbox, connected(sandbox) as wire:
        task = removal(deliveryMethod="async")
        await wire.ask(task)
        item = only(await wire.ask(poll(task)))
    assert item == {
        "taskType": "removeBackground",
        "taskUUID": task["taskUUID"],
        "status": "processing",
    }


async def test_a_poll_for_an_unknown_task_is_an_error(sandbox: Sandbox) -> None:
    async with connected(sandbox) as wire:
        error = only(await wire.ask(poll(removal())), "errors")
    assert error["code"] == "taskNotFound"


async def test_a_known_uuid_conflicts_and_is_not_charged_again(sandbox: Sandbox) -> None:
    task = removal(deliveryMethod="async")
    async with connected(sandbox) as wire:
        await wire.ask(task)
        error = only(await wire.ask(task), "errors")
        await done(wire, task)
    assert (error["code"], error["parameter"]) == ("conflictTaskUUID", "taskUUID")
    assert sandbox.bill.line("runware:112@10").charged == 1


async def test_accounts_do_not_see_each_others_tasks(sandbox: Sandbox) -> None:
    task = removal()
    async with connected(sandbox) as wire:
        await wire.ask(task)
    async with connected(sandbox, "sandbox-other") as wire:
        assert only(await wire.ask(poll(task)), "errors")["code"] == "taskNotFound"


async def test_past_results_can_be_recovered_with_their_request(sandbox: Sandbox) -> None:
    task = removal()
    async with connected(sandbox) as wire:
        result = await wire.ask(task)
        details = {"taskType": "getTaskDetails", "taskUUID": task["taskUUID"]}
        item = only(await wire.ask(details))
    assert item["response"] == result
    assert item["request"]["model"] == "runware:112@10"


# --- sessions


async def test_a_result_for_a_lost_socket_waits_for_the_resumed_session(
    sandbox: Sandbox,
) -> None:
    sandbox.faults.set("runware.drop_before_result")
    task = removal()
    async with dialled(sandbox) as wire:
        session = await wire.authenticate()
        await wire.send(task)
        with pytest.raises(ConnectionClosed):
            await wire.socket.recv()
    async with dialled(sandbox) as wire:
        assert await wire.authenticate(session=session) == session
        assert only(await wire.receive())["taskUUID"] == task["taskUUID"]


async def test_a_session_is_forgotten_after_two_minutes(sandbox: Sandbox, clock: Clock) -> None:
    async with dialled(sandbox) as wire:
        session = await wire.authenticate()
    await sandbox.journal.wait_for("disconnect")
    clock.advance(119)
    async with dialled(sandbox) as wire:
        assert await wire.authenticate(session=session) == session
    await sandbox.journal.wait_for("disconnect", count=2)
    clock.advance(121)
    async with dialled(sandbox) as wire:
        assert await wire.authenticate(session=session) != session


async def test_a_foreign_session_cannot_be_resumed(sandbox: Sandbox) -> None:
    async with dialled(sandbox) as wire, dialled(sandbox) as other:
        session = await wire.authenticate()
        assert await other.authenticate("sandbox-other", session) != session


async def test_resuming_takes_the_session_from_the_socket_that_held_it(
    sandbox: Sandbox,
) -> None:
    async with dialled(sandbox) as wire, dialled(sandbox) as other:
        session = await wire.authenticate()
        await other.authenticate(session=session)
        await asyncio.wait_for(wire.socket.wait_closed(), 5)
        assert "imageURL" in only(await other.ask(removal()))


# --- money, limits, files


async def test_an_empty_balance_refuses_and_the_balance_can_be_read() -> None:
    options = Options(times=FAST, runware_balance_usd=Decimal("0.0007"))
    async with open_sandbox(options) as sandbox, connected(sandbox) as wire:
        await wire.ask(removal())
        error = only(await wire.ask(removal()), "errors")
        account = {
            "taskType": "accountManagement",
            "taskUUID": new_uuid(),
            "operation": "getDetails",
        }
        balance = only(await wire.ask(account))["balance"]
    assert error["code"] == "insufficientCredits"
    assert balance == 0.0001
    line = sandbox.bill.line("runware:112@10")
    assert (line.charged, line.refused, line.usd) == (1, 1, Decimal("0.0006"))


async def test_a_full_queue_refuses() -> None:
    options = Options(times=replace(FAST, runware_task_s=60), limits=Limits(tasks_at_once=1))
    async with open_sandbox(options) as sandbox, connected(sandbox) as wire:
        await wire.ask(removal(deliveryMethod="async"))
        await wire.ask(poll(removal()))
        error = only(await wire.ask(removal()), "errors")
    assert error["code"] == "rateLimitExceeded"


async def test_results_expire_after_a_week_or_their_ttl(
    sandbox: Sandbox, clock: Clock, http: httpx.AsyncClient
) -> None:
    async with connected(sandbox) as wire:
        week = only(await wire.ask(removal()))["imageURL"]
        minute = only(await wire.ask(removal(ttl=60)))["imageURL"]
    clock.advance(61)
    assert [(await http.get(url)).status_code for url in (week, minute)] == [200, 403]
    clock.advance(7 * 24 * 3600)
    assert (await http.get(week)).status_code == 403


async def test_an_address_that_never_was_is_404(sandbox: Sandbox, http: httpx.AsyncClient) -> None:
    reply = await http.get(f"{sandbox.runware_files}/image/{new_uuid()}.png")
    assert reply.status_code == 404


async def test_dry_runs_are_not_charged(sandbox: Sandbox, http: httpx.AsyncClient) -> None:
    headers = {"Authorization": "Bearer sandbox", "X-Runware-Dry-Run": "1"}
    reply = await http.post(sandbox.runware_rest, headers=headers, json=[removal()])
    assert "imageURL" in only(reply.json())
    assert sandbox.bill.total_usd == 0


# --- REST


async def test_rest_answers_with_a_bearer_key(sandbox: Sandbox, http: httpx.AsyncClient) -> None:
    headers = {"Authorization": "Bearer sandbox"}
    reply = await http.post(sandbox.runware_rest, headers=headers, json=[removal()])
    assert reply.status_code == 200
    assert "imageURL" in only(reply.json())


async def test_rest_takes_the_authentication_object_first(
    sandbox: Sandbox, http: httpx.AsyncClient
) -> None:
    login = {"taskType": "authentication", "apiKey": "sandbox"}
    reply = await http.post(sandbox.runware_rest, json=[login, removal(), removal()])
    assert len(reply.json()["data"]) == 2


async def test_rest_refuses_a_wrong_key_with_401(sandbox: Sandbox, http: httpx.AsyncClient) -> None:
    reply = await http.post(sandbox.runware_rest, json=[removal()])
    assert reply.status_code == 401
    assert only(reply.json(), "errors")["code"] == "invalidApiKey"


async def test_rest_delivers_asynchronously_and_reports_per_task(
    sandbox: Sandbox, http: httpx.AsyncClient
) -> None:
    headers = {"Authorization": "Bearer sandbox"}
    task, bad = removal(deliveryMethod="async"), removal(model="nonsense")
    reply = await http.post(sandbox.runware_rest, headers=headers, json=[task, bad])
    assert reply.status_code == 400
    assert only(reply.json())["taskUUID"] == task["taskUUID"]
    assert only(reply.json(), "errors")["taskUUID"] == bad["taskUUID"]
    async with connected(sandbox) as wire:
        assert only(await done(wire, task))["status"] == "success"


async def test_rest_takes_only_posts(sandbox: Sandbox, http: httpx.AsyncClient) -> None:
    assert (await http.get(sandbox.runware_rest)).status_code == 405
