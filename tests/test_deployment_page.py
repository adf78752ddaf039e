"""docs/DEPLOYMENT.md can be relied on: its money adds up, its files fit, its backup restores."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from config import load_settings
from routers.problems import TABLE
from sandbox.options import Options, Times
from scripts import sdl
from tests.conftest import ROOT, artwork, serving
from tests.sandbox_thread import provider_settings, running_sandbox
from tests.test_prices import SHOT, asked_models, table

PAGE = (ROOT / "docs" / "DEPLOYMENT.md").read_text()
KEY = "a-key-that-only-the-shop-has"
CENT = Decimal("0.01")
CPU = (Decimal(15), Decimal(25))
GPU = (Decimal(96), Decimal(288))
"""Dollars a month, from and to: the user's own figures, in the document that began this project."""


def section(heading: str) -> str:
    return PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def rows(text: str, *, columns: int) -> list[list[str]]:
    """The cells of every table row of so many columns, headings and rules left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if len(row) == columns and set("".join(row)) - set("- ")]


def block(text: str, containing: str) -> str:
    (found,) = [
        each for each in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) if containing in each
    ]
    return str(found)


def planned_and_live() -> tuple[Decimal, Decimal]:
    """Dollars a shot of all three: as planned by the README, and by the settings' list prices."""
    prices = load_settings(env_file=None).providers.provider_prices
    return table()[SHOT][0], sum((prices[name] for name in asked_models().values()), Decimal())


def amount(name: str) -> Decimal:
    placement = sdl.read(ROOT / name)["profiles"]["placement"]["akash"]
    return Decimal(placement["pricing"]["api"]["amount"])


def test_the_table_of_months_days_and_blocks_adds_up() -> None:
    months = {
        "CPU box, from": CPU[0],
        "CPU box, to": CPU[1],
        "`amount` of deploy.yaml": sdl.month_usd(amount("deploy.yaml")),
        "GPU box, from": GPU[0],
        "GPU box, to": GPU[1],
        "`amount` of deploy-gpu.yaml": sdl.month_usd(amount("deploy-gpu.yaml")),
    }
    uact_usd = sdl.month_usd(1)
    expected = [
        [
            name,
            f"{month:.2f}",
            str((month / 30).quantize(CENT)),
            str((month / uact_usd).quantize(CENT)),
        ]
        for name, month in months.items()
    ]
    text = section("What it costs").partition("Pictures come on top")[0]
    assert rows(text, columns=4)[1:] == expected
    assert f"uact × {uact_usd.normalize()}" in text  # noqa: RUF001  # a multiplication sign
    assert f"{sdl.month_usd(10_000) / 30:.0f} dollars a day" in text


def test_a_bid_at_the_users_price_fits_under_the_ceiling() -> None:
    assert CPU[1] < sdl.month_usd(amount("deploy.yaml")) < 2 * CPU[1]
    assert GPU[1] < sdl.month_usd(amount("deploy-gpu.yaml")) < 2 * GPU[1]


def test_the_table_of_box_and_pictures_adds_up() -> None:
    planned, live = planned_and_live()
    text = section("What it costs").partition("Pictures come on top")[2]
    head, *found = rows(text, columns=4)
    assert head[1:3] == [f"CPU box, {planned} a shot", f"CPU box, {live} a shot"]
    assert len(found) >= 4
    for row in found:
        shots = int(row[0])
        assert row[1:] == [
            f"{low + shots * price:.2f} to {high + shots * price:.2f}"
            for (low, high), price in ((CPU, planned), (CPU, live), (GPU, Decimal()))
        ]


def test_the_break_even_table_adds_up() -> None:
    planned, live = planned_and_live()
    dear = load_settings(env_file=None).providers
    saved = [planned, live, dear.provider_prices[dear.runware_rmbg_model]]
    least, most = GPU[0] - CPU[1], GPU[1] - CPU[0]
    text = section("The graphics card")
    head, *found = rows(text, columns=4)
    assert (f"({least} more)" in head[2], f"({most} more)" in head[3]) == (True, True)
    assert [row[1:] for row in found] == [
        [
            f"{each * 1000:.2f}",
            str((least / each).to_integral_value(ROUND_CEILING)),
            str((most / each).to_integral_value(ROUND_CEILING)),
        ]
        for each in saved
    ]
    assert f"{GPU[0]} − {CPU[1]} = {least}" in text  # noqa: RUF001  # a minus sign
    assert f"{GPU[1]} − {CPU[0]} = {most}" in text  # noqa: RUF001


def test_a_first_day_ends_after_as_many_shots_as_it_says() -> None:
    _, live = planned_and_live()
    assert f"A first day with 5 ends after {int(5 / live)} shots of {live}" in PAGE


def test_the_disk_sum_is_that_of_the_file() -> None:
    for name in sorted(sdl.BOXES):
        given = dict(line.split("=", 1) for line in sdl.read(ROOT / name)["services"]["api"]["env"])
        said = (
            f"{given['RESULT_QUOTA_MB']} + 2 {{}} ({given['MAX_CONCURRENT_JOBS']} + "
            f"{given['QUEUE_LIMIT']}) {{}} {given['MAX_UPLOAD_MB']} = {sdl.disk_needed_mib(given)}"
        )
        assert said.format("x", "x") in (ROOT / name).read_text()
        if name == "deploy.yaml":
            assert said.format("×", "×") in PAGE  # noqa: RUF001  # a multiplication sign


