"""Rates: exact for one who asks alone, bounded in memory however many do, never in the way."""

import time
from decimal import Decimal

import pytest
from limits.errors import ConfigurationError

from services.access import LINK, OPEN, Caller, CallerKind, Tab
from services.rate_limits import (
    READS_PER_PICTURE,
    RateLimits,
    Rates,
    Standing,
    Work,
    open_storage,
)
from services.rate_memory import MOST_NAMES, BoundedMemory
from services.tokens import Session
from utils import memory
from utils.recent import RecentSet

pytestmark = pytest.mark.anyio

SHOP = Caller(CallerKind.KEY, "shop")
TILL = Caller(CallerKind.KEY, "till")
HERE, THERE = "198.51.100.1", "198.51.100.2"


class Clock:
    def __init__(self) -> None:
        self.now = 6_000.137

    def __call__(self) -> float:
        return self.now


class Broken(BoundedMemory):
    """Answers nothing, as another machine may."""

    @property
    def base_exceptions(self) -> type[Exception]:
        return OSError

    async def acquire_sliding_window_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        raise OSError(f"{key} is not reached")

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        raise OSError(f"{key} is not reached")


def session_of(key_id: str, nonce: str) -> Caller:
    session = Session(key_id=key_id, nonce=nonce, expires_at=1, shots=1, max_cost_usd=Decimal(1))
    return Caller(CallerKind.SESSION, key_id, Tab(session))


def limits(clock: Clock, **rates: int | dict[str, int]) -> RateLimits:
    chosen = Rates(**({"usual": 5, "session": 3, "refusals": 4} | rates))  # type: ignore[arg-type]
    return RateLimits(chosen, BoundedMemory(now=clock))


async def taken(
    limited: RateLimits, caller: Caller, times: int, work: Work = Work.PICTURES
) -> list[bool]:
    answers = [await limited.take(caller, HERE, work) for _ in range(times)]
    return [answer is None or answer.allowed for answer in answers]


async def told(limited: RateLimits, caller: Caller) -> Standing:
    standing = await limited.take(caller, HERE, Work.PICTURES)
    assert standing is not None
    return standing


async def test_so_many_and_no_more_until_the_minute_has_gone() -> None:
    clock = Clock()
    limited = limits(clock)
    assert [(await told(limited, SHOP)).remaining for _ in range(5)] == [4, 3, 2, 1, 0]
    assert await taken(limited, SHOP, 3) == [False] * 3
    assert await taken(limited, TILL, 5) == [True] * 5
    clock.now += 120
    assert await taken(limited, SHOP, 6) == [True] * 5 + [False]


async def test_the_turn_of_a_minute_lets_no_second_burst_through() -> None:
    clock = Clock()
    limited = limits(clock, usual=60)
    clock.now += 59
    assert all(await taken(limited, SHOP, 60))
    clock.now += 2
    assert sum(await taken(limited, SHOP, 60)) == 2
    clock.now += 29
    assert sum(await taken(limited, SHOP, 60)) == 29


@pytest.mark.parametrize("usual", [1, 2, 7, 60])
async def test_who_waits_as_long_as_told_gets_in(usual: int) -> None:
    clock = Clock()
    limited = limits(clock, usual=usual)
    for pause in (0, 17, 50.5, 3.25, 41, 0.5, 75, 59.9):
        clock.now += pause
        for _ in range(usual + 1):
            standing = await told(limited, SHOP)
        assert not standing.allowed
        assert 1 <= standing.wait_s <= 61
        assert abs(standing.resets_s - time.time() - standing.wait_s) <= 1.5
        clock.now += standing.wait_s
        assert (await told(limited, SHOP)).allowed


async def test_reads_are_ten_times_as_many_and_counted_apart() -> None:
    limited = limits(Clock())
    assert sum(await taken(limited, SHOP, 100, Work.READS)) == 5 * READS_PER_PICTURE
    assert sum(await taken(limited, SHOP, 100)) == 5


async def test_a_session_has_its_own_rate_and_counts_for_its_key() -> None:
    limited = limits(Clock())
    first, second = session_of("shop", "a"), session_of("shop", "b")
    assert sum(await taken(limited, first, 9)) == 3
    assert sum(await taken(limited, second, 9)) == 2
    assert sum(await taken(limited, SHOP, 9)) == 0
    assert sum(await taken(limited, session_of("till", "c"), 9)) == 3


