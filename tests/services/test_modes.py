"""What `fast` and `cascade` decide, as pure functions, and that shots are fired accordingly."""

import asyncio
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.images import Flag, Pixels
from models.schemas import Mode, ModelId, ResultEntry, ShotRecord
from services import modes
from services.modes import Opinion, Policy, agreement, mask_of, next_paid, suffices
from services.remover import RemovalOptions
from services.shotgun import Plan, Taste
from tests.answering import (
    BIREFNET,
    ISNET,
    KIE,
    KNOCKOUT,
    PORTRAIT,
    RMBG,
    Cutter,
    outcomes,
    shotgun,
    table,
)
from tests.conftest import artwork, png_bytes, serving
from tests.fakes import FakeRemover, unavailable
from utils.clock import Deadline

pytestmark = pytest.mark.anyio

WAIT_S = 10
PICTURE = artwork()


def left(share: float, *, width: int = 200) -> modes.Mask:
    mask = np.zeros((100, width), bool)
    mask[:, : round(share * width)] = True
    return mask


def opinion(share: float, *, acceptable: bool = True) -> Opinion:
    return Opinion(left(share), acceptable)


def test_agreement_is_the_lowest_intersection_over_union() -> None:
    assert agreement([left(0.5), left(0.5)]) == 1
    assert agreement([left(0.5), left(0.4)]) == pytest.approx(0.8)
    assert agreement([left(0.5), left(0.5), left(0.25)]) == pytest.approx(0.5)
    assert agreement([left(0.5), ~left(0.5)]) == 0
    assert agreement([left(0), left(0)]) == 1
    with pytest.raises(ValueError, match="two"):
        agreement([left(0.5)])


def test_a_mask_is_small_and_cut_at_128() -> None:
    alpha = np.zeros((600, 2048), np.uint8)
    alpha[:, :1024] = 128
    mask = mask_of(alpha)
    assert mask.shape == (150, 512)
    assert mask[:, :256].all()
    assert not mask[:, 256:].any()
    assert mask_of(np.full((20, 30), 127, np.uint8)).sum() == 0
    assert mask_of(alpha[:20, :30]).shape == (20, 30)


WAITING = (PORTRAIT, KIE, RMBG)


@pytest.mark.parametrize(
    ("opinions", "asked"),
    [
        ([], WAITING),
        ([opinion(0.5)], (PORTRAIT,)),
        ([opinion(0.5), opinion(0.5)], ()),
        ([opinion(0.5), opinion(0.5), opinion(0.49)], ()),
        ([opinion(0.5), opinion(0.4)], WAITING),
        ([opinion(0.5), opinion(0.5), opinion(0.1)], WAITING),
        ([opinion(0.0, acceptable=False)], WAITING),
        ([opinion(1.0, acceptable=False), opinion(1.0, acceptable=False)], WAITING),
        ([opinion(0.5), opinion(0.5), opinion(1.0, acceptable=False)], WAITING),
    ],
)
def test_the_cascade_asks_as_few_as_the_opinions_allow(
    opinions: list[Opinion], asked: tuple[ModelId, ...]
) -> None:
    assert next_paid(WAITING, opinions).ask == asked


def test_a_verdict_of_enough_says_how_well_they_agree() -> None:
    verdict = next_paid(WAITING, [opinion(0.5), opinion(0.48)])
    assert verdict.detail == "2 cut-outs agree: intersection over union 0.960, 0.95 is enough."


def test_the_cheapest_are_asked_first_and_equals_keep_their_order() -> None:
    prices = {RMBG: Decimal("0.018"), PORTRAIT: Decimal("0.0006"), KIE: Decimal("0.005")}
    policy = Policy(prices=prices)
    assert modes.cheapest_first([RMBG, PORTRAIT, KIE], policy) == (PORTRAIT, KIE, RMBG)
    assert modes.cheapest_first([RMBG, PORTRAIT], Policy()) == (RMBG, PORTRAIT)


def entry(status: str, *flags: Flag) -> ResultEntry:
    return ResultEntry.model_validate(
        {"model": "local-isnet", "status": status, "flags": list(flags)}
    )


