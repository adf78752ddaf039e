"""NOTICE, the bill of materials, the pruned packages and the list of parts are what they claim."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from packaging.utils import canonicalize_name

from models.inference import Form
from scripts import image_parts, notice, sbom
from services.weights import WEIGHT_FILES
from tests.conftest import ROOT
from tests.graphs import Deformable, Maker

STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u10
Description: GNU C Library
 with more: words

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""


def test_the_notice_names_what_is_required_and_nothing_else() -> None:
    text = notice.NOTICE.read_text(encoding="utf-8")
    packages = text.partition("Python packages\n")[2].partition("\n\n")[0].splitlines()[1:]
    assert [line.partition(":")[0] for line in packages] == notice.required_names()
    assert len(packages) > 50
    assert all(re.fullmatch(r"[a-z0-9-]+: .*[A-Z].*", line) for line in packages)


def test_the_notice_names_every_network_source() -> None:
    text = notice.NOTICE.read_text(encoding="utf-8")
    for file in WEIGHT_FILES:
        for source in file.sources:
            assert f"{file.name}, from {source.label}:\n  {source.licence}\n" in text + "\n"


def test_a_package_that_is_not_there_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    required = tmp_path / "requirements.txt"
    required.write_text(
        "# made up\nno-such-package==1 \\\n    --hash=sha256:00\n"
        "colorama==1 ; sys_platform == 'win32' \\\n    --hash=sha256:00\n",
        encoding="ascii",
    )
    assert notice.required_names(required) == ["no-such-package"]
    monkeypatch.setattr(notice, "required_names", lambda: ["no-such-package"])
    with pytest.raises(SystemExit, match="no-such-package"):
        notice.notice()


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A small venv without packages of its own but two that are called like Pillows."""
    folder = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    for name, version in (("pillow", "13.0.0"), ("pillow_simd", "12.1.1.post0")):
        info = site / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n",
            encoding="ascii",
        )
        (info / "RECORD").write_text(f"{info.name}/METADATA,,\n", encoding="ascii")
    return folder


