"""A short soak: shots with faults among them leak nothing, and the money adds up to the cent.

`python -m bench.soak` is the long one; docs/BENCHMARKS.md has its figures.
"""

from pathlib import Path

import pytest

from bench.soak import soak

pytestmark = pytest.mark.anyio


async def test_faulty_shots_leak_nothing_and_the_ledger_equals_the_bill(tmp_path: Path) -> None:
    report = await soak(30, folder=tmp_path)
    assert report.faults == 3
    assert report.outcomes["succeeded"] > 90
    assert report.before == report.after
    assert report.money.uncertain_tasks == 0
    assert report.money.ledger == report.money.bill > 0