def test_what_is_enough_for_an_answer() -> None:
    fast = Policy(Mode.FAST)
    assert not suffices(fast, [entry("failed"), entry("pending")])
    assert not suffices(fast, [entry("succeeded", Flag.EMPTY)])
    assert not suffices(fast, [entry("succeeded", Flag.FULL_FRAME)])
    assert suffices(fast, [entry("succeeded", Flag.EMPTY), entry("succeeded")])
    assert suffices(fast, [entry("succeeded", Flag.RIM_EQUALS_GROUND)])
    two = Policy(min_results=2)
    assert not suffices(two, [entry("succeeded"), entry("failed")])
    assert suffices(two, [entry("succeeded"), entry("succeeded")])
    assert not suffices(Policy(), [entry("succeeded")] * 5)


def test_a_plain_ground_is_one_whose_border_is_nearly_all_one_colour() -> None:
    plain = np.full((40, 60, 3), (250, 251, 249), np.uint8)
    plain[10:30, 10:50] = (200, 0, 0)
    assert modes.has_plain_ground(plain)
    plain[0, :12] = (200, 0, 0)
    assert modes.has_plain_ground(plain)
    plain[:, 0] = (200, 0, 0)
    assert not modes.has_plain_ground(plain)
    noise: Pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    assert not modes.has_plain_ground(noise)


def plan(policy: Policy, *removers: FakeRemover, deadline_s: float = 20) -> Plan:
    models = tuple(each.name for each in removers)
    return Plan(models, RemovalOptions(), Deadline.after(deadline_s), policy=policy)


async def fire(
    folder: Path, policy: Policy, *removers: FakeRemover, taste: Taste | None = None
) -> dict[str, Any]:
    """The record of a shot at exactly those models, when it is complete."""
    picture = folder / "picture"
    picture.write_bytes(PICTURE)
    gun = shotgun(folder, *removers, taste=taste)
    record = await gun.fire(picture, plan(policy, *removers))
    await asyncio.gather(*gun._running)
    return (await gun._results.record(record.request_id)).model_dump(mode="json", exclude_none=True)


async def test_min_results_are_counted_by_successes_alone(tmp_path: Path) -> None:
    quick = [Cutter(KNOCKOUT), Cutter(BIREFNET), Cutter(KIE, error=ValueError("boom"))]
    removers = (Cutter(ISNET, held=True), *quick)
    (tmp_path / "picture").write_bytes(PICTURE)
    gun = shotgun(tmp_path, *removers)
    record = await gun.fire(tmp_path / "picture", plan(Policy(min_results=2), *removers))
    landed = outcomes(record.model_dump(mode="json", exclude_none=True))
    assert landed[ISNET] == "pending"
    assert (landed[BIREFNET], landed[KNOCKOUT]) == ("succeeded", "succeeded")
    removers[0].release()
    await asyncio.gather(*gun._running)


async def test_fast_answers_with_the_first_acceptable_and_stops_the_rest(tmp_path: Path) -> None:
    first, local = Cutter(ISNET, held=True), Cutter(BIREFNET, held=True)
    sent, unsent = Cutter(RMBG, held=True, sends=True), Cutter(KIE, held=True)
    worthless = FakeRemover(KNOCKOUT)  # keeps the whole frame
    removers = (first, local, sent, unsent, worthless)
    (tmp_path / "picture").write_bytes(PICTURE)
    gun = shotgun(tmp_path, *removers)
    flight = await gun.begin(tmp_path / "picture", plan(Policy(Mode.FAST), *removers))
    landings = flight.landings()
    told = [await anext(landings)]
    for each in removers:
        assert await asyncio.to_thread(each.asked.wait, WAIT_S)
    first.release()
    told += [entry async for entry in landings]
    landed = [entry.model for entry in told if entry]
    assert landed[:2] == [KNOCKOUT, ISNET]
    assert set(landed[2:]) == {BIREFNET, KIE}
    expected = {
        ISNET: "succeeded",
        BIREFNET: "cancelled",
        RMBG: "pending",
        KIE: "enough",
        KNOCKOUT: "succeeded",
    }
    settled = await flight.settled()
    record = settled.model_dump(mode="json", exclude_none=True)
    assert outcomes(record) == expected
    details = {entry["model"]: entry.get("detail") for entry in record["results"]}
    assert details[KIE] == "local-isnet was enough; nothing was sent."
    sent.release()
    await asyncio.gather(*gun._running)
    record = flight.record().model_dump(mode="json", exclude_none=True)
    assert outcomes(record) == {**expected, RMBG: "succeeded"}


