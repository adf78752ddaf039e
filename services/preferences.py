"""The customer's pick: taken down so that it is never lost, counted, and learned from.

`strengths(kind)` and `worth_asking(kind, …)` are what the next shot has of it: plain reads of what
a background task learns every few seconds, so a shot never waits for the journal.
"""

import asyncio
import logging
import os
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from pydantic_core import from_json

from models.errors import InvalidParameter, NotPickable, PicksUnavailable
from models.preferences import Preference, PreferenceParameters
from models.schemas import ModelId, ResultEntry, ShotRecord
from services.access import CallerKind, caller
from services.pick_notes import Note, PickNotes, preference_id_of
from services.tally import MODELS, UNKNOWN_KIND, Follower, Tally, archive_tally, remove_kept
from services.taste import (
    Fit,
    Stakes,
    Weighed,
    faded,
    fit,
    prior_weights,
    sampled,
    worth_asking,
)
from utils import logs
from utils.clock import utc_now
from utils.spans import spanned
from utils.tracking import Journal
from utils.tracking_files import (
    archive_stems,
    complete_lines,
    open_archive,
    remove_archive,
    remove_lines,
    take_snapshot,
)

_log = logging.getLogger(__name__)

T = TypeVar("T")
OnFailure: TypeAlias = Literal["refuse", "log"]

VERSION = 1
_RETRY_AFTER_S = 5
_POLL_S = 0.02
_LEARN_EVERY_S = 5
_TIDY_EVERY_S = 3600
_UNLEARNED = fit(Weighed.empty())


@dataclass(frozen=True, slots=True)
class Rules:
    """How picks are kept and what is made of them."""

    on_failure: OnFailure
    retention: timedelta
    notes_ttl: timedelta
    half_life_days: float
    worth_usd: float


