"""The system's clock may be set while we run: what was to last goes by the later of two moments."""

import time
from types import SimpleNamespace

import pytest

from utils import clock

HOUR_S = 3600


def set_clock(monkeypatch: pytest.MonkeyPatch, by_s: float) -> None:
    """As an operator or a time server does; the monotonic clock goes on."""
    stepped = SimpleNamespace(time=lambda: time.time() + by_s, monotonic=time.monotonic)
    monkeypatch.setattr(clock, "time", stepped)


@pytest.mark.parametrize("by_s", [-HOUR_S, 0, 2 * HOUR_S, 24 * HOUR_S])
def test_both_readings_are_told_apart(monkeypatch: pytest.MonkeyPatch, by_s: float) -> None:
    true = time.time()
    set_clock(monkeypatch, by_s)
    assert clock.earliest_now_s() == pytest.approx(true + min(0, by_s), abs=60)
    assert clock.latest_now_s() == pytest.approx(true + max(0, by_s), abs=60)
    assert clock.earliest_now().timestamp() == pytest.approx(true + min(0, by_s), abs=60)
