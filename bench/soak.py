"""Many shots against the sandbox with faults mixed in: nothing leaks, and the money adds up.

`python -m bench.soak [--shots 500]` prints the counts and JSON, and ends non-zero if anything
leaked or the ledger and the bill differ. One shot in ten carries a fault, each kind in its turn.
"""

import argparse
import asyncio
import gc
import json
import os
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np

from config import GROUPS, Settings
from models.errors import ServiceError
from models.schemas import ModelId, ShotRecord
from sandbox.faults import NAMES
from sandbox.marks import draw
from sandbox.opening import Sandbox, open_sandbox
from sandbox.options import Options, Times
from services.container import Services, open_services
from services.costs import CostLedger
from services.remover import RemovalOptions
from services.shotgun import Plan
from utils.clock import Deadline
from utils.png import encode_png

MODELS = (
    ModelId.RUNWARE_RMBG,
    ModelId.RUNWARE_BIREFNET,
    ModelId.KIE_RECRAFT,
    ModelId.LOCAL_KNOCKOUT,
)
AT_ONCE = 8
FAULT_EVERY = 10
TIMEOUT_S = 3
KIE_TIMEOUT_S = 20  # its 20 tasks in 10 s are the bottleneck: a turn may take 10 s to come


@dataclass(frozen=True)
class Counts:
    """What a process holds: running tasks, unfinished futures, open descriptors, spooled files."""

    tasks: int
    futures: int
    descriptors: int
    files: int


@dataclass(frozen=True)
class Money:
    """US dollars: settled in the ledger, charged within its uncertain tasks, and on the bill."""

    ledger: Decimal
    uncertain_tasks: int
    uncertain: Decimal
    bill: Decimal


@dataclass(frozen=True)
class Report:
    """A soak in numbers."""

    shots: int
    faults: int
    seconds: float
    outcomes: dict[str, int]
    before: Counts
    after: Counts
    money: Money

    def balanced(self) -> bool:
        """Every dollar of the bill is in the ledger, as settled or as known to be uncertain."""
        return self.money.ledger + self.money.uncertain == self.money.bill

    def leaked(self) -> bool:
        return self.before != self.after


async def soak(shots: int, *, folder: Path) -> Report:
    """Fire `shots` shots, then close everything and count."""
    begun = time.monotonic()
    outcomes: Counter[str] = Counter()
    before = counts(folder)
    async with AsyncExitStack() as stack:
        times = Times(kie_step_s=0.02, slow_s=TIMEOUT_S + 1, late_s=TIMEOUT_S + 3)
        sandbox = await stack.enter_async_context(open_sandbox(Options(times=times)))
        settings = _settings(sandbox, folder)
        services = await stack.enter_async_context(
            open_services(settings, version="soak", stand_ins={})
        )
        await _fire_all(services, shots, folder, outcomes)
        await _settled(services.ledger)
        money = _money(services.ledger, sandbox)
    await asyncio.sleep(0.1)
    return Report(
        shots=shots,
        faults=shots // FAULT_EVERY,
        seconds=round(time.monotonic() - begun, 1),
        outcomes=dict(outcomes.most_common()),
        before=before,
        after=counts(folder),
        money=money,
    )


def counts(folder: Path) -> Counts:
    gc.collect()
    futures = [each for each in gc.get_objects() if isinstance(each, asyncio.Future)]
    return Counts(
        tasks=len(asyncio.all_tasks()),
        futures=sum(1 for each in futures if not each.done()),
        descriptors=len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        files=len(list((folder / "uploads").rglob("*"))),
    )


async def _fire_all(services: Services, shots: int, folder: Path, outcomes: Counter[str]) -> None:
    slots = asyncio.Semaphore(AT_ONCE)
    kinds = iter(NAMES * shots)

    async def one(number: int) -> None:
        fault = next(kinds) if number % FAULT_EVERY == 0 else None
        picture = folder / f"picture-{number}.png"
        picture.write_bytes(_picture(number, fault))
        async with slots:
            outcomes.update(await _outcomes(services, picture))
        picture.unlink()

    async with asyncio.TaskGroup() as group:
        for number in range(shots):
            group.create_task(one(number))


