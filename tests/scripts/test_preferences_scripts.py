"""The report's arithmetic on known picks, and the way back from the log into the journal."""

import asyncio
import json
from datetime import date, timedelta
from pathlib import Path

import pytest

from models.schemas import ModelId
from scripts.preferences_replay import replay
from scripts.preferences_report import table
from services.pick_report import Learning, report_of
from services.tally import MODELS, Ballot, Follower, Tally
from services.taste import Stakes

KIE, RMBG, ISNET = (
    MODELS.index(model)
    for model in (ModelId.KIE_RECRAFT, ModelId.RUNWARE_RMBG, ModelId.LOCAL_ISNET)
)
PRICES = {ModelId.KIE_RECRAFT: 0.005, ModelId.RUNWARE_RMBG: 0.018}


def weeks_of_picks(winner: int, weeks: int = 3) -> Tally:
    """A hundred picks a week, all for one model; both paid models were asked every time."""
    tally = Tally()
    for week in range(weeks):
        day = (date(2026, 11, 2) + timedelta(weeks=week)).isoformat()
        costs = ((RMBG, 18_000), (KIE, 5_000), (ISNET, 0))
        for _ in range(100):
            tally.count(Ballot(day, "photo", winner, (RMBG, KIE, ISNET), costs), 1)
            tally.lines += 1
    return tally


def learning() -> Learning:
    return Learning(14, Stakes(PRICES, 0.05))


def test_a_report_saves_nothing_before_it_has_learned_and_most_after() -> None:
    report = report_of(weeks_of_picks(ISNET), "week", learning())
    assert [each["name"] for each in report.periods] == ["2026-W45", "2026-W46", "2026-W47"]
    assert report.spent_usd == pytest.approx([2.3, 2.3, 2.3])
    assert report.adaptive_usd[0] == pytest.approx(2.3)
    assert max(report.adaptive_usd[1:]) < 0.5
    assert sum(report.lost) == 0
    assert report.periods[0]["win_rates"]["local-isnet"] == 1
    assert "300 picks" in table(weeks_of_picks(ISNET), report)


def test_a_model_that_is_worth_it_goes_on_being_asked() -> None:
    report = report_of(weeks_of_picks(KIE), "week", learning())
    assert sum(report.lost) < 10
    assert 0.45 < report.adaptive_usd[-1] < 1.2  # Kie.ai's 0.5, and now and then the other


def test_logged_picks_come_back_once(tmp_path: Path) -> None:
    line: dict[str, object] = {
        "preference_id": "a",
        "time": "2026-11-24T10:00:00.000000Z",
        "model": "local-isnet",
        "kind": None,
        "shown": [{"model": "local-isnet", "cost_usd": 0.0}],
        "not_shown": [],
    }
    log = [
        json.dumps({"event": "request", "status": 202}) + "\n",
        json.dumps({"event": "pick_logged", "line": line}) + "\n",
        "no JSON\n",
    ]
    assert asyncio.run(replay(tmp_path, log)) == 1
    assert asyncio.run(replay(tmp_path, log * 2)) == 0
    follower = Follower(tmp_path)
    follower.refresh()
    assert follower.lines == 1
    follower.close()
