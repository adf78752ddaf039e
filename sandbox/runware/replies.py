"""The frames of Runware's answers, and what the faults make of them."""

import json
import uuid
from collections.abc import Mapping
from typing import TypeAlias

from sandbox.faults import Kind, TaskFaults
from sandbox.runware.wishes import OLD_TYPE, Refusal

Item: TypeAlias = dict[str, object]
Frame: TypeAlias = str | bytes

DOCUMENTATION = "https://runware.ai/docs/platform/errors"
_HUGE_BYTES = (1 << 20) + (1 << 19)


def success(*items: Mapping[str, object]) -> Item:
    return {"data": list(items)}


def error_item(refusal: Refusal, *, task_uuid: str | None, task_type: str | None = None) -> Item:
    """One entry of `errors`."""
    item: Item = {"code": refusal.code, "message": refusal.message}
    if refusal.parameter is not None:
        item["parameter"] = refusal.parameter
    item |= refusal.details
    if task_type is not None:
        item["taskType"] = task_type
    item["documentation"] = DOCUMENTATION
    if task_uuid is not None:
        item["taskUUID"] = task_uuid
    return item


def failure(*items: Item) -> Item:
    return {"data": [], "errors": list(items)}


def bad_key() -> Item:
    return {
        "errors": [
            {
                "code": "invalidApiKey",
                "message": "Invalid API key. Get one at https://my.runware.ai/signup",
                "parameter": "apiKey",
                "type": "string",
                "taskType": "authentication",
                "taskUUID": "N/A",
            }
        ]
    }


def bad_key_of_old() -> Item:
    return {
        "error": True,
        "errorMessageContentId": 1212,
        "errorId": 19,
        "errorMessage": "Invalid api key",
    }


def failed_task(
    refusal: Refusal, *, task_uuid: str, task_type: str, faults: TaskFaults, polled: bool
) -> Item:
    """A task that ended without a result, in the shape its faults choose."""
    if Kind.ERROR_IN_ITEM in faults:
        error = {"code": refusal.code, "message": refusal.message}
        return success(
            {"taskType": task_type, "taskUUID": task_uuid, "status": "error", "error": error}
        )
    named = None if Kind.ERROR_WITHOUT_UUID in faults else task_uuid
    item = error_item(refusal, task_uuid=named)
    if polled:
        item["status"] = "error"
    return {"error": item} if Kind.ERROR_SINGULAR in faults else failure(item)


def result_frame(item: Item, *, faults: TaskFaults) -> Frame:
    """The frame of one result, bent by its faults."""
    frame: object = _bent_content(item, faults=faults)
    if Kind.ARRAY_FRAME in faults:
        frame = [frame]
    text = json.dumps(frame)
    if faults.take(Kind.MALFORMED_JSON):
        text = text[: len(text) // 2]
    return text.encode() if Kind.BINARY_FRAME in faults else text


def _bent_content(item: Item, *, faults: TaskFaults) -> Item:
    if Kind.LEGACY_TASK_TYPE in faults:
        item = {**item, "taskType": OLD_TYPE}
    if Kind.MEDIA_KEYS in faults:
        item = {_media_key(key): value for key, value in item.items()}
    if Kind.HUGE_FRAME in faults:
        item = {**item, "padding": "x" * int(faults.amount(Kind.HUGE_FRAME, _HUGE_BYTES))}
    content: Item = {"data": item if Kind.DATA_OBJECT in faults else [item]}
    if Kind.DATA_AND_ERRORS in faults:
        other = Refusal("providerError", "Another task's provider did not answer.")
        content["errors"] = [error_item(other, task_uuid=str(uuid.uuid4()))]
    return content


def _media_key(key: str) -> str:
    return {"imageUUID": "mediaUUID", "imageURL": "mediaURL"}.get(key, key)
