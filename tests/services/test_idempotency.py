"""The rules for the same request twice, where no service is needed to see them."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from models.errors import DeadlineExceeded, FailureCode, IdempotencyInFlight
from models.outcomes import SkipReason
from models.schemas import ImageInfo, ModelId, ResultEntry, ResultError, ShotRecord
from services.claims import Claims
from services.idempotency import Idempotency, Identity, Seen, _turned_out_well, fingerprint
from services.remover import RemovalOptions
from services.results import ResultStore
from services.shotgun import Plan
from tests.services.test_results import opened
from utils.clock import Deadline, utc_now

pytestmark = pytest.mark.anyio

SHOT = "9f2c4be1a1d84f0c8a3d5e6f70819203"
IDENTITY = Identity("shop", "/remove-background", "a")


def plan(*, deadline_s: float = 20) -> Plan:
    return Plan((ModelId.KIE_RECRAFT,), RemovalOptions(), Deadline.after(deadline_s))


def record(*entries: ResultEntry) -> ShotRecord:
    picture = ImageInfo(width=1, height=1, format="PNG", bytes=1, sha256="", had_alpha=False)
    return ShotRecord(
        request_id=SHOT,
        status="running",
        created_at=utc_now(),
        image=picture,
        results=list(entries) or [succeeded()],
        cost_usd=0,
        latency_ms=0,
        expires_at=utc_now() + timedelta(hours=1),
    )


def succeeded() -> ResultEntry:
    return ResultEntry(model=ModelId.LOCAL_ISNET, status="succeeded")


@pytest.fixture
async def results(tmp_path: Path) -> ResultStore:
    return opened(tmp_path)


@pytest.fixture
async def rules(tmp_path: Path, results: ResultStore) -> AsyncIterator[Idempotency]:
    claims = Claims(tmp_path)
    yield Idempotency(claims, results, dedupe_ttl=timedelta(hours=1))
    await claims.close()


@pytest.mark.parametrize("key", ["order-1", None])
async def test_a_request_that_is_cancelled_before_its_shot_leaves_no_claim(
    rules: Idempotency, key: str | None
) -> None:
    """At whatever moment: while the claim is written as well as after it."""
    for yields in range(6):
        task = asyncio.create_task(_hold(rules, key))
        for _ in range(yields):
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with rules.once(key, IDENTITY, plan()) as turn:
        assert turn.earlier is None


async def _hold(rules: Idempotency, key: str | None) -> None:
    async with rules.once(key, IDENTITY, plan()):
        await asyncio.sleep(60)


@pytest.mark.parametrize("key", ["order-1", None])
async def test_a_shot_that_is_cancelled_while_it_is_noted_is_taken_back(
    rules: Idempotency, results: ResultStore, key: str | None
) -> None:
    """Its record would stay `running` for ever, and nobody was asked."""
    await results.create(record())
    async with rules.once(key, IDENTITY, plan()) as turn:
        assert turn.plan.on_created is not None
        noting = asyncio.ensure_future(turn.plan.on_created(SHOT))
        await asyncio.sleep(0)
        noting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await noting
    assert not results.holds(SHOT)
    async with rules.once(key, IDENTITY, plan()) as turn:
        assert turn.earlier is None


async def test_the_same_request_waits_until_the_first_has_begun_or_its_deadline(
    rules: Idempotency, results: ResultStore
) -> None:
    async with rules.once(None, IDENTITY, plan()) as first:
        with pytest.raises(DeadlineExceeded):
            async with rules.once(None, IDENTITY, plan(deadline_s=0.2)):
                raise AssertionError
        second = asyncio.create_task(_earlier(rules))
        await asyncio.sleep(0.05)
        await results.create(record().model_copy(update={"status": "complete"}))
        assert first.plan.on_created is not None
        await first.plan.on_created(SHOT)
        assert await second == (SHOT, Seen.DEDUPLICATED)


async def _earlier(rules: Idempotency) -> tuple[str | None, Seen | None]:
    async with rules.once(None, IDENTITY, plan()) as turn:
        return turn.earlier, turn.seen


async def test_a_key_in_flight_names_the_record_only_when_there_is_one(
    rules: Idempotency,
) -> None:
    async with rules.once("order-1", IDENTITY, plan()) as first:
        with pytest.raises(IdempotencyInFlight) as before:
            async with rules.once("order-1", IDENTITY, plan()):
                raise AssertionError
        assert first.plan.on_created is not None
        await first.plan.on_created(SHOT)
        with pytest.raises(IdempotencyInFlight) as after:
            async with rules.once("order-1", IDENTITY, plan()):
                raise AssertionError
    assert before.value.hint is None
    assert SHOT in str(after.value.hint)


def skipped(reason: SkipReason) -> ResultEntry:
    return ResultEntry(model=ModelId.KIE_RECRAFT, status="skipped", reason=reason)


def failed() -> ResultEntry:
    error = ResultError(code=FailureCode.PROVIDER_ERROR, message="", retryable=True)
    return ResultEntry(model=ModelId.KIE_RECRAFT, status="failed", error=error)


PENDING = ResultEntry(model=ModelId.KIE_RECRAFT, status="pending")


@pytest.mark.parametrize(
    ("entries", "well"),
    [
        ([succeeded(), PENDING], True),
        ([succeeded(), skipped(SkipReason.UNCONFIGURED)], True),
        ([succeeded(), skipped(SkipReason.NOT_NEEDED), skipped(SkipReason.ENOUGH)], True),
        ([succeeded(), skipped(SkipReason.CIRCUIT_OPEN)], False),
        ([succeeded(), skipped(SkipReason.BUDGET)], False),
        ([succeeded(), failed()], False),
        ([skipped(SkipReason.UNCONFIGURED)], False),
    ],
)
def test_a_shot_is_given_again_if_another_could_do_no_better(
    entries: list[ResultEntry], well: bool
) -> None:
    assert _turned_out_well(record(*entries)) is well


def test_the_fingerprint_is_of_bytes_and_parameters_in_any_order(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"picture")
    other.write_bytes(b"picturf")
    said = fingerprint(one, {"holes": "keep", "models": ["a", "b"]})
    assert said == fingerprint(one, {"models": ["a", "b"], "holes": "keep"})
    assert len({said, fingerprint(other, {"holes": "keep", "models": ["a", "b"]})}) == 2
    assert said != fingerprint(one, {"holes": "open", "models": ["a", "b"]})
    assert said != fingerprint(one, {"holes": "keep", "models": ["b", "a"]})
