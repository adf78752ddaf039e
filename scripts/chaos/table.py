"""The table in docs/OPERATIONS.md: a row for each circumstance, put between two markers."""

import fcntl
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.chaos.judge import Money
from scripts.chaos.traffic import Seen

PAGE = Path(__file__).parents[2] / "docs" / "OPERATIONS.md"
BEGIN = "<!-- chaos: written by python -m scripts.chaos --write -->"
END = "<!-- chaos: end -->"
HEAD = (
    "| what was done | what clients saw | kept and lost | well again after | log and /ready |\n"
    "| --- | --- | --- | --- | --- |\n"
)
_MOST = 7


@dataclass(frozen=True)
class Row:
    """What happened in one circumstance; `broken` is what must hold and did not."""

    name: str
    done: str
    seen: Seen
    well_s: float | None
    events: Counter[str]
    money: Money
    broken: list[str]

    def told(self) -> str:
        """For the terminal."""
        verdict = "; ".join(self.broken) or "all holds"
        cells = "\n  ".join(self.cells()[1:])
        return f"== {self.name}: {verdict}\n  {cells}"

    def line(self) -> str:
        return f"| {' | '.join(self.cells())} <!-- {self.name} --> |\n"

    def cells(self) -> list[str]:
        well = "not" if self.well_s is None else f"{self.well_s:.0f} s"
        silence = f"; /health was silent for at most {self.seen.longest_silence_s:.1f} s"
        return [self.done, self._answers(), self._kept(), well + silence, self._said()]

    def _answers(self) -> str:
        by_kind: dict[str, Counter[str]] = {}
        for (kind, said), count in sorted(self.seen.answers.items()):
            by_kind.setdefault(kind, Counter())[said] += count
        told = [f"{kind}: {_listed(counts)}" for kind, counts in by_kind.items()]
        outcomes: Counter[str] = Counter()
        for (_, code), count in self.seen.outcomes.items():
            outcomes[code] += count
        return "<br>".join([*told, f"models: {_listed(outcomes)}"])

    def _kept(self) -> str:
        seen, money = self.seen, self.money
        told = (
            f"{len(seen.shots)} shots and {len(seen.picks)} picks acknowledged, "
            f"{len(seen.keyed)} keys sent again; bill {money.billed} USD, settled {money.settled} "
            f"USD, {money.uncertain} tasks uncertain; "
        )
        return told + ("**" + "; ".join(self.broken) + "**" if self.broken else "nothing lost")

    def _said(self) -> str:
        ready = Counter({said: n for said, n in self.seen.ready.items() if said != "all well"})
        log = _listed(self.events, ticks=True) or "nothing above INFO"
        return f"{log}<br>/ready: {_listed(ready, counted=False) or 'all well throughout'}"


def _listed(counts: Mapping[str, int], *, ticks: bool = False, counted: bool = True) -> str:
    common = Counter(counts).most_common(_MOST)
    words = [
        (f"{n} x " if counted else "") + (f"`{name.strip()}`" if ticks else name)
        for name, n in common
    ]
    return ", ".join(words) + (" …" if len(counts) > _MOST else "")


def write(row: Row, order: Sequence[str], page: Path = PAGE) -> None:
    """Put the row in the place of an earlier one of its name; the others stay as they are."""
    with page.open("r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # several runs may write at once
        text = replaced(file.read(), row.name, row.line(), order)
        file.seek(0)
        file.truncate()
        file.write(text)


def replaced(text: str, name: str, line: str, order: Sequence[str]) -> str:
    """The page's text with one row made anew; the rows stand in `order`, unknown ones go."""
    before, rest = text.split(BEGIN)
    inside, after = rest.split(END)
    rows = {_name(each): each for each in inside.splitlines(keepends=True) if "<!-- " in each}
    rows[name] = line
    lines = "".join(rows[each] for each in order if each in rows)
    return f"{before}{BEGIN}\n\n{HEAD}{lines}\n{END}{after}"


def _name(line: str) -> str:
    return line.rpartition("<!-- ")[2].partition(" -->")[0]
