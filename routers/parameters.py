"""Raw parameters (query, form, JSON) into a checked model; a fault is named by its field."""

import json
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from models.errors import FileTooLarge, InvalidParameter

P = TypeVar("P", bound=BaseModel)

_MAX_JSON_BYTES = 16 * 1024


async def small_json(request: Request) -> dict[str, Any]:
    """A body of at most 16 KiB that is a JSON object, or nothing at all.

    Raises InvalidParameter, or FileTooLarge before the rest of a longer body is read.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_JSON_BYTES:
            raise FileTooLarge(
                "The JSON body is larger than 16 KiB.", limit=_MAX_JSON_BYTES, actual=len(body)
            )
    try:
        document = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise InvalidParameter("The body is not valid JSON.", field="body") from None
    if not isinstance(document, dict):
        raise InvalidParameter("The JSON body must be an object.", field="body")
    return document


def parse(schema: type[P], raw: dict[str, Any]) -> P:
    """Raises InvalidParameter; an unknown name is a fault, since silence would hide a typo.

    So is a truth value where a number is meant, for which Pydantic would take 1 or 0.
    """
    for name in raw.keys() & schema.model_fields.keys():
        if isinstance(raw[name], bool) and not _is_truth(schema.model_fields[name].annotation):
            raise InvalidParameter(f"{name}: must not be true or false.", field=name)
    try:
        return schema.model_validate(raw)
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(str(part) for part in fault["loc"]) or "body"
        if fault["type"] == "extra_forbidden":
            known = ", ".join(schema.model_fields)
            raise InvalidParameter(
                f"{field}: there is no such parameter.", field=field, hint=f"There are: {known}."
            ) from None
        raise InvalidParameter(f"{field}: {fault['msg']}.", field=field) from None


def _is_truth(kind: object) -> bool:
    return kind is bool or any(_is_truth(part) for part in get_args(kind))
