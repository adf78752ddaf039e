"""Runware's frames: what is sent is exact, and what is read survives every shape seen or told."""

import json
from decimal import Decimal

import pytest

from models.errors import FailureCode
from services import runware_protocol as protocol
from services.runware_protocol import Accepted, Authenticated, Done, Refused, failure_of, read_frame

TASK = "02ad8a1f-7c2c-4d5c-9f1f-3d8f1bda8b2e"
OTHER = "50836053-a0ee-4cf5-b9d6-ae7c5d140ada"
URL = "https://im.runware.ai/image/ii/c8bdfab6.png"
ITEM = {"taskType": "removeBackground", "taskUUID": TASK}
RESULT = {**ITEM, "imageUUID": "c8bdfab6", "imageURL": URL, "cost": 0.0006}
DONE = Done(TASK, URL, Decimal("0.0006"))
ERROR = {"code": "providerError", "message": "It broke.", "taskUUID": TASK}
REFUSED = Refused(TASK, "providerError", "It broke.")


def read(document: object) -> list[protocol.Reply]:
    return read_frame(json.dumps(document))


# --- what is sent


def test_a_removal_asks_for_a_png_by_address_with_its_cost_and_nothing_else() -> None:
    frame = protocol.removal(TASK, air="bria:2@1", image="data:image/png;base64,AAAA")
    assert json.loads(frame) == [
        {
            "taskType": "removeBackground",
            "taskUUID": TASK,
            "model": "bria:2@1",
            "inputs": {"image": "data:image/png;base64,AAAA"},
            "outputType": "URL",
            "outputFormat": "PNG",
            "includeCost": True,
            "deliveryMethod": "async",
        }
    ]


def test_authentication_carries_the_key_and_a_session_only_where_there_is_one() -> None:
    first = {"taskType": "authentication", "apiKey": "k"}
    assert json.loads(protocol.authentication("k", None)) == [first]
    assert json.loads(protocol.authentication("k", "s")) == [
        {**first, "connectionSessionUUID": "s"}
    ]


def test_ping_and_poll_are_as_documented() -> None:
    assert json.loads(protocol.ping()) == [{"taskType": "ping", "ping": True}]
    assert json.loads(protocol.poll(TASK)) == [{"taskType": "getResponse", "taskUUID": TASK}]


# --- what is read

SAME_RESULT = {
    "as documented": {"data": [RESULT]},
    "wrapped in an array": [{"data": [RESULT]}],
    "data as an object": {"data": RESULT},
    "the old task name": {"data": [{**RESULT, "taskType": "imageBackgroundRemoval"}]},
    "no task name": {"data": [{key: RESULT[key] for key in ("taskUUID", "imageURL", "cost")}]},
    "a status": {"data": [{**RESULT, "status": "success"}]},
    "media keys": {"data": [{**ITEM, "mediaUUID": "c8", "mediaURL": URL, "cost": 0.0006}]},
    "both keys, one empty": {"data": [{**RESULT, "imageURL": None, "mediaURL": URL}]},
    "no errors": {"data": [RESULT], "errors": []},
    "errors that are null": {"data": [RESULT], "errors": None, "error": None},
    "an item's error that is null": {"data": [{**RESULT, "error": None}]},
    "unreadable neighbours": {"data": [None, 7, "x", [], {}, {"taskUUID": 5}, RESULT]},
}


@pytest.mark.parametrize("document", SAME_RESULT.values(), ids=SAME_RESULT)
def test_a_result_is_a_result_in_every_shape(document: object) -> None:
    assert read(document) == [DONE]


SAME_ERROR = {
    "as documented": {"errors": [ERROR]},
    "beside empty data": {"data": [], "errors": [ERROR]},
    "errors as an object": {"errors": ERROR},
    "singular, an object": {"error": ERROR},
    "singular, a list": {"error": [ERROR]},
    "singular beside empty errors": {"errors": [], "error": ERROR},
    "wrapped in an array": [{"errors": [ERROR]}],
    "more than asked": {"errors": [{**ERROR, "parameter": ["a", "b"], "min": 256, "status": "x"}]},
    "in the item": {"data": [{**ITEM, "status": "error", "error": ERROR}]},
    "in the item without status": {"data": [{**ITEM, "error": ERROR}]},
    "in the item without its id": {
        "data": [{**ITEM, "status": "error", "error": {**ERROR, "taskUUID": None}}]
    },
    "in the item beside a result": {"data": [{**RESULT, "status": "error", "error": ERROR}]},
    "unreadable neighbours": {"errors": [None, 7, "x", [], ERROR]},
}