def test_the_bill_of_materials_names_packages_debian_and_networks(
    tmp_path: Path, environment: Path
) -> None:
    status, weights, target = tmp_path / "status", tmp_path / "weights", tmp_path / "sbom.json"
    status.write_text(STATUS, encoding="ascii")
    manifest = weights / "models" / "net" / "net.source.json"
    manifest.parent.mkdir(parents=True)
    facts = {"sha256": "ab" * 32, "source": "https://example.test/net", "licence": "MIT, they say"}
    manifest.write_text(json.dumps(facts), encoding="ascii")
    asked = {"environment": environment, "dpkg-status": status, "weights": weights}
    words = [word for name, path in asked.items() for word in (f"--{name}", str(path))]
    assert sbom.main(["--version", "1.2.3", "--output", str(target), *words]) == 0
    bom = json.loads(target.read_text(encoding="utf-8"))
    assert (bom["bomFormat"], bom["metadata"]["component"]["version"]) == ("CycloneDX", "1.2.3")
    by_name = {each["name"]: each for each in bom["components"]}
    assert set(by_name) == {"pillow", "pillow-simd", "libc6", "net"}
    assert by_name["pillow"]["scope"] == "excluded"
    assert by_name["libc6"]["purl"] == "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64"
    assert by_name["net"]["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]


def test_a_bill_of_materials_that_is_not_one_is_refused() -> None:
    with pytest.raises(ValueError, match="not valid"):
        sbom.require_valid('{"bomFormat": "CycloneDX", "specVersion": "1.6", "components": 1}')


def test_the_tool_that_writes_it_has_the_version_of_the_tests() -> None:
    pins = dict(
        line.split(" ")[0].split("==")
        for line in (ROOT / "requirements-sbom.txt").read_text(encoding="utf-8").splitlines()
        if re.match(r"[a-z].*==", line)
    )
    installed = {
        str(canonicalize_name(each.name)): each.version
        for each in importlib.metadata.distributions()
    }
    assert len(pins) > 20
    assert {name: installed.get(name) for name in pins} == pins


def test_parts_belong_to_their_packages_and_count_once(tmp_path: Path) -> None:
    def put(name: str, size: int) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
        return path

    site = "opt/venv/lib/python3.11/site-packages"
    put(f"{site}/net/big.so", 1000)
    put(f"{site}/net/stray.txt", 5)
    put("opt/venv/bin/net", 10)
    record = put(f"{site}/some_net-1.0.dist-info/RECORD", 0)
    record.write_text("net/big.so,,\nnet/gone.so,,\n../../../bin/net,,\n", encoding="ascii")
    put("usr/lib/libc.so", 300)
    (tmp_path / "lib").symlink_to("usr/lib")
    put("var/lib/dpkg/info/libc6:amd64.list", 0).write_text("/lib/libc.so\n", encoding="ascii")
    weights = put("app/weights/models/net.onnx", 700)
    os.link(weights, tmp_path / "app" / "weights" / "again.onnx")
    put("proc/kcore", 9999)
    sizes = image_parts.parts(tmp_path, tmp_path / "opt" / "venv")
    assert sizes["some-net"] == 1010
    assert sizes["Debian's libc6"] == 300
    assert sizes["/app/weights"] == 700
    assert sizes["/opt/venv"] == 5 + record.stat().st_size
    assert sizes.total() == 1010 + 300 + 700 + sizes["/opt/venv"] + sizes["/var"]


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OpenVINO's package as docker/prune.sh leaves it."""
    found = find_spec("openvino")
    assert found is not None
    assert found.origin is not None
    site = tmp_path_factory.mktemp("pruned")
    try:
        shutil.copytree(Path(found.origin).parent, site / "openvino", copy_function=os.link)
    except (OSError, shutil.Error):  # another disk
        shutil.rmtree(site / "openvino")
        shutil.copytree(Path(found.origin).parent, site / "openvino")
    environment = {**os.environ, "SITE": str(site), "VENV": str(site)}
    subprocess.run(["bash", str(ROOT / "docker" / "prune.sh")], env=environment, check=True)
    return site


def run_with(pruned: Path, code: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "PYTHONPATH": f"{pruned}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_not_used_is_pruned(pruned: Path) -> None:
    left = sorted(each.name for each in (pruned / "openvino" / "libs").glob("libopenvino*"))
    kept = ("", "_c", "_intel_cpu_plugin", "_ir_frontend", "_onnx_frontend")
    assert [name.partition(".so")[0] for name in left] == [f"libopenvino{each}" for each in kept]


SMALL = """
import sys
import numpy as np
import openvino
from pathlib import Path
from models.inference import Engine, RunPlan
from services.inference import open_runner
assert openvino.__file__.startswith(sys.argv[1]), openvino.__file__
for path in sys.argv[3:]:
    runner = open_runner(RunPlan(Path(path), engine=Engine.OPENVINO))
    runner.load()
    np.save(Path(path).with_suffix(".npy"), runner.run(np.load(sys.argv[2])))
"""


def test_both_forms_are_made_and_run_by_what_is_left(pruned: Path, tmp_path: Path) -> None:
    """ONNX is read, OpenVINO's own form written, read and run: every plug-in that is used."""
    source, picture = tmp_path / "net.onnx", tmp_path / "picture.npy"
    maker = Maker()
    x = maker.input("picture", 1, 3, 12, 12)
    maker.output(Deformable(kernel=3, pad=1).add(maker, x))
    onnx.save(maker.model, source)
    np.save(picture, np.random.default_rng(1).uniform(-1, 1, (1, 3, 12, 12)).astype(np.float32))
    form = "from services.prepared import main; import sys; sys.exit(main(sys.argv[1:]))"
    words = [str(source), Form.SINGLES, "--convolutions", "1", "--licence", "test"]
    run_with(pruned, form, *words)
    files = [str(source), str(tmp_path / "net.singles.xml")]
    run_with(pruned, SMALL, str(pruned), str(picture), *files)
    plain, own = (np.load(Path(file).with_suffix(".npy")) for file in files)
    assert plain.shape == own.shape
    assert np.abs(plain - own).max() < 1e-4 * np.abs(plain).max()


def fetch_networks(folder: Path, python: str, **arguments: str) -> subprocess.CompletedProcess[str]:
    """docker/weights.sh from folder/cache to folder/image, with `python` in the place of Python."""
    tools = folder / "bin"
    tools.mkdir()
    for name, text in (("python", python), ("npm", "")):  # with an npm none is installed
        (tools / name).write_text(f"#!/bin/sh\n{text}\n", encoding="ascii")
        (tools / name).chmod(0o755)
    words = [ROOT / "docker" / "weights.sh", folder / "cache", folder / "image"]
    return subprocess.run(
        ["bash", *map(str, words)],
        env={"PATH": f"{tools}:{os.environ['PATH']}", "PYTHON": str(tools / "python"), **arguments},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        ({"BIREFNET": "none"}, set()),
        ({}, {"birefnet-general.singles.bin", "birefnet-general.singles.xml"}),
        ({"BIREFNET_FORM": "rows"}, {"birefnet-general.rows.onnx"}),
        (
            {"BIREFNET": "lite", "BIREFNET_FORM": "halves"},
            {"birefnet-general-lite.halves.bin", "birefnet-general-lite.halves.xml"},
        ),
    ],
)
def test_an_image_holds_what_is_loaded_and_not_what_it_was_made_of(
    tmp_path: Path, arguments: dict[str, str], kept: set[str]
) -> None:
    for name in ("isnet-general-use", "birefnet-general", "birefnet-general-lite"):
        home = tmp_path / "cache" / "models" / name
        home.mkdir(parents=True)
        for suffix in ("onnx", "lock", "source.json", "rows.onnx", "rows.rewrite.json"):
            (home / f"{name}.{suffix}").touch()
        for form in ("singles", "halves"):
            for suffix in ("xml", "bin", "rewrite.json"):
                (home / f"{name}.{form}.{suffix}").touch()
    done = fetch_networks(tmp_path, 'echo "$@"', **arguments)
    assert done.returncode == 0, done.stderr
    assert f"--form {arguments.get('BIREFNET_FORM', 'singles')} " in done.stdout
    there = {path.name for path in (tmp_path / "image").rglob("*") if path.is_file()}
    assert {name for name in there if not name.endswith(".json")} == {
        "isnet-general-use.onnx",
        *kept,
    }
    assert {name.partition(".")[0] for name in there if name.endswith(".source.json")} == {
        name.partition(".")[0] for name in {"isnet-general-use", *kept}
    }


def test_a_network_that_cannot_be_had_ends_the_build_with_what_to_do(tmp_path: Path) -> None:
    done = fetch_networks(tmp_path, "exit 1")
    assert done.returncode == 1
    assert "--build-arg BIREFNET=none" in done.stderr


def test_an_argument_that_means_nothing_is_refused(tmp_path: Path) -> None:
    done = fetch_networks(tmp_path, "exit 0", BIREFNET="some")
    assert (done.returncode, "not some" in done.stderr) == (1, True)
