"""What bench.upscale measures, as tables, each followed by its goals."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from bench.upscale_load import FourRow, LargeRow, four_at_once, measure_growth, measure_large
from bench.upscale_peers import THREADS, Ours, OverHttp, Run, Side, our_side, peers, rounds
from bench.upscale_service import MB, running_service
from bench.upscale_sources import write_peers_pictures
from bench.upscale_stages import Stages, split

Runs = Mapping[str, Mapping[str, Run]]

PHOTO_SPEED, PHOTO_SPEED_SHARP, PHOTO_SIZE = 10, 3.5, 1.12
ART_SPEED, ART_SIZE = 6, 1.15
PEAK_MB = 400
SPREAD_OF_HEIGHTS = 1.15
SPREAD_OF_SIZES = 1.5
FIRST_BYTE_MS = 10_000
LIMIT_MB = (4 << 30) / MB


def show_peers(folder: Path, *, rounds_count: int) -> dict[str, Any]:
    pictures = write_peers_pictures(folder)
    with our_side(folder / "scratch") as ours, running_service(folder, watched=False) as service:
        with peers() as (others, missing):
            sides: dict[str, Side] = {"ours": ours, "ours, HTTP": OverHttp(service), **others}
            _print_sides(sides, missing)
            found = rounds(sides, pictures, count=rounds_count)
        _print_runs(found, missing)
        _print_peer_goals(found)
        stages = _show_stages(ours, pictures, found)
    return {
        "versions": {name: side.version for name, side in sides.items()},
        "missing": missing,
        "peers": {
            picture: {name: asdict(run) for name, run in runs.items()}
            for picture, runs in found.items()
        },
        "stages": stages,
    }


def show_growth(folder: Path, runs: dict[int, int]) -> list[dict[str, Any]]:
    print("\nTime a megapixel of the result, 4x, best of the runs")
    print(f"{'MP out':>8}{'ms/MP':>10}{'CPU ms/MP':>12}{'HTTP ms/MP':>13}")
    rows = []
    for row in measure_growth(folder, runs):
        rows.append(row)
        print(
            f"{row.megapixels:8.0f}{row.ms_per_megapixel:10.2f}{row.cpu_ms_per_megapixel:12.2f}"
            f"{row.http_ms_per_megapixel:13.2f}",
            flush=True,
        )
    for name in ("ms_per_megapixel", "cpu_ms_per_megapixel", "http_ms_per_megapixel"):
        every = [getattr(row, name) for row in rows]
        _goal(f"{name}: slowest / fastest", max(every) / min(every), at_most=SPREAD_OF_SIZES)
    return [asdict(row) for row in rows]


def show_large(folder: Path) -> list[dict[str, Any]]:
    print(
        "\nLarge pictures over HTTP, 4x, each by a fresh service; peaks are above idle.\n"
        "PSS is what the process tree holds; the control group counts page cache (uploads) too.\n"
        f"{'picture':12}{'source':>12}{'result':>14}{'s':>7}{'MP/s':>6}{'first ms':>10}"
        f"{'MB in':>7}{'MB out':>8}{'idle':>6}{'PSS MB':>8}{'group MB':>10}  whole PNG"
    )
    rows = []
    for row in measure_large(folder):
        rows.append(row)
        print(_large_line(row), flush=True)
    for row in rows:
        name = f"{row.picture} {row.source_height}"
        _goal(f"{name}: peak above idle, MB", row.peak_bytes / MB, at_most=PEAK_MB)
        _goal(f"{name}: first byte, ms", row.answer.first_byte_ms, at_most=FIRST_BYTE_MS)
        _goal(f"{name}: whole PNG", int(not row.answer.fault), at_least=1)
    peaks = [row.peak_bytes for row in rows if row.picture == "gang sheet"]
    _goal("gang sheets: highest / lowest peak", max(peaks) / min(peaks), at_most=SPREAD_OF_HEIGHTS)
    return [asdict(row) for row in rows]


def show_four(folder: Path, *, jobs: int | None) -> dict[str, Any]:
    row = four_at_once(folder, jobs=jobs)
    print(
        f"\nFour at once beside removals, in {LIMIT_MB:.0f} MB kept by the {row.limit_by}, "
        f"MAX_CONCURRENT_JOBS {row.jobs}: {row.seconds:.1f} s\n"
        f"{'request':12}{'s':>8}{'first ms':>10}{'MB out':>8}  whole PNG"
    )
    for name, answer in row.answers.items():
        times = f"{answer.ms / 1e3:8.1f}{answer.first_byte_ms:10.0f}"
        print(f"{name:12}{times}{answer.bytes / MB:8.0f}  {answer.fault or 'yes'}")
    print(_four_lines(row))
    whole = sum(not answer.fault for answer in row.answers.values())
    _goal("four at once: whole answers", whole, at_least=4)
    _goal("four at once: tree PSS, MB", row.peak_bytes / MB, at_most=LIMIT_MB)
    _goal("four at once: killed", (row.oom_kills or 0) + row.over_limit, at_most=0)
    return asdict(row)


def _print_sides(sides: Mapping[str, Side], missing: Mapping[str, str]) -> None:
    print("Four times enlarged: PNG file in, PNG bytes out, wall clock, best of the rounds")
    for name, side in sides.items():
        print(f"  {name:13}{side.version}")
    for name, reason in missing.items():
        print(f"  !! {name} IS MISSING: {reason}")


def _print_runs(found: Runs, missing: Mapping[str, str]) -> None:
    print(
        f"{'picture':14}{'side':13}{'ms':>7}{'first ms':>10}{'MB out':>8}"
        f"{'ours faster':>13}{'size/Pillow':>13}"
    )
    for picture, runs in found.items():
        for name, run in runs.items():
            first = "" if run.first_ms is None else f"{run.first_ms:.0f}"
            print(
                f"{picture:14}{name:13}{run.ms:7.0f}{first:>10}{run.bytes / MB:8.2f}"
                f"{run.ms / runs['ours'].ms:12.2f}x{_relative_size(run, runs):>13}"
            )
        for name in missing:
            print(f"{picture:14}{name:13}{'NOT INSTALLED':>17}")
    said = [run.note.get("lanczos_is_cubic") for runs in found.values() for run in runs.values()]
    asked = [each for each in said if each is not None]
    if asked:
        print(
            f'sharp\'s "lanczos3" gave the very pixels of its "cubic" for {sum(map(bool, asked))} '
            f"of {len(asked)} pictures: its enlargement is bicubic, less work than Lanczos."
        )


def _relative_size(run: Run, runs: Mapping[str, Run]) -> str:
    return f"{run.bytes / runs['pillow'].bytes:.3f}" if "pillow" in runs else "-"


def _print_peer_goals(found: Runs) -> None:
    if "pillow" not in found["photo"]:
        print("!! NO GOALS: there is no plain Pillow to compare with")
        return
    photo = found["photo"]
    _goal("photo: faster than Pillow", _faster(photo, "pillow"), at_least=PHOTO_SPEED)
    if "sharp" in photo:
        _goal("photo: faster than sharp", _faster(photo, "sharp"), at_least=PHOTO_SPEED_SHARP)
    _goal("photo: size to Pillow's", _size(photo), at_most=PHOTO_SIZE)
    art = {name: runs for name, runs in found.items() if name.startswith("art")}
    speeds = {name: _faster(runs, "pillow") for name, runs in art.items()}
    sizes = {name: _size(runs) for name, runs in art.items()}
    for name in art:
        _goal(f"{name}: faster than Pillow", speeds[name], at_least=ART_SPEED)
        _goal(f"{name}: size to Pillow's", sizes[name], at_most=ART_SIZE)
    _goal("art, median: faster than Pillow", median(speeds.values()), at_least=ART_SPEED)
    _goal("art, median: size to Pillow's", median(sizes.values()), at_most=ART_SIZE)


def _faster(runs: Mapping[str, Run], peer: str) -> float:
    return runs[peer].ms / runs["ours"].ms


def _size(runs: Mapping[str, Run]) -> float:
    return runs["ours"].bytes / runs["pillow"].bytes


def _show_stages(
    ours: Ours, pictures: Mapping[str, Path], found: Runs
) -> dict[str, dict[str, float]]:
    names = [name for name in Stages.__slots__ if name != "limit_ms"]
    heads = "".join(f"{name.removesuffix('_ms'):>9}" for name in names)
    print(
        "\nProcessor ms by stage, on one thread; the limit is one resize of the whole picture, "
        f"filter and deflate.\n`wall` is the best of the rounds above, with {THREADS} threads.\n"
        f"{'picture':14}{heads}{'total':>8}{'limit':>8}{'total/limit':>13}{'wall':>7}"
    )
    rows = {}
    for name, path in pictures.items():
        stages = split(ours, path)
        rows[name] = asdict(stages)
        each = "".join(f"{getattr(stages, stage):9.1f}" for stage in names)
        ratio = stages.total_ms / stages.limit_ms
        print(
            f"{name:14}{each}{stages.total_ms:8.1f}{stages.limit_ms:8.1f}{ratio:13.2f}"
            f"{found[name]['ours'].ms:7.0f}",
            flush=True,
        )
    return rows


def _large_line(row: LargeRow) -> str:
    answer = row.answer
    seconds = answer.ms / 1e3
    source = f"{answer.width // 4}x{row.source_height}"
    result = f"{answer.width}x{answer.height}"
    return (
        f"{row.picture:12}{source:>12}{result:>14}{seconds:7.1f}"
        f"{answer.megapixels / seconds:6.0f}{answer.first_byte_ms:10.0f}"
        f"{row.source_bytes / MB:7.0f}{answer.bytes / MB:8.0f}{row.idle_bytes / MB:6.0f}"
        f"{row.peak_bytes / MB:8.0f}{_megabytes(row.group_peak_bytes):>10}"
        f"  {answer.fault or 'yes'}"
    )


def _four_lines(row: FourRow) -> str:
    return (
        f"tree PSS: {row.idle_bytes / MB:.0f} MB before (network loaded), "
        f"peak {row.peak_bytes / MB:.0f} MB\n"
        f"control group, with page cache: peak {_megabytes(row.group_peak_bytes)} MB, "
        f"{row.times_at_limit} times at the limit, {row.oom_kills} OOM kills\n"
        f"removals: {row.shots}, median {row.shot_median_s:.1f} s, "
        f"longest {row.shot_longest_s:.1f} s"
    )


def _megabytes(size: int | None) -> str:
    return "none" if size is None else f"{size / MB:.0f}"


def _goal(
    name: str, value: float, *, at_least: float | None = None, at_most: float | None = None
) -> None:
    met = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    sign, bound = (">=", at_least) if at_most is None else ("<=", at_most)
    print(f"  {'met    ' if met else 'NOT MET'}  {name} {value:.3g} ({sign} {bound:g})")
