"""Kie.ai over REST: upload, one createTask, poll, and never a second createTask that could charge.

The HTTP status and the `code` in the body are both judged, since either may hold the truth. There
is no idempotency key: once a createTask may have arrived, its outcome is theirs to tell.
"""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from typing import Any, TypeVar

import httpx

from models.errors import FailureCode, RemoverError
from utils.clock import Deadline
from utils.rates import SlidingWindow

T = TypeVar("T")

_log = logging.getLogger(__name__)

_CODES = {
    401: (FailureCode.PROVIDER_REFUSED, False),
    402: (FailureCode.PROVIDER_QUOTA, False),
    433: (FailureCode.PROVIDER_QUOTA, False),
    429: (FailureCode.PROVIDER_RATE_LIMITED, True),
    408: (FailureCode.PROVIDER_TIMEOUT, True),
    **dict.fromkeys((455, 500, 502, 503, 504), (FailureCode.PROVIDER_ERROR, True)),
}
_PASSING = {429, 455, 500, 502, 503, 504}  # while polling, these pass
_NOT_YET = {404, 422}
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_UPLOAD_PATH = "images/user-uploads"


@dataclass(frozen=True, slots=True)
class Pace:
    """Every wait of the conversation, in seconds; the first three are not scaled.

    `create_s` is what must be left of the time for a task to be created at all: one whose answer
    we could not wait for would be one whose outcome we do not know.
    """

    request_s: float = 30
    create_s: float = 1.5
    straggle_s: float = 900
    poll_first_s: float = 2
    poll_later_s: float = 5
    later_after_s: float = 30
    forgive_unknown_s: float = 30
    rate_limited_s: float = 10
    retry_s: float = 0.5

    def scaled(self, factor: float) -> "Pace":
        """The same conversation, faster or slower."""
        scaled = [each.name for each in fields(self)][3:]
        return replace(self, **{name: getattr(self, name) * factor for name in scaled})


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Where to ask, as whom, and for which model."""

    api_url: str
    upload_url: str
    api_key: str = field(repr=False)
    user_agent: str
    model: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A task's result and where it lies."""

    task_id: str
    url: str


