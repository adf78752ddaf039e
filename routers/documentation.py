"""The OpenAPI document's hand-made parts: a body that comes in three forms, and the Problem schema.

The body of a shot is parsed from the stream (its file may be larger than memory), so FastAPI
cannot derive its description; it is derived here from the same parameter model that checks it.
"""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from models.schemas import Problem
from routers.embedded import BASE64_FIELD
from routers.layers import Operation, add_layers
from routers.links import add_links
from routers.uploads import URL_FIELD

_REF = "#/components/schemas/{model}"
_BINARY = {"type": "string", "format": "binary", "description": "The picture."}
_URL = {
    "type": "string",
    "description": "Public http(s) address of the picture.",
    "examples": ["https://shop.example/uploads/1234.jpg"],
}
_BY_LINK = "resultLink"
_SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, or a session token. Not wanted where API_KEYS is empty.",
    },
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    _BY_LINK: {
        "type": "apiKey",
        "in": "query",
        "name": "token",
        "description": "Part of the links in a record; opens that one result.",
    },
}
_EXTRA_SCHEMAS: dict[str, type[BaseModel]] = {"Problem": Problem}
_BASE64 = {"type": "string", "contentEncoding": "base64", "description": "The picture's bytes."}


def describes_submission(parameters: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route that takes one picture and `parameters`."""
    fields = _properties(parameters)
    form = _body({"image": _BINARY, URL_FIELD: _URL, **fields})
    typed = _body({URL_FIELD: _URL, BASE64_FIELD: _BASE64, **fields})
    url_only = _body({URL_FIELD: _URL, **fields}) | {"required": [URL_FIELD]}
    return {
        "parameters": [_in_query(name, schema) for name, schema in fields.items()],
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": form},
                "application/json": {"schema": typed},
                "application/x-www-form-urlencoded": {"schema": url_only},
            },
        },
    }


def describes_removebg(parameters: type[BaseModel], *answers: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of remove.bg's route: its three kinds of body, and its answers' schemas."""
    _EXTRA_SCHEMAS.update({answer.__name__: answer for answer in answers})
    fields = {URL_FIELD: _URL, "image_file_b64": _BASE64, **_properties(parameters)}
    files = {"image_file": _BINARY, "bg_image_file": _BINARY | {"description": "What is behind."}}
    typed = {"schema": _body(fields)}
    content = {
        "multipart/form-data": {"schema": _body(files | fields)},
        "application/json": typed,
        "application/x-www-form-urlencoded": typed,
    }
    return {"requestBody": {"required": True, "content": content}}


def describes_files(parameters: type[BaseModel], files: Mapping[str, str]) -> dict[str, Any]:
    """`openapi_extra` of a route that takes `parameters` and, if at all, files; told by name."""
    fields = _properties(parameters)
    binary = {name: {**_BINARY, "description": told} for name, told in files.items()}
    typed = {name: {**_BASE64, "description": told} for name, told in files.items()}
    return {
        "parameters": [_in_query(name, schema) for name, schema in fields.items()],
        "requestBody": {
            "required": False,
            "content": {
                "multipart/form-data": {"schema": _body({**binary, **fields})},
                "application/json": {"schema": _body({**typed, **fields})},
                "application/x-www-form-urlencoded": {"schema": _body(fields)},
            },
        },
    }


def describes_json(parameters: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route that takes a small JSON body, optional where all of it is."""
    needed = [name for name, field in parameters.model_fields.items() if field.is_required()]
    schema = _body(_properties(parameters)) | ({"required": needed} if needed else {})
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": bool(needed), "content": content}}


def install(app: FastAPI) -> None:
    """Make the application's OpenAPI document the complete one."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's documented way


def _document(app: FastAPI) -> dict[str, Any]:
    made = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        routes=app.routes,
        license_info=app.license_info,
    )
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    for name, model in _EXTRA_SCHEMAS.items():
        schema = model.model_json_schema(ref_template=_REF)
        schemas.update(schema.pop("$defs", {}))
        schemas[name] = schema
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    made["components"]["securitySchemes"] = _SCHEMES
    for address, path in made["paths"].items():
        for method, operation in path.items():
            if _is_fastapis(operation):
                del operation["responses"]["422"]
            _add_access(Operation(address, method, operation))
            add_layers(Operation(address, method, operation))
    add_links(made["paths"])
    return made


def _add_access(operation: Operation) -> None:
    """What proves who asks."""
    by_link = operation.method == "get" and operation.address.startswith("/results/{request_id}")
    names = [name for name in _SCHEMES if by_link or name != _BY_LINK]
    if operation.wants_a_key:
        operation.told["security"] = [{name: []} for name in names]


def _is_fastapis(operation: dict[str, Any]) -> bool:
    """FastAPI promises 422 for bad parameters; here they are 400."""
    content = operation["responses"].get("422", {}).get("content", {})
    return "application/json" in content


def _properties(parameters: type[BaseModel]) -> dict[str, Any]:
    """The parameters' JSON schemas by name, with shared definitions written in place."""
    schema = parameters.model_json_schema()
    definitions = schema.get("$defs", {})
    return {name: _inlined(each, definitions) for name, each in schema["properties"].items()}


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:  # noqa: ANN401  # JSON
    if isinstance(node, list):
        return [_inlined(each, definitions) for each in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        rest = {key: value for key, value in node.items() if key != "$ref"}
        return {**definitions[node["$ref"].rsplit("/", 1)[1]], **rest}
    return {key: _inlined(value, definitions) for key, value in node.items()}


def _body(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _in_query(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema}