class Preferences:
    """Picks of one folder; other processes may write to it as well."""

    def __init__(
        self, journal: Journal, *, rules: Rules, prices: Mapping[ModelId, float] | None = None
    ) -> None:
        self._journal = journal
        self._folder = journal.folder
        self._notes = PickNotes(journal.folder / "shots")
        self._follower = Follower(journal.folder)
        self._reading = asyncio.Lock()
        self._rules = rules
        self._prices = dict(prices or {})
        self._luck = np.random.default_rng()
        self._fits: Mapping[str | None, Fit] = {}
        self._learned_on = date.min

    async def pick(
        self, record: ShotRecord, asked: PreferenceParameters
    ) -> tuple[Preference, bool]:
        """Take down a pick; whether it is new.

        Raises:
            NotPickable: the model has no cut-out in this shot, or it is a rendering.
            InvalidParameter: what was shown cannot be.
            PicksUnavailable: it cannot be written, and PICKS_ON_FAILURE is `refuse`.
        """
        shown = _shown(record, asked)
        try:
            return await self._pick(record, asked, shown)
        except OSError as error:
            if self._rules.on_failure == "refuse":
                raise PicksUnavailable(
                    "The pick could not be written to disk.", retry_after_s=_RETRY_AFTER_S
                ) from error
            return await self._pick_to_log(record, asked, shown), True

    def strengths(self, kind: str | None, *, explore: bool = True) -> Mapping[ModelId, float]:
        """What each model's word is worth for such pictures, FLOOR to 1; all 1 without picks.

        Drawn anew for each shot from what is known (Thompson sampling) unless `explore` is False.
        """
        learned = self._fit(kind)
        drawn = sampled(learned, self._luck) if explore else learned.strengths
        return prior_weights(learned, drawn)

    def worth_asking(
        self, kind: str | None, *, free: Iterable[ModelId], paid: Iterable[ModelId]
    ) -> tuple[ModelId, ...]:
        """The paid models worth their price for such a picture, the best first."""
        stakes = Stakes(self._prices, self._rules.worth_usd)
        return worth_asking(self._fit(kind), free=free, paid=paid, stakes=stakes, luck=self._luck)

    async def tally(self) -> Tally:
        """All that is in the journal by now; days beyond the retention are left out.

        Raises PicksUnavailable where it cannot be read.
        """
        try:
            async with self._reading:
                tally = await asyncio.to_thread(self._up_to_date)
        except OSError as error:
            raise PicksUnavailable("The picks could not be read from disk.") from error
        oldest = (utc_now() - self._rules.retention).date().isoformat()
        tally.cells = {key: cell for key, cell in tally.cells.items() if key[0] >= oldest}
        return tally

    async def learn(self) -> None:
        """Fit what has come in since the last time."""
        async with self._reading:
            await asyncio.to_thread(self._learn)

    def export(self, since: datetime | None, until: datetime | None) -> Iterator[bytes]:
        """The caller's own lines, from `since` until before `until`, in the order written. Blocks.

        Where the service asks for no keys, everybody's.
        """
        ours = _is_callers()
        start, end = _stamp(since) or "", _stamp(until) or "9999"
        for lines in _files(self._folder, last_from=start):
            for line in lines:
                facts = from_json(line)
                if start <= facts["time"] < end and ours(facts):
                    yield line

    async def forget(self, request_id: str) -> bool:
        """Take every line of the caller's about a shot out of the journal; whether there was any.

        Raises PicksUnavailable where the disk refuses.
        """
        ours = _is_callers()
        try:
            forget_note = partial(self._forget_note, request_id, ours)
            async with self._alone(request_id, forget_note) as noted:
                removed = await asyncio.to_thread(
                    remove_lines, self._folder, _lines_of(request_id, ours)
                )
        except OSError as error:
            raise PicksUnavailable(
                "The picks could not be removed from disk.", retry_after_s=_RETRY_AFTER_S
            ) from error
        return noted or removed > 0

    async def forget_if_picked(self, request_id: str) -> None:
        """`forget`, and no search through the journal for a shot that nobody picked from."""
        if await asyncio.to_thread(self._notes.read, request_id) is not None:
            await self.forget(request_id)

    def tidy(self) -> None:
        """Put yesterday's file away, forget what is too old. Blocks."""
        self._journal.rotate_if_due()
        oldest = (utc_now() - self._rules.retention).date().isoformat()
        for stem in archive_stems(self._folder):
            if archive_tally(self._folder, stem).last[:10] < oldest:
                remove_archive(self._folder, stem)
                _log.info("picks_expired", extra={"archive": stem})
        remove_kept(self._folder)
        self._notes.remove_before((utc_now() - self._rules.notes_ttl).timestamp())

    async def close(self) -> None:
        await self._journal.close()
        self._follower.close()

    @asynccontextmanager
    async def _alone(self, request_id: str, work: Callable[[], T]) -> AsyncIterator[T]:
        """While nobody else picks for this shot: what `work` gives, done in a thread.

        It waits without a thread, since others need them to finish.
        """

        def try_now() -> tuple[int, T] | None:
            lock = self._notes.try_alone(request_id)
            if lock is None:
                return None
            try:
                return lock, work()
            except BaseException:
                os.close(lock)
                raise

        # no Event: whoever is in the way may be another process
        while (found := await asyncio.to_thread(try_now)) is None:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
        try:
            yield found[1]
        finally:
            os.close(found[0])

    @spanned("pick")
    async def _pick(
        self, record: ShotRecord, asked: PreferenceParameters, shown: Sequence[ResultEntry]
    ) -> tuple[Preference, bool]:
        def begin() -> Note:
            """The note of this very pick where there is one, else a new one, not settled."""
            before = self._settled_note(record.request_id)
            if before is not None and before.model == asked.model:
                return before
            note = Note(_line(record, asked, shown, before), None, before)
            self._notes.write(record.request_id, note)
            return note

        async with self._alone(record.request_id, begin) as note:
            if note.kept_in is not None:
                return _preference(note), False
            await self._journal.append(note.line)
            with suppress(OSError):  # it is in the journal: the next one finds it there
                settled = note.settled("journal")
                await asyncio.to_thread(self._notes.write, record.request_id, settled)
        return _preference(note), True

    def _settled_note(self, request_id: str) -> Note | None:
        """The last pick that counts; one that was under way when a process stopped is looked up."""
        note = self._notes.read(request_id)
        if note is None or note.kept_in is not None:
            return note
        if self._holds(note):
            return note.settled("journal")
        return note.earlier

    def _holds(self, note: Note) -> bool:
        wanted = note.preference_id.encode()
        files = _files(self._folder, last_from=str(note.line["time"]))
        return any(wanted in line for lines in files for line in lines)

    async def _pick_to_log(
        self, record: ShotRecord, asked: PreferenceParameters, shown: Sequence[ResultEntry]
    ) -> Preference:
        """The whole line as one log line; scripts/preferences_replay.py takes it from there."""
        before = None
        with suppress(OSError):
            before = await asyncio.to_thread(self._settled_note, record.request_id)
        note = Note(_line(record, asked, shown, before), "log")
        _log.warning("pick_logged", extra={"line": note.line})
        with suppress(OSError):
            await asyncio.to_thread(self._notes.write, record.request_id, note)
        return _preference(note)

    def _forget_note(self, request_id: str, ours: Callable[[Mapping[str, Any]], bool]) -> bool:
        note = self._notes.read(request_id)
        return note is not None and ours(note.line) and self._notes.remove(request_id)

    def _fit(self, kind: str | None) -> Fit:
        return self._fits.get(kind or UNKNOWN_KIND) or self._fits.get(None) or _UNLEARNED

    def _up_to_date(self) -> Tally:
        self._follower.refresh()
        return self._follower.tally()

    def _learn(self) -> None:
        today = utc_now().date()
        if not self._follower.refresh() and self._learned_on == today:
            return
        self._fits = fits_by_kind(self._follower.tally(), today, self._rules.half_life_days)
        self._learned_on = today


