"""Any text as a token: it opens nothing, unless it is one that was sealed here."""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal

from fuzz.target import Choices, Finding, Target
from services.tokens import ResultTokens, Session, Signer, read_session, session_token

_SIGNER = Signer(b"of the fuzzer")
_TOKENS = ResultTokens(_SIGNER, now=lambda: 1_000_000.0)
_SESSION = Session("shop", "00112233", 2_000_000, 5, Decimal("0.25"))
_SEALED = session_token(_SESSION, _SIGNER)
_TOKEN = _TOKENS.token("shot", datetime.fromtimestamp(2_000_000, UTC))


def run(data: bytes) -> None:
    choices = Choices(data)
    changed = _changed(choices, _SEALED if choices.flag() else _TOKEN)
    session = read_session(changed, _SIGNER)
    if session is not None and changed != _SEALED and session != _SESSION:
        raise Finding(f"a session that was never given: {session}")
    if _TOKENS.opens(changed, "shot") and not _same(changed, _TOKEN):
        raise Finding(f"a token that was never given: {changed}")
    if _TOKENS.opens(_TOKEN, changed) and changed != "shot":
        raise Finding(f"a token opens another result: {changed}")


def _changed(choices: Choices, token: str) -> str:
    """A token, or a part of it, with any text in some place."""
    start = choices.number(0, len(token))
    stop = start + choices.number(0, 40)
    text = choices.rest().decode(errors="replace")  # as addresses and headers are decoded
    return token[:start] + text + token[stop:]


def _same(token: str, known: str) -> bool:
    """Padding and the spare bits of the last character make the same bytes another text."""
    return token.rstrip("=")[:-1] == known[:-1]


def seeds() -> Iterator[bytes]:
    yield b"\0\0\0"
    yield b"\1\0\0"
    yield b"\0\x03\x05AAAAA"
    yield b"\1\x09\x01" + "é".encode()


TARGET = Target(run, seeds, longest=256)
