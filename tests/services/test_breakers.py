"""A breaker opens for what would happen again, lets one request probe, and survives a restart."""

import asyncio
import json
import logging
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from models.errors import HOPELESS, CircuitOpen, FailureCode, RemoverError
from models.schemas import ModelStatus
from services.breakers import ANSWERED, TROUBLE, Breaker, Breakers, BreakerState, Transitions
from services.remover import READY, Availability

OPEN = Availability(ModelStatus.OPEN, "No credit.")
NEUTRAL = set(FailureCode) - HOPELESS - TROUBLE - ANSWERED


def fail(breaker: Breaker, code: FailureCode = FailureCode.PROVIDER_QUOTA) -> None:
    with suppress(RemoverError), breaker.attempt():
        raise RemoverError(code, "No credit.")


def succeed(breaker: Breaker) -> None:
    with breaker.attempt():
        pass


def opened(*, probe_after_s: float) -> Breaker:
    breaker = Breaker(probe_after_s=probe_after_s)
    fail(breaker)
    return breaker


@pytest.mark.parametrize("code", FailureCode)
def test_only_what_the_next_request_would_meet_as_well_opens_the_circuit_at_once(
    code: FailureCode,
) -> None:
    breaker = Breaker(probe_after_s=60)
    assert breaker.availability() == READY
    fail(breaker, code)
    assert breaker.availability() == (OPEN if code in HOPELESS else READY)


@pytest.mark.parametrize("code", sorted(set(FailureCode) - HOPELESS))
def test_several_failures_of_the_provider_in_a_row_open_the_circuit(code: FailureCode) -> None:
    breaker = Breaker(probe_after_s=60, failures_to_open=3)
    for _ in range(2):
        fail(breaker, code)
        assert breaker.state is BreakerState.CLOSED
    fail(breaker, code)
    if code in TROUBLE:
        assert breaker.state is BreakerState.OPEN
        assert breaker.reason == "3 requests in a row failed. The last: No credit."
    else:
        for _ in range(10):
            fail(breaker, code)
        assert breaker.state is BreakerState.CLOSED


def test_what_is_counted_names_every_failure_that_is_the_providers() -> None:
    assert {
        FailureCode.PROVIDER_UNREACHABLE,
        FailureCode.PROVIDER_ERROR,
        FailureCode.PROVIDER_TIMEOUT,
    } < TROUBLE
    assert FailureCode.CONTENT_REJECTED not in TROUBLE | HOPELESS
    assert FailureCode.PROVIDER_BAD_RESULT not in TROUBLE | HOPELESS


@pytest.mark.parametrize("code", [None, *sorted(ANSWERED)])
def test_an_answer_in_between_begins_the_count_anew(code: FailureCode | None) -> None:
    breaker = Breaker(probe_after_s=60, failures_to_open=2)
    for _ in range(5):
        fail(breaker, FailureCode.PROVIDER_TIMEOUT)
        if code is None:
            succeed(breaker)
        else:
            fail(breaker, code)
    assert breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize("code", sorted(NEUTRAL))
def test_what_says_nothing_of_the_provider_leaves_the_count_alone(code: FailureCode) -> None:
    breaker = Breaker(probe_after_s=60, failures_to_open=2)
    fail(breaker, FailureCode.PROVIDER_TIMEOUT)
    fail(breaker, code)
    assert breaker.failures_in_a_row == 1
    fail(breaker, FailureCode.PROVIDER_TIMEOUT)
    assert breaker.state is BreakerState.OPEN


def test_while_the_circuit_is_open_nothing_goes_out() -> None:
    breaker = opened(probe_after_s=60)
    with pytest.raises(CircuitOpen, match="No credit"), breaker.attempt():
        raise AssertionError("it went out")
    assert 0 < breaker.probe_in_s() <= 60


def test_after_a_while_one_request_may_try_and_its_success_closes_the_circuit() -> None:
    breaker = opened(probe_after_s=0)
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.availability() == READY
    succeed(breaker)
    assert (breaker.state, breaker.reason) == (BreakerState.CLOSED, None)
    assert breaker.transitions == Transitions(opened=1, probed=1, closed=1)


async def answer(code: FailureCode | None) -> None:
    await asyncio.sleep(0.01)
    if code is not None:
        raise RemoverError(code, "Still.")


async def probe(breaker: Breaker, go: asyncio.Event, *, end: FailureCode | None) -> str:
    await go.wait()
    try:
        with breaker.attempt():
            await answer(end)
    except CircuitOpen:
        return "circuit_open"
    except RemoverError:
        return "failed"
    return "succeeded"


@pytest.mark.anyio
@pytest.mark.parametrize("end", [None, FailureCode.PROVIDER_QUOTA, FailureCode.PROVIDER_TIMEOUT])
async def test_of_many_requests_that_come_together_exactly_one_is_the_probe(
    end: FailureCode | None,
) -> None:
    breaker, go = opened(probe_after_s=0), asyncio.Event()
    requests = [asyncio.create_task(probe(breaker, go, end=end)) for _ in range(20)]
    go.set()
    outcomes = await asyncio.gather(*requests)
    assert sorted(outcomes)[:19] == ["circuit_open"] * 19
    assert outcomes.count("succeeded" if end is None else "failed") == 1
    assert breaker.transitions.probed == 1


def test_a_probe_that_takes_longer_than_the_wait_stays_the_only_one() -> None:
    breaker = opened(probe_after_s=0)
    with breaker.attempt():
        assert breaker.availability() == OPEN
        assert breaker.state is BreakerState.HALF_OPEN
        with pytest.raises(CircuitOpen), breaker.attempt():
            raise AssertionError("a second probe")


