"""How the cut-outs of a running shot stand against one another: their small masks, and the verdict.

The masks stay in memory for as long as the shot runs. Ranking is advice: one that crashes, or finds
no thread in time, is logged and leaves the record without it.
"""

import asyncio
import logging
from collections.abc import Mapping

from models.images import Flag, Pixels, SourceImage
from models.schemas import ModelId, ResultEntry, ShotRecord
from services.evidence import small_picture
from services.ranking import DEFAULT_PRIORS, UNRANKED, Candidates, Verdict, rank
from services.workers import Workers
from utils.spans import spanned

_log = logging.getLogger(__name__)


class Standings:
    """A shot's candidates as they land."""

    def __init__(
        self,
        image: SourceImage,
        workers: Workers,
        *,
        priors: Mapping[ModelId, float] = DEFAULT_PRIORS,
    ) -> None:
        self._image = image
        self._workers = workers
        self._priors = priors
        self._picture: Pixels | None = None
        self._masks: dict[ModelId, Pixels] = {}
        self._flags: dict[ModelId, frozenset[Flag]] = {}
        self._verdict = UNRANKED

    def add(self, model: ModelId, small: Pixels, flags: tuple[Flag, ...]) -> None:
        """Take in a landed cut-out's small alpha (services/evidence.py) and what is known of it."""
        self._masks[model] = small
        self._flags[model] = frozenset(flags)

    async def rank(self, *, within_s: float | None = None) -> None:
        """Put what has landed in order; never raises. An older verdict replaces no newer one."""
        if not self._masks:
            return
        try:
            async with asyncio.timeout(within_s):
                verdict = await self._workers.pixels(
                    self._judge, dict(self._masks), dict(self._flags)
                )
        except TimeoutError:
            _log.warning("ranking_too_late")
        except Exception:  # noqa: BLE001  # its cut-outs are worth the same without advice
            _log.exception("ranking_failed")
        else:
            if len(verdict.places) >= len(self._verdict.places):
                self._verdict = verdict

    def shown(self, record: ShotRecord) -> ShotRecord:
        """The record with what ranking says."""
        return record.model_copy(
            update={
                "results": [self._placed(entry) for entry in record.results],
                "recommended": self._verdict.recommended,
                "agreement": self._verdict.agreement,
            }
        )

    @spanned("rank")
    def _judge(
        self, masks: dict[ModelId, Pixels], flags: dict[ModelId, frozenset[Flag]]
    ) -> Verdict:
        if self._picture is None:
            self._picture = small_picture(self._image)
        return rank(Candidates(self._picture, masks, flags), priors=self._priors)

    def _placed(self, entry: ResultEntry) -> ResultEntry:
        place = self._verdict.places.get(entry.model)
        if place is None:
            return entry
        return entry.model_copy(
            update={"score": place.score, "rank": place.rank, "flags": sorted(place.flags)}
        )


def recommended_entry(record: ShotRecord) -> ResultEntry | None:
    """The entry to take where one must be; without a ranking, the first success."""
    landed = [entry for entry in record.results if entry.status == "succeeded"]
    best = [entry for entry in landed if entry.model == record.recommended]
    return next(iter(best or landed), None)
