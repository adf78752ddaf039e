"""What the Dockerfile and its companions say, read by Docker's own parser."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dockerfile
import pytest
from ruamel.yaml import YAML

import main
from tests.conftest import ROOT, serving

COMMANDS = dockerfile.parse_file(str(ROOT / "Dockerfile"))
IMAGES = ("gpu", "runtime")
SECRET = re.compile("key|secret|token|password", re.IGNORECASE)


def stages() -> dict[str, list[Any]]:
    """Each stage's commands by its name, in the file's order; the FROM is the first."""
    found: dict[str, list[Any]] = {}
    for command in COMMANDS:
        if command.cmd == "FROM":
            found[command.value[2]] = []
        if found:
            found[list(found)[-1]].append(command)
    return found


def with_its_base(name: str) -> Iterator[Any]:
    """The commands of a stage and of those it is built on, the earliest first."""
    commands = stages()[name]
    base = commands[0].value[0]
    if base in stages():
        yield from with_its_base(base)
    yield from commands


def last(name: str, wanted: str) -> dockerfile.Command:
    return [command for command in with_its_base(name) if command.cmd == wanted][-1]


def copied_from_here(name: str) -> set[str]:
    """What a stage copies out of the project."""
    return {
        source
        for command in stages()[name]
        if command.cmd in {"COPY", "ADD"} and not any("--from" in each for each in command.flags)
        for source in command.value[:-1]
    }


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint is not None
    done = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"")


def test_the_plain_build_makes_the_cpu_image() -> None:
    names = list(stages())
    assert names[-1] == "runtime"
    assert set(IMAGES) < set(names)
    built_on = [stages()["runtime"][0].value[0], *copies_from("runtime")]
    assert not [name for name in built_on if "gpu" in name]


def copies_from(name: str) -> list[str]:
    return [
        flag.partition("=")[2]
        for command in stages()[name]
        for flag in command.flags
        if flag.startswith("--from=")
    ]


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_started_by_tini_in_exec_form_as_a_numeric_user(image: str) -> None:
    entry, command = last(image, "ENTRYPOINT"), last(image, "CMD")
    assert (entry.json, command.json) == (True, True)
    assert entry.value == ("tini", "-e", "143", "--", "/app/docker/entrypoint.sh")
    assert command.value[:2] == ("uvicorn", "main:app")
    grace = int(command.value[command.value.index("--timeout-graceful-shutdown") + 1])
    assert 0 < grace < 25
    assert "--workers" not in command.value
    assert re.fullmatch(r"\d+:\d+", last(image, "USER").value[0])


@pytest.mark.parametrize("image", IMAGES)
def test_health_is_asked_without_a_shell(image: str) -> None:
    check = last(image, "HEALTHCHECK")
    assert check.json
    assert check.value[:3] == ("CMD", "python3", "-c")
    compile(check.value[3], "HEALTHCHECK", "exec")
    assert "/health" in check.value[3]


def test_what_is_copied_exists_and_nothing_is_copied_wholesale() -> None:
    for name in stages():
        for source in copied_from_here(name):
            assert source not in {".", "./", "*"}
            assert (ROOT / source).exists(), source
    assert not [command for command in COMMANDS if command.cmd == "ADD"]


def test_the_build_sees_what_is_copied_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert rules[-1] == "**/__pycache__"
    allowed = {rule.removeprefix("!") for rule in rules[1:-1] if rule.startswith("!")}
    assert len(allowed) == len(rules) - 2
    copied = {source.partition("/")[0] for name in stages() for source in copied_from_here(name)}
    assert copied == allowed


def test_every_module_that_main_reaches_is_in_the_image() -> None:
    copied = copied_from_here("code")
    reached = imported_files(ROOT / "main.py", set())
    missing = {path for path in reached if path.parts[0] not in copied}
    assert not missing
    assert {"sandbox", "routers"} < {path.parts[0] for path in reached}


def imported_files(path: Path, seen: set[Path]) -> set[Path]:
    """The project's files that one imports, wherever in it, and what those import."""
    seen.add(path.relative_to(ROOT))
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            found = ROOT / Path(*name.split(".")).with_suffix(".py")
            if found.is_file() and found.relative_to(ROOT) not in seen:
                imported_files(found, seen)
    return seen


def test_bases_are_named_with_a_tag_that_stays() -> None:
    known = {"${DEBIAN}", *stages()}
    assert {commands[0].value[0] for commands in stages().values()} <= known
    (debian,) = [each.value[0] for each in COMMANDS if each.value[0].startswith("DEBIAN=")]
    assert debian == "DEBIAN=debian:bookworm-slim"
    assert ":latest" not in (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_no_secret_is_built_in() -> None:
    named = [
        name
        for command in COMMANDS
        for name in (command.value if command.cmd == "ARG" else command.value[::2])
        if command.cmd in {"ARG", "ENV"}
    ]
    assert "PORT" in named
    assert not [name for name in named if SECRET.search(name)]


def test_everything_pip_installs_is_hashed() -> None:
    runs = [command.value[0] for command in COMMANDS if command.cmd == "RUN"]
    installs = [run for run in runs if "pip install" in run]
    assert len(installs) == 3
    assert all("--require-hashes" in run for run in installs)


def test_the_version_is_the_services_own() -> None:
    versions = {each.value[0] for each in COMMANDS if each.value[0].startswith("VERSION=")}
    assert versions == {f"VERSION={main.VERSION}"}


@pytest.mark.parametrize("image", IMAGES)
def test_labels_are_those_of_the_open_container_initiative(image: str) -> None:
    labels = last(image, "LABEL").value[::2]
    wanted = ("title", "description", "version", "revision", "licenses")
    assert set(labels) == {f"org.opencontainers.image.{name}" for name in wanted}


def test_the_compose_file_tries_it_out_within_the_box() -> None:
    yaml = YAML(typ="safe", pure=True)
    composed = yaml.load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    (service,) = composed["services"].values()
    assert service["environment"] == {"RUNWARE_API_KEY": "sandbox", "KIE_API_KEY": "sandbox"}
    assert (service["mem_limit"], service["cpus"]) == ("4g", 2)
    assert service["stop_grace_period"] == "30s"
    assert service["read_only"] is True
    environment = last("runtime", "ENV").value
    folders = dict(zip(environment[::2], environment[1::2], strict=True))
    mounted = {each.partition(":")[2] for each in service["volumes"]}
    assert mounted == {folders["DATA_DIR"], folders["TEMP_DIR"]}
    assert {each.partition(":")[0] for each in service["volumes"]} == set(composed["volumes"])
    assert service["build"]["args"].keys() <= arguments()


def arguments() -> set[str]:
    return {each.value[0].partition("=")[0] for each in COMMANDS if each.cmd == "ARG"}


def test_the_health_check_follows_the_port(tmp_path: Path) -> None:
    """The very words of the Dockerfile against a port that answers, and one that does not."""
    code = last("runtime", "HEALTHCHECK").value[3]
    with serving(tmp_path) as server:
        port = server.url.rpartition(":")[2]
        statuses = [
            subprocess.run(
                [sys.executable, "-c", code], env={"PORT": each}, capture_output=True, check=False
            ).returncode
            for each in (port, "1")
        ]
    assert statuses == [0, 1]


def test_the_shell_files_parse() -> None:
    for path in sorted((ROOT / "docker").glob("*.sh")):
        shell = path.read_text(encoding="utf-8").partition("\n")[0].rpartition("/")[2].split()[-1]
        subprocess.run([shell, "-n", str(path)], check=True)
        assert path.stat().st_mode & 0o111, path.name
