"""The OpenAPI document says what the service does, and the service keeps to it under fuzzing.

`make schemathesis` asks the same way, for longer.
"""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from fuzz.api import ask, service
from models.errors import MissingKey, ServiceError, SessionExhausted
from routers.layers import LAYERS
from routers.problems import TABLE
from tests.conftest import Server, artwork

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
SMALL = ("/health", "/ready", "/models", "/errors", "/costs", "/preferences/stats", "/sessions")
"""Addresses with few parameters: all of their combinations are tried."""

PICKS_OF_NO_SHOT = ("/preferences/stats", "/preferences/export")
"""DELETE of these is that of the picks of a shot with this name, which is no id: 400."""

METHODS = ("GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with service(tmp_path_factory.mktemp("open"), keyed=False) as server:
        yield server


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with service(tmp_path_factory.mktemp("keyed"), keyed=True) as server:
        yield server


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = server.client.get("/openapi.json").json()
    return found


def test_every_error_has_a_row_and_a_code_of_its_own() -> None:
    leaves = {each for each in _descendants(ServiceError) if not each.__subclasses__()}
    assert set(TABLE) == leaves
    codes = [kind.code for kind in TABLE.values()]
    assert len(codes) == len(set(codes))


def _descendants(cls: type[ServiceError]) -> Iterator[type[ServiceError]]:
    for each in cls.__subclasses__():
        yield each
        yield from _descendants(each)


def test_the_document_lists_the_routes_with_their_errors_and_examples(
    document: dict[str, Any],
) -> None:
    shot = document["paths"]["/remove-background"]["post"]
    assert set(shot["requestBody"]["content"]) == {
        "multipart/form-data",
        "application/json",
        "application/x-www-form-urlencoded",
    }
    assert {"200", "400", "413", "415", "422", "502", "503", "504", "507"} <= set(shot["responses"])
    examples = shot["responses"]["422"]["content"]["application/problem+json"]["examples"]
    assert {"unreadable_image", "image_truncated", "too_many_pixels"} <= set(examples)
    names = {parameter["name"] for parameter in shot["parameters"]}
    assert {"models", "output", "deadline_s", "holes"} <= names


def test_a_layer_is_told_at_every_operation_before_which_it_stands(
    document: dict[str, Any],
) -> None:
    told = {
        (address, method): _codes(operation)
        for address, path in document["paths"].items()
        for method, operation in path.items()
    }
    assert all("internal_error" in codes for codes in told.values())
    for (address, _), codes in told.items():
        is_open = address in ("/health", "/ready")
        wanted = TABLE[MissingKey].code if not address.startswith("/v1.0/") else "auth_failed"
        assert (wanted in codes) != is_open, address
    exhausted = {key for key, codes in told.items() if TABLE[SessionExhausted].code in codes}
    shots = ("/remove-background", "/process", "/upscale", "/analyze")
    assert exhausted == {(each, "post") for each in shots}
    assert all(set(layer.kinds) <= set(TABLE) for layer in LAYERS)


def _codes(operation: dict[str, Any]) -> set[str]:
    return {
        code
        for response in operation["responses"].values()
        for described in response.get("content", {}).values()
        for code in described.get("examples", {})
    }


def test_every_reference_and_every_link_in_the_document_resolves(
    document: dict[str, Any],
) -> None:
    for reference in set(re.findall(r'"\$ref": ?"#/components/schemas/(\w+)"', str_of(document))):
        assert reference in document["components"]["schemas"]
    operations = [each for path in document["paths"].values() for each in path.values()]
    parameters = {
        each["operationId"]: {parameter["name"] for parameter in each.get("parameters", [])}
        for each in operations
    }
    links = [
        link
        for each in operations
        for response in each["responses"].values()
        for link in response.get("links", {}).values()
    ]
    assert len(links) > 60
    for link in links:
        assert set(link.get("parameters", {})) <= parameters[link["operationId"]]


def str_of(document: dict[str, Any]) -> str:
    return httpx.Response(200, json=document).text


def test_a_real_answer_matches_the_documented_schema(server: Server) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    body: dict[str, Any] = {
        "image_base64": base64.b64encode(artwork()).decode(),
        "models": "local-knockout",
    }
    case = schema["/remove-background"]["POST"].Case(body=body, media_type="application/json")
    assert case.call_and_validate(checks=CHECKS).status_code == 200


def test_a_wrong_method_is_told_which_ones_there_are(
    server: Server, document: dict[str, Any]
) -> None:
    """RFC 9110, 15.5.6; starlette alone would name those of one route."""
    for template, path in document["paths"].items():
        address = template.replace("{request_id}", "0" * 32).replace("{model}", "local-isnet")
        there = {method.upper() for method in path}
        if template in PICKS_OF_NO_SHOT:
            there.add("DELETE")
        for method in sorted(set(METHODS) - there):
            answer = server.client.request(method, address)
            assert answer.status_code == 405, (method, template, answer.text)
            assert set(answer.headers["allow"].split(", ")) == there
            assert f"{method} is not allowed here." in answer.text


def test_fuzzing_with_a_key_and_without_finds_no_undocumented_answer(
    keyed: Server, tmp_path: Path
) -> None:
    outcome = ask(
        keyed.url, tmp_path, keyed=True, examples=6, phases=("examples", "fuzzing", "stateful")
    )
    assert outcome.passed, outcome.text
    assert outcome.cases > 150


def test_fuzzing_an_open_service_finds_no_undocumented_answer(
    server: Server, tmp_path: Path
) -> None:
    outcome = ask(server.url, tmp_path, keyed=False, examples=3, phases=("examples", "fuzzing"))
    assert outcome.passed, outcome.text
    assert outcome.cases > 50


def test_small_operations_keep_to_the_document_in_every_combination(
    keyed: Server, tmp_path: Path
) -> None:
    """Among them wrong methods, parameters twice, and no or a wrong key."""
    outcome = ask(
        keyed.url, tmp_path, keyed=True, examples=1, phases=("coverage",), only=sorted(SMALL)
    )
    assert outcome.passed, outcome.text
    assert outcome.cases > 50
