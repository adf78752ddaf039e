"""How often the recommended cut-out is the best one, on artwork whose true alpha is known.

`python -m bench.ranking [--art FOLDER] [--unseen FOLDER] [--json FILE]`: every piece on six
grounds, cut out by real networks, the knock-out and by damage done to the truth, five candidates
to a shot. Weights are fitted leaving one piece out, and judged on that piece; pieces of `--unseen`
are judged with the weights that the service ships and fit nothing.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import mean, median
from time import process_time

import numpy as np
from numpy.typing import NDArray

from bench.ranking_scenes import (
    DAMAGE,
    FEW_GROUNDS,
    GROUNDS,
    PLAIN,
    ROOT,
    Mask,
    Random,
    Scene,
    iou,
    networks,
    real_masks,
    scenes,
)
from models.images import Flag, SourceImage
from models.schemas import ModelId
from services.evidence import small_alpha, small_picture
from services.ranking import (
    DEFAULT_WEIGHTS,
    Candidates,
    Evidence,
    Weights,
    judge,
    rank,
    score_of,
)

ART = ROOT / "tests" / "data" / "art"
DRAWS = 2  # shots of each random kind on a scene
TRIALS = 250  # weights tried in a fit
AS_GOOD = 0.002  # IoU within which a choice counts as the best
SLOTS = {
    "isnet-fp16": ModelId.LOCAL_ISNET,
    "isnet-uint8": ModelId.LOCAL_BIREFNET,
    "u2net": ModelId.KIE_RECRAFT,
    "knock-out": ModelId.LOCAL_KNOCKOUT,
}
PAID = (ModelId.RUNWARE_RMBG, ModelId.RUNWARE_BIREFNET)
NETWORKS = tuple(ModelId)[:5]
NAMES = tuple(each.name for each in fields(Evidence))


@dataclass(frozen=True, slots=True)
class Shot:
    """One shot judged: each candidate's evidence as a row (NaN: none), its factor and true IoU."""

    panel: str
    piece: str
    plain: bool
    models: tuple[ModelId, ...]
    evidence: NDArray[np.float64]
    factors: NDArray[np.float64]
    truths: NDArray[np.float64]

    def chosen(self, weights: NDArray[np.float64]) -> int:
        there = ~np.isnan(self.evidence)
        gained = np.where(there, self.evidence, 0) @ weights
        scores = self.factors * gained / np.maximum(there @ weights, 1e-9)
        return int(np.argmax(np.round(scores, 4)))

    def regret(self, choice: int) -> float:
        return float(self.truths.max() - self.truths[choice])


def panels(
    scene: Scene, real: Mapping[str, Mask], random: Random
) -> Iterator[tuple[str, dict[ModelId, Mask]]]:
    """The shots made of one scene.

    `real`: nothing but real masks. `mixed`: three of them and two damaged truths. `damaged`: five
    damages. `twins`: one bad mask twice, against two real masks and a lightly damaged truth.
    """
    slots = {SLOTS[name]: mask for name, mask in real.items()}
    if len(slots) > 1:
        yield "real", slots
    without_twin: dict[ModelId, Mask] = {
        model: slots[model] for model in slots if model is not ModelId.LOCAL_BIREFNET
    }
    for _ in range(DRAWS):
        kinds = [str(kind) for kind in random.permutation(list(DAMAGE))]
        damaged = [Mask(DAMAGE[kind](scene.truth, random)) for kind in kinds]
        yield "mixed", without_twin | dict[ModelId, Mask](zip(PAID, damaged, strict=False))
        yield "damaged", dict[ModelId, Mask](zip(NETWORKS, damaged, strict=False))
        wrong = DAMAGE["half"](scene.truth, random)
        again = np.roll(wrong, (1, 1), axis=(0, 1))
        pair = random.permutation(np.array(NETWORKS[:4]))
        light = Mask(DAMAGE[str(random.choice(["eroded", "dilated"]))](scene.truth, random))
        yield (
            "twins",
            {
                ModelId(pair[0]): Mask(wrong),
                ModelId(pair[1]): Mask(again),
                ModelId(pair[2]): light,
                **{
                    m: slots[m] for m in (ModelId.LOCAL_ISNET, ModelId.LOCAL_KNOCKOUT) if m in slots
                },
            },
        )


