"""The repository keeps its own promises: documents agree with the code, files say what they are."""

import re
import subprocess
from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings

from config import GROUPS, load_settings
from main import create_app
from models.errors import FailureCode, ServiceError
from models.images import Flag
from models.outcomes import SkipReason
from models.schemas import ModelId
from routers.problems import CRASHED, NOT_FOUND, TABLE, WRONG_METHOD
from scripts.configuration import FIRST, configuration_page, env_example
from tests.conftest import ROOT, make_settings

DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "clients").rglob("*.md")]
)
CODE = sorted(
    path
    for folder in (
        "routers",
        "services",
        "models",
        "utils",
        "sandbox",
        "scripts",
        "bench",
        "fuzz",
        "tests",
        "clients",
    )
    for path in (ROOT / folder).rglob("*.py")
    if path.name != "__init__.py"
)


def test_env_example_is_what_the_settings_say() -> None:
    assert (ROOT / ".env.example").read_text() == env_example()


def test_the_configuration_page_is_what_the_settings_say() -> None:
    assert (ROOT / "docs" / "CONFIGURATION.md").read_text() == configuration_page()


def test_the_settings_to_look_at_first_exist() -> None:
    named = {name.upper() for group in GROUPS.values() for name in group.model_fields}
    assert set(FIRST) <= named


def test_env_example_means_the_same_to_pydantic_and_to_docker() -> None:
    """`docker run --env-file` takes everything behind the first = as it stands."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    as_docker = dict(
        line.split("=", 1) for line in lines if line.strip() and not line.startswith("#")
    )
    for value in as_docker.values():
        assert value == value.strip()
        assert not set("\"'#") & set(value)
    from_file = load_settings(env_file=ROOT / ".env.example")
    from_docker = {
        name: group(_env_file=None, **_given(group, as_docker)) for name, group in GROUPS.items()
    }
    assert from_file.model_dump() == {
        name: group.model_dump() for name, group in from_docker.items()
    }


def _given(group: type[BaseSettings], environment: dict[str, str]) -> dict[str, Any]:
    return {name: environment[name.upper()] for name in group.model_fields}


def test_every_setting_with_defaults_loads_the_same_as_no_file_at_all() -> None:
    assert load_settings(env_file=ROOT / ".env.example") == load_settings(env_file=None)


def test_the_api_page_lists_every_code_flag_and_route(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "API.md").read_text()
    kinds = [*TABLE.values(), CRASHED, NOT_FOUND, WRONG_METHOD]
    for kind in kinds:
        assert f"| {kind.status} | `{kind.code}` |" in page
    for word in (*FailureCode, *SkipReason, *Flag):
        assert f"`{word}`" in page
    for path in create_app(make_settings(tmp_path)).openapi()["paths"]:
        assert path in page


def test_every_service_error_that_is_raised_has_a_row() -> None:
    assert all(issubclass(each, ServiceError) for each in TABLE)


def test_every_dependency_is_justified() -> None:
    page = (ROOT / "docs" / "DEPENDENCIES.md").read_text()
    for name in ("requirements.in", "requirements-dev.in", "requirements-gpu.in"):
        for line in (ROOT / name).read_text().splitlines():
            if line and not line.startswith(("#", "-")):
                package = re.split(r"[\[<>=,]", line)[0]
                assert re.search(rf"^\|.*\b{re.escape(package)}\b.*\|", page, re.MULTILINE), package


def test_every_pinned_requirement_has_a_hash() -> None:
    for path in ROOT.glob("requirements*.txt"):
        text = path.read_text().replace("\\\n", " ")
        pins = [line for line in text.splitlines() if "==" in line and not line.startswith("#")]
        assert pins
        assert all("--hash=sha256:" in line for line in pins)


def test_every_make_verb_in_the_documents_exists() -> None:
    verbs = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        verb
        for document in DOCUMENTS
        for verb in re.findall(r"(?:`|^)make ([a-z]+)", document.read_text(), re.MULTILINE)
    }
    assert named <= verbs


def test_every_file_opens_with_the_sentence_that_says_what_it_answers_for() -> None:
    for path in [*CODE, ROOT / "main.py", ROOT / "config.py"]:
        assert path.read_text().startswith('"""'), path


def test_package_files_stay_empty() -> None:
    for path in ROOT.glob("*/__init__.py"):
        assert path.read_text() == ""


def test_the_architecture_page_names_every_module() -> None:
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    for folder in ("routers", "services"):
        for path in (ROOT / folder).glob("*.py"):
            assert path.name == "__init__.py" or path.name in page, path


def test_the_models_of_the_code_are_those_of_the_demo() -> None:
    from scripts.demo import MODELS

    here = [model.value for model in ModelId if model is not ModelId.LOCAL_BEN2]  # no card
    assert list(MODELS) == here


def test_main_stays_short() -> None:
    assert len((ROOT / "main.py").read_text().splitlines()) < 80


def test_no_key_or_weight_is_committed() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    assert not [each for each in listed if each.endswith((".onnx", ".env"))]