@pytest.mark.parametrize("document", SAME_ERROR.values(), ids=SAME_ERROR)
def test_a_tasks_error_is_its_error_in_every_shape(document: object) -> None:
    assert read(document) == [REFUSED]


def test_data_and_errors_of_one_frame_are_both_read() -> None:
    document = {"data": [RESULT], "errors": [{**ERROR, "taskUUID": OTHER}]}
    assert read(document) == [DONE, Refused(OTHER, "providerError", "It broke.")]


def test_results_of_several_tasks_share_a_frame() -> None:
    document = [{"data": [RESULT, {**ITEM, "taskUUID": OTHER}]}, {"errors": [ERROR]}]
    assert read(document) == [DONE, Accepted(OTHER), REFUSED]


@pytest.mark.parametrize(
    "item",
    [
        ITEM,
        {**ITEM, "status": "processing"},
        {**ITEM, "status": "processing", "imageUUID": "c8bdfab6"},
        {**ITEM, "imageURL": None},
        {**ITEM, "status": "success"},
    ],
    ids=["acknowledged", "processing", "progress", "url is null", "success without a url"],
)
def test_an_item_without_an_address_says_that_the_task_is_known(item: dict[str, object]) -> None:
    assert read({"data": [item]}) == [Accepted(TASK)]


@pytest.mark.parametrize("code", ["conflictTaskUUID", "ConflictTaskUuid", "CONFLICTTASKUUID"])
def test_a_conflict_means_that_the_task_is_known(code: str) -> None:
    error = {"code": code, "message": "", "parameter": "taskUUID", "taskUUID": TASK}
    assert read({"errors": [error]}) == [Accepted(TASK)]
    assert read({"data": [{**ITEM, "status": "error", "error": error}]}) == [Accepted(TASK)]


@pytest.mark.parametrize("named", [{"taskUUID": "N/A"}, {}, {"taskUUID": None}, {"taskUUID": 7}])
def test_an_error_that_names_no_task_is_the_connections(named: dict[str, object]) -> None:
    error = {"code": "internalServerError", "message": "Oh.", **named}
    assert read({"errors": [error]}) == [Refused(None, "internalServerError", "Oh.")]
    conflict = {"code": "conflictTaskUUID", "message": "Oh.", **named}
    assert read({"errors": [conflict]}) == [Refused(None, "conflictTaskUUID", "Oh.")]


def test_an_error_of_the_authentication_is_the_connections_whatever_it_names() -> None:
    error = {"code": "invalidApiKey", "taskType": "authentication", "taskUUID": TASK}
    assert read({"errors": [error]}) == [Refused(None, "invalidApiKey", "")]


def test_the_old_shape_of_a_bad_key_is_understood() -> None:
    document = {"error": True, "errorId": 19, "errorMessage": "Invalid api key"}
    assert read(document) == [Refused(None, "invalidApiKey", "Invalid api key")]
    document = {"error": True, "errorId": 4, "errorMessage": "Something"}
    assert read(document) == [Refused(None, "unknownError", "Something")]


def test_an_error_without_a_code_is_an_unknown_one() -> None:
    assert read({"errors": [{"taskUUID": TASK}]}) == [Refused(TASK, "unknownError", "")]
    assert read({"data": [{**ITEM, "status": "error", "error": "text"}]}) == [
        Refused(TASK, "unknownError", "")
    ]


def test_an_authentication_needs_its_session() -> None:
    item = {"taskType": "authentication", "connectionSessionUUID": "s"}
    assert read({"data": [item]}) == [Authenticated("s")]
    assert read({"data": [{**item, "connectionSessionUUID": 7}]}) == []
    assert read({"data": [{"taskType": "authentication"}]}) == []


UNREADABLE = {
    "no JSON": "<html>502</html>",
    "empty": "",
    "half a frame": '{"data":[{"task',
    "binary": b"\x00\x01\xfe\xff",
    "not UTF-8": b'{"data":[{"taskUUID":"\xff"}]}',
    "a number": "7",
    "null": "null",
    "a text": '"data"',
    "a pong": '{"data":[{"taskType":"ping","pong":true}]}',
    "deep": "[" * 200_000,
    "deep and closed": "[" * 200_000 + "]" * 200_000,
    "deep in data": '{"data":' * 200_000,
    "a number without end": '{"data":' + "1" * 100_000 + "}",
    "nested arrays": "[[[]]]",
}


