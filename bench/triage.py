"""How triage judges pictures whose kind is known, and what a look costs.

`python -m bench.triage [FOLDER]` prints a confusion table, every mistake, and times as a share of
one Lanczos resize of the same picture to half its size, measured in the same minute. FOLDER holds
photos/*.jpg and art/*.png in place of tests/data.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from bench.triage_set import (
    DATA,
    Labelled,
    cutouts,
    labelled,
    on_board,
    photos,
    random_boards,
    random_frames,
    scaled,
)
from models.images import PictureKind, SourceImage
from services.triage import Triage, look_at

RUNS = 9
RANDOM = 300
WITHHOLD = (PictureKind.TRANSPARENT, PictureKind.BLANK)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a picture is, and what it was taken for."""

    name: str
    kind: PictureKind
    found: Triage


def verdicts(pictures: Iterable[Labelled]) -> list[Verdict]:
    """Every picture looked at; the pictures themselves are not kept."""
    return [Verdict(each.name, each.kind, look_at(each.image)) for each in pictures]


def withheld_wrongly(seen: Iterable[Verdict]) -> list[Verdict]:
    """The mistakes that would cost a customer the paid cut-outs."""
    return [each for each in seen if each.found.kind in WITHHOLD and each.kind not in WITHHOLD]


def print_confusion(seen: list[Verdict]) -> None:
    table = Counter((each.kind, each.found.kind) for each in seen)
    print("| is, taken for | " + " | ".join(PictureKind) + " |")
    print("|---|" + "---|" * len(PictureKind))
    for kind in PictureKind:
        print(f"| {kind} | " + " | ".join(str(table[kind, found]) for found in PictureKind) + " |")
    print(f"\npictures: {len(seen)}; paid models withheld wrongly: {len(withheld_wrongly(seen))}")


def print_mistakes(seen: Iterable[Verdict]) -> None:
    for each in seen:
        if each.found.kind != each.kind:
            print(f"- {each.kind} as {each.found.kind}: {each.name} ({each.found.reasons})")


def milliseconds(work: Callable[[], object]) -> float:
    """Median of processor time of this thread."""
    times = []
    for _ in range(RUNS):
        start = time.thread_time()
        work()
        times.append((time.thread_time() - start) * 1e3)
    return median(times)


def timed() -> list[tuple[str, SourceImage]]:
    """Pictures that take each way through a look, at 512 pixels and large."""
    photo = next(iter(photos())).image.rgb
    cut = next(iter(cutouts())).image
    assert cut.alpha is not None
    rgba = np.dstack((cut.rgb, cut.alpha))
    found = []
    for side in (512, 4000, 8000):
        large = scaled(photo, side / max(photo.shape))
        drawn = scaled(rgba, side / max(rgba.shape))
        board = on_board(drawn, 16, (204, 255))
        blank = np.full((side, side, 3), 250, np.uint8)
        found += [
            (f"photo, {side}", SourceImage(large, None, "", 0, "")),
            (f"cut-out, {side}", SourceImage(drawn[..., :3], drawn[..., 3], "", 0, "")),
            (f"checkerboard, {side}", SourceImage(board, None, "", 0, "")),
            (f"blank, {side}", SourceImage(blank, None, "", 0, "")),
        ]
    return found


def print_times() -> None:
    print("| picture | pixels | ms | Lanczos to half its size, ms | ratio |")
    print("|---|---|---|---|---|")
    for name, image in timed():
        picture = Image.fromarray(np.ascontiguousarray(image.rgb))
        ours = milliseconds(partial(look_at, image))
        half = (image.width // 2, image.height // 2)
        theirs = milliseconds(partial(picture.resize, half, Image.Resampling.LANCZOS))
        size = f"{image.width}x{image.height}"
        print(f"| {name} | {size} | {ours:.1f} | {theirs:.1f} | {ours / theirs:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=DATA)
    folder = parser.parse_args().folder
    seen = verdicts(labelled(folder))
    print_confusion(seen)
    print_mistakes(seen)
    print("\nDrawn at random; no constant was chosen by these:\n")
    made = verdicts(chain(random_boards(RANDOM, seed=3), random_frames(RANDOM, seed=4)))
    print_confusion(made)
    print_mistakes(made)
    print()
    print_times()


if __name__ == "__main__":
    main()
