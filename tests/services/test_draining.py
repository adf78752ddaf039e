"""The drain's steps without a process: gates shut, shots that land as they stand, last words."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from models.errors import Draining
from models.schemas import Mode, ShotRecord
from services.admission import Gate
from services.budget import Budget
from services.draining import Drain
from services.modes import Policy
from services.remover import RemovalOptions
from services.shotgun import Plan, Shotgun
from services.webhooks import Webhooks
from tests.answering import ISNET, KIE, KNOCKOUT, PORTRAIT, RMBG, Cutter, outcomes, shotgun
from tests.conftest import artwork
from tests.receiver import receiving
from tests.services.test_webhooks import record
from utils.clock import Deadline

pytestmark = pytest.mark.anyio

NOW, LATER = Deadline.after(0), 3600.0


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(artwork())
    return path


def drain_of(shots: Shotgun, *, webhooks: Webhooks | None = None) -> Drain:
    return Drain(
        total_s=LATER,
        notice_s=0,
        gates=[Gate(running_limit=1, queue_limit=1)],
        shotgun=shots,
        webhooks=webhooks or Webhooks(secret=None),
    )


def plan_of(*models: Cutter, mode: Mode = Mode.ALL) -> Plan:
    return Plan(
        tuple(each.name for each in models),
        RemovalOptions(),
        Deadline.after(LATER),
        policy=Policy(mode=mode),
    )


def ends(record: ShotRecord) -> dict[str, str]:
    return outcomes(record.model_dump(mode="json", exclude_none=True))


async def asked(*models: Cutter) -> None:
    await asyncio.gather(*(asyncio.to_thread(each.asked.wait, 30) for each in models))


async def test_a_shut_gate_lets_nobody_in_and_tells_who_waits() -> None:
    gate = Gate(running_limit=1, queue_limit=8, budget=Budget(100))

    async def enter(needs_bytes: int) -> None:
        async with gate.slot(Deadline.after(LATER), needs_bytes=needs_bytes):
            raise AssertionError("it came in")

    async with gate.slot(NOW, needs_bytes=60) as inside:
        waiting = [asyncio.create_task(enter(size)) for size in (10, 60)]
        await asyncio.sleep(0)
        assert gate.waiting == 2
        gate.shut(lambda: Draining("Too late."))
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(outcome, Draining)
        assert (gate.running, gate.waiting, inside.held_bytes) == (1, 0, 60)
        with pytest.raises(Draining):
            gate.refuse_if_full()
    assert (gate.running, gate.budget.reserved_bytes) == (0, 0)
    with pytest.raises(Draining):
        await enter(0)


async def test_a_shot_that_is_wound_up_lands_as_it_stands(tmp_path: Path, picture: Path) -> None:
    done, slow = Cutter(KNOCKOUT), Cutter(ISNET, held=True)
    paid, unsent = Cutter(RMBG, held=True, sends=True), Cutter(KIE, held=True)
    shots = shotgun(tmp_path, done, slow, paid, unsent)
    flight = await shots.begin(picture, plan_of(done, slow, paid, unsent))
    landings = flight.landings()
    assert (await anext(landings)) is not None
    await asked(slow, paid, unsent)
    shots.wind_up(Deadline.after(LATER))
    record = await flight.answer()
    assert record.status == "complete"
    assert ends(record) == {
        KNOCKOUT: "succeeded",
        ISNET: "cancelled",
        RMBG: "provider_outcome_unknown",
        KIE: "cancelled",
    }
    retryable = {each.model: each.error.retryable for each in record.results if each.error}
    assert retryable == {ISNET: True, RMBG: False, KIE: True}
    await shots.settled()
    assert shots.under_way == 0


async def test_a_shot_that_begins_too_late_lands_at_once(tmp_path: Path, picture: Path) -> None:
    slow = Cutter(ISNET, held=True)
    shots = shotgun(tmp_path, Cutter(KNOCKOUT), slow)
    shots.wind_up(Deadline.after(LATER))
    flight = await shots.begin(picture, plan_of(slow))
    await shots.settled()
    assert ends(flight.record()) == {ISNET: "cancelled"}


async def test_a_cascade_that_is_wound_up_asks_nobody_who_is_paid(
    tmp_path: Path, picture: Path
) -> None:
    free, paid = Cutter(ISNET, held=True), [Cutter(KIE), Cutter(PORTRAIT)]
    shots = shotgun(tmp_path, free, *paid)
    flight = await shots.begin(picture, plan_of(free, *paid, mode=Mode.CASCADE))
    await asked(free)
    shots.wind_up(Deadline.after(LATER))
    await shots.settled()
    assert set(ends(flight.record()).values()) == {"cancelled"}
    assert not any(each.asked.is_set() for each in paid)


async def test_a_fast_shot_that_has_its_winner_does_not_wait_for_what_was_sent(
    tmp_path: Path, picture: Path
) -> None:
    winner, sent = Cutter(KNOCKOUT, held=True), Cutter(RMBG, held=True, sends=True)
    shots = shotgun(tmp_path, winner, sent)
    flight = await shots.begin(picture, plan_of(winner, sent, mode=Mode.FAST))
    await asked(winner, sent)
    winner.release()
    assert ends(await flight.answer())[RMBG] == "pending"
    shots.wind_up(Deadline.after(LATER))
    await shots.settled()
    assert ends(flight.record()) == {KNOCKOUT: "succeeded", RMBG: "provider_outcome_unknown"}


async def test_what_goes_on_without_a_listener_ends_before_the_end(
    tmp_path: Path, picture: Path
) -> None:
    model = Cutter(KNOCKOUT, held=True)
    shots = shotgun(tmp_path, model)
    flight = await shots.begin(picture, plan_of(model))
    await asked(model)
    drain = drain_of(shots)
    drain.begin()
    finishing = asyncio.create_task(drain.finish())
    await asyncio.sleep(0.01)
    assert not finishing.done()
    model.release()
    await finishing
    assert ends(flight.record()) == {KNOCKOUT: "succeeded"}


async def test_without_a_drain_nothing_is_waited_for(tmp_path: Path, picture: Path) -> None:
    model = Cutter(KNOCKOUT, held=True)
    shots = shotgun(tmp_path, model)
    await shots.begin(picture, plan_of(model))
    await drain_of(shots).finish()
    assert shots.under_way == 1
    await shots.close()


async def test_the_shops_server_is_told_of_a_shot_that_was_wound_up(
    tmp_path: Path, picture: Path
) -> None:
    model = Cutter(KNOCKOUT, held=True)
    shots = shotgun(tmp_path, model)
    with receiving() as receiver:
        webhooks = Webhooks(secret="s" * 32, allowed_hosts=frozenset({receiver.place}))
        plan = replace(
            plan_of(model), when_complete=lambda record: webhooks.send(receiver.url, record)
        )
        await shots.begin(picture, plan)
        await asked(model)
        drain = drain_of(shots, webhooks=webhooks)
        drain.begin()
        shots.wind_up(Deadline.after(LATER))
        await drain.finish()
        delivery = receiver.next()
    assert json.loads(delivery.body)["record"]["results"][0]["error"]["code"] == "cancelled"


async def test_a_delivery_that_waits_has_one_last_try_and_no_other(tmp_path: Path) -> None:
    with receiving(*[500] * 9) as receiver:
        webhooks = Webhooks(secret="s" * 32, allowed_hosts=frozenset({receiver.place}))
        webhooks.send(receiver.url, record())
        await asyncio.to_thread(receiver.next)
        drain = drain_of(shotgun(tmp_path), webhooks=webhooks)
        drain.begin()
        await drain.finish()
        await asyncio.to_thread(receiver.next)
        assert receiver.arrived.empty()