def test_limits_of_ingress_and_service_are_those_in_force() -> None:
    text = section("The ingress, and how our limits fit")
    settings = load_settings(env_file=None)
    upload_mb = next(
        int(line.partition("=")[2])
        for line in sdl.read(ROOT / "deploy.yaml")["services"]["api"]["env"]
        if line.startswith("MAX_UPLOAD_MB=")
    )
    assert f"`DEADLINE_S` {settings.work.deadline_s:.0f}, at most 55" in text
    assert f"`CLIENT_STALL_S` {settings.work.client_stall_s:.0f}" in text
    assert f"`IMAGE_URL_TIMEOUT_S` is {settings.inputs.image_url_timeout_s:.0f} s" in text
    assert f"`MAX_UPLOAD_MB` {upload_mb}:" in text
    assert f"{sdl.SILENCE_MS // 1000} s (`read_timeout`" in text
    assert f"{sdl.BODY_BYTES >> 20} MiB (`max_body_size`" in text
    assert f"so {sdl.BODY_BYTES * 3 // 4 >> 20} MiB fit" in text


def test_every_problem_in_the_last_table_is_one_of_ours() -> None:
    statuses = {kind.code: kind.status for kind in TABLE.values()}
    named = re.findall(r"^\| (\d{3}) `(\w+)`", section("When something is wrong"), re.MULTILINE)
    assert len(named) >= 8
    for status, code in named:
        assert statuses[code] == int(status)


def test_what_is_to_be_filled_in_is_explained() -> None:
    text = section("What is asked of Akash")
    for name in sorted(sdl.BOXES):
        for line in sdl.read(ROOT / name)["services"]["api"]["env"]:
            setting, _, value = line.partition("=")
            if value in {"", sdl.UNFILLED_KEYS}:
                assert f"`{setting}`" in (PAGE if setting.startswith("BEN2") else text)


def test_the_first_commands_name_what_is_to_be_filled_in(tmp_path: Path) -> None:
    for name in ("config.py", "deploy.yaml", "models", "scripts", "utils"):
        (tmp_path / name).symlink_to(ROOT / name)
    commands = block(section("What is asked of Akash"), "scripts.sdl")
    done = subprocess.run(
        ["bash", "-c", commands.replace("python ", f"{shlex.quote(sys.executable)} ")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert re.fullmatch(r"[\w-]{43}\n", done.stdout)
    assert done.stderr.splitlines() == [
        "mine.yaml: image: name your own registry and account",
        "mine.yaml: env: API_KEYS is not filled in: the port would be open",
    ]
    assert done.returncode == 1


@pytest.mark.skipif(shutil.which("tar") is None, reason="NO TAR: the backup is not tried")
def test_the_backup_of_the_page_restores(tmp_path: Path) -> None:
    """A shot with a pick, its volume saved and unpacked elsewhere by the page's own commands."""
    old, new = tmp_path / "old", tmp_path / "new"
    with running_sandbox(Options(times=Times(kie_step_s=0.02))) as sandbox:
        settings = {**provider_settings(sandbox), "api_keys": f"shop:{KEY}"}
        with serving(tmp_path / "a", data_dir=old, **settings) as server:
            server.client.headers.update({"X-API-Key": KEY, "Idempotency-Key": "order-1"})
            shot = server.shoot(artwork(), models="local-knockout,kie-recraft").json()
            pick = {"request_id": shot["request_id"], "model": "local-knockout"}
            assert server.client.post("/preferences", json=pick).status_code == 201
            before = kept(server.client.get, shot["request_id"])
        run_tar(f"tar -C {old} ", "-czf", output=tmp_path / "data.tar.gz")
        new.mkdir()
        assert (old / "idempotency.sqlite3").exists()
        run_tar(f"tar -C {new} ", "-xzf", archive=tmp_path / "data.tar.gz")
        assert not list(new.glob("idempotency*"))
        assert (new / "signing.key").read_bytes() == (old / "signing.key").read_bytes()
        with serving(tmp_path / "b", data_dir=new, **settings) as server:
            server.client.headers["X-API-Key"] = KEY
            after = kept(server.client.get, shot["request_id"])
    assert before["costs"]["cost_usd"] > 0
    assert after["costs"] == before["costs"]
    assert after["export"] == before["export"] != ""
    assert (before["status"], after["status"]) == ("complete", "expired")


def kept(get: Callable[[str], httpx.Response], request_id: str) -> dict[str, Any]:
    costs = get("/costs").json()
    return {
        "costs": {name: costs[name] for name in ("cost_usd", "by_day", "by_model", "spend")},
        "export": get("/preferences/export").text,
        "status": get(f"/results/{request_id}").json()["status"],
    }


def run_tar(
    begins: str, does: str, *, output: Path | None = None, archive: Path | None = None
) -> None:
    """The page's tar command that does `-czf` or `-xzf`, on another folder than /data."""
    (command,) = [
        each.strip(" \\")
        for each in re.findall(r"tar -C /data [^>\n]*", section("Backups"))
        if does in each
    ]
    command = command.replace("tar -C /data ", begins)
    if archive is not None:
        command = command.replace("/tmp/data.tar.gz", str(archive))  # noqa: S108  # the page's
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, timeout=60, check=True, cwd=ROOT
    )
    if output is not None:
        output.write_bytes(done.stdout)
