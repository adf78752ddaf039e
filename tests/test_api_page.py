"""docs/API.md has every route once: found from its contents, with its errors and two examples."""

import re
from pathlib import Path
from typing import Any

import pytest

from main import create_app
from models.schemas import ModelId
from tests.conftest import ROOT, make_settings
from tests.documents import blocks

PAGE = ROOT / "docs" / "API.md"
TEXT = PAGE.read_text(encoding="utf-8")
CONTENTS = TEXT.partition("## Contents")[2].partition("\n## ")[0]
REFUSED_AT_THE_DOOR = {"missing_key", "invalid_key", "not_allowed"}
OF_EVERY_ROUTE = REFUSED_AT_THE_DOOR | {
    *("rate_limited", "unknown_host"),
    *("internal_error", "storage_unavailable", "draining"),
}
DOCUMENT = create_app(make_settings(Path("never-opened"))).openapi()
ROUTES = [
    f"{method.upper()} {path}" for path, methods in DOCUMENT["paths"].items() for method in methods
]


def operation(route: str) -> dict[str, Any]:
    method, path = route.split()
    found: dict[str, Any] = DOCUMENT["paths"][path][method.lower()]
    return found


def section(route: str) -> str:
    return TEXT.partition(f"\n## {route}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("route", ROUTES)
def test_a_route_is_in_the_contents_and_has_a_section_with_both_examples(route: str) -> None:
    assert f"| [`{route}`](#" in CONTENTS
    assert TEXT.count(f"\n## {route}\n") == 1
    path = route.split()[1]
    address = re.sub(r"\\{request_id\\}.*", "", re.escape(path)).rstrip("/")
    for language in ("bash", "python"):
        examples = [
            block.text
            for block in blocks()
            if block.document == PAGE and block.language == language
            if block.text in section(route)
        ]
        assert any(re.search(address, text) for text in examples), f"no {language} example"


@pytest.mark.parametrize("route", ROUTES)
def test_a_section_lists_the_errors_of_its_route(route: str) -> None:
    told = re.search(r"^Errors: ((?:`\w+`[,.]\s?)+)$", section(route), re.MULTILINE)
    listed = re.findall(r"`(\w+)`", told[1]) if told else []
    assert len(listed) == len(set(listed))
    assert set(listed) == _codes(route) - OF_EVERY_ROUTE


def _codes(route: str) -> set[str]:
    problems = [
        answer["content"]["application/problem+json"]
        for answer in operation(route)["responses"].values()
        if "application/problem+json" in answer.get("content", {})
    ]
    return {code for problem in problems for code in problem["examples"]}


def test_the_contents_name_no_route_that_is_gone() -> None:
    assert sorted(re.findall(r"^\| \[`([^`]+)`\]", CONTENTS, re.MULTILINE)) == sorted(ROUTES)


def test_every_parameter_and_model_is_named() -> None:
    names = {
        each["name"] for route in ROUTES for each in operation(route).get("parameters", ())
    } - {"accept", "prefer", "if-none-match", "request_id", "model"}
    names |= {model.value for model in ModelId}
    assert {name for name in names if f"`{name}`" not in TEXT and f"`?{name}=" not in TEXT} == set()
