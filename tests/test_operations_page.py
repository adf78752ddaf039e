"""docs/OPERATIONS.md and the alert rules speak of numbers, events and settings that are there."""

import re
from pathlib import Path
from typing import Any

import pytest

from config import GROUPS
from routers.problems import TABLE
from scripts import sdl
from scripts.doctor import SECTIONS
from scripts.findings import EXIT_STATUS, Level
from tests.conftest import ROOT, serving
from tests.sandbox_thread import provider_settings, running_sandbox
from utils.watchdog import STUCK_STATUS

PAGE = (ROOT / "docs" / "OPERATIONS.md").read_text(encoding="utf-8")
METRICS = (ROOT / "docs" / "METRICS.md").read_text(encoding="utf-8")
RULES: list[dict[str, Any]] = [
    rule
    for group in sdl.read(ROOT / "tools" / "prometheus" / "alerts.yml")["groups"]
    for rule in group["rules"]
]
CODE = "\n".join(
    path.read_text(encoding="utf-8")
    for folder in ("services", "routers", "utils", "docker")
    for path in sorted((ROOT / folder).glob("*.*"))
)
FROM_THE_SCRAPER = {"up"}
NAME = re.compile(r"\b(?:dtf_\w+|process_\w+|up)\b")


def section(heading: str) -> str:
    return PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def first_cells(heading: str) -> list[str]:
    return re.findall(r"^\| (`.+?|\d.*?) \|", section(heading), re.MULTILINE)


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> str:
    with running_sandbox() as sandbox:
        settings = {**provider_settings(sandbox), "daily_budget_usd": 5}
        with serving(tmp_path_factory.mktemp("temp"), **settings) as server:
            server.client.get("/ready")
            return server.client.get("/metrics").text


def test_every_alert_has_its_row_and_every_row_its_alert() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names))
    assert [cell.strip("`") for cell in first_cells("Alerts")] == names


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_every_number_in_a_rule_is_told(rule: dict[str, Any], scraped: str) -> None:
    for name in set(NAME.findall(rule["expr"])) - FROM_THE_SCRAPER:
        base = name.removesuffix("_bucket")
        in_a_group_alone = base.startswith(
            ("dtf_memory_cgroup_", "dtf_memory_oom_", "dtf_memory_gr")
        )
        assert f"# TYPE {base} " in scraped or in_a_group_alone, name
        assert f"`{base}`" in METRICS or base.startswith("process_"), name
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["summary"].endswith(".")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_every_label_in_a_rule_is_one_that_is_used(rule: dict[str, Any], scraped: str) -> None:
    codes = {kind.code for kind in TABLE.values()}
    for name, selector in re.findall(r"(dtf_\w+)\{(.*?)\}", rule["expr"]):
        for label, value in re.findall(r'(\w+)(?:=~|!=|=)"(.*?)"', selector):
            assert f"`{label}`" in METRICS, label
            if label == "type":
                assert set(value.split("|")) <= codes
            if label in {"folder", "state", "outcome"} and name != "dtf_model_outcomes_total":
                assert all(f'{label}="{each}"' in scraped for each in value.split("|")), value


def test_every_number_on_the_page_is_in_the_list() -> None:
    for name in re.findall(r"`(dtf_\w+)", PAGE):
        assert f"`{name}`" in METRICS, name


def test_every_event_on_the_page_is_logged() -> None:
    told = re.findall(r"`([a-z]+(?:_[a-z]+)*)`", section("What to read in the log"))
    for event in set(told) - {"request_id", "returncode"}:
        assert f'"{event}"' in CODE or f"say {event} " in CODE, event


def test_every_setting_on_the_page_exists() -> None:
    settings = {name.upper() for group in GROUPS.values() for name in group.model_fields}
    others = {"CHANGELOG", "CONTAINER", "NEW", "OLD", "KEY", "TEMP_DIR", "SIGTERM", "SIGPROF"}
    named = set(re.findall(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(?:=[^`]*)?`", PAGE))
    assert named - others <= settings


def test_the_exit_statuses_are_those_of_the_code() -> None:
    assert f"| {STUCK_STATUS} | the watchdog" in PAGE
    told = "0 when all is well, 1\nwhen something is broken, 2 when there are only warnings"
    assert told.replace("\n", " ") in section("The doctor").replace("\n", " ")
    assert [EXIT_STATUS[level] for level in (Level.WELL, Level.BROKEN, Level.WARNING)] == [0, 1, 2]


def test_the_doctors_sections_are_told_in_order() -> None:
    told = [cell.strip("`") for cell in first_cells("The doctor")]
    assert tuple(each for each in told if each != "--only") == SECTIONS


def test_the_rules_are_where_the_page_says() -> None:
    for name in re.findall(r"tools/prometheus/[\w.]+", PAGE):
        assert Path(ROOT / name).is_file()