async def _outcomes(services: Services, picture: Path) -> list[str]:
    plan = Plan(MODELS, RemovalOptions(), Deadline.after(50))
    try:
        record = await services.shotgun.fire(picture, plan)
    except ServiceError as error:
        return [type(error).__name__]
    return [_outcome(record, index) for index in range(len(MODELS))]


def _outcome(record: ShotRecord, index: int) -> str:
    entry = record.results[index]
    return (entry.error and str(entry.error.code)) or str(entry.reason or entry.status)


async def _settled(ledger: CostLedger) -> None:
    """Give the stragglers the time that the sandbox's slowest fault takes."""
    for _ in range(10 * KIE_TIMEOUT_S):
        if not ledger.unsettled():
            return
        await asyncio.sleep(0.1)


def _money(ledger: CostLedger, sandbox: Sandbox) -> Money:
    """What the ledger holds, and what the bill charged for the tasks it is unsure of.

    Runware's tasks are known by our own ids. Kie.ai names its tasks itself and a lost reply loses
    the name, so there the bill's surplus over what was settled is what was uncertain.
    """
    unsure = ledger.unsettled()
    known = sum(
        (each.usd for entry in unsure for each in sandbox.bill.entries(task_id=entry.task_id)),
        Decimal(0),
    )
    kie_unsure = [entry for entry in unsure if entry.model is ModelId.KIE_RECRAFT]
    kie_surplus = sandbox.bill.line("recraft/remove-background").usd - ledger.totals().get(
        ModelId.KIE_RECRAFT, Decimal(0)
    )
    if kie_surplus > len(kie_unsure) * ledger.price(ModelId.KIE_RECRAFT):
        raise AssertionError("Kie.ai charged for more tasks than the ledger is unsure of")
    return Money(
        ledger=sum(ledger.totals().values(), Decimal(0)),
        uncertain_tasks=len(unsure),
        uncertain=known + kie_surplus,
        bill=sandbox.bill.total_usd,
    )


def _picture(number: int, fault: str | None) -> bytes:
    """A disc of its own colour on white, with the fault's mark drawn in where there is one."""
    rows, columns = np.mgrid[:260, :280]
    pixels = np.full((260, 280, 3), 255, np.uint8)
    inside = (rows - 140) ** 2 + (columns - 150) ** 2 < 90**2
    pixels[inside] = (number % 200, 40, 90)
    if fault is not None:
        pixels = draw(pixels, fault)
    return encode_png(pixels)


def _settings(sandbox: Sandbox, folder: Path) -> Settings:
    hosts = [each.partition("://")[2] for each in (sandbox.runware_files, sandbox.kie_files)]
    chosen: dict[str, object] = {
        "runware_api_key": "sandbox-soak",
        "kie_api_key": "sandbox-soak",
        "runware_url": sandbox.runware_ws,
        "kie_api_url": sandbox.kie_api,
        "kie_upload_url": sandbox.kie_upload,
        "provider_result_domains": frozenset(hosts),
        "provider_pace": 0.05,
        "provider_probe_s": 1,
        "runware_timeout_s": TIMEOUT_S,
        "kie_timeout_s": KIE_TIMEOUT_S,
        "weights_download": False,
        "temp_dir": folder,
        "queue_limit": 1000,
    }
    groups = {
        name: group.model_validate(
            {field: chosen[field] for field in group.model_fields if field in chosen}
        )
        for name, group in GROUPS.items()
    }
    return Settings.model_validate(groups)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shots", type=int, default=500)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        report = asyncio.run(soak(parser.parse_args().shots, folder=Path(folder)))
    print(f"{report.shots} shots, {report.faults} with a fault, {report.seconds} s")
    print(f"outcomes: {report.outcomes}")
    print(f"before: {report.before}\nafter:  {report.after}")
    print(
        f"bill {report.money.bill} = ledger {report.money.ledger} + {report.money.uncertain} "
        f"charged within {report.money.uncertain_tasks} uncertain tasks"
    )
    print(json.dumps(asdict(report), default=str))
    return int(report.leaked() or not report.balanced())


if __name__ == "__main__":
    sys.exit(main())
