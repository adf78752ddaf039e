"""A paid model as a remover: fit, ask, fetch, check, project; the money is written down first.

Runware and Kie.ai differ in how they are asked (their clients) and in nothing else.
"""

import asyncio
import base64
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from models.errors import (
    BadPicture,
    BadRequest,
    FailureCode,
    ImageDownloadFailed,
    RemoverError,
)
from models.images import Cutout, SourceImage
from models.schemas import ModelId
from services.breakers import Breaker
from services.costs import CostLedger
from services.fetcher import Fetcher
from services.fitting import Copy, Limits, fit, project
from services.kie_client import KieClient
from services.remover import Availability, RemovalOptions
from services.runware_client import RunwareClient, new_task_id
from services.scratch import Scratch
from services.workers import Workers
from utils.clock import Deadline
from utils.spans import span, spanned

_log = logging.getLogger(__name__)

_DOWNLOAD_PAUSES_S = (0, 0.5, 1, 2, 4)


class Provider(Protocol):
    """One paid model behind its client."""

    @property
    def variant(self) -> str: ...

    @property
    def limits(self) -> Limits: ...

    async def cut(self, copy: Copy, *, task_id: str, deadline: Deadline) -> str:
        """The address of the cut-out. Raises RemoverError."""
        ...


@dataclass(frozen=True, slots=True)
class RunwareModel:
    """A Runware model by its AIR id."""

    client: RunwareClient
    variant: str
    limits: Limits

    async def cut(self, copy: Copy, *, task_id: str, deadline: Deadline) -> str:
        encoded = base64.b64encode(copy.content).decode("ascii")
        image = f"data:{copy.media_type};base64,{encoded}"
        done = await self.client.remove(image, air=self.variant, task_id=task_id, deadline=deadline)
        return done.url


@dataclass(frozen=True, slots=True)
class KieModel:
    """A Kie.ai market model by its name."""

    client: KieClient
    variant: str
    limits: Limits

    async def cut(self, copy: Copy, *, task_id: str, deadline: Deadline) -> str:
        done = await self.client.remove(
            copy.content, media_type=copy.media_type, key=task_id, deadline=deadline
        )
        return done.url


@dataclass(frozen=True, slots=True)
class RemoteRemover:
    """Asks a provider, believes only the alpha it returns, and reports what it charged."""

    name: ModelId
    provider: Provider
    breaker: Breaker
    ledger: CostLedger
    fetcher: Fetcher
    workers: Workers
    scratch: Scratch
    timeout_s: float
    sandbox: bool

    def availability(self) -> Availability:
        return replace(self.breaker.availability(), sandbox=self.sandbox)

    async def remove(
        self, image: SourceImage, *, options: RemovalOptions, deadline: Deadline
    ) -> Cutout:
        task_id, allowance = new_task_id(), options.allowance
        try:
            with self.breaker.attempt():
                return await self._cut(image, task_id, options, deadline.sooner(self.timeout_s))
        except RemoverError as error:
            error.cost_usd = self.ledger.cost(task_id)
            raise
        finally:
            allowance.release(self.name)

    async def _cut(
        self, image: SourceImage, task_id: str, options: RemovalOptions, deadline: Deadline
    ) -> Cutout:
        place = options.place
        await place.take()
        copy = await self.workers.pixels(fit, image, self.provider.limits)
        place.leave()
        self.ledger.sent(task_id, self.name)
        options.on_sent()
        options.allowance.release(self.name)  # from here on the ledger counts it
        _log.info("paid_task", extra={"model": self.name, "task_id": task_id})
        with span("remote"):
            address = await self.provider.cut(copy, task_id=task_id, deadline=deadline)
        async with self.scratch.new() as folder:
            answer = folder / "answer"
            await _download(self.fetcher, address, answer, deadline)
            await place.take()
            cutout = await self.workers.pixels(project, image, copy, answer)
        return Cutout(
            rgb=cutout.rgb,
            alpha=cutout.alpha,
            flags=cutout.flags,
            variant=self.provider.variant,
            cost_usd=self.ledger.cost(task_id),
            sandbox=self.sandbox,
        )


@spanned("fetch_result")
async def _download(fetcher: Fetcher, address: str, into: Path, deadline: Deadline) -> None:
    """Fetch the result; that is free, so it is tried again while there is time."""
    failure: Exception | None = None
    try:
        async with asyncio.timeout(deadline.remaining_s()):
            for pause in _DOWNLOAD_PAUSES_S:
                await asyncio.sleep(pause)
                try:
                    return await fetcher.fetch(address, into=into)
                except ImageDownloadFailed as error:
                    failure = error
    except TimeoutError:
        failure = failure or TimeoutError()
    except (BadRequest, BadPicture) as error:
        failure = error
    raise RemoverError(
        FailureCode.PROVIDER_BAD_RESULT, "The provider's result could not be fetched."
    ) from failure
