"""Kie's envelope: a `code` in the body that is the real answer, whatever the HTTP status says."""

import json

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from sandbox.common import Common
from sandbox.faults import Kind, TaskFaults
from sandbox.keys import Account, bearer, open_account

_NO_FAULTS = TaskFaults()


class Answered(Exception):
    """The request ends here, with this response."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


def envelope(
    common: Common, code: int, msg: str, *, data: object = None, faults: TaskFaults = _NO_FAULTS
) -> Response:
    body: dict[str, object] = {"code": code, "msg": msg, "data": data}
    if Kind.MESSAGE_KEY in faults:
        body["message"] = body.pop("msg")
    return json_response(common, body, code=code, faults=faults)


def json_response(
    common: Common, body: object, *, code: int, faults: TaskFaults = _NO_FAULTS
) -> Response:
    real = common.options.real_status or Kind.REAL_STATUS in faults
    media_type = None if Kind.NO_CONTENT_TYPE in faults else "application/json"
    return Response(json.dumps(body), code if real else 200, media_type=media_type)


def blocked() -> Response:
    return PlainTextResponse("error code: 1010", 403)


def check_agent(common: Common, request: Request) -> None:
    """The edge: turns away who sends no User-Agent, or one that looks like a library's."""
    agent = request.headers.get("User-Agent", "")
    if not agent or agent.startswith(common.options.refused_agents):
        raise Answered(blocked())


def account_of(request: Request) -> Account | None:
    return open_account(bearer(request.headers.get("Authorization")))
