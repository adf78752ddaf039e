"""SIGTERM and SIGINT between the system and uvicorn, in this very process."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from routers import signals
from routers.signals import ended_by_signals
from services.draining import OVERRUN_S, Drain
from services.webhooks import Webhooks
from tests.answering import shotgun

pytestmark = pytest.mark.anyio

BOTH = (signal.SIGTERM, signal.SIGINT)


async def _app(*_: Any) -> None:  # noqa: ANN401  # ASGI's
    raise AssertionError("nobody asks")


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[uvicorn.Server]:
    """A server that owns both signals, as while it serves; the last resort is only noted."""
    server = uvicorn.Server(uvicorn.Config(_app, log_config=None))
    earlier = {each: signal.signal(each, server.handle_exit) for each in BOTH}
    armed: list[float] = []
    monkeypatch.setattr(signals, "_arm_last_resort", armed.append)
    yield server
    assert armed in ([], [20 + OVERRUN_S])
    for each, handler in earlier.items():
        assert signal.getsignal(each) == server.handle_exit  # given back
        signal.signal(each, handler)


def drain(folder: Path, *, notice_s: float) -> Drain:
    return Drain(
        total_s=20,
        notice_s=notice_s,
        gates=[],
        shotgun=shotgun(folder),
        webhooks=Webhooks(secret=None),
    )


@contextmanager
def unmoved(server: uvicorn.Server) -> Iterator[None]:
    assert (server.should_exit, server.force_exit) == (False, False)
    yield
    assert (server.should_exit, server.force_exit) == (False, False)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_sigterm_leaves_the_socket_open_for_a_while(
    server: uvicorn.Server, tmp_path: Path
) -> None:
    ending = drain(tmp_path, notice_s=3600)
    assert ending.notice_s == 10  # half of the whole at most
    with ended_by_signals(ending), unmoved(server):
        signal.raise_signal(signal.SIGTERM)
        await turns()
        assert ending.draining


async def test_then_uvicorn_is_told_how_long_it_may_wait(
    server: uvicorn.Server, tmp_path: Path
) -> None:
    ending = drain(tmp_path, notice_s=0)
    assert server.config.timeout_graceful_shutdown is None
    with ended_by_signals(ending):
        signal.raise_signal(signal.SIGTERM)
        await turns()
        assert (server.should_exit, server.force_exit) == (True, False)
    assert server.config.timeout_graceful_shutdown == pytest.approx(18, abs=1)
    assert server._captured_signals == [signal.SIGTERM]


async def test_a_shorter_time_that_uvicorn_was_given_holds(
    server: uvicorn.Server, tmp_path: Path
) -> None:
    server.config.timeout_graceful_shutdown = 5
    with ended_by_signals(drain(tmp_path, notice_s=0)):
        signal.raise_signal(signal.SIGTERM)
        await turns()
    assert server.config.timeout_graceful_shutdown == 5


async def test_ctrl_c_closes_the_socket_at_once(server: uvicorn.Server, tmp_path: Path) -> None:
    with ended_by_signals(drain(tmp_path, notice_s=10)):
        signal.raise_signal(signal.SIGINT)
        await turns()
        assert (server.should_exit, server.force_exit) == (True, False)


@pytest.mark.parametrize("second", BOTH)
async def test_a_second_signal_ends_at_once(
    second: signal.Signals, server: uvicorn.Server, tmp_path: Path
) -> None:
    with ended_by_signals(drain(tmp_path, notice_s=10)):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(second)
        assert (server.should_exit, server.force_exit) == (True, True)


async def test_other_handlers_are_left_alone(tmp_path: Path) -> None:
    before = [signal.getsignal(each) for each in BOTH]
    with ended_by_signals(drain(tmp_path, notice_s=0)):
        assert [signal.getsignal(each) for each in BOTH] == before
