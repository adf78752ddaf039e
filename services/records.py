"""What a shot's record says: outcomes and kept cut-outs, turned into entries as they land."""

import asyncio
import logging
import secrets
from dataclasses import dataclass, replace

import numpy as np

from models.images import Cutout, Edge, Flag, Pixels, SourceImage
from models.outcomes import Failed, Outcome, Pending, Skipped, Succeeded
from models.print_check import PrintCheck
from models.schemas import (
    EdgeReport,
    ImageInfo,
    ModelId,
    ResultEntry,
    ResultError,
    ShotRecord,
    SizeParameters,
)
from services.access import caller
from services.edge_modes import EdgeFinish
from services.evidence import small_alpha
from services.print_edges import PassingCutout
from services.results import ResultStore, StoredPicture
from services.standings import Standings
from services.triage import Triage
from utils.clock import Stopwatch, utc_now
from utils.png import write_png
from utils.spans import spanned

_log = logging.getLogger(__name__)

_VISIBLE_ABOVE = 10  # alpha; below it removers leave dust that no box should include
_SOLID_FROM = 245
_AS_IT_IS = EdgeFinish()


@dataclass(frozen=True, slots=True)
class Stored:
    """A kept cut-out and what its pixels say; `small` is its alpha as ranking compares it."""

    picture: StoredPicture
    width: int
    height: int
    bbox: tuple[int, int, int, int] | None
    flags: tuple[Flag, ...]
    small: Pixels
    edges: EdgeReport
    print_check: PrintCheck | None = None


class Shot:
    """One shot's entries as they fill in."""

    def __init__(  # noqa: PLR0913  # its parts, the later ones named
        self,
        image: SourceImage,
        models: tuple[ModelId, ...],
        results: ResultStore,
        *,
        standings: Standings,
        prints: SizeParameters | None = None,
        seen: Triage | None = None,
    ) -> None:
        self.request_id = secrets.token_hex(16)
        self.seen = seen
        self._results = results
        self._prints = prints
        self._standings = standings
        self._owner = caller.get().owner
        self._image = image_info(image, seen)
        self._created_at = utc_now()
        self._watch = Stopwatch()
        self._complete_ms: int | None = None
        self._saving = asyncio.Lock()
        self._entries = {model: entry_from(model, Pending(), None, "") for model in models}

    def record(self) -> ShotRecord:
        entries = list(self._entries.values())
        running = any(entry.status == "pending" for entry in entries)
        record = ShotRecord(
            request_id=self.request_id,
            status="running" if running else "complete",
            created_at=self._created_at,
            image=self._image,
            results=entries,
            cost_usd=sum(entry.cost_usd or 0.0 for entry in entries),
            latency_ms=self._watch.ms() if self._complete_ms is None else self._complete_ms,
            expires_at=self._results.expires_at(self._created_at),
            prints=self._prints,
            owner=self._owner,
        )
        return self._standings.shown(record)

    async def land(self, model: ModelId, outcome: Outcome, stored: Stored | None) -> ResultEntry:
        """The model's entry, which is in the stored record by now."""
        entry = entry_from(model, outcome, stored, self.request_id)
        self._entries[model] = entry
        if stored is not None:
            self._standings.add(model, stored.small, stored.flags)
        _log.info(
            "outcome",
            extra={
                "shot": self.request_id,
                "model": model,
                "outcome": entry.status,
                "ms": entry.latency_ms,
                "bytes": entry.bytes,
                "code": entry.error.code if entry.error else entry.reason,
            },
        )
        if all(each.status != "pending" for each in self._entries.values()):
            await self._standings.rank()
            self._complete_ms = self._watch.ms()
        await self._save()
        return entry

    async def rank(self, *, within_s: float) -> None:
        """Rank what has landed, for an answer that goes out before the rest has."""
        await self._standings.rank(within_s=within_s)
        await self._save()

    @spanned("record")
    async def _save(self) -> None:
        """A full disk must not stop the other models: the answer still has the entry.

        One after another, or an older record could take a newer one's place.
        """
        try:
            async with self._saving:
                await self._results.save(self.record())
        except OSError:
            _log.exception("record_not_saved", extra={"shot": self.request_id})


