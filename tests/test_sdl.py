"""The deployment files keep the house rules and Akash's own, and what breaks a rule is refused."""

import copy
import io
import os
import shutil
import subprocess
import warnings
from collections.abc import Callable
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from config import MIB, SettingsError, load_settings
from routers.answers import HEARTBEAT_S
from scripts import sdl
from tests.conftest import ROOT

TOOLS = ROOT / "tools" / "sdl"
SCHEMA = TOOLS / "node_modules" / "@akashnetwork" / "chain-sdk" / "dist" / "sdl-schema.yaml"
needs_schema = pytest.mark.skipif(
    not SCHEMA.exists(), reason="NO AKASH SCHEMA: `make sdl` fetches it; structure not checked"
)
needs_validator = pytest.mark.skipif(
    not SCHEMA.exists() or shutil.which("node") is None,
    reason="NO AKASH VALIDATOR: `make sdl` installs it; manifests not checked",
)
FILES = sorted(sdl.BOXES)
Change = Callable[[dict[str, Any]], object]


def loaded(name: str) -> dict[str, Any]:
    return copy.deepcopy(dict(sdl.read(ROOT / name)))


def api(document: dict[str, Any]) -> dict[str, Any]:
    service: dict[str, Any] = document["services"]["api"]
    return service


def port(document: dict[str, Any]) -> dict[str, Any]:
    first: dict[str, Any] = api(document)["expose"][0]
    return first


def resources(document: dict[str, Any]) -> dict[str, Any]:
    asked: dict[str, Any] = document["profiles"]["compute"]["api"]["resources"]
    return asked


def volume(document: dict[str, Any]) -> dict[str, Any]:
    second: dict[str, Any] = resources(document)["storage"][1]
    return second


def pricing(document: dict[str, Any]) -> dict[str, Any]:
    asked: dict[str, Any] = document["profiles"]["placement"]["akash"]["pricing"]["api"]
    return asked


def environment(line: str) -> Change:
    """Puts `NAME=value` in the place of the line of that name, or behind the last."""

    def change(document: dict[str, Any]) -> None:
        name = line.partition("=")[0]
        kept = [each for each in api(document)["env"] if each.partition("=")[0] != name]
        api(document)["env"] = [*kept, line]

    return change


