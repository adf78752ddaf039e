"""The tally of a folder: exact under changed minds, rotation, other processes and deletion."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np

from models.preferences import StatsQuery
from models.schemas import ModelId
from services.pick_stats import stats_of
from services.tally import MODELS, Follower, Tally, archive_tally, remove_kept
from utils.tracking import Journal
from utils.tracking_files import archive_stems, pack_archives, remove_archive, remove_lines

ISNET, KIE = MODELS.index(ModelId.LOCAL_ISNET), MODELS.index(ModelId.KIE_RECRAFT)


def line(
    model: ModelId,
    shown: list[ModelId],
    *,
    day: str = "2026-11-24",
    kind: str | None = "photo",
    cost: float = 0.005,
    supersedes: dict[str, Any] | None = None,
    request_id: str = "a" * 32,
) -> dict[str, Any]:
    return {
        "preference_id": f"{model}-{day}",
        "request_id": request_id,
        "time": f"{day}T10:00:00.000000Z",
        "model": str(model),
        "kind": kind,
        "shown": [{"model": str(each), "cost_usd": cost} for each in shown],
        "not_shown": [{"model": "local-knockout", "cost_usd": None}],
        "supersedes": supersedes,
    }


BOTH = [ModelId.LOCAL_ISNET, ModelId.KIE_RECRAFT]
PICK = line(ModelId.LOCAL_ISNET, BOTH)


def append(folder: Path, *lines: dict[str, Any], rotate_bytes: int = 1 << 20) -> None:
    async def work() -> None:
        journal = Journal(folder, rotate_bytes=rotate_bytes)
        for each in lines:
            await journal.append(each)
        await journal.close()

    asyncio.run(work())


def counted(folder: Path) -> Tally:
    follower = Follower(folder)
    follower.refresh()
    tally = follower.tally()
    follower.close()
    return tally


def wins(tally: Tally) -> dict[str, int]:
    stats = stats_of(tally, StatsQuery())
    return {each.model.value: each.wins for each in stats.models}


def same(one: Tally, other: Tally) -> bool:
    """Cells of nothing are as good as none."""
    keys = one.cells.keys() | other.cells.keys()
    empty = Tally()
    for tally in (one, other):
        empty.merge(tally)
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for key in keys
        for name in ("pairs", "shown", "wins", "cost")
        for a, b in [(one.cells[key], other.cells[key])]
    )


def test_a_changed_mind_is_subtracted_exactly_where_it_was_counted() -> None:
    changed = line(ModelId.KIE_RECRAFT, BOTH[::-1], day="2026-11-25", cost=0.007, supersedes=PICK)
    tally, alone = Tally(), Tally()
    tally.read([json.dumps(each).encode() for each in (PICK, changed)])
    alone.read([json.dumps({**changed, "supersedes": None}).encode()])
    first_day = tally.cells.pop(("2026-11-24", "photo"))
    assert not any(each.any() for each in (first_day.pairs, first_day.shown, first_day.wins))
    assert not first_day.cost.any()
    assert same(tally, alone)


def test_lines_are_seen_as_other_journals_write_them(tmp_path: Path) -> None:
    follower = Follower(tmp_path)
    assert not follower.refresh()
    for number in range(1, 8):
        append(tmp_path, PICK, rotate_bytes=500)  # two lines a file: every other one rotates
        assert follower.refresh()
        assert follower.lines == number
    assert len(archive_stems(tmp_path)) >= 2
    assert not follower.refresh()
    assert same(follower.tally(), counted(tmp_path))
    follower.close()


def test_counts_are_kept_beside_archives_and_used(tmp_path: Path) -> None:
    append(tmp_path, *[PICK] * 9, rotate_bytes=1000)
    stem = archive_stems(tmp_path)[0]
    first = archive_tally(tmp_path, stem)
    (tmp_path / f"{stem}.jsonl.gz").write_bytes(b"")  # counted anew, it would be nothing
    assert not same(Tally(), first) if first.cells == {} else first.lines > 0
    kept = tmp_path / f"{stem}.npz"
    assert kept.exists()
    remove_archive(tmp_path, stem)
    remove_kept(tmp_path)
    assert not kept.exists()


def test_a_kept_count_that_is_damaged_is_made_again(tmp_path: Path) -> None:
    append(tmp_path, *[PICK] * 4, rotate_bytes=1000)
    before = counted(tmp_path)
    for kept in tmp_path.glob("*.npz"):
        kept.write_bytes(b"no archive")
    assert same(counted(tmp_path), before)


def test_packing_changes_no_count_and_removing_does(tmp_path: Path) -> None:
    other = line(ModelId.KIE_RECRAFT, BOTH, request_id="b" * 32)
    follower = Follower(tmp_path)
    append(tmp_path, *[PICK, other] * 5, rotate_bytes=1000)
    follower.refresh()
    before = follower.tally()
    pack_archives(tmp_path)
    assert not follower.refresh()
    assert same(before, follower.tally())
    assert remove_lines(tmp_path, lambda each: b"b" * 32 in each) == 5
    follower.refresh()
    assert wins(follower.tally()) == {"kie-recraft": 0, "local-isnet": 5}
    assert follower.lines == 5
    follower.close()


def test_a_line_that_cannot_be_understood_stops_nothing() -> None:
    tally = Tally()
    odd = [b"[]\n", b"{}\n", b"nonsense\n", json.dumps({**PICK, "model": "gone"}).encode()]
    tally.read([*odd, json.dumps(PICK).encode()])
    assert (tally.lines, wins(tally)) == (1, {"kie-recraft": 0, "local-isnet": 1})


def test_a_model_that_no_longer_exists_is_passed_over() -> None:
    old = {**PICK, "shown": [{"model": "gone", "cost_usd": 1.0}, *PICK["shown"]]}
    tally, alone = Tally(), Tally()
    tally.read([json.dumps(old).encode()])
    alone.read([json.dumps(PICK).encode()])
    assert same(tally, alone)


def test_stats_count_by_kind_period_and_money() -> None:
    tally = Tally()
    lines = [
        line(ModelId.LOCAL_ISNET, BOTH, kind="photo", day="2026-11-01"),
        line(ModelId.KIE_RECRAFT, BOTH, kind="photo", day="2026-11-24"),
        line(ModelId.KIE_RECRAFT, BOTH, kind=None, day="2026-12-01"),
    ]
    tally.read([json.dumps(each).encode() for each in lines])
    stats = stats_of(tally, StatsQuery(by="month"))
    assert [(each.name, each.picks) for each in stats.groups or []] == [
        ("2026-11", 2),
        ("2026-12", 1),
    ]
    kie = next(each for each in stats.models if each.model is ModelId.KIE_RECRAFT)
    assert (kie.shown, kie.wins, kie.cost_usd) == (3, 2, 0.015)
    assert kie.cost_per_win_usd == 0.0075
    weeks = stats_of(tally, StatsQuery(by="week", kind="photo")).groups or []
    assert [each.name for each in weeks] == ["2026-W44", "2026-W48"]
    kinds = stats_of(tally, StatsQuery.model_validate({"by": "kind", "until": "2026-11-24"}))
    assert [(each.name, each.picks) for each in kinds.groups or []] == [("photo", 2)]