def judged(panel: str, scene: Scene, masks: Mapping[ModelId, Mask]) -> Shot:
    shot = candidates(scene, masks)
    found = judge(shot)
    rows = [[np.nan if each is None else each for each in astuple(e)] for e in found.evidence]
    factors = [_factor(flags) for flags in found.flags]
    truths = [iou(masks[model].alpha, scene.truth) for model in found.models]
    return Shot(
        panel,
        scene.piece,
        scene.ground in PLAIN,
        tuple(found.models),
        np.array(rows, np.float64),
        np.array(factors),
        np.array(truths),
    )


def candidates(scene: Scene, masks: Mapping[ModelId, Mask]) -> Candidates:
    return Candidates(
        small_picture(SourceImage(scene.rgb, None, "PNG", 0, "")),
        {model: small_alpha(mask.alpha) for model, mask in masks.items()},
        {model: mask.flags for model, mask in masks.items()},
    )


def _factor(flags: frozenset[Flag]) -> float:
    """What the flags leave of a score of 1."""
    return score_of(Evidence(1.0, 1.0, 1.0, 1.0, 1.0, 1.0), flags, DEFAULT_WEIGHTS)


def shots_of(
    folder: Path, files: Mapping[str, Path], grounds: Sequence[str] = GROUNDS
) -> list[Shot]:
    found = []
    for at, scene in enumerate(scenes(folder, grounds)):
        random = np.random.default_rng(at)
        real = real_masks(scene, files)
        found += [judged(panel, scene, masks) for panel, masks in panels(scene, real, random)]
    return found


def fitted(shots: Sequence[Shot]) -> NDArray[np.float64]:
    """The weights of least mean regret among TRIALS drawn at random, every panel counting alike.

    The mean of the ten best: one draw's luck should not decide.
    """
    random = np.random.default_rng(7)
    trials = random.dirichlet(np.ones(len(NAMES)), TRIALS)
    sizes = {
        panel: sum(shot.panel == panel for shot in shots) for panel in {s.panel for s in shots}
    }
    costs = [
        sum(shot.regret(shot.chosen(trial)) / sizes[shot.panel] for shot in shots)
        for trial in trials
    ]
    best = np.argsort(costs)[:10]
    return np.asarray(trials[best].mean(axis=0))


def left_out(shots: Sequence[Shot]) -> list[int]:
    """The choice in every shot by weights that were fitted without its piece."""
    weights = {
        piece: fitted([shot for shot in shots if shot.piece != piece])
        for piece in {shot.piece for shot in shots}
    }
    return [shot.chosen(weights[shot.piece]) for shot in shots]


def best_fixed(shots: Sequence[Shot]) -> tuple[ModelId, list[int]]:
    """The model that, always taken, regrets least: known only afterwards."""
    everywhere = set.intersection(*(set(shot.models) for shot in shots))

    def cost(model: ModelId) -> float:
        return mean(shot.regret(shot.models.index(model)) for shot in shots)

    model = min(sorted(everywhere), key=cost)
    return model, [shot.models.index(model) for shot in shots]


def verdict(shots: Sequence[Shot], choices: Iterable[int]) -> tuple[float, float, float]:
    """Share of exactly best, share within AS_GOOD of the best, mean regret."""
    regrets = [shot.regret(choice) for shot, choice in zip(shots, choices, strict=True)]
    return (
        mean(regret == 0 for regret in regrets),
        mean(regret <= AS_GOOD for regret in regrets),
        mean(regrets),
    )


def at_random(shots: Sequence[Shot]) -> tuple[float, float, float]:
    """The same, expected of a choice at random."""
    gaps = [shot.truths.max() - shot.truths for shot in shots]
    return (
        mean(float((gap == 0).mean()) for gap in gaps),
        mean(float((gap <= AS_GOOD).mean()) for gap in gaps),
        mean(float(gap.mean()) for gap in gaps),
    )