BREAKS: dict[str, tuple[Change, str]] = {
    "version as a number": (lambda d: d.update(version=2.0), "version"),
    "version 2.1": (lambda d: d.update(version="2.1"), "version"),
    "a second service": (lambda d: d["services"].update(web=api(d)), "one service"),
    "two replicas": (lambda d: d["deployment"]["api"]["akash"].update(count=2), "count 1"),
    "an unknown placement": (
        lambda d: d["profiles"].update(placement={"west": d["profiles"]["placement"]["akash"]}),
        "not described",
    ),
    "tag latest": (lambda d: api(d).update(image="r.example/o/i:latest"), "latest"),
    "no tag": (lambda d: api(d).update(image="r.example/o/i"), "image"),
    "no image": (lambda d: api(d).pop("image"), "image"),
    "a name that is no setting": (environment("MAX_UPLOADS_MB=99"), "no settings: MAX_UPLOADS_MB"),
    "a value the service refuses": (environment("DEADLINE_S=90"), "DEADLINE_S"),
    "a short key": (environment("API_KEYS=shop:short"), "API_KEYS"),
    "no API_KEYS": (lambda d: api(d)["env"].pop(0), "API_KEYS is missing"),
    "an empty API_KEYS": (environment("API_KEYS="), "API_KEYS holds"),
    "a committed key": (environment("KIE_API_KEY=0123456789abcdef"), "KIE_API_KEY holds"),
    "a committed secret": (environment(f"WEBHOOK_SECRET={'s' * 40}"), "WEBHOOK_SECRET holds"),
    "credentials": (lambda d: api(d).update(credentials={"host": "r.example"}), "credentials"),
    "the service's port to the world": (lambda d: port(d).update({"as": 8000}), "port 8000 as 80"),
    "another port": (lambda d: port(d).update(port=8080), "port 8000 as 80"),
    "not global": (lambda d: port(d).update(to=[{"service": "web"}]), "to the world"),
    "the ingress' default body": (lambda d: port(d)["http_options"].pop("max_body_size"), "http"),
    "a body above the maximum": (
        lambda d: port(d)["http_options"].update(max_body_size=200 * MIB),
        "http_options",
    ),
    "a longer silence": (lambda d: port(d)["http_options"].update(read_timeout=90_000), "http"),
    "a POST tried twice": (lambda d: port(d)["http_options"].update(next_cases=["error"]), "http"),
    "off as a boolean": (lambda d: port(d)["http_options"].update(next_cases=[False]), "http"),
    "eight vCPU": (lambda d: resources(d).update(cpu={"units": 8}), "cpu must be"),
    "more memory": (lambda d: resources(d).update(memory={"size": "16Gi"}), "memory must be"),
    "more disk": (lambda d: volume(d).update(size="10Gi"), "storage must be"),
    "a decimal size": (lambda d: volume(d).update(size="1GB"), "cannot be read"),
    "a class that is none": (lambda d: volume(d)["attributes"].update({"class": "beta9"}), "beta9"),
    "a class without persistent": (
        lambda d: volume(d)["attributes"].update(persistent=False),
        "must be a persistent one",
    ),
    "storage in memory": (
        lambda d: volume(d).update(attributes={"persistent": True, "class": "ram"}),
        "ram",
    ),
    "a volume nobody mounts": (lambda d: api(d).pop("params"), "cannot be read"),
    "a read-only volume": (
        lambda d: api(d)["params"]["storage"]["data"].update(readOnly=True),
        "mounted at DATA_DIR",
    ),
    "data beside the volume": (environment("DATA_DIR=/srv/data"), "mounted at DATA_DIR"),
    "pictures on the volume": (environment("TEMP_DIR=/data/tmp"), "must not fill"),
    "another memory limit": (environment("MEMORY_LIMIT_MB=2048"), "MEMORY_LIMIT_MB"),
    "more threads": (environment("PIXEL_THREADS=16"), "PIXEL_THREADS"),
    "an upload that fills the ingress": (environment("MAX_UPLOAD_MB=100"), "leaves the ingress"),
    "results that fill the disk": (environment("RESULT_QUOTA_MB=8000"), "root disk"),
    "uploads that fill the disk": (environment("QUEUE_LIMIT=64"), "root disk"),
    "paid in AKT": (lambda d: pricing(d).update(denom="uakt"), "uact"),
    "for nothing": (lambda d: pricing(d).update(amount=0), "amount"),
    "at any price": (lambda d: pricing(d).update(amount=10_000), "amount"),
    "no price": (lambda d: d["profiles"]["placement"]["akash"].pop("pricing"), "cannot be read"),
    "another card": (
        lambda d: resources(d).update(
            gpu={"units": 1, "attributes": {"vendor": {"nvidia": [{"model": "t4"}]}}}
        ),
        "gpu must be",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_the_file_keeps_the_house_rules(name: str) -> None:
    assert sdl.complaints(sdl.read(ROOT / name), sdl.BOXES[name]) == []


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("broken", sorted(BREAKS))
def test_what_breaks_a_rule_is_named(name: str, broken: str) -> None:
    change, said = BREAKS[broken]
    document = loaded(name)
    change(document)
    found = sdl.complaints(document, sdl.BOXES[name])
    assert any(said in each for each in found), found


def test_the_card_is_asked_for_in_one_file_alone() -> None:
    assert "gpu must be left out" in sdl.complaints(loaded("deploy-gpu.yaml"), sdl.BOXES[FILES[1]])
    document = loaded("deploy-gpu.yaml")
    resources(document).pop("gpu")
    api(document)["image"] = "r.example/o/img-proc-service:1.0.0"
    found = sdl.complaints(document, sdl.BOXES["deploy-gpu.yaml"])
    assert found == ["the image's tag must end in -gpu", "gpu is missing"]


def test_a_copy_to_deploy_must_be_filled_in(tmp_path: Path) -> None:
    text = (ROOT / "deploy.yaml").read_text()
    (mine := tmp_path / "mine.yaml").write_text(text)
    assert sdl.main([str(mine)]) == 1
    filled = text.replace("REGISTRY/OWNER", "ghcr.io/shop").replace(
        sdl.UNFILLED_KEYS, f"shop:{'k' * 32}"
    )
    mine.write_text(filled.replace("KIE_API_KEY=", "KIE_API_KEY=0123456789abcdef"))
    assert sdl.main([str(mine)]) == 0


@pytest.mark.parametrize("name", FILES)
def test_the_service_does_not_start_before_its_keys_are_set(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for line in api(loaded(name))["env"]:
        monkeypatch.setenv(*line.split("=", 1))
    with pytest.raises(SettingsError, match=r"^API_KEYS: [^\n]*$"):
        load_settings(env_file=None)
    monkeypatch.setenv("API_KEYS", f"shop:{'k' * 32}")
    settings = load_settings(env_file=None)
    assert list(settings.access.api_keys) == ["shop"]
    assert settings.storage.data_dir == Path("/data")


def test_the_answer_comes_before_the_ingress_gives_up() -> None:
    """The latest deadline anybody may set, and the longest a stream is silent."""
    latest = next(
        each.le
        for each in type(load_settings(env_file=None).work).model_fields["deadline_s"].metadata
        if hasattr(each, "le")
    )
    assert latest * 1000 < sdl.SILENCE_MS
    assert HEARTBEAT_S * 1000 < sdl.SILENCE_MS


def test_a_ceiling_is_the_month_its_comment_says() -> None:
    for name in FILES:
        amount = pricing(loaded(name))["amount"]
        assert f"{sdl.month_usd(Decimal(amount)):.2f} USD in 30 days" in (ROOT / name).read_text()


# --- Akash's schema and validator


REFUSED_BY_AKASH = (
    "version as a number",
    "an unknown placement",
    "a body above the maximum",
    "a longer silence",
    "off as a boolean",
    "no image",
    "no price",
)
"""Of BREAKS, what Akash's validator refuses as well; the others are the house's alone."""
PAST_THE_SCHEMA = {"an unknown placement", "no price"}
"""What only the validator's cross-references refuse."""


@cache
def akash_schema() -> dict[str, Any]:
    schema: dict[str, Any] = YAML(typ="safe", pure=True).load(SCHEMA)
    return schema


def schema_errors(document: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import jsonschema  # type: ignore[import-untyped]

    return [each.message for each in jsonschema.Draft7Validator(schema).iter_errors(document)]


@needs_schema
@pytest.mark.parametrize("name", FILES)
def test_the_file_fits_akashs_schema(name: str) -> None:
    schema = akash_schema()
    assert schema_errors(loaded(name), schema) == []
    for broken in sorted({*REFUSED_BY_AKASH} - PAST_THE_SCHEMA):
        document = loaded(name)
        BREAKS[broken][0](document)
        assert schema_errors(document, schema), broken


@needs_validator
def test_akashs_validator_takes_the_files_and_refuses_broken_ones(tmp_path: Path) -> None:
    paths = [ROOT / name for name in FILES]
    for number, broken in enumerate(REFUSED_BY_AKASH):
        document = loaded(FILES[number % 2])
        BREAKS[broken][0](document)
        paths.append(tmp_path / f"{broken.replace(' ', '-')}.yaml")
        YAML(typ="safe", pure=True).dump(document, out := io.StringIO())
        paths[-1].write_text(out.getvalue())
    done = validate(*map(str, paths))
    assert done.returncode == 1
    assert done.stdout.splitlines() == [f"{each}: valid" for each in paths[:2]]
    for path in paths[2:]:
        assert f"{path}: " in done.stderr


@needs_validator
def test_the_validator_says_yes_with_zero() -> None:
    assert validate(*(str(ROOT / name) for name in FILES)).returncode == 0


def validate(*paths: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["node", TOOLS / "validate.mjs", *paths],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# --- the script that installs the validator


@pytest.fixture
def workshop(tmp_path: Path) -> Path:
    """A copy of what the script needs, with nothing installed."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "validate_sdl.sh", tmp_path / "scripts")
    shutil.copytree(TOOLS, tmp_path / "tools" / "sdl", ignore=lambda *_: {"node_modules"})
    (programs := tmp_path / "bin").mkdir()
    for name in ("bash", "dirname", "cat", "sha256sum", "cut", "grep", "tail"):
        (programs / name).symlink_to(shutil.which(name) or "")
    return tmp_path


def run_script(workshop: Path, npm_says: str | None) -> subprocess.CompletedProcess[str]:
    if npm_says is not None:
        for name in ("node", "npm"):
            (program := workshop / "bin" / name).write_text(
                f"#!/bin/bash\necho 'npm error code {npm_says}'\nexit 1\n"
            )
            program.chmod(0o755)
    return subprocess.run(
        ["bash", workshop / "scripts" / "validate_sdl.sh"],
        env={**os.environ, "PATH": str(workshop / "bin")},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(
    ("npm_says", "reason"),
    [(None, "node and npm are missing"), ("EAI_AGAIN", "cannot be reached")],
)
def test_without_npm_or_registry_the_script_says_so_and_goes_on(
    workshop: Path, npm_says: str | None, reason: str
) -> None:
    done = run_script(workshop, npm_says)
    assert done.returncode == 0
    assert "SKIPPED" in done.stdout
    assert reason in done.stdout


def test_a_package_that_is_not_the_pinned_one_is_a_failure(workshop: Path) -> None:
    done = run_script(workshop, "EINTEGRITY")
    assert done.returncode == 1
    assert "EINTEGRITY" in done.stderr
    assert "SKIPPED" not in done.stdout
