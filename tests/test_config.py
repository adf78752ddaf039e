"""Settings: the user's names and defaults, nonsense refused line by line, secrets kept."""

import hashlib
import os
import subprocess
import sys
from decimal import Decimal
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


def test_every_paid_model_has_a_list_price() -> None:
    providers = load_settings(env_file=None).providers
    assert providers.provider_prices == {
        "bria:2@1": Decimal("0.018"),
        "runware:112@10": Decimal("0.0006"),
        "runware:110@1": Decimal("0.0006"),
        "recraft/remove-background": Decimal("0.005"),
    }
    asked = {
        providers.runware_rmbg_model,
        providers.runware_portrait_model,
        providers.kie_model,
    }
    assert asked <= set(providers.provider_prices)


@pytest.mark.parametrize(
    ("value", "prices"),
    [
        ("a:1@2=0.1", {"a:1@2": Decimal("0.1")}),
        (" a = 0.1 , b=2 ,", {"a": Decimal("0.1"), "b": Decimal(2)}),
        ("x=0.30", {"x": Decimal("0.3")}),
        ("a=0", {"a": Decimal(0)}),
        ("", {}),
        (" , ", {}),
    ],
)
def test_a_price_list_is_exact_dollars_by_model(
    monkeypatch: pytest.MonkeyPatch, value: str, prices: dict[str, Decimal]
) -> None:
    monkeypatch.setenv("PROVIDER_PRICES", value)
    assert load_settings(env_file=None).providers.provider_prices == prices


@pytest.mark.parametrize(
    "value", ["0.018", "bria", "bria=", "=0.018", "bria=dear", "bria=-1", "bria=NaN", "bria=inf",
              "bria=0.1;b=1", "a=b=1", "bria=0,018", '{"bria":0.018}'],
)  # fmt: skip
def test_a_price_list_of_nonsense_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("PROVIDER_PRICES", value)
    with pytest.raises(SettingsError, match=r"^PROVIDER_PRICES: .+$"):
        load_settings(env_file=None)


@pytest.mark.parametrize(
    ("value", "budget"), [("", None), (" ", None), ("0", Decimal(0)), ("2.50", Decimal("2.5"))]
)
def test_a_daily_budget_is_exact_and_empty_means_none(
    monkeypatch: pytest.MonkeyPatch, value: str, budget: Decimal | None
) -> None:
    monkeypatch.setenv("DAILY_BUDGET_USD", value)
    monkeypatch.setenv("KEY_DAILY_BUDGETS", "shop-a=0.1, shop-b=0" if value else "")
    providers = load_settings(env_file=None).providers
    assert providers.daily_budget_usd == budget
    assert providers.key_daily_budgets == (
        {"shop-a": Decimal("0.1"), "shop-b": Decimal(0)} if value else {}
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("DAILY_BUDGET_USD", value) for value in ("-1", "NaN", "inf", "much")],
        *[("KEY_DAILY_BUDGETS", value) for value in ("shop", "shop=", "=1", "shop=-1")],
        ("PROVIDER_FAILURES", "0"),
    ],
)
def test_a_budget_of_nonsense_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=rf"^{name}: .+$"):
        load_settings(env_file=None)


@pytest.mark.parametrize("value", ["sandbox", "sandbox:fault=kie.no_credits", "a-real-key"])
def test_a_key_is_kept_as_it_is_and_secret_also_where_it_asks_for_the_sandbox(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("RUNWARE_API_KEY", f" {value} ")
    monkeypatch.setenv("KIE_API_KEY", value)
    providers = load_settings(env_file=None).providers
    assert providers.runware_api_key is not None
    assert providers.runware_api_key.get_secret_value() == value
    assert providers.kie_api_key == providers.runware_api_key
    assert value not in repr(providers)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RUNWARE_URL", "https://ws-api.runware.ai/v1"),
        ("KIE_API_URL", "api.kie.ai"),
        ("KIE_UPLOAD_URL", ""),
        ("RUNWARE_RMBG_MODEL", ""),
        ("KIE_MODEL", ""),
        ("PROVIDER_USER_AGENT", ""),
        ("RUNWARE_TIMEOUT_S", "0"),
        ("KIE_TIMEOUT_S", "3601"),
        ("PROVIDER_PACE", "0"),
        ("PROVIDER_PROBE_S", "0.5"),
    ],
)
def test_a_provider_setting_of_nonsense_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=rf"^{name}: .+$"):
        load_settings(env_file=None)


def test_result_domains_are_lower_case_and_separated_by_commas(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PROVIDER_RESULT_DOMAINS", " Runware.AI ,127.0.0.1:9000,")
    assert load_settings(env_file=None).providers.provider_result_domains == {
        "runware.ai",
        "127.0.0.1:9000",
    }


def test_of_api_keys_only_the_digests_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEYS", " shop:s3cret-value-of-the-shop , till_2:s3cret:of:the=till!,")
    settings = load_settings(env_file=None)
    assert settings.access.api_keys == {
        "shop": hashlib.sha256(b"s3cret-value-of-the-shop").hexdigest(),
        "till_2": hashlib.sha256(b"s3cret:of:the=till!").hexdigest(),
    }
    assert "s3cret" not in repr(settings) + settings.model_dump_json()


@pytest.mark.parametrize(
    ("value", "position"),
    [
        ("s3cret-value-of-the-shop", 1),
        ("shop:s3cret", 1),
        ("shop:s3cret-value-of-the-shop,till:s3cret-short", 2),
        ("shop:s3cret-value-of-the-shop,,Till:s3cret-value-of-the-till", 3),
        ("shop:s3cret-value-of-the-shop,shop:s3cret-value-of-the-till", 2),
        ("shop:s3cret-value-of-the-shop,till:s3cret-value-of-the-shop", 2),
        (":s3cret-value-of-the-shop", 1),
        ("shop:s3cret value of the shop", 1),
        ("shop: s3cret-value-of-the-shop", 1),
        ("open:s3cret-value-of-the-shop", 1),
    ],
)
def test_a_bad_list_of_keys_names_the_entry_and_never_its_key(
    monkeypatch: pytest.MonkeyPatch, value: str, position: int
) -> None:
    monkeypatch.setenv("API_KEYS", value)
    with pytest.raises(SettingsError, match=rf"^API_KEYS: .*\bentry {position}\b") as refusal:
        load_settings(env_file=None)
    assert "s3cret" not in str(refusal.value)


@pytest.mark.parametrize(("value", "wanted"), [("", True), ("  ", True), (",", False)])
def test_no_keys_are_no_mistake_but_a_list_without_any_is(
    monkeypatch: pytest.MonkeyPatch, value: str, wanted: bool
) -> None:
    monkeypatch.setenv("API_KEYS", value)
    if wanted:
        assert load_settings(env_file=None).access.api_keys == {}
        return
    with pytest.raises(SettingsError, match=r"^API_KEYS: "):
        load_settings(env_file=None)


def test_a_short_signing_secret_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNING_SECRET", "s3cret-short")
    with pytest.raises(SettingsError, match=r"^SIGNING_SECRET: ") as refusal:
        load_settings(env_file=None)
    assert "s3cret" not in str(refusal.value)
    monkeypatch.setenv("SIGNING_SECRET", "s3cret-" * 5)
    assert "s3cret" not in repr(load_settings(env_file=None))
