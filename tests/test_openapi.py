"""The OpenAPI document says what the service does, and the service keeps to it under fuzzing."""

import base64
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from models.errors import ServiceError
from models.schemas import ModelId
from routers.problems import TABLE
from tests.conftest import Server, artwork, serving
from tests.fakes import FakeRemover

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    stand_ins = {ModelId.LOCAL_ISNET: FakeRemover(ModelId.LOCAL_ISNET)}
    with serving(tmp_path_factory.mktemp("openapi"), stand_ins=stand_ins) as server:
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


def test_every_reference_in_the_document_resolves(document: dict[str, Any]) -> None:
    for reference in set(re.findall(r'"\$ref": ?"#/components/schemas/(\w+)"', str_of(document))):
        assert reference in document["components"]["schemas"]


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


def test_fuzzing_finds_no_server_error_and_no_undocumented_answer(server: Server) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    for result in schema.get_all_operations():
        assert isinstance(result, Ok)
        _fuzz(result.ok())


def _fuzz(operation: schemathesis.APIOperation[Any, Any, Any, Any]) -> None:
    quiet = settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )

    def one(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(checks=CHECKS, timeout=30)

    quiet(given(case=operation.as_strategy())(one))()
