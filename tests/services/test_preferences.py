"""The pick below HTTP: what a stopped process left, what is too old, what is learned."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from models.preferences import PreferenceParameters
from models.schemas import ImageInfo, ModelId, ResultEntry, ShotRecord
from services.pick_notes import Note, PickNotes
from services.preferences import Preferences, Rules
from services.taste import FLOOR
from utils.tracking import Journal

GOOD = (ModelId.RUNWARE_RMBG, ModelId.KIE_RECRAFT, ModelId.LOCAL_ISNET)
RULES = Rules(
    on_failure="refuse",
    retention=timedelta(days=100),
    notes_ttl=timedelta(days=32),
    half_life_days=14,
    worth_usd=0.05,
)
PRICES = {ModelId.RUNWARE_RMBG: 0.018, ModelId.KIE_RECRAFT: 0.005}


def id_of(number: int) -> str:
    """Shots whose ids begin alike wait for each other."""
    return f"{number % 256:02x}{number:030x}"


def record(number: int = 0) -> ShotRecord:
    now = datetime.now(UTC)
    image = ImageInfo(
        width=10, height=10, format="PNG", bytes=1, sha256="", kind=None, had_alpha=False
    )
    return ShotRecord(
        request_id=id_of(number),
        status="complete",
        created_at=now,
        image=image,
        results=[ResultEntry(model=each, status="succeeded", cost_usd=0.01) for each in GOOD],
        cost_usd=0.03,
        latency_ms=1,
        expires_at=now,
    )


def picking(model: ModelId, number: int = 0) -> PreferenceParameters:
    return PreferenceParameters(request_id=id_of(number), model=model)


def using(folder: Path, work: Callable[[Preferences], Awaitable[None]]) -> None:
    async def main() -> None:
        preferences = Preferences(Journal(folder), rules=RULES, prices=PRICES)
        try:
            await work(preferences)
        finally:
            await preferences.close()

    asyncio.run(main())


def exported(preferences: Preferences) -> int:
    return len(list(preferences.export(None, None)))


@pytest.mark.parametrize("written", [True, False])
def test_a_pick_that_a_stopped_process_left_half_done_counts_once(
    tmp_path: Path, written: bool
) -> None:
    """Its note was written; its line may or may not be: asked for again, it is there once."""

    async def work(preferences: Preferences) -> None:
        first, _ = await preferences.pick(record(), picking(ModelId.LOCAL_ISNET))
        notes = PickNotes(tmp_path / "shots")
        note = notes.read(first.request_id)
        assert note is not None
        notes.write(first.request_id, Note(note.line, None))
        if not written:
            (tmp_path / "picks.jsonl").unlink()
        again, new = await preferences.pick(record(), picking(ModelId.LOCAL_ISNET))
        assert again.preference_id == first.preference_id
        assert new is not written
        assert exported(preferences) == 1

    using(tmp_path, work)


def test_a_changed_mind_after_a_pick_that_never_was_supersedes_the_one_before(
    tmp_path: Path,
) -> None:
    async def work(preferences: Preferences) -> None:
        first, _ = await preferences.pick(record(), picking(ModelId.LOCAL_ISNET))
        notes = PickNotes(tmp_path / "shots")
        note = notes.read(first.request_id)
        assert note is not None
        never = {**note.line, "preference_id": "f" * 32, "model": "runware-rmbg-2.0"}
        notes.write(first.request_id, Note(never, None, note))
        changed, _ = await preferences.pick(record(), picking(ModelId.KIE_RECRAFT))
        assert changed.supersedes == first.preference_id

    using(tmp_path, work)


def test_picks_of_many_shots_share_batches(tmp_path: Path) -> None:
    journal = Journal(tmp_path)

    async def main() -> None:
        preferences = Preferences(journal, rules=RULES)
        picks = (preferences.pick(record(n), picking(ModelId.LOCAL_ISNET, n)) for n in range(100))
        assert all(new for _, new in await asyncio.gather(*picks))
        assert exported(preferences) == 100
        await preferences.close()

    asyncio.run(main())
    assert journal.batches < 100


def test_what_is_too_old_goes_with_its_counts_and_the_rest_stays(tmp_path: Path) -> None:
    async def work(preferences: Preferences) -> None:
        await preferences.pick(record(), picking(ModelId.LOCAL_ISNET))
        new = (tmp_path / "picks.jsonl").read_text()
        old = new.replace(new.partition('"time":"')[2][:4], "2001", 1)
        (tmp_path / "picks-2001-01-01-20010101T000000000000-00000000.jsonl").write_text(old)
        await asyncio.to_thread(preferences.tidy)
        assert exported(preferences) == 1
        assert [path.name for path in tmp_path.glob("picks-*")] == []
        assert (await preferences.tally()).lines == 1

    using(tmp_path, work)


def test_picks_become_weights_for_ranking_and_the_order_of_paid_models(tmp_path: Path) -> None:
    async def work(preferences: Preferences) -> None:
        assert set(preferences.strengths("photo").values()) == {1.0}
        paid = [ModelId.RUNWARE_RMBG, ModelId.KIE_RECRAFT]
        asked = preferences.worth_asking(None, free=[ModelId.LOCAL_ISNET], paid=paid)
        assert asked == (ModelId.KIE_RECRAFT, ModelId.RUNWARE_RMBG)
        for number in range(150):
            await preferences.pick(record(number), picking(ModelId.RUNWARE_RMBG, number))
        await preferences.learn()
        weights = preferences.strengths(None, explore=False)
        assert weights[ModelId.RUNWARE_RMBG] == 1
        assert FLOOR <= weights[ModelId.KIE_RECRAFT] < 0.2
        asked = preferences.worth_asking(None, free=[ModelId.LOCAL_ISNET], paid=paid)
        assert ModelId.RUNWARE_RMBG in asked

    using(tmp_path, work)