@asynccontextmanager
async def open_preferences(
    journal: Journal, *, rules: Rules, prices: Mapping[ModelId, float]
) -> AsyncIterator[Preferences]:
    """Picks that learn in the background as long as they are open."""
    preferences = Preferences(journal, rules=rules, prices=prices)
    tasks = [
        asyncio.create_task(_for_ever(preferences.learn, every_s=_LEARN_EVERY_S)),
        asyncio.create_task(
            _for_ever(lambda: asyncio.to_thread(preferences.tidy), every_s=_TIDY_EVERY_S)
        ),
    ]
    try:
        yield preferences
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await preferences.close()


def fits_by_kind(tally: Tally, today: date, half_life_days: float) -> dict[str | None, Fit]:
    """What is known by kind; under None of all pictures, which is what a new kind begins with."""
    cells = [
        (kind, ((today - date.fromisoformat(day)).days, cell)) for day, kind, cell in tally.select()
    ]
    overall = fit(faded([aged for _, aged in cells], half_life_days))
    fits: dict[str | None, Fit] = {None: overall}
    for kind in sorted({kind for kind, _ in cells}):
        of_kind = faded([aged for each, aged in cells if each == kind], half_life_days)
        fits[kind] = fit(of_kind, around=overall.strengths)
    return fits


async def _for_ever(work: Callable[[], Awaitable[None]], *, every_s: float) -> None:
    told = None
    while True:
        try:
            await work()
            told = None
        except OSError as error:  # a folder that cannot be used stops nothing else
            if (reason := str(error)) != told:
                _log.warning("picks_not_looked_after", extra={"reason": reason})
            told = reason
        await asyncio.sleep(every_s)