@pytest.mark.parametrize("frame", UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_says_nothing(frame: str | bytes) -> None:
    assert read_frame(frame) == []


def test_a_binary_frame_of_json_is_read() -> None:
    assert read_frame(json.dumps({"data": [RESULT]}).encode()) == [DONE]


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        ("0.0006", Decimal("0.0006")),
        ("0.1", Decimal("0.1")),
        ("0.018", Decimal("0.018")),
        ("6e-4", Decimal("0.0006")),
        ('"0.0006"', Decimal("0.0006")),
        ("0", Decimal(0)),
        ("1", Decimal(1)),
        ("NaN", None),
        ("Infinity", None),
        ("-Infinity", None),
        ("1e999", None),
        ('"NaN"', None),
        ('"sNaN"', None),
        ('"free"', None),
        ("-0.0006", None),
        ('"-1"', None),
        ("true", None),
        ("false", None),
        ("null", None),
        ("[0.1]", None),
        ("{}", None),
    ],
)
def test_a_cost_is_exact_or_unknown(cost: str, expected: Decimal | None) -> None:
    frame = f'{{"data":[{{"taskUUID":"{TASK}","imageURL":"{URL}","cost":{cost}}}]}}'
    assert read_frame(frame) == [Done(TASK, URL, expected)]


def test_a_cost_nobody_named_is_unknown() -> None:
    assert read({"data": [{**ITEM, "imageURL": URL}]}) == [Done(TASK, URL, None)]


# --- what failures mean

CLASSES: dict[tuple[FailureCode, bool], str] = {
    (FailureCode.PROVIDER_REFUSED, False): """
        invalidApiKey missingApiKey unauthorized forbidden permissionDenied insufficientPermissions
        authenticationFailed invalidAuthentication invalidCredentials missingAuthentication
        tokenExpired tokenInvalid tokenMissing tokenRevoked accountSuspended accountDisabled
        organizationSuspended organizationDisabled workspaceSuspended workspaceDisabled""",
    (FailureCode.PROVIDER_QUOTA, False): """
        insufficientCredits providerInsufficientCredits thirdPartyInsufficientCredits quotaExceeded
        paymentRequired environmentPaused insufficientBalance dailyQuotaReached""",
    (FailureCode.PROVIDER_RATE_LIMITED, True): """
        rateLimitExceeded inferenceRateLimitExceeded providerRateLimitExceeded""",
    (FailureCode.PROVIDER_TIMEOUT, True): """
        timeout providerTimeout providerGatewayTimeout webhookTimeout timeoutProvider""",
    (FailureCode.PROVIDER_ERROR, True): """
        providerError providerUnavailable inferenceError processingFailed taskFailed downloadFailed
        uploadFailed noAvailableServer modelUnavailable modelDisabled modelNotReady
        internalServerError serviceUnavailable serverUnavailable standardError unknownError
        undefinedError defaultError unrecognizedResponse""",
    (FailureCode.CONTENT_REJECTED, False): """
        contentPolicyViolation providerContentPolicyViolation sensitiveContentDetected
        unsafeContentDetected nsfwContentDetected promptBlocked imageBlocked moderationFailed
        invalidProviderContent""",
    (FailureCode.PROVIDER_ERROR, False): """
        taskNotFound modelNotFound providerModelNotFound imageExpired taskCancelled
        taskFailedOrNotFound invalidModel invalidProviderSettings missingParameter unsupportedFormat
        unsupportedServerOption valueTooLarge arrayTooLong conflictTaskUUID duplicateTaskUUID
        maxSizeExceeded unknownParameter incompatibleParameters somethingQuiteNew""",
}


@pytest.mark.parametrize(
    ("raw", "code", "retryable"),
    [(raw, *known) for known, names in CLASSES.items() for raw in names.split()],
)
def test_a_code_is_classified_whatever_its_case(
    raw: str, code: FailureCode, retryable: bool
) -> None:
    for spelling in (raw, raw.lower(), raw.upper(), raw[:1].upper() + raw[1:]):
        assert failure_of(spelling) == (code, retryable)