class KieClient:
    """One account; `settle(key, credits)` is told what a task used, however late."""

    def __init__(
        self,
        account: Account,
        *,
        settle: Callable[[str, Decimal | None], None],
        pace: Pace | None = None,
    ) -> None:
        self._account = account
        self._settle = settle
        self._pace = pace or Pace()
        # the account's documented rate of new tasks; more are refused, not queued
        self._rate = SlidingWindow(20, span_s=10)
        self._stragglers: set[asyncio.Task[Finished]] = set()
        self._http = httpx.AsyncClient(
            headers={
                "Authorization": f"Bearer {account.api_key}",
                "User-Agent": account.user_agent,
            },
            timeout=self._pace.request_s,
            trust_env=False,
        )

    async def remove(
        self, content: bytes, *, media_type: str, key: str, deadline: Deadline
    ) -> Finished:
        """The result for a picture in the provider's limits; `key` is our own name for the task.

        Raises RemoverError; `provider_outcome_unknown` when createTask left and nobody answered.
        """
        address = await self._before_creation(
            self._upload(content, media_type=media_type, key=key), _unreachable(), key, deadline
        )
        latest = Deadline(deadline.at - self._pace.create_s)
        await self._before_creation(self._rate.turn(), _rate_limited(), key, latest)
        task_id = await self._create(address, key=key, deadline=deadline)
        _log.info("kie_task", extra={"task_id": task_id, "key": key})
        return await self._await_result(task_id, key=key, deadline=deadline)

    async def close(self) -> None:
        for straggler in self._stragglers:
            straggler.cancel()
        await asyncio.gather(*self._stragglers, return_exceptions=True)
        await self._http.aclose()

    async def _before_creation(
        self, step: Awaitable[T], late: RemoverError, key: str, deadline: Deadline
    ) -> T:
        """A step that costs nothing; when it fails or is `late` there is nothing to pay."""
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                return await step
        except TimeoutError:
            self._settle(key, Decimal(0))
            raise late from None
        except RemoverError:
            self._settle(key, Decimal(0))
            raise

    async def _upload(self, content: bytes, *, media_type: str, key: str) -> str:
        """The address of the uploaded copy. Free, so it may be tried again."""
        name = f"{key}.{media_type.rpartition('/')[2]}"
        failure = _unreachable()
        for attempt in range(3):
            await asyncio.sleep(self._pace.retry_s * attempt)
            try:
                response = await self._http.post(
                    f"{self._account.upload_url}/api/file-stream-upload",
                    files={"file": (name, content, media_type)},
                    data={"uploadPath": _UPLOAD_PATH, "fileName": name},
                )
                return _uploaded_address(_body_of(response))
            except (httpx.RequestError, _Unreadable):
                failure = _unreachable()
            except RemoverError as error:
                if not error.retryable:
                    raise
                failure = error
        raise failure

    async def _create(self, address: str, *, key: str, deadline: Deadline) -> str:
        """One task, created once; only what certainly was not taken is sent again."""
        for last in (False, False, True):
            try:
                return await self._create_once(address, deadline=deadline)
            except RemoverError as error:
                pause = self._pause_before_another(error)
                if pause is None or last or deadline.remaining_s() <= pause:
                    if error.code is not FailureCode.PROVIDER_OUTCOME_UNKNOWN:
                        self._settle(key, Decimal(0))
                    raise
            await asyncio.sleep(pause)
            await self._rate.turn()
        raise _unreachable()

    def _pause_before_another(self, error: RemoverError) -> float | None:
        """Seconds until a refused createTask may be sent again; None where it must not be."""
        return {
            FailureCode.PROVIDER_UNREACHABLE: self._pace.retry_s,
            FailureCode.PROVIDER_RATE_LIMITED: self._pace.rate_limited_s,
        }.get(error.code)

    async def _create_once(self, address: str, *, deadline: Deadline) -> str:
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                response = await self._http.post(
                    f"{self._account.api_url}/api/v1/jobs/createTask",
                    json={"model": self._account.model, "input": {"image": address}},
                )
            body = _body_of(response)
        except _NEVER_SENT:
            raise _unreachable() from None
        except (httpx.RequestError, TimeoutError, _Unreadable):
            raise _outcome_unknown() from None
        task_id = _as_dict(body.get("data")).get("taskId")
        if not isinstance(task_id, str):
            raise _outcome_unknown()
        return task_id

    async def _await_result(self, task_id: str, *, key: str, deadline: Deadline) -> Finished:
        """The task's end; one that is late is followed on, to learn whether it was charged."""
        poller = asyncio.create_task(self._poll_until_done(task_id, key=key))
        self._stragglers.add(poller)
        poller.add_done_callback(self._forget)
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                return await asyncio.shield(poller)
        except TimeoutError:
            raise RemoverError(
                FailureCode.PROVIDER_TIMEOUT,
                f"Kie.ai did not finish in time (task {task_id}).",
                retryable=True,
            ) from None

    def _forget(self, poller: asyncio.Task[Finished]) -> None:
        self._stragglers.discard(poller)
        if not poller.cancelled():
            poller.exception()  # a straggler's is nobody's any more

    async def _poll_until_done(self, task_id: str, *, key: str) -> Finished:
        begun = time.monotonic()
        while (age_s := time.monotonic() - begun) < self._pace.straggle_s:
            early = age_s < self._pace.later_after_s
            await asyncio.sleep(self._pace.poll_first_s if early else self._pace.poll_later_s)
            record = await self._record(task_id, young=age_s < self._pace.forgive_unknown_s)
            if record.get("state") == "success":
                self._settle(key, _credits(record))
                return Finished(task_id, _result_address(record))
            if record.get("state") == "fail":
                self._settle(key, Decimal(0))
                raise _task_failed(record)
        raise RemoverError(FailureCode.PROVIDER_TIMEOUT, f"Kie.ai lost sight of task {task_id}.")

    async def _record(self, task_id: str, *, young: bool) -> dict[str, Any]:
        """What is known of the task; nothing where the question itself went wrong.

        A task just created may be unknown for a while.
        """
        try:
            response = await self._http.get(
                f"{self._account.api_url}/api/v1/jobs/recordInfo", params={"taskId": task_id}
            )
            return _as_dict(_body_of(response).get("data"))
        except (httpx.RequestError, _Unreadable):
            return {}
        except _Refused as refusal:
            if refusal.status in _PASSING or (young and refusal.status in _NOT_YET):
                return {}
            raise


