"""Things go wrong on purpose: `python -m scripts.chaos [NAME …] [--write]`, or `make chaos`.

Each circumstance is made for real against the service as README.md starts it, with clients that go
on all the while and the sandbox in the providers' place; then what must hold is looked at. Ends
with status 1 where something does not. `--write` puts the rows into docs/OPERATIONS.md. Best as
root on a Linux of your own: mounts and network are private to the run.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from scripts.chaos import needs, table
from scripts.chaos.circumstances import CIRCUMSTANCES, Circumstance
from scripts.chaos.doors import Loop
from scripts.chaos.judge import broken, money, seconds_until_well, wait_until_quiet
from scripts.chaos.stage import new_stage
from scripts.chaos.traffic import Seen, traffic

_WARM_S = 150


def main() -> int:
    asked = _parser().parse_args()
    chosen = [each for each in CIRCUMSTANCES if not asked.names or each.name in asked.names]
    needs.isolate()
    rows = []
    with (
        tempfile.TemporaryDirectory(
            prefix="chaos-", dir=asked.folder, ignore_cleanup_errors=True
        ) as folder,
        Loop() as loop,
    ):
        Path(folder).chmod(0o755)
        for each in chosen:
            if (missing := each.missing()) is not None:
                print(f"{each.name}: skipped, it {missing}", flush=True)
                continue
            row = _made(each, Path(folder) / each.name, loop, keep=asked.keep_log)
            print(row.told(), flush=True)
            rows.append(row)
            if asked.write:
                table.write(row, [every.name for every in CIRCUMSTANCES])
    return int(any(row.broken for row in rows))


def _made(each: Circumstance, folder: Path, loop: Loop, *, keep: Path | None) -> table.Row:
    """Make it, and say what happened."""
    with new_stage(folder, loop, env=each.env, models=each.models) as stage:
        began = time.monotonic()

        def say(what: str) -> None:
            print(f"   {each.name}: {time.monotonic() - began:5.1f} s: {what}", flush=True)

        each.prepare(stage)
        stage.entering = each.entering(stage)
        stage.start()
        if seconds_until_well(stage, at_most_s=_WARM_S) is None:
            raise SystemExit(f"{each.name}: not well before it began\n{stage.tail()}")
        seen = Seen(each.models)
        try:
            with traffic(stage.shop, seen, each.clients):
                say("traffic")
                time.sleep(2)
                each.run(stage, seen)
                say("over")
                well_s = seconds_until_well(stage, at_most_s=each.well_s)
                say("well")
            say("traffic over")
            wait_until_quiet(stage)
            say("quiet")
            found = broken(stage, seen, silence_s=each.silence_s, may_crash=each.may_crash)
        finally:
            if keep is not None:
                (keep / f"{each.name}.log").write_bytes(stage.log.read_bytes())
        if well_s is None or well_s > each.well_s:
            found.append(f"not well within {each.well_s:g} s")
        row = table.Row(each.name, each.done, seen, well_s, stage.events(), money(stage), found)
        stage.stop()
    return row


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.chaos", description=__doc__)
    names = [each.name for each in CIRCUMSTANCES]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--write", action="store_true", help="put the rows into the table")
    parser.add_argument("--folder", type=Path, help="where it all happens (default: TMPDIR)")
    parser.add_argument("--keep-log", type=Path, help="a folder for the service's logs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
