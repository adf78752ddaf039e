"""A network's file in the form that is cheap to run, made once from the released one.

Rewriting (services/rewrite_prepare.py) and OpenVINO's own form (services/openvino_form.py) take two
gigabytes for a minute, and even looking whether it was done means loading onnx: both happen in a
process of their own, `python -m services.prepared`.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from models.inference import Form
from services.inference import GraphRefused
from services.weights import process_lock

if TYPE_CHECKING:
    from services.rewrite_prepare import Recipe, RewriteManifest

_ROOT = Path(__file__).parent.parent
_REFUSED = 3
_ENDINGS = {Form.ROWS: ".rows.onnx", Form.SINGLES: ".singles.xml", Form.HALVES: ".halves.xml"}
_BETWEEN = ".native.onnx"


class NotPrepared(Exception):
    """The file stays as it was released; `reason` says why, for people."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def place_of(source: Path, form: Form) -> Path:
    """Where the rewritten file is or would be."""
    return source.with_suffix(_ENDINGS[form])


async def prepared(  # noqa: PLR0913  # what it is made of, all named
    source: Path,
    *,
    convolutions: int,
    form: Form,
    licence: str,
    released: Collection[str] = (),
    timeout_s: float = 900,
) -> Path:
    """The rewritten file beside `source`, made now unless it is there; raises NotPrepared.

    `convolutions` is how many deformable ones the network has: one less found is a refusal.
    A form stands without `source` where it was made of a file whose SHA-256 is among `released`: an
    image need not hold both.
    """
    target = place_of(source, form)
    words = [str(source), form, "--convolutions", str(convolutions), "--licence", licence]
    words += ["--released", *released]
    async with process_lock(target.with_suffix(".lock")):
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.prepared"),
            *words,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(timeout_s):
                _, told = await child.communicate()
        except BaseException:
            child.kill()
            await child.wait()
            raise
    if child.returncode == 0:
        return target
    reason = told.decode(errors="replace").strip().splitlines()[-1:] if told else []
    raise NotPrepared(
        reason[0] if reason else f"the rewriting process ended with {child.returncode}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 when the form is in place, else a line on stderr says why it is not."""
    from services.rewrite_prepare import RewriteRefused  # noqa: PLC0415  # onnx

    asked = _parser().parse_args(arguments)
    source: Path = asked.source.absolute()
    target = place_of(source, asked.form)
    try:
        if not source.exists():
            _require_alone(source, target, asked)
        elif asked.form is Form.ROWS:
            _rewrite(source, target, asked, split_rows=True)
        else:
            _make_own(source, target, asked)
    except (RewriteRefused, GraphRefused, OSError) as refusal:
        print(refusal, file=sys.stderr)  # noqa: T201  # for whoever started this process
        return _REFUSED
    return 0


def _rewrite(
    source: Path, target: Path, asked: argparse.Namespace, *, split_rows: bool
) -> "RewriteManifest":
    from services.rewrite_prepare import prepare  # noqa: PLC0415  # onnx

    recipe = _recipe(asked, split_rows=split_rows)
    return prepare(source, target, licence=asked.licence, recipe=recipe)


def _recipe(asked: argparse.Namespace, *, split_rows: bool = True) -> "Recipe":
    from services.rewrite_prepare import Recipe  # noqa: PLC0415  # onnx

    return Recipe(split_rows=split_rows, deformable_convolutions=asked.convolutions)


def _require_alone(source: Path, target: Path, asked: argparse.Namespace) -> None:
    """Raises FileNotFoundError where `target` cannot stand in for `source`."""
    from services import openvino_form, rewrite_prepare  # noqa: PLC0415  # onnx

    released = asked.released
    if asked.form is Form.ROWS:
        alone = rewrite_prepare.stands_alone(target, _recipe(asked), released=released)
    else:
        halves = asked.form is Form.HALVES
        alone = openvino_form.stands_alone(target, halves=halves, released=released)
    if not alone:
        raise FileNotFoundError(f"{source.name} is not there, and {target.name} cannot replace it")


def _make_own(source: Path, target: Path, asked: argparse.Namespace) -> None:
    """OpenVINO's form, by way of a rewritten file that is not needed afterwards."""
    from services import openvino_form  # noqa: PLC0415  # onnx

    halves = asked.form is Form.HALVES
    if openvino_form.is_made(source, target, halves=halves):
        return
    between = source.with_suffix(_BETWEEN)
    rewriting = _rewrite(source, between, asked, split_rows=False)
    openvino_form.make(between, target, rewriting=rewriting, halves=halves)
    between.unlink()
    between.with_suffix(".rewrite.json").unlink()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.prepared", description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("form", type=Form)
    parser.add_argument("--convolutions", type=int, required=True)
    parser.add_argument("--licence", required=True)
    parser.add_argument("--released", nargs="*", default=[], metavar="SHA256")
    return parser


if __name__ == "__main__":
    sys.exit(main())