class _Unreadable(Exception):
    """An answer that is not JSON: an edge's error page, or half a body."""


class _Refused(RemoverError):
    """An answer that says no; `status` is theirs, from the body or from HTTP."""

    def __init__(self, status: int, message: str) -> None:
        code, retryable = _CODES.get(status, (FailureCode.PROVIDER_ERROR, False))
        super().__init__(code, message, retryable=retryable)
        self.status = status


def _body_of(response: httpx.Response) -> dict[str, Any]:
    """The JSON body of an answer that says yes. Raises _Refused or _Unreadable."""
    if response.status_code == 403 and "error code: 1010" in response.text:
        raise _Refused(403, "Kie.ai's edge refused the User-Agent.")
    try:
        body = json.loads(response.content)
    except (ValueError, RecursionError):
        raise _Unreadable from None
    code = _as_dict(body).get("code", response.status_code)
    status = code if code != 200 else response.status_code
    if status != 200:
        raise _Refused(int(status) if str(status).isdecimal() else 500, f"Kie.ai: code {status}.")
    return _as_dict(body)


def _uploaded_address(body: dict[str, Any]) -> str:
    found = _as_dict(body.get("data"))
    for name in ("downloadUrl", "fileUrl"):
        if isinstance(found.get(name), str):
            return str(found[name])
    raise RemoverError(FailureCode.PROVIDER_ERROR, "Kie.ai took the upload and named no address.")


def _result_address(record: dict[str, Any]) -> str:
    """`resultJson` is JSON text, but an object, null and nothing have been seen too."""
    result = record.get("resultJson")
    try:
        result = json.loads(result) if isinstance(result, str) else result
    except (ValueError, RecursionError):
        result = None
    addresses = _as_dict(result).get("resultUrls")
    if isinstance(addresses, list) and addresses and isinstance(addresses[0], str):
        return addresses[0]
    raise RemoverError(FailureCode.PROVIDER_BAD_RESULT, "Kie.ai finished without a result.")


def _task_failed(record: dict[str, Any]) -> RemoverError:
    """Their failCode is a string; what it means beyond 422 is not documented."""
    code = str(record.get("failCode") or "unknown")
    return RemoverError(
        FailureCode.PROVIDER_ERROR, f"Kie.ai: failCode {code}.", retryable=code.startswith("5")
    )


def _credits(record: dict[str, Any]) -> Decimal | None:
    used = record.get("creditsConsumed")
    if isinstance(used, bool) or not isinstance(used, int | float):
        return None
    credits_used = Decimal(str(used))
    return credits_used if credits_used.is_finite() and credits_used >= 0 else None


def _unreachable() -> RemoverError:
    return RemoverError(
        FailureCode.PROVIDER_UNREACHABLE, "Kie.ai could not be reached.", retryable=True
    )


def _rate_limited() -> RemoverError:
    return RemoverError(
        FailureCode.PROVIDER_RATE_LIMITED,
        "Kie.ai takes 20 new tasks in 10 seconds, and our turn did not come in time.",
        retryable=True,
    )


def _outcome_unknown() -> RemoverError:
    return RemoverError(
        FailureCode.PROVIDER_OUTCOME_UNKNOWN,
        "The task was sent to Kie.ai and its answer lost; it is not sent again, since that could "
        "charge twice.",
    )


def _as_dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
