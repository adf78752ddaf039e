"""Fetches the networks' weights into a directory: `python -m scripts.weights [name...]`."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from models.errors import RemoverUnavailable
from models.inference import Form, LocalProfile, RunPlan
from services.budget import room_for_networks
from services.local_rembg import network_of
from services.prepared import NotPrepared, prepared
from services.profiles import way_for
from services.weights import ISNET_GENERAL_USE, WEIGHT_FILES, Manifest, WeightsStore
from utils.memory import granted_bytes

_DIRECTORY = Path(__file__).resolve().parent.parent / "weights"
_NAMES = tuple(file.name for file in WEIGHT_FILES)
_ALL = "all"


class ProgressLine:
    """One network's progress on stderr: one line that updates on a terminal, else one per 10 %."""

    def __init__(self, name: str, *, updating: bool) -> None:
        self._name = name
        self._updating = updating
        self._shown = -1

    def __call__(self, done: int, total: int | None) -> None:
        """Shows the next step; where the whole size is unknown a step is 10 MB."""
        percent = 100 * done // total if total else done // 1_000_000
        step = percent if self._updating else percent // 10
        if step != self._shown:
            self._shown = step
            self._show(f"{percent} %" if total else f"{percent} MB")

    def close(self) -> None:
        if self._updating and self._shown >= 0:
            print(file=sys.stderr)

    def _show(self, amount: str) -> None:
        line = f"{self._name}: {amount}"
        if self._updating:
            print(f"\r{line}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 when every network asked for is in place, else 1 with a line for each."""
    asked = _parser().parse_args(arguments)
    names = _NAMES if _ALL in asked.names else tuple(dict.fromkeys(asked.names))
    return asyncio.run(_fetch(names, store=WeightsStore(asked.directory), form=asked.form))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.weights", description=__doc__)
    parser.add_argument("--directory", type=Path, default=_DIRECTORY, help="default: %(default)s")
    parser.add_argument(
        "--form",
        type=Form,
        choices=list(Form),
        help="what a network is rewritten as; default: as this machine would run it",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="name",
        default=[ISNET_GENERAL_USE.name],
        help=f"{', '.join(_NAMES)} or {_ALL}; default: {ISNET_GENERAL_USE.name}",
    )
    return parser


async def _fetch(names: Sequence[str], *, store: WeightsStore, form: Form | None) -> int:
    failures = 0
    for name in names:
        try:
            await _fetch_one(name, store=store, form=form)
        except RemoverUnavailable as failure:
            failures += 1
            print(failure.reason, file=sys.stderr)
    return 1 if failures else 0


async def _fetch_one(name: str, *, store: WeightsStore, form: Form | None) -> None:
    line = ProgressLine(name, updating=sys.stderr.isatty())
    try:
        path = await store.ensure(name, progress=line)
    finally:
        line.close()
    print(f"{name}: {path}")
    await _rewrite(name, path, store=store, form=form)
    if (manifest := store.manifest(name)) is not None:
        print(_origin(manifest))


async def _rewrite(name: str, path: Path, *, store: WeightsStore, form: Form | None) -> None:
    """The cheap form of a network that has one; without `form` as this machine will run it."""
    network = network_of(name)
    if network.convolutions == 0:
        return
    room = room_for_networks(granted_bytes())
    way = way_for(RunPlan(path), LocalProfile.AUTO, network.architecture, room_bytes=room)
    manifest = store.manifest(name)
    print(f"{name}: rewriting (a minute, and two gigabytes of memory)", file=sys.stderr)
    try:
        made = await prepared(
            path,
            convolutions=network.convolutions,
            form=form or way.form,
            licence=manifest.licence if manifest else "",
        )
    except NotPrepared as refusal:
        raise RemoverUnavailable(f"{name} was not rewritten: {refusal.reason}") from refusal
    print(f"  rewritten: {made}")


def _origin(manifest: Manifest) -> str:
    return f"  source:  {manifest.source}\n  licence: {manifest.licence}"


if __name__ == "__main__":
    sys.exit(main())
