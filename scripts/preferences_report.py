"""What the picks say: a table, a plot of win rates over time, and what an adaptive shot saves.

`python -m scripts.preferences_report [--by week] [--plot FOLDER] [--folder DATA_DIR/picks]` reads
the journal that the settings name. The plot is drawn by matplotlib in the bench's second
environment, which is made where it is missing; without it the table stands alone.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

from bench.upscale_peers import PeerMissing, second_python
from config import Settings, load_settings
from models.preferences import GroupBy, StatsQuery
from models.schemas import ModelId
from services.pick_report import Learning, Report, report_of
from services.pick_stats import stats_of
from services.tally import Follower, Tally
from services.taste import Stakes

PLOTS = Path(__file__).parent.parent / "bench" / "picks_plots.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    periods = [each for each in get_args(GroupBy) if each != "kind"]
    parser.add_argument("--by", choices=periods, default="week")
    parser.add_argument("--plot", type=Path, metavar="FOLDER")
    parser.add_argument("--folder", type=Path, help="the journal; left out: as the settings say")
    asked = parser.parse_args()
    settings = load_settings()
    storage = settings.storage
    folder = asked.folder or (storage.data_dir or storage.temp_dir / "data") / "picks"
    tally = _tally(folder)
    if not tally.lines:
        sys.exit(f"There are no picks in {folder}.")
    report = report_of(tally, asked.by, _learning(settings))
    print(table(tally, report))
    if asked.plot:
        draw(report, asked.plot)


def table(tally: Tally, report: Report) -> str:
    """The counts of all time, and the money."""
    lines = [
        f"{report.picks} picks",
        "",
        "model                      shown   wins  rate (95 %)       ",
    ]
    lines[-1] += "strength  cost a win"
    for row in stats_of(tally, StatsQuery()).models:
        rate = f"{row.win_rate or 0:.3f} ({row.win_rate_low:.3f}-{row.win_rate_high:.3f})"
        cost = "-" if row.cost_per_win_usd is None else f"{row.cost_per_win_usd:.4f}"
        lines.append(
            f"{row.model:26} {row.shown:5} {row.wins:6}  {rate:19} {row.strength:6.2f} {cost:>11}"
        )
    spent, adaptive = sum(report.spent_usd), sum(report.adaptive_usd)
    lines += [
        "",
        f"Paid models cost {spent:.2f} USD. A shot that asks them where it pays, by what was known",
        f"before each period, would have cost {adaptive:.2f} USD and would not have offered the",
        f"winner of {sum(report.lost):.0f} picks ({100 * sum(report.lost) / report.picks:.1f} %).",
    ]
    return "\n".join(lines)


def draw(report: Report, folder: Path) -> None:
    try:
        command = [str(second_python()), "-P", str(PLOTS), str(folder)]
    except PeerMissing as error:
        print(f"!! NO PLOT: {error}", file=sys.stderr)
        return
    text = json.dumps({"report": report.as_json()})
    subprocess.run(command, input=text, text=True, check=True)
    print(f"drawn: {folder / 'preferences.png'}")


def _tally(folder: Path) -> Tally:
    follower = Follower(folder)
    follower.refresh()
    tally = follower.tally()
    follower.close()
    return tally


def _learning(settings: Settings) -> Learning:
    providers, picks = settings.providers, settings.picks
    names = {
        ModelId.RUNWARE_RMBG: providers.runware_rmbg_model,
        ModelId.RUNWARE_BIREFNET: providers.runware_portrait_model,
        ModelId.KIE_RECRAFT: providers.kie_model,
    }
    prices = {model: float(providers.provider_prices.get(name, 0)) for model, name in names.items()}
    return Learning(picks.picks_half_life_days, Stakes(prices, picks.picks_worth_usd))


if __name__ == "__main__":
    main()