async def test_fast_waits_for_all_where_nothing_is_acceptable(tmp_path: Path) -> None:
    broken = Cutter(KIE, error=ValueError("boom"))
    record = await fire(tmp_path, Policy(Mode.FAST), FakeRemover(ISNET), broken)
    assert outcomes(record) == {KIE: "model_crashed", ISNET: "succeeded"}


PRICES = {RMBG: Decimal("0.018"), PORTRAIT: Decimal("0.0006"), KIE: Decimal("0.005")}
CASCADE = Policy(Mode.CASCADE, prices=PRICES)


def paid(share: float = 0.5) -> list[Cutter]:
    return [Cutter(model, share=share) for model in (RMBG, PORTRAIT, KIE)]


async def test_a_cascade_whose_free_models_agree_asks_no_paid_one(tmp_path: Path) -> None:
    providers = paid()
    record = await fire(tmp_path, CASCADE, Cutter(ISNET), Cutter(BIREFNET), *providers)
    assert outcomes(record) == {
        **dict.fromkeys((RMBG, PORTRAIT, KIE), "enough"),
        BIREFNET: "succeeded",
        ISNET: "succeeded",
    }
    assert not any(each.asked.is_set() for each in providers)
    details = {each["detail"] for each in record["results"] if each["status"] == "skipped"}
    assert details == {"2 cut-outs agree: intersection over union 1.000, 0.95 is enough."}


async def test_a_cascade_asks_no_paid_model_before_the_free_ones_have_landed(
    tmp_path: Path,
) -> None:
    free, providers = Cutter(ISNET, held=True), paid()
    shot = asyncio.create_task(fire(tmp_path, CASCADE, free, *providers))
    assert await asyncio.to_thread(free.asked.wait, WAIT_S)
    await asyncio.sleep(0.05)
    assert not any(each.asked.is_set() for each in providers)
    free.release()
    assert outcomes(await shot)[PORTRAIT] == "succeeded"


async def test_a_cascade_whose_free_models_disagree_asks_every_paid_one(tmp_path: Path) -> None:
    other = Cutter(BIREFNET, share=0.25)
    record = await fire(tmp_path, CASCADE, Cutter(ISNET), other, *paid())
    assert set(outcomes(record).values()) == {"succeeded"}


class KnownTaste:
    """Customers who take ISNet's and RMBG's cut-outs alone."""

    def strengths(self, kind: str | None) -> Mapping[ModelId, float]:
        return {ISNET: 1.0, BIREFNET: 0.05, RMBG: 1.0, KIE: 0.05}

    def worth_asking(
        self, kind: str | None, *, free: Iterable[ModelId], paid: Iterable[ModelId]
    ) -> tuple[ModelId, ...]:
        assert set(free) == {ISNET, BIREFNET}
        return tuple(model for model in paid if model is RMBG)


async def test_a_cascade_asks_only_paid_models_that_picks_say_are_worth_it(tmp_path: Path) -> None:
    free = [Cutter(ISNET, share=0.3), Cutter(BIREFNET, share=0.6)]
    asked, left_out = Cutter(RMBG), Cutter(KIE)
    record = await fire(tmp_path, CASCADE, *free, asked, left_out, taste=KnownTaste())
    landed = outcomes(record)
    assert (landed[RMBG], landed[KIE]) == ("succeeded", "not_needed")
    assert not left_out.asked.is_set()


async def test_the_recommended_is_whom_customers_pick_where_the_masks_say_as_much(
    tmp_path: Path,
) -> None:
    free = [Cutter(ISNET, share=0.5), Cutter(BIREFNET, share=0.5)]
    record = await fire(tmp_path, Policy(), *free, taste=KnownTaste())
    assert record["recommended"] == ISNET
    record = await fire(tmp_path, Policy(), *free)
    assert record["recommended"] == BIREFNET  # the fixed order


async def test_a_cascade_whose_free_models_fail_asks_every_paid_one(tmp_path: Path) -> None:
    failing = Cutter(ISNET, error=ValueError("boom"))
    record = await fire(tmp_path, CASCADE, failing, FakeRemover(KNOCKOUT), *paid())
    assert outcomes(record) == {
        **dict.fromkeys((RMBG, PORTRAIT, KIE, KNOCKOUT), "succeeded"),
        ISNET: "model_crashed",
    }


