"""The README's table of costs agrees with the settings, the providers' page and a real bill."""

import re
from decimal import Decimal
from pathlib import Path

from config import load_settings
from sandbox.options import Options, Times
from tests.conftest import ROOT, artwork, serving
from tests.sandbox_thread import provider_settings, running_sandbox

ROW = re.compile(r"^\| (.+?) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", re.MULTILINE)
SHOT = "one shot of all three"


def table() -> dict[str, tuple[Decimal, Decimal, Decimal]]:
    """The user's price, the reported live one, and what the sandbox billed, by model."""
    readme = (ROOT / "README.md").read_text()
    section = readme.partition("## What a picture costs")[2].partition("\n## ")[0]
    return {
        name.strip("`"): (Decimal(wanted), Decimal(live), Decimal(billed))
        for name, wanted, live, billed in ROW.findall(section)
    }


def asked_models() -> dict[str, str]:
    """What each paid model is called at its provider, as the settings stand by default."""
    providers = load_settings(env_file=None).providers
    return {
        "runware-rmbg-2.0": providers.runware_rmbg_model,
        "runware-birefnet-portrait": providers.runware_portrait_model,
        "kie-recraft": providers.kie_model,
    }


def test_the_live_prices_are_the_settings() -> None:
    prices = load_settings(env_file=None).providers.provider_prices
    live = {name: live for name, (_, live, _) in table().items() if name != SHOT}
    assert live == {model: prices[name] for model, name in asked_models().items()}


def test_the_users_and_the_live_prices_are_those_of_the_providers_page() -> None:
    page = (ROOT / "docs" / "PROVIDERS.md").read_text()
    rows = re.findall(
        r"^\| `([\w.-]+)` \| `\w+=(\S+)`.*? \| ([\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE
    )
    named = {(model, name): (Decimal(a), Decimal(b)) for model, name, a, b in rows}
    assert {model: named[model, name] for model, name in asked_models().items()} == {
        name: row[:2] for name, row in table().items() if name != SHOT
    }


def test_a_shot_costs_the_sum_of_its_models() -> None:
    rows = table()
    models = [row for name, row in rows.items() if name != SHOT]
    assert rows[SHOT] == tuple(sum(column) for column in zip(*models, strict=True))


def test_the_sandbox_bills_what_the_table_says(tmp_path: Path) -> None:
    models = asked_models()
    with running_sandbox(Options(times=Times(kie_step_s=0.02))) as sandbox:
        with serving(tmp_path, **provider_settings(sandbox)) as server:
            shot = server.shoot(artwork(width=300, height=280), models=",".join(models))
        sent = {
            operation: len(list(sandbox.journal.calls(operation)))
            for operation in ("removeBackground", "createTask")
        }
        billed = {model: sandbox.bill.line(name) for model, name in models.items()}
        total = sandbox.bill.total_usd
    told = {each["model"]: Decimal(str(each["cost_usd"])) for each in shot.json()["results"]}
    assert sent == {"removeBackground": 2, "createTask": 1}
    assert {line.charged for line in billed.values()} == {1}
    assert told == {model: line.usd for model, line in billed.items()}
    assert {name: row[2] for name, row in table().items()} == {**told, SHOT: total}
    assert Decimal(shot.headers["x-cost-usd"]) == total
