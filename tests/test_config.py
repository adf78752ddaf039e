"""Settings: the user's names and defaults, nonsense refused line by line, secrets kept."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from config import GROUPS, SettingsError, load_settings
from tests.conftest import ROOT, make_settings


def test_the_users_five_have_their_defaults() -> None:
    settings = load_settings(env_file=None)
    assert settings.providers.runware_api_key is None
    assert settings.providers.kie_api_key is None
    assert settings.work.max_concurrent_jobs == 4
    assert settings.storage.temp_dir == Path("/tmp/img-proc")  # noqa: S108  # the user's own default
    assert settings.work.log_level == "INFO"


def test_the_contracts_defaults_hold() -> None:
    settings = load_settings(env_file=None)
    assert settings.inputs.max_upload_mb == 100
    assert settings.inputs.max_megapixels == 64
    assert settings.storage.result_ttl_h == 24
    assert settings.storage.result_quota_mb == 2048
    assert settings.work.queue_limit == 32
    assert settings.work.deadline_s == 50


def test_the_environment_wins_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("MAX_CONCURRENT_JOBS=7\nLOG_LEVEL=debug\n")
    monkeypatch.setenv("MAX_CONCURRENT_JOBS", "9")
    settings = load_settings(env_file=env_file)
    assert settings.work.max_concurrent_jobs == 9
    assert settings.work.log_level == "DEBUG"


@pytest.mark.parametrize("value", ["", "  ", "changeme", "your_runware_api_key_here", "<key>"])
def test_an_empty_or_placeholder_key_means_unconfigured(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("RUNWARE_API_KEY", value)
    assert load_settings(env_file=None).providers.runware_api_key is None


def test_a_key_is_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNWARE_API_KEY", "s3cret-value")
    settings = load_settings(env_file=None)
    assert "s3cret-value" not in repr(settings)
    assert "s3cret-value" not in settings.model_dump_json()


def test_nonsense_is_refused_with_one_line_per_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_CONCURRENT_JOBS", "0")
    monkeypatch.setenv("LOG_LEVEL", "loud")
    monkeypatch.setenv("DEADLINE_S", "90")
    monkeypatch.setenv("PUBLIC_BASE_URL", "shop.example")
    with pytest.raises(SettingsError) as refusal:
        load_settings(env_file=None)
    lines = str(refusal.value).splitlines()
    assert len(lines) == 4
    assert sorted(line.split(":")[0] for line in lines) == [
        "DEADLINE_S",
        "LOG_LEVEL",
        "MAX_CONCURRENT_JOBS",
        "PUBLIC_BASE_URL",
    ]


def test_settings_are_frozen(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    with pytest.raises(ValidationError):
        settings.work.max_concurrent_jobs = 8  # type: ignore[misc]  # that is the point
    with pytest.raises(ValidationError):
        settings.work = settings.work  # type: ignore[misc]  # that is the point


def test_no_two_groups_share_a_name() -> None:
    names = [name for group in GROUPS.values() for name in group.model_fields]
    assert len(names) == len(set(names))


def test_the_service_ends_with_the_problems_and_no_traceback() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "uvicorn", "main:app"],
        cwd=ROOT,
        env={**os.environ, "MAX_CONCURRENT_JOBS": "none", "KIE_API_KEY": "s3cret-value"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode != 0
    assert "MAX_CONCURRENT_JOBS: " in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "s3cret-value" not in ended.stderr + ended.stdout