async def test_what_is_told_is_the_tightest() -> None:
    limited = limits(Clock(), usual=2, session=3)
    standing = await told(limited, session_of("shop", "a"))
    assert (standing.limit, standing.remaining) == (2, 1)
    limited = limits(Clock(), usual=9, session=3)
    standing = await told(limited, session_of("shop", "a"))
    assert (standing.limit, standing.remaining) == (3, 2)


async def test_without_a_key_the_address_is_counted() -> None:
    limited = limits(Clock())
    assert sum(await taken(limited, OPEN, 9)) == 5
    assert sum(await taken(limited, LINK, 9)) == 0
    assert await limited.take(OPEN, THERE, Work.PICTURES)


async def test_single_keys_have_rates_of_their_own_and_nought_is_no_limit() -> None:
    limited = limits(Clock(), keys={"till": 2, "desk": 0})
    assert sum(await taken(limited, TILL, 9)) == 2
    assert sum(await taken(limited, SHOP, 9)) == 5
    desk = Caller(CallerKind.KEY, "desk")
    assert await limited.take(desk, HERE, Work.PICTURES) is None
    assert sum(await taken(limited, desk, 99)) == 99
    nobody = limits(Clock(), usual=0, session=0, refusals=0)
    assert sum(await taken(nobody, session_of("shop", "a"), 99)) == 99
    assert await nobody.take_refusal(HERE) is None
    assert await nobody.barred(SHOP, HERE) is None


async def refused(limited: RateLimits, times: int) -> list[bool]:
    answers = [await limited.take_refusal(HERE) for _ in range(times)]
    return [answer is not None and answer.allowed for answer in answers]


async def test_who_guesses_is_not_told_when_right_and_shuts_nobody_out() -> None:
    clock = Clock()
    limited = limits(clock)
    assert await limited.barred(SHOP, HERE) is None
    assert await refused(limited, 6) == [True] * 4 + [False] * 2
    barred = await limited.barred(TILL, HERE)
    assert barred is not None
    assert not barred.allowed
    assert await limited.barred(TILL, THERE) is None
    assert await limited.barred(SHOP, HERE) is None, "it was shown from there before"
    assert await limited.barred(session_of("till", "a"), HERE) is None
    clock.now += barred.wait_s
    assert await limited.barred(TILL, HERE) is None
    assert sum(await taken(limited, TILL, 9)) == 5, "to look is not to count"


async def test_a_flood_of_addresses_takes_no_more_memory_and_forgets_no_key_in_use() -> None:
    storage = BoundedMemory(now=Clock())
    limited = RateLimits(Rates(usual=400, session=1, refusals=300), storage)
    before, used = memory.resident_bytes(), 0
    assert before is not None
    for number in range(100_000):
        await storage.acquire_sliding_window_entry(f"2001:db8:0:{number:x}::", 300, 60)
        if number % 1000 == 0:
            used += sum(await taken(limited, SHOP, 5))
    assert used == 400, "the key's own count was kept throughout"
    assert len(storage) == MOST_NAMES
    assert (memory.resident_bytes() or 0) - before < 25_000_000


async def test_the_keys_shown_are_remembered_within_bounds() -> None:
    shown = RecentSet[int](3)
    for value in (1, 2, 3, 1, 4):
        shown.add(value)
    assert [value for value in range(9) if value in shown] == [1, 3, 4]
    assert len(shown) == 3


async def test_a_storage_that_does_not_answer_refuses_nobody() -> None:
    limited = RateLimits(Rates(usual=1, session=1, refusals=1), Broken(wrap_exceptions=True))
    for caller in (SHOP, OPEN, session_of("shop", "a")):
        assert await taken(limited, caller, 3) == [True] * 3
    assert await limited.take_refusal(HERE) is None
    assert await limited.barred(SHOP, HERE) is None


async def test_the_storage_is_chosen_by_its_address() -> None:
    assert isinstance(open_storage(), BoundedMemory)
    assert not isinstance(open_storage("async+memory://"), BoundedMemory)
    with pytest.raises(ConfigurationError):
        open_storage("async+nothing://")


async def test_the_memory_also_counts_plainly_and_forgets_when_told() -> None:
    clock = Clock()
    storage = BoundedMemory(now=clock)
    assert [await storage.incr("a", 60), await storage.incr("a", 60, 2)] == [1, 3]
    assert await storage.get("a") == 3
    clock.now += 20
    assert 39 < await storage.get_expiry("a") - time.time() <= 40
    await storage.clear_sliding_window("a", 60)
    assert await storage.get("a") == 0
    await storage.incr("b", 60)
    assert await storage.reset() == 1
    assert len(storage) == 0
    assert await storage.check()