def table(shots: Sequence[Shot], choices: Sequence[int], title: str) -> list[dict[str, object]]:
    print(
        f"\n| panel | ground | shots | {title}: best | regret | random: best | regret "
        "| best fixed | best | regret |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    rows: list[dict[str, object]] = []
    for panel in ("real", "mixed", "damaged", "twins", None):
        for plain in (True, False, None):
            at = [
                i
                for i, shot in enumerate(shots)
                if panel in (None, shot.panel) and plain in (None, shot.plain)
            ]
            if at and (panel is not None or plain is None):
                where, taken = [shots[i] for i in at], [choices[i] for i in at]
                rows.append(_row(panel, plain=plain, shots=where, choices=taken))
    return rows


def _row(
    panel: str | None, *, plain: bool | None, shots: list[Shot], choices: list[int]
) -> dict[str, object]:
    ours, chance = verdict(shots, choices), at_random(shots)
    where = {True: "plain", False: "other", None: "all"}[plain]
    model, fixed = ("none in all", None) if panel is None else best_fixed(shots)
    theirs = verdict(shots, fixed) if fixed else _by_panel(shots)
    cells = [panel or "all", where, str(len(shots)), *_said(ours), *_said(chance)]
    print(
        "| "
        + " | ".join([*cells, "each panel's" if fixed is None else str(model), *_said(theirs)])
        + " |"
    )
    return {"panel": panel, "ground": where, "ours": ours, "random": chance, "fixed": theirs}


def _by_panel(shots: list[Shot]) -> tuple[float, float, float]:
    """The best fixed choice of each panel by itself."""
    named = {shot.panel for shot in shots}
    parts = [[shot for shot in shots if shot.panel == panel] for panel in sorted(named)]
    choices = [best_fixed(part)[1] for part in parts]
    return verdict([s for part in parts for s in part], [c for each in choices for c in each])


def _said(result: tuple[float, float, float]) -> list[str]:
    exact, near, regret = result
    return [f"{exact:.0%} ({near:.0%})", f"{regret:.4f}"]


def by_single_evidence(shots: Sequence[Shot]) -> None:
    """What each kind of evidence would choose alone, and what the rest would without it."""
    print(
        "\n| evidence | alone: best | regret | without it: best | regret |\n|---|---|---|---|---|"
    )
    shipped = np.array(astuple(DEFAULT_WEIGHTS))
    for at, name in enumerate(NAMES):
        alone, without = np.zeros(len(NAMES)), shipped.copy()
        alone[at], without[at] = 1, 0
        cells = [*_said(verdict(shots, [s.chosen(alone) for s in shots]))]
        cells += _said(verdict(shots, [s.chosen(without) for s in shots]))
        print(f"| {name} | " + " | ".join(cells) + " |")


def by_candidate(shots: Sequence[Shot]) -> None:
    """Mean true IoU of the real masks: what the priors rest on."""
    print("\n| real mask | plain | other |\n|---|---|---|")
    real = [shot for shot in shots if shot.panel == "real"]
    for name, model in SLOTS.items():
        cells = []
        for plain in (True, False):
            ious = [
                s.truths[s.models.index(model)]
                for s in real
                if s.plain is plain and model in s.models
            ]
            cells.append(f"{mean(ious):.3f}" if ious else "")
        print(f"| {name} | {' | '.join(cells)} |")


def milliseconds(folder: Path) -> float:
    """CPU milliseconds of one ranking of five candidates at full size, median of 30."""
    scene = max(scenes(folder), key=lambda each: min(each.truth.shape))
    random = np.random.default_rng(1)
    masks: dict[ModelId, Mask] = {
        model: Mask(damage(scene.truth, random))
        for model, damage in zip(NETWORKS, DAMAGE.values(), strict=False)
    }
    shot = candidates(scene, masks)
    spent = []
    for _ in range(30):
        begun = process_time()
        rank(shot)
        spent.append((process_time() - begun) * 1e3)
    print(
        f"\nranking five candidates of {shot.picture.shape[1]} x {shot.picture.shape[0]}: "
        f"{median(spent):.0f} ms of CPU"
    )
    return median(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--art", type=Path, default=ART, help="pieces with a true alpha")
    parser.add_argument("--unseen", type=Path, help="pieces that the shipped weights never saw")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    files = networks()
    shots = shots_of(options.art, files)
    by_candidate(shots)
    rows = table(shots, left_out(shots), "left out")
    table(shots, [shot.chosen(np.array(astuple(DEFAULT_WEIGHTS))) for shot in shots], "shipped")
    by_single_evidence(shots)
    best = fitted(shots)
    print("\nfitted on all pieces:", Weights(*(round(float(w), 2) for w in best)))
    report: dict[str, object] = {"left_out": rows, "fitted": best.tolist()}
    if options.unseen:
        fewer = {name: path for name, path in files.items() if name != "isnet-uint8"}
        unseen = shots_of(options.unseen, fewer, FEW_GROUNDS)
        by_candidate(unseen)
        shipped = np.array(astuple(DEFAULT_WEIGHTS))
        report["unseen"] = table(unseen, [s.chosen(shipped) for s in unseen], "unseen")
    report["milliseconds"] = milliseconds(options.art)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
