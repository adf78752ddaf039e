"""Keys by their hash, sessions within their limits, and whose a result is."""

import hashlib
import hmac
from datetime import timedelta
from decimal import Decimal

import pytest

from models.errors import InvalidKey, InvalidParameter, SessionExhausted
from models.schemas import SessionParameters
from services.access import OPEN, Access, Caller, CallerKind, KeyRing, SessionLimits, open_access
from tests.utils.test_clock import set_clock
from utils.clock import utc_now

KEYS = {"shop": "a shop's long key", "till": "a till's long key", "web": "a web's longer key"}
DIGESTS = {key_id: hashlib.sha256(key.encode()).hexdigest() for key_id, key in KEYS.items()}


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def access(clock: Hand) -> Access:
    limits = SessionLimits(ttl_s=60, shots=3, max_cost_usd=Decimal("0.05"))
    return open_access(DIGESTS, secret=b"x" * 32, link_ttl_s=0, limits=limits, now=clock)


def session(access: Access, **asked: object) -> Caller:
    token, _ = access.sessions.mint("shop", SessionParameters.model_validate(asked))
    return access.identify(token)


def test_a_key_is_known_by_its_id(access: Access) -> None:
    for key_id, key in KEYS.items():
        assert access.identify(key) == Caller(CallerKind.KEY, key_id)


@pytest.mark.parametrize("key", ["", "shop", "a shop's long ke", DIGESTS["shop"], "\xff" * 20])
def test_anything_else_is_refused_and_not_repeated(access: Access, key: str) -> None:
    with pytest.raises(InvalidKey) as refusal:
        access.identify(key)
    assert not key or key not in refusal.value.detail


def test_every_key_is_compared_in_constant_time_wherever_the_right_one_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compare, compared = hmac.compare_digest, []

    def counting(left: str, right: str) -> bool:
        compared.append((left, right))
        return compare(left, right)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    ring = KeyRing(DIGESTS)
    for key in (*KEYS.values(), "none of them"):
        compared.clear()
        ring.id_of(key)
        digest = hashlib.sha256(key.encode()).hexdigest()
        assert compared == [(known, digest) for known in DIGESTS.values()]


def test_without_keys_the_door_is_open_and_links_carry_nothing() -> None:
    limits = SessionLimits(ttl_s=60, shots=3, max_cost_usd=Decimal(1))
    assert not open_access({}, secret=b"x", link_ttl_s=0, limits=limits).required


def test_a_session_is_its_keys_and_lives_until_it_expires(access: Access, clock: Hand) -> None:
    token, made = access.sessions.mint("shop", SessionParameters())
    assert (made.shots, made.max_cost_usd, made.expires_at) == (3, Decimal("0.05"), 1_000_060)
    caller = access.identify(token)
    assert (caller.kind, caller.key_id) == (CallerKind.SESSION, "shop")
    clock.now += 59
    access.identify(token)
    clock.now += 1
    with pytest.raises(InvalidKey):
        access.identify(token)


def test_a_session_of_a_key_that_was_taken_away_is_refused(access: Access, clock: Hand) -> None:
    token, _ = access.sessions.mint("till", SessionParameters())
    fewer = {"shop": DIGESTS["shop"]}
    limits = SessionLimits(ttl_s=60, shots=3, max_cost_usd=Decimal(1))
    later = open_access(fewer, secret=b"x" * 32, link_ttl_s=0, limits=limits, now=clock)
    with pytest.raises(InvalidKey):
        later.identify(token)


@pytest.mark.parametrize(
    ("asked", "limit"),
    [({"ttl_s": 61}, 60), ({"shots": 4}, 3), ({"max_cost_usd": Decimal("0.051")}, 0.05)],
)
def test_a_session_may_ask_for_less_and_never_for_more(
    access: Access, asked: dict[str, object], limit: float
) -> None:
    with pytest.raises(InvalidParameter) as refusal:
        session(access, **asked)
    assert refusal.value.field == next(iter(asked))
    assert refusal.value.limit == limit
    session(access, **dict.fromkeys(asked, limit))


def test_shots_are_counted_by_session_and_the_next_one_is_refused(access: Access) -> None:
    first, second = session(access, shots=2), session(access, shots=2)
    for _ in range(2):
        first.require_credit()
        first.take_shot()
    with pytest.raises(SessionExhausted) as refusal:
        first.require_credit()
    assert (refusal.value.limit, refusal.value.actual) == (2, 3)
    with pytest.raises(SessionExhausted):
        first.take_shot()
    second.take_shot()


def test_the_same_token_is_the_same_session(access: Access) -> None:
    token, _ = access.sessions.mint("shop", SessionParameters(shots=1))
    access.identify(token).take_shot()
    with pytest.raises(SessionExhausted):
        access.identify(token).take_shot()


def test_money_is_counted_exactly_and_what_is_spent_is_never_refused(access: Access) -> None:
    caller = session(access, max_cost_usd=Decimal("0.03"))
    caller.charge(Decimal("0.0299"))
    assert caller.left_usd() == Decimal("0.0001")
    caller.take_shot()
    caller.charge(Decimal("0.0001"))
    with pytest.raises(SessionExhausted, match="money"):
        caller.take_shot()
    caller.charge(Decimal("0.02"))
    assert caller.left_usd() == 0


def test_keys_and_open_doors_have_no_limits(access: Access) -> None:
    for caller in (OPEN, access.identify(KEYS["shop"])):
        for _ in range(10):
            caller.take_shot()
            caller.charge(Decimal(1))
        assert caller.left_usd() is None


def test_what_expired_sessions_used_is_forgotten(access: Access, clock: Hand) -> None:
    for _ in range(5):
        session(access)
    long = session(access, ttl_s=60)
    assert len(access.sessions) == 6
    clock.now += 30
    short = session(access)
    clock.now += 31
    session(access)
    assert len(access.sessions) == 2
    assert short.tab is not long.tab


def test_a_key_owns_what_it_and_its_sessions_made_a_session_only_its_own(access: Access) -> None:
    shop, till = access.identify(KEYS["shop"]), access.identify(KEYS["till"])
    mine, another = session(access), session(access)
    assert shop.owns(shop.owner)
    assert shop.owns(mine.owner)
    assert mine.owns(mine.owner)
    for caller, owner in [
        (till, shop.owner),
        (till, mine.owner),
        (mine, another.owner),
        (mine, shop.owner),
        (shop, OPEN.owner),
        (shop, None),
        (mine, None),
    ]:
        assert not caller.owns(owner)


def test_an_id_that_begins_like_another_owns_nothing_of_it() -> None:
    shop, shops = Caller(CallerKind.KEY, "shop"), Caller(CallerKind.KEY, "shop-2")
    assert not shop.owns(shops.owner)
    assert not shops.owns(shop.owner)


def test_a_clock_that_jumps_ends_no_link_and_lengthens_no_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = SessionLimits(ttl_s=60, shots=9, max_cost_usd=Decimal(1))
    access = open_access(DIGESTS, secret=b"x" * 32, link_ttl_s=0, limits=limits)
    link = access.links.token("a" * 32, utc_now() + timedelta(hours=1))
    token, _ = access.sessions.mint("shop", SessionParameters())
    with monkeypatch.context() as back:
        set_clock(back, -3600)
        later, session = access.sessions.mint("shop", SessionParameters())
        assert session.expires_at <= utc_now().timestamp() + 3600 + 61
        assert access.identify(later).key_id == "shop"
    set_clock(monkeypatch, 24 * 3600)
    assert access.links.opens(link, "a" * 32)
    with pytest.raises(InvalidKey):
        access.identify(token)
