"""Picks that went to the log (PICKS_ON_FAILURE=log) back into the journal.

`python -m scripts.preferences_replay [--folder DATA_DIR/picks] < service.log` may be run again, and
beside the service: a pick that the journal holds is not added twice.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from config import load_settings
from utils.tracking import Journal
from utils.tracking_files import complete_lines, open_archive, take_snapshot


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="the journal; left out: as the settings say")
    storage = load_settings().storage
    folder = parser.parse_args().folder or (storage.data_dir or storage.temp_dir / "data") / "picks"
    print(f"{asyncio.run(replay(folder, sys.stdin))} picks were added")


async def replay(folder: Path, log: Iterable[str]) -> int:
    """Append what the journal does not hold; how many that were."""
    held = set(_ids(folder))
    journal = Journal(folder)
    added = 0
    for line in _logged(log):
        if line["preference_id"] not in held:
            held.add(line["preference_id"])
            await journal.append(line)
            added += 1
    await journal.close()
    return added


def _logged(log: Iterable[str]) -> Iterator[dict[str, Any]]:
    for text in log:
        if '"pick_logged"' in text:
            yield json.loads(text)["line"]


def _ids(folder: Path) -> Iterator[str]:
    snapshot = take_snapshot(folder)
    for stem in snapshot.archives:
        with open_archive(folder, stem) as file:
            yield from (json.loads(line)["preference_id"] for line in complete_lines(file))
    if snapshot.current is not None:
        with snapshot.current as file:
            lines = complete_lines(file, snapshot.size)
            yield from (json.loads(line)["preference_id"] for line in lines)


if __name__ == "__main__":
    main()
