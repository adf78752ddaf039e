"""docker/entrypoint.sh run for real: which user, whose folders, which Pillow."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

ENTRYPOINT = ROOT / "docker" / "entrypoint.sh"
OWNER = 10001
AVX2 = "processor\t: 0\nflags\t\t: fpu sse4_2 avx avx2\n"
OLD = "processor\t: 0\nflags\t\t: fpu sse4_2 avx\n"
ANCIENT = "processor\t: 0\nflags\t\t: fpu sse2\n"

as_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="changes users: needs root"
)


@pytest.fixture
def ground() -> Iterator[Path]:
    """A folder that every user can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path


def enter(
    ground: Path, *command: str, user: int | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Start `command` by way of the entrypoint, as root or as `user`."""
    become = [] if user is None else ["setpriv", f"--reuid={user}", "--clear-groups"]
    return subprocess.run(
        [*become, str(reachable(ground)), *command],
        env={
            "PATH": os.environ["PATH"],
            "TEMP_DIR": str(ground / "temp"),
            "DATA_DIR": str(ground / "data"),
            "PILLOW_DIR": str(ground / "opt"),
            **environment,
        },
        cwd=ground,
        capture_output=True,
        text=True,
        check=False,
    )


def reachable(ground: Path) -> Path:
    """The entrypoint where any user can read it; the checkout may be below /root."""
    return Path(shutil.copy(ENTRYPOINT, ground / "entrypoint.sh"))


def test_it_becomes_the_command_with_its_words_and_status(ground: Path) -> None:
    told = enter(ground, "sh", "-c", 'printf "%s|" "$@"; exit 7', "sh", "a b", "*", OWNER=me())
    assert (told.stdout, told.returncode) == ("a b|*|", 7)


def me() -> str:
    """Given as OWNER where a test is not about becoming somebody else."""
    return str(os.geteuid())


@pytest.mark.parametrize(("port", "heard"), [("9000", "9000"), ("", "8000")])
def test_the_port_is_handed_to_uvicorn(ground: Path, port: str, heard: str) -> None:
    told = enter(ground, "sh", "-c", "echo $UVICORN_PORT", PORT=port, OWNER=me())
    assert told.stdout.strip() == heard


@as_root
def test_root_is_given_up_for_good(ground: Path) -> None:
    told = enter(ground, "sh", "-c", "id -u; id -g; id -G; cat /proc/self/status")
    uid, gid, groups, *status = told.stdout.splitlines()
    assert {uid, gid, groups} == {str(OWNER)}
    facts = dict(line.split(":\t", 1) for line in status if ":\t" in line)
    assert facts["NoNewPrivs"] == "1"
    assert {int(facts[each], 16) for each in ("CapEff", "CapPrm", "CapInh")} == {0}


@as_root
def test_folders_are_made_and_root_owned_volumes_handed_over(ground: Path) -> None:
    deep = ground / "data" / "records" / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "record.json").write_text("{}", encoding="ascii")
    told = enter(ground, "sh", "-c", 'echo x >"$DATA_DIR/new" && echo y >"$TEMP_DIR/new" && id -u')
    assert told.stdout.strip() == str(OWNER), told.stderr
    for path in (ground / "data", ground / "temp", deep, deep / "record.json"):
        assert (path.stat().st_uid, path.stat().st_gid) == (OWNER, OWNER)


@as_root
def test_what_lies_deep_in_a_folder_of_ours_is_not_walked_through(ground: Path) -> None:
    deep = ground / "data" / "one" / "two" / "three"
    deep.mkdir(parents=True)
    for path in (ground / "data", ground / "data" / "one", ground / "data" / "one" / "two"):
        os.chown(path, OWNER, OWNER)
    assert enter(ground, "true").returncode == 0
    assert deep.stat().st_uid == 0


@as_root
def test_a_link_in_a_volume_hands_over_nothing_outside(ground: Path) -> None:
    outside = ground / "outside"
    outside.write_text("root's", encoding="ascii")
    (ground / "data").mkdir()
    (ground / "data" / "link").symlink_to(outside)
    assert enter(ground, "true").returncode == 0
    assert outside.stat().st_uid == 0


@as_root
def test_a_user_who_is_not_root_changes_nothing(ground: Path) -> None:
    (ground / "data").mkdir()
    (ground / "temp").mkdir()
    os.chown(ground / "temp", 4711, 4711)
    told = enter(ground, "sh", "-c", "id -u", user=4711)
    assert (told.stdout.strip(), told.returncode) == ("4711", 0), told.stderr
    assert (ground / "data").stat().st_uid == 0


def test_a_volume_that_cannot_be_used_does_not_stop_the_start(ground: Path) -> None:
    (ground / "data").write_text("a file is in the way", encoding="ascii")
    told = enter(ground, "echo", "started", OWNER=me())
    assert (told.stdout, told.returncode) == ("started\n", 0)


def test_without_a_folder_to_work_in_it_says_so_and_ends(ground: Path) -> None:
    (ground / "temp").write_text("a file is in the way", encoding="ascii")
    told = enter(ground, "echo", "started", OWNER=me())
    assert told.returncode == 1
    assert '"event": "cannot_start"' in told.stdout
    assert "TEMP_DIR cannot be written" in told.stdout


@pytest.fixture
def pillows(ground: Path) -> Path:
    """An image's folder: the venv's Pillow wants AVX2, another one is there for older CPUs."""
    folder = ground / "opt"
    (folder / "pillow-sse4" / "PIL").mkdir(parents=True)
    (folder / "pillow-sse4" / "PIL" / "__init__.py").write_text("sse4 = True", encoding="ascii")
    (folder / "pillow-isa").write_text("avx2\n", encoding="ascii")
    return folder


def started_on(ground: Path, cpu: str) -> subprocess.CompletedProcess[str]:
    """Python by way of the entrypoint on a machine with such a /proc/cpuinfo."""
    (ground / "cpuinfo").write_text(cpu, encoding="ascii")
    code = "import PIL; print(getattr(PIL, 'sse4', False))"
    return enter(ground, sys.executable, "-c", code, CPU_INFO=str(ground / "cpuinfo"), OWNER=me())


@pytest.mark.usefixtures("pillows")
def test_a_cpu_with_avx2_has_the_venvs_pillow(ground: Path) -> None:
    assert started_on(ground, AVX2).stdout == "False\n"


@pytest.mark.usefixtures("pillows")
def test_a_cpu_without_avx2_has_the_other_one_and_it_is_said(ground: Path) -> None:
    told = started_on(ground, OLD).stdout.splitlines()
    assert told[-1] == "True"
    assert '"event": "pillow_without_avx2"' in told[0]


@pytest.mark.usefixtures("pillows")
def test_a_cpu_without_sse4_is_refused_with_the_reason(ground: Path) -> None:
    told = started_on(ground, ANCIENT)
    assert told.returncode == 1
    assert "no SSE4.2" in told.stdout


@pytest.mark.parametrize(("isa", "cpu"), [("sse4", OLD), ("none", ANCIENT)])
def test_an_image_that_asks_less_of_the_cpu_starts_on_less(
    ground: Path, pillows: Path, isa: str, cpu: str
) -> None:
    (pillows / "pillow-isa").write_text(isa, encoding="ascii")
    assert started_on(ground, cpu).stdout == "False\n"


@pytest.mark.parametrize(
    ("folders", "asked", "size"),
    [(["birefnet-general-lite"], "", "lite"), (["birefnet-general"], "", ""), ([], "full", "full")],
)
def test_an_image_with_the_lite_network_alone_runs_that(
    ground: Path, folders: list[str], asked: str, size: str
) -> None:
    for name in folders:
        (ground / "weights" / "models" / name).mkdir(parents=True)
    told = enter(ground, "sh", "-c", "echo $BIREFNET_SIZE", BIREFNET_SIZE=asked, OWNER=me())
    assert told.stdout.strip() == size


@as_root
@pytest.mark.parametrize(
    ("given", "used"), [({}, "temp"), ({"TMPDIR": "/elsewhere"}, "/elsewhere")]
)
def test_what_others_spool_goes_where_it_may_be_written(
    ground: Path, given: dict[str, str], used: str
) -> None:
    """On a read-only root /tmp is no place for it, and in a tmpfs it would be memory."""
    done = enter(ground, "sh", "-c", 'echo "$TMPDIR"', user=None, **given)
    assert Path(done.stdout.strip()) == ground / used
