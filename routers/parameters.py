"""Raw parameters (query, form, JSON) into a checked model; a fault is named by its field."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from models.errors import InvalidParameter

P = TypeVar("P", bound=BaseModel)


def parse(schema: type[P], raw: dict[str, Any]) -> P:
    """Raises InvalidParameter; an unknown name is a fault, since silence would hide a typo."""
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
