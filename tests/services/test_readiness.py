"""What /ready concludes, where making it happen for real would take a minute."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from models.schemas import IdempotencyInfo, ModelId, ModelReadiness, ModelStatus, QueueInfo
from services.readiness import CRASHES_TOLD, Folder, Sight, look, problems

ISNET, RMBG = ModelId.LOCAL_ISNET, ModelId.RUNWARE_RMBG
READY = ModelReadiness(status=ModelStatus.READY)
ROOMY = Folder(free_bytes=1 << 40, writable=True)
WELL = Sight(
    draining=False,
    models={ISNET: READY, RMBG: ModelReadiness(status=ModelStatus.UNCONFIGURED, reason="no key")},
    default_models=(RMBG, ISNET),
    prices={RMBG: Decimal("0.018")},
    standings=(),
    breakers={},
    failures_in_a_row=0,
    queue=QueueInfo(running=0, running_limit=4, waiting=0, waiting_limit=32),
    shots_bytes=None,
    pictures=ROOMY,
    min_free_bytes=0,
    data=ROOMY,
    picks=ROOMY,
    data_problem=None,
    idempotency=IdempotencyInfo(available=True),
)


def test_nothing_is_said_where_nothing_is_wrong() -> None:
    assert problems(WELL) == []


def test_a_service_that_is_being_stopped_is_not_ready() -> None:
    (only,) = problems(replace(WELL, draining=True))
    assert (only.topic, only.blocks) == ("draining", True)


def test_networks_that_crash_again_and_again_block_where_nobody_else_answers() -> None:
    assert problems(replace(WELL, failures_in_a_row=CRASHES_TOLD - 1)) == []
    first, second = problems(replace(WELL, failures_in_a_row=CRASHES_TOLD))
    assert (first.topic, first.blocks) == ("models", True)
    assert f"failed {CRASHES_TOLD} times in a row" in first.reason
    assert (second.topic, second.blocks) == ("networks", False)


def test_they_are_only_told_beside_a_paid_model_that_answers() -> None:
    both = replace(WELL, models={ISNET: READY, RMBG: READY}, failures_in_a_row=CRASHES_TOLD)
    (only,) = problems(both)
    assert (only.topic, only.blocks) == ("networks", False)


@pytest.mark.parametrize("status", [ModelStatus.LOADING, ModelStatus.UNAVAILABLE])
def test_a_default_model_that_is_away_is_told_beside_another(status: ModelStatus) -> None:
    away = ModelReadiness(status=status, reason="because")
    (only,) = problems(replace(WELL, models={ISNET: READY, RMBG: away}))
    assert (only.topic, only.blocks, only.reason) == (
        "models",
        False,
        f"{RMBG} is {status}: because",
    )


def test_a_full_volume_stops_picks_and_the_ledger_but_no_shot() -> None:
    full = Folder(free_bytes=0, writable=True)
    found = problems(replace(WELL, data=full, picks=full))
    assert [(each.topic, each.blocks) for each in found] == [("data", False), ("picks", False)]
    assert all("is on a full disk" in each.reason for each in found)


def test_a_folder_that_is_not_there_yet_is_judged_by_the_one_above(tmp_path: Path) -> None:
    assert look(tmp_path / "not" / "yet").writable
    file = tmp_path / "file"
    file.write_text("in the way")
    assert not look(file).writable
    assert not look(file / "below").writable
