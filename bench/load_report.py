"""What bench.load tells: tables of Markdown from what was measured, trends with their errors."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.load_proof import REFUSALS
from bench.load_watch import Sample

_HOUR_S = 3600
TRENDS = {
    "service_mb": "service process, MB (PSS)",
    "tree_mb": "process tree, MB (PSS)",
    "descriptors": "open descriptors of the service",
    "threads": "threads of the service",
    "children": "child processes",
    "other_files": "files in TEMP_DIR beside results",
}


@dataclass(frozen=True, slots=True)
class Trend:
    """A least-squares slope by the hour, and its standard error."""

    per_hour: float
    error: float

    @property
    def grows(self) -> bool:
        """Beyond twice its error."""
        return self.per_hour > 2 * self.error


def trend(points: Sequence[tuple[float, float]]) -> Trend | None:
    """Of (seconds, value); None for fewer than three points, whose error nobody can tell."""
    count = len(points)
    if count < 3:
        return None
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    left = sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in points)
    return Trend(slope * _HOUR_S, math.sqrt(left / (count - 2) / spread) * _HOUR_S)


def percentile(values: Iterable[float], share: float) -> float:
    """The nearest rank; 0 of nothing."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def routes_table(requests: Iterable[Mapping[str, Any]]) -> list[str]:
    """Latency of what was answered, by route, and what else became of its requests."""
    by_route = defaultdict[str, list[Mapping[str, Any]]](list)
    for each in requests:
        by_route[each["route"]].append(each)
    lines = [
        "| route | requests | answered | 429/503 | others | p50 s | p95 s | p99 s | first p95 s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    return lines + [_route_row(route, seen) for route, seen in sorted(by_route.items())]


def _route_row(route: str, seen: Sequence[Mapping[str, Any]]) -> str:
    good = [each for each in seen if isinstance(each["status"], int) and each["status"] < 400]
    refused = sum(each["status"] in REFUSALS for each in seen)
    others = defaultdict[str, int](int)
    for each in seen:
        if each not in good and each["status"] not in REFUSALS:
            others[str(each["status"])] += 1
    said = ", ".join(f"{count} x {status}" for status, count in sorted(others.items())) or "-"
    whole = [each["seconds"] for each in good]
    first = [each["first_byte_s"] for each in good]
    times = " | ".join(f"{percentile(whole, share):.2f}" for share in (0.5, 0.95, 0.99))
    return (
        f"| {route} | {len(seen)} | {len(good)} | {refused} | {said} "
        f"| {times} | {percentile(first, 0.95):.2f} |"
    )


def facts_table(told: Mapping[str, object]) -> list[str]:
    return ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in told.items())]


def leak_table(idles: Sequence[Sample]) -> list[str]:
    """What was held at the end of each idle time."""
    lines = [
        "| minute | service MB | tree MB | descriptors | threads | children | others | results |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    return lines + [
        f"| {each.at_s / 60:.1f} | {each.service_mb:.0f} | {each.tree_mb:.0f} | {each.descriptors} "
        f"| {each.threads} | {each.children} | {each.other_files} | {each.result_mb:.0f} |"
        for each in idles
    ]


def trends_table(idles: Sequence[Sample]) -> tuple[list[str], list[str]]:
    """The trends over the ends of the idle times, the first left out, and those that grow."""
    lines = ["| held at the end of an idle time | by the hour | grows |", "| --- | --- | --- |"]
    growing = []
    for name, words in TRENDS.items():
        found = trend([(each.at_s, getattr(each, name)) for each in idles[1:]])
        if found is None:
            lines.append(f"| {words} | too few points | |")
            continue
        answer = "yes" if found.grows else "no"
        lines.append(f"| {words} | {found.per_hour:+.1f} ± {found.error:.1f} | {answer} |")
        growing += [words] if found.grows else []
    return lines, growing