def _shown(record: ShotRecord, asked: PreferenceParameters) -> list[ResultEntry]:
    """The candidates in the order shown; raises NotPickable or InvalidParameter."""
    if record.rendered_from is not None:  # a candidate that was up against nobody
        raise NotPickable(
            f"{record.request_id} is a rendering; it says nothing about the models.",
            hint=f"Pick from its shot: {record.rendered_from.first}.",
        )
    landed = {each.model: each for each in record.results if each.status == "succeeded"}
    if asked.model not in landed:
        entry = next((each for each in record.results if each.model == asked.model), None)
        state = "was not asked" if entry is None else f"is {entry.status}"
        raise NotPickable(f"{asked.model} has no cut-out in this shot: it {state}.")
    if asked.shown is None:
        return sorted(landed.values(), key=lambda each: each.rank or len(MODELS) + 1)
    if len(set(asked.shown)) < len(asked.shown) or not landed.keys() >= set(asked.shown):
        raise InvalidParameter(
            "shown: must name cut-outs that succeeded, each once.", field="shown"
        )
    if asked.model not in asked.shown:
        raise InvalidParameter("shown: must hold the model that was picked.", field="shown")
    return [landed[model] for model in asked.shown]


def _line(
    record: ShotRecord,
    asked: PreferenceParameters,
    shown: Sequence[ResultEntry],
    before: Note | None,
) -> dict[str, Any]:
    """The pick as the journal has it: everything about it, and nothing that names a person."""
    seen = {each.model for each in shown}
    earlier = before.line if before else None
    counted = ("preference_id", "time", "model", "kind", "shown", "not_shown")
    image = record.image
    return {
        "v": VERSION,
        "preference_id": preference_id_of(
            record.request_id, asked.model, before.preference_id if before else None
        ),
        "time": _stamp(utc_now()),
        "request_id": record.request_id,
        "key_id": logs.key_id.get(),
        "model": asked.model.value,
        "reason": asked.reason,
        "metadata": asked.metadata,
        "kind": image.kind,
        "features": {
            "megapixels": round(image.width * image.height / 1e6, 3),
            "had_alpha": image.had_alpha,
            "agreement": record.agreement,
        },
        "shown": [_candidate(each) for each in shown],
        "not_shown": [_candidate(each) for each in record.results if each.model not in seen],
        "supersedes": {name: earlier[name] for name in counted} if earlier else None,
    }


def _candidate(entry: ResultEntry) -> dict[str, Any]:
    return {
        "model": entry.model.value,
        "status": entry.status,
        "score": entry.score,
        "rank": entry.rank,
        "latency_ms": entry.latency_ms,
        "cost_usd": entry.cost_usd,
    }


def _preference(note: Note) -> Preference:
    earlier = note.line["supersedes"]
    return Preference(
        preference_id=note.preference_id,
        request_id=note.line["request_id"],
        model=ModelId(note.model),
        time=note.line["time"],
        supersedes=earlier["preference_id"] if earlier else None,
        kept_in=note.kept_in or "journal",
    )


def _stamp(moment: datetime | None) -> str | None:
    """Sorts as time does: UTC, always with microseconds."""
    if moment is None:
        return None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _is_callers() -> Callable[[Mapping[str, Any]], bool]:
    """Whether a line came with the caller's key; where no keys are asked for, every line did."""
    asking = caller.get()
    return lambda facts: asking.kind is CallerKind.OPEN or facts["key_id"] == asking.key_id


def _lines_of(
    request_id: str, ours: Callable[[Mapping[str, Any]], bool]
) -> Callable[[bytes], bool]:
    wanted = request_id.encode()

    def goes(line: bytes) -> bool:
        if wanted not in line:
            return False
        facts = from_json(line)
        return facts["request_id"] == request_id and ours(facts)

    return goes


def _files(folder: Path, *, last_from: str) -> Iterator[Iterator[bytes]]:
    """The complete lines of every file whose last line is not older; oldest file first. Blocks."""
    snapshot = take_snapshot(folder)
    try:
        for stem in snapshot.archives:
            with suppress(FileNotFoundError):  # it was removed meanwhile
                if archive_tally(folder, stem).last < last_from:
                    continue
                with open_archive(folder, stem) as file:
                    yield complete_lines(file)
        if snapshot.current is not None:
            yield complete_lines(snapshot.current, snapshot.size)
    finally:
        if snapshot.current is not None:
            snapshot.current.close()
