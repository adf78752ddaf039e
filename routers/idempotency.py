"""The Idempotency-Key header on the paid routes: which requests are the same, and what says so."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request

from models import errors
from models.schemas import RemovalParameters, ShotRecord, SizeParameters
from routers.dependencies import ServicesDep
from routers.middleware import add_headers
from routers.uploads import Submission
from services.access import caller
from services.container import Services
from services.idempotency import Identity, Seen, Turn, fingerprint
from services.print_size import DEFAULT_SCALE
from services.shotgun import Plan

IDEMPOTENCY_ERRORS = (
    errors.ResultNotFound,
    errors.IdempotencyInFlight,
    errors.IdempotencyMismatch,
    errors.IdempotencyUnavailable,
)
"""What a request may meet that was sent before."""

_FORM_OF_THE_ANSWER = {"output", "deadline_s", "pick", "stream", "min_results"}
_HEADERS = {Seen.REPLAYED: "Idempotent-Replayed", Seen.DEDUPLICATED: "X-Deduplicated"}


@dataclass(frozen=True, slots=True)
class Claimed:
    """What to fire, or the record to answer with instead."""

    plan: Plan
    record: ShotRecord | None = None


@dataclass(frozen=True, slots=True)
class Once:
    """One request on its way to be answered only once."""

    request: Request
    services: Services
    key: str | None

    @asynccontextmanager
    async def claim(
        self, submission: Submission, asked: RemovalParameters, plan: Plan
    ) -> AsyncIterator[Claimed]:
        """Hold the request's key while it is answered.

        Raises IdempotencyMismatch, IdempotencyInFlight, IdempotencyUnavailable, and what the
        earlier answer was: ResultNotFound where it is gone, AllModelsFailed.
        """
        idempotency = self.services.idempotency
        if not idempotency.concerns(self.key):
            yield Claimed(plan)
            return
        identity = await self._identity(submission, asked, plan)
        async with idempotency.once(self.key, identity, plan) as turn:
            yield Claimed(turn.plan, await self._earlier(turn))

    async def _identity(
        self, submission: Submission, asked: RemovalParameters, plan: Plan
    ) -> Identity:
        digest = await self.services.workers.pixels(
            fingerprint, submission.picture, _normalised(asked, plan)
        )
        return Identity(caller.get().owner, self.request.scope["route"].path, digest)

    async def _earlier(self, turn: Turn) -> ShotRecord | None:
        if turn.earlier is None or turn.seen is None:
            return None
        add_headers(self.request.scope, {_HEADERS[turn.seen]: "true"})
        try:
            return await self.services.shotgun.again(turn.earlier)
        except errors.ResultNotFound:
            raise errors.ResultNotFound(
                f"This request was answered with shot {turn.earlier}, which is no longer kept.",
                hint="A new Idempotency-Key makes a new shot, which is charged again.",
            ) from None


async def _once(
    request: Request,
    services: ServicesDep,
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=255,
            pattern="^[!-~]+$",
            description="A name for this request: sent again within 24 hours it is answered from "
            "the first one's record, and nothing is charged.",
        ),
    ] = None,
) -> Once:
    return Once(request, services, key)


OnceDep = Annotated[Once, Depends(_once)]


def _normalised(asked: RemovalParameters, plan: Plan) -> dict[str, object]:
    """The parameters with defaults filled in, without those that only shape the answer."""
    said = asked.model_dump(mode="json", exclude=_FORM_OF_THE_ANSWER)
    if isinstance(asked, SizeParameters) and not asked.in_inches:
        said["scale"] = asked.scale or DEFAULT_SCALE
    return {**said, "models": [str(model) for model in plan.models]}