@pytest.mark.parametrize(("share", "others"), [(0.5, "enough"), (0.25, "succeeded")])
async def test_a_cascade_with_one_free_model_asks_the_cheapest_first(
    tmp_path: Path, share: float, others: str
) -> None:
    record = await fire(tmp_path, CASCADE, Cutter(ISNET), unavailable(BIREFNET), *paid(share))
    assert outcomes(record) == {
        RMBG: others,
        PORTRAIT: "succeeded",
        KIE: others,
        BIREFNET: "unavailable",
        ISNET: "succeeded",
    }


@pytest.mark.parametrize(
    ("cheapest", "outcome"),
    [
        (unavailable(PORTRAIT), "unavailable"),
        (Cutter(PORTRAIT, error=ValueError("boom")), "model_crashed"),
    ],
)
async def test_a_cascade_whose_cheapest_gives_nothing_asks_the_next(
    tmp_path: Path, cheapest: FakeRemover, outcome: str
) -> None:
    record = await fire(tmp_path, CASCADE, Cutter(ISNET), Cutter(RMBG), cheapest, Cutter(KIE))
    assert outcomes(record) == {
        RMBG: "enough",
        PORTRAIT: outcome,
        KIE: "succeeded",
        ISNET: "succeeded",
    }


async def test_a_cascade_does_not_wait_for_ever_for_a_free_model(tmp_path: Path) -> None:
    slow, quick, cheapest = Cutter(BIREFNET, held=True), Cutter(ISNET), Cutter(PORTRAIT)
    (tmp_path / "picture").write_bytes(PICTURE)
    gun = shotgun(tmp_path, slow, quick, cheapest)
    asked = plan(CASCADE, slow, quick, cheapest, deadline_s=0.4)
    flight = await gun.begin(tmp_path / "picture", asked)
    assert await asyncio.to_thread(cheapest.asked.wait, WAIT_S)
    assert flight.record().results[0].status == "pending"
    slow.release()
    await asyncio.gather(*gun._running)
    assert {entry.status for entry in flight.record().results} == {"succeeded"}


async def test_an_abandoned_cascade_leaves_nothing_to_pay(tmp_path: Path) -> None:
    slow, providers = Cutter(ISNET, held=True), paid()
    (tmp_path / "picture").write_bytes(PICTURE)
    gun = shotgun(tmp_path, slow, *providers)
    flight = await gun.begin(tmp_path / "picture", plan(CASCADE, slow, *providers))
    assert await asyncio.to_thread(slow.asked.wait, WAIT_S)
    flight.abandon()
    await asyncio.gather(*gun._running)
    record = flight.record().model_dump(mode="json", exclude_none=True)
    assert set(outcomes(record).values()) == {"cancelled"}
    assert not any(each.asked.is_set() for each in providers)


async def test_a_shot_given_up_while_its_record_is_written_leaves_no_record(
    tmp_path: Path,
) -> None:
    (tmp_path / "picture").write_bytes(PICTURE)
    gun = shotgun(tmp_path, Cutter(ISNET))
    created, create = asyncio.Event(), gun._results.create

    async def create_and_say(record: ShotRecord) -> None:
        created.set()
        await create(record)

    gun._results.create = create_and_say  # type: ignore[method-assign]  # to know the moment
    beginning = asyncio.create_task(gun.begin(tmp_path / "picture", plan(Policy(), Cutter(ISNET))))
    await created.wait()
    beginning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beginning
    assert list((tmp_path / "results").iterdir()) == []
    assert gun._gate.running == 0


def test_modes_over_http(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    cutters = (Cutter(ISNET), Cutter(PORTRAIT), Cutter(RMBG))
    with serving(tmp_path, stand_ins=table(*cutters)) as server:
        plain = outcomes(server.shoot(PICTURE, mode="cascade").json())
        textured = outcomes(server.shoot(png_bytes(noise), mode="cascade").json())
        named = outcomes(server.shoot(PICTURE, mode="cascade", models=ISNET).json())
        everything = outcomes(server.shoot(PICTURE).json())
        fast = outcomes(server.shoot(PICTURE, mode="fast").json())
    assert list(plain) == [model for model in ModelId if model in plain]
    assert plain[KNOCKOUT] == "succeeded"  # on a plain ground, where no models are named
    for record in (textured, named, everything):
        assert KNOCKOUT not in record
    assert (textured[PORTRAIT], textured[RMBG]) == ("succeeded", "enough")
    assert (everything[PORTRAIT], everything[RMBG]) == ("succeeded", "succeeded")
    assert "succeeded" in fast.values()