@spanned("encode")
def store_cutout(
    results: ResultStore,
    request_id: str,
    model: ModelId,
    cutout: Cutout,
    edge: EdgeFinish = _AS_IT_IS,
) -> Stored:
    """Encode and write a cut-out with its edge finished, and measure it. Blocks: for the pool.

    Models are compared by what they answered, not by the edge that was asked for.
    """
    height, width = cutout.alpha.shape
    passing = PassingCutout(cutout, edge)
    dpi = None if edge.edge is Edge.SOFT else edge.dpi
    pieces = write_png(passing.strips(), width=width, height=height, channels=4, dpi=dpi)
    return Stored(
        picture=results.write_picture(request_id, model, pieces),
        width=width,
        height=height,
        bbox=visible_box(passing.alpha),
        flags=_flags(replace(cutout, alpha=passing.alpha)),
        small=small_alpha(cutout.alpha),
        edges=passing.tally.report(),
    )


def visible_box(alpha: Pixels) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom (exclusive) of alpha > 10, or None where nothing is visible."""
    rows = np.flatnonzero(alpha.max(axis=1) > _VISIBLE_ABOVE)
    if rows.size == 0:
        return None
    columns = np.flatnonzero(alpha.max(axis=0) > _VISIBLE_ABOVE)
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def entry_from(
    model: ModelId, outcome: Outcome, stored: Stored | None, request_id: str
) -> ResultEntry:
    """The outcome as the record shows it."""
    match outcome:
        case Succeeded() if stored is not None:
            return _succeeded_entry(model, outcome, stored, request_id)
        case Failed():
            return ResultEntry(
                model=model,
                status="failed",
                latency_ms=outcome.latency_ms,
                cost_usd=float(outcome.cost_usd),
                error=ResultError(
                    code=outcome.code, message=outcome.message, retryable=outcome.retryable
                ),
            )
        case Skipped():
            return ResultEntry(
                model=model, status="skipped", reason=outcome.reason, detail=outcome.detail
            )
        case _:
            return ResultEntry(model=model, status="pending")


def _succeeded_entry(
    model: ModelId, outcome: Succeeded, stored: Stored, request_id: str
) -> ResultEntry:
    url = f"/results/{request_id}/{model}.png"
    return ResultEntry(
        model=model,
        status="succeeded",
        url=url,
        preview_url=f"{url}?preview=512",
        width=stored.width,
        height=stored.height,
        bytes=stored.picture.bytes,
        sha256=stored.picture.sha256,
        bbox=stored.bbox,
        edge_report=stored.edges,
        latency_ms=outcome.latency_ms,
        print_check=stored.print_check,
        cost_usd=float(outcome.cutout.cost_usd),
        flags=list(stored.flags),
        variant=outcome.cutout.variant,
        sandbox=outcome.cutout.sandbox,
    )


def _flags(cutout: Cutout) -> tuple[Flag, ...]:
    """The remover's own flags, and what every cut-out is asked."""
    found = set(cutout.flags)
    if int(cutout.alpha.max()) <= _VISIBLE_ABOVE:
        found.add(Flag.EMPTY)
    if int(cutout.alpha.min()) >= _SOLID_FROM:
        found.add(Flag.FULL_FRAME)
    return tuple(sorted(found))


def image_info(image: SourceImage, seen: Triage | None = None) -> ImageInfo:
    return ImageInfo(
        width=image.width,
        height=image.height,
        format=image.format,
        bytes=image.bytes,
        sha256=image.sha256,
        kind=seen.kind if seen else None,
        note=seen.note if seen else None,
        had_alpha=image.had_alpha,
    )
