"""What we signed is known again; anything else, of another time or purpose, is not."""

import base64
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from services.tokens import ResultTokens, Signer, new_session, read_session, session_token

ID, OTHER = "0" * 32, "1" * 32
SIGNER = Signer(b"a secret")
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
SESSION = new_session("shop", expires_at=1, shots=2, max_cost_usd=Decimal("0.10"))


def tokens(hour: float, *, ttl_h: float = 0, signer: Signer = SIGNER) -> ResultTokens:
    """Result tokens as they are at an hour of that day."""
    now = NOON.replace(hour=0).timestamp() + hour * 3600
    return ResultTokens(signer, ttl_s=ttl_h * 3600, now=lambda: now)


def test_a_result_token_opens_its_result_until_the_result_ends() -> None:
    token = tokens(8).token(ID, NOON)
    assert tokens(8).opens(token, ID)
    assert tokens(11.999).opens(token, ID)
    assert not tokens(12).opens(token, ID)
    assert not tokens(8).opens(token, OTHER)
    assert not tokens(8, signer=Signer(b"another secret")).opens(token, ID)


def test_a_result_token_is_the_same_for_the_whole_life_of_its_result() -> None:
    assert tokens(1).token(ID, NOON) == tokens(11).token(ID, NOON)
    assert tokens(1).token(ID, NOON) != tokens(1).token(OTHER, NOON)


def test_a_shorter_life_changes_the_token_once_in_that_time_and_never_outlives_the_result() -> None:
    token = tokens(4.1, ttl_h=2).token(ID, NOON)
    assert tokens(5.9, ttl_h=2).token(ID, NOON) == token
    assert tokens(6.1, ttl_h=2).token(ID, NOON) != token
    assert tokens(7.9, ttl_h=2).opens(token, ID)
    assert not tokens(8, ttl_h=2).opens(token, ID)
    last = tokens(11.9, ttl_h=2).token(ID, NOON)
    assert tokens(11.99, ttl_h=2).opens(last, ID)
    assert not tokens(12, ttl_h=2).opens(last, ID)


@pytest.mark.parametrize("position", range(28))
def test_no_character_of_a_result_token_may_be_another(position: int) -> None:
    token = tokens(8).token(ID, NOON)
    assert len(token) == 28
    changed = "A" if token[position] != "A" else "B"
    assert not tokens(8).opens(token[:position] + changed + token[position + 1 :], ID)


@pytest.mark.parametrize("token", ["", "A", "AAAA", "A" * 28, "A" * 29, "=" * 28, "\xe9" * 28, "…"])
def test_nonsense_is_no_token(token: str) -> None:
    assert not tokens(8).opens(token, ID)
    assert read_session(token, SIGNER) is None
    assert read_session("session." + token, SIGNER) is None


def test_a_result_token_with_junk_inside_is_not_read_as_if_it_were_clean() -> None:
    token = tokens(8).token(ID, NOON)
    assert not tokens(8).opens(token[:4] + "!" + token[4:], ID)


def test_a_session_token_says_again_what_was_sealed() -> None:
    token = session_token(SESSION, SIGNER)
    assert token.startswith("session.")
    assert read_session(token, SIGNER) == SESSION
    assert read_session(token, Signer(b"another secret")) is None
    assert read_session(token.removeprefix("session."), SIGNER) is None


def test_a_session_that_gives_itself_more_shots_is_none() -> None:
    content = session_token(SESSION, SIGNER).removeprefix("session.")
    sealed = base64.urlsafe_b64decode(content + "=" * (-len(content) % 4))
    richer = sealed.replace(b",2,", b",9,")
    assert richer != sealed
    text = base64.urlsafe_b64encode(richer).decode().rstrip("=")
    assert read_session("session." + text, SIGNER) is None


def test_a_seal_is_good_for_its_message_alone_and_has_128_bits() -> None:
    seal = SIGNER.seal(b"session\0x")
    assert len(seal) == 16
    assert SIGNER.made(seal, b"session\0x")
    assert not SIGNER.made(seal, b"result\0x")
    assert not SIGNER.made(seal[:15], b"session\0x")
    assert not SIGNER.made(b"", b"session\0x")
