"""A network's file in the form that is cheap to run, made once from the released one.

Rewriting (services/rewrite_prepare.py) takes a gigabyte for a minute, and even looking whether it
was done means loading onnx: both happen in a process of their own, `python -m services.prepared`.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from models.inference import Form
from services.inference import GraphRefused, read_openvino_model
from services.weights import process_lock

_ROOT = Path(__file__).parent.parent
_REFUSED = 3
_ENDINGS = {Form.NATIVE: ".native.onnx", Form.ROWS: ".rows.onnx", Form.HALVES: ".halves.xml"}


class NotPrepared(Exception):
    """The file stays as it was released; `reason` says why, for people."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


async def prepared(
    source: Path, *, convolutions: int, form: Form, licence: str, timeout_s: float = 900
) -> Path:
    """The rewritten file beside `source`, made now unless it is there; raises NotPrepared.

    `convolutions` is how many deformable ones the network has: one less found is a refusal.
    """
    target = source.with_suffix(_ENDINGS[form])
    words = [str(source), form, "--convolutions", str(convolutions), "--licence", licence]
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
    from services.rewrite_prepare import Recipe, RewriteRefused, prepare  # noqa: PLC0415  # onnx

    asked = _parser().parse_args(arguments)
    source: Path = asked.source.absolute()
    rows = asked.form is Form.ROWS
    rewritten = source.with_suffix(_ENDINGS[Form.ROWS if rows else Form.NATIVE])
    recipe = Recipe(split_rows=rows, deformable_convolutions=asked.convolutions)
    try:
        prepare(source, rewritten, licence=asked.licence, recipe=recipe)
        if asked.form is Form.HALVES:
            _halve(rewritten, source.with_suffix(_ENDINGS[Form.HALVES]))
    except (RewriteRefused, GraphRefused) as refusal:
        print(refusal, file=sys.stderr)  # noqa: T201  # for whoever started this process
        return _REFUSED
    return 0


def _halve(network: Path, target: Path) -> None:
    """OpenVINO's own form, made again where the network is newer; the .xml appears last."""
    if target.exists() and target.stat().st_mtime_ns >= network.stat().st_mtime_ns:
        return
    model = read_openvino_model(network)
    import openvino  # noqa: PLC0415  # heavy; its telemetry is off by now

    part = target.with_suffix(".part.xml")
    openvino.save_model(model, str(part), compress_to_fp16=True)
    part.with_suffix(".bin").replace(target.with_suffix(".bin"))
    part.replace(target)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.prepared", description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("form", type=Form)
    parser.add_argument("--convolutions", type=int, required=True)
    parser.add_argument("--licence", required=True)
    return parser


if __name__ == "__main__":
    sys.exit(main())