@pytest.mark.parametrize("code", sorted(set(FailureCode) - ANSWERED))
def test_a_probe_that_fails_leaves_the_circuit_open_for_another_wait(code: FailureCode) -> None:
    breaker = opened(probe_after_s=60)
    breaker.restore("No credit.", wait_s=0)
    assert breaker.state is BreakerState.HALF_OPEN
    fail(breaker, code)
    assert breaker.availability() == OPEN
    assert breaker.probe_in_s() > 59


@pytest.mark.parametrize("code", sorted(ANSWERED))
def test_a_probe_whose_picture_is_refused_proves_that_the_provider_works(code: FailureCode) -> None:
    breaker = opened(probe_after_s=0)
    fail(breaker, code)
    assert breaker.state is BreakerState.CLOSED


@pytest.mark.anyio
async def test_a_probe_that_is_cancelled_lets_another_try_later() -> None:
    breaker = opened(probe_after_s=60)
    breaker.restore("No credit.", wait_s=0)

    async def never_ends() -> None:
        with breaker.attempt():
            await asyncio.Event().wait()

    task = asyncio.create_task(never_ends())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert breaker.state is BreakerState.OPEN
    breaker.restore("No credit.", wait_s=0)
    succeed(breaker)
    assert breaker.availability() == READY


def test_an_answer_to_an_earlier_request_does_not_close_the_circuit() -> None:
    """The credit is spent for the next one, though this one was still paid."""
    breaker = Breaker(probe_after_s=60)
    with breaker.attempt():
        fail(breaker)
    assert breaker.availability() == OPEN


def test_requests_through_a_closed_circuit_do_not_hinder_each_other() -> None:
    breaker = Breaker(probe_after_s=60)
    with breaker.attempt(), breaker.attempt():
        assert breaker.availability() == READY


# --- restarts


def book(folder: Path, *, probe_after_s: float = 60) -> Breakers:
    breakers = Breakers(
        folder / "data" / "breakers.json", probe_after_s=probe_after_s, failures_to_open=2
    )
    breakers.open()
    return breakers


def kept(folder: Path) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads(
        (folder / "data" / "breakers.json").read_text()
    )
    return found


def test_a_restart_does_not_forget_that_the_key_was_refused(tmp_path: Path) -> None:
    breakers = book(tmp_path)
    fail(breakers.breaker("runware", api_key="s3cret"))
    breakers.breaker("kie", api_key="other")
    again = book(tmp_path)
    runware, kie = again.breaker("runware", api_key="s3cret"), again.breaker("kie", api_key="other")
    assert runware.availability() == OPEN
    assert 55 < runware.probe_in_s() <= 60
    assert runware.transitions == Transitions(opened=1)
    assert kie.availability() == READY
    assert "s3cret" not in (tmp_path / "data" / "breakers.json").read_text()
    assert not list((tmp_path / "data").glob("*.part"))


def test_another_key_is_not_blamed_for_the_first(tmp_path: Path) -> None:
    fail(book(tmp_path).breaker("runware", api_key="refused"))
    assert book(tmp_path).breaker("runware", api_key="a new one").availability() == READY


@pytest.mark.parametrize(("hours", "expected_s"), [(-1, 0), (0, 0), (24 * 365, 60)])
def test_a_restart_forbids_nothing_beyond_the_usual_wait_whatever_the_clock_says(
    tmp_path: Path, hours: int, expected_s: float
) -> None:
    fail(book(tmp_path).breaker("runware", api_key="k"))
    told = kept(tmp_path)
    told["runware"]["probe_at"] = (datetime.now(UTC) + timedelta(hours=hours)).isoformat()
    (tmp_path / "data" / "breakers.json").write_text(json.dumps(told))
    breaker = book(tmp_path).breaker("runware", api_key="k")
    assert breaker.reason == "No credit."
    assert expected_s - 5 <= breaker.probe_in_s() <= expected_s


def test_a_circuit_that_closed_is_closed_after_a_restart(tmp_path: Path) -> None:
    breaker = book(tmp_path, probe_after_s=0).breaker("runware", api_key="k")
    for _ in range(3):
        fail(breaker)
        succeed(breaker)
    again = book(tmp_path).breaker("runware", api_key="k")
    assert again.state is BreakerState.CLOSED
    assert again.transitions == Transitions(opened=3, probed=3, closed=3)


def test_a_provider_that_is_not_configured_now_keeps_its_state(tmp_path: Path) -> None:
    fail(book(tmp_path).breaker("runware", api_key="k"))
    fail(book(tmp_path).breaker("kie", api_key="k"))
    assert book(tmp_path).breaker("runware", api_key="k").availability() == OPEN


NO_TIME = json.dumps(
    {
        "runware": {"reason": "x", "probe_at": "never", "account": "8254c329"}
        | dict.fromkeys(("opened", "probed", "closed"), 1)
    }
)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"runware": 1}', '{"runware": {}}', "[" * 100_000, NO_TIME],
)
def test_a_file_that_cannot_be_read_is_said_and_no_reason_to_stop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "breakers.json").write_text(content)
    with caplog.at_level(logging.WARNING):
        breaker = book(tmp_path).breaker("runware", api_key="k")
    assert breaker.availability() == READY
    assert [record.message for record in caplog.records] == ["breakers_unreadable"]
    fail(breaker)
    assert book(tmp_path).breaker("runware", api_key="k").availability() == OPEN
