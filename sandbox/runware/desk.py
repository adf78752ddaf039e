"""Runware's tasks behind both of its doors: taken once, worked on, remembered by account and id."""

import asyncio
import re
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from decimal import Decimal

from sandbox.common import Common
from sandbox.cutting import Job, Made
from sandbox.faults import Kind, Provider, Stage, TaskFaults, offered
from sandbox.keys import Account
from sandbox.marks import drawn_marks, written_marks
from sandbox.pictures import BadPicture, Picture, data_uri, decode, decode_base64
from sandbox.runware.replies import Item
from sandbox.runware.wishes import (
    Refusal,
    TaskObject,
    Wish,
    read_image,
    read_uuid,
    read_wish,
)
from sandbox.shelf import FOREIGN_URL, HostedFile, Shelf

IMAGE_PATH = "/image/"
_UPLOAD_SECONDS = 30 * 24 * 3600
_ADDRESS = re.compile(r"https?://", re.IGNORECASE)

_PLANNED_FAILURES = {
    Kind.TIMEOUT_PROVIDER: Refusal(
        "timeoutProvider",
        "The external provider did not answer in time and the request was ended.",
    ),
    Kind.PROVIDER_ERROR: Refusal("inferenceError", "The inference failed."),
    Kind.CONTENT_REJECTED: Refusal(
        "contentPolicyViolation", "The picture was rejected by the content policy."
    ),
    Kind.ERROR_WITHOUT_UUID: Refusal("internalServerError", "Something went wrong."),
    Kind.ERROR_SINGULAR: Refusal("internalServerError", "Something went wrong."),
    Kind.ERROR_IN_ITEM: Refusal("providerError", "The provider did not deliver."),
}


class Unaccepted(Exception):
    """The connection is to break as if the task had never arrived."""


@dataclass(slots=True, kw_only=True)
class Task:
    """A removal from its acceptance on; `done` is set with either `item` or `error`."""

    wish: Wish
    request: Item
    faults: TaskFaults
    dry: bool
    done: asyncio.Event = field(default_factory=asyncio.Event)
    item: Item | None = None
    error: Refusal | None = None
    weight: int = 0


@dataclass(frozen=True, slots=True)
class _Input:
    picture: Picture
    image_uuid: str
    content: bytes


class Desk:
    """Takes tasks and answers for them. `files_url` is where results are fetched."""

    def __init__(self, common: Common, *, shelf: Shelf, files_url: str) -> None:
        self._common = common
        self._shelf = shelf
        self._files_url = files_url
        self._tasks: OrderedDict[tuple[str, str], Task] = OrderedDict()
        self._uploads: OrderedDict[str, str] = OrderedDict()
        self._usd: dict[str, Decimal] = {}
        self._working = 0
        self._kept_bytes = 0

    def balance_usd(self, account: Account) -> Decimal:
        spent = self._usd.get(account.name, Decimal(0))
        return self._common.options.runware_balance_usd - spent

    def find(self, task: TaskObject, *, account: Account) -> Task:
        """The task that a poll is about; raises Refusal."""
        found = self._tasks.get((account.name, read_uuid(task)))
        if found is None:
            raise Refusal("taskNotFound", "No task with this UUID is known.", parameter="taskUUID")
        return found

    def faults_of(self, task: TaskObject, *, account: Account) -> TaskFaults:
        """What the run's switches and the key ask of the task, the same at each repetition."""
        task_uuid = task.get("taskUUID")
        model = task.get("model")
        return self._common.faults.draw(
            (account.name, task_uuid if isinstance(task_uuid, str) else ""),
            provider=Provider.RUNWARE,
            stage=Stage.TASK,
            model=model if isinstance(model, str) else None,
            marks=account.marks,
        )

    async def accept(
        self, task: TaskObject, *, account: Account, faults: TaskFaults, dry: bool = False
    ) -> Task:
        """Take a removal and start on it; raises Refusal or Unaccepted, then nothing was taken."""
        wish = read_wish(task, options=self._common.options)
        key = (account.name, wish.task_uuid)
        if key in self._tasks:
            raise _conflict()
        taken = Task(wish=wish, request=_without_image(task), faults=faults, dry=dry)
        self._remember(key, taken)
        self._working += 1
        try:
            self._check_capacity(account, wish=wish)
            given = await self._load(wish.image)
            self._add_marks(taken, given)
            self._check_faults(faults)
        except (Unaccepted, Refusal) as reason:
            self._working -= 1
            self._tasks.pop(key, None)
            if isinstance(reason, Refusal):
                self._refuse(wish, reason)
            raise
        self._common.chores.start(self._work(taken, given, account=account))
        return taken

    async def upload(self, task: TaskObject, *, field_name: str) -> tuple[str, str]:
        """Keep a picture for later tasks; its id and address."""
        if self._working >= self._common.options.limits.tasks_at_once:
            raise _rate_limited()
        self._working += 1
        try:
            content = await self._bytes_of(read_image(task, field_name))
            picture = await self._decode(content)
        finally:
            self._working -= 1
        return self._keep_upload(content, extension=picture.format.lower())

    async def _work(self, task: Task, given: _Input, *, account: Account) -> None:
        try:
            await asyncio.sleep(self._duration_s(task.faults))
            failure = task.faults.first(_PLANNED_FAILURES)
            if failure is not None:
                task.error = _PLANNED_FAILURES[failure]
                self._refuse(task.wish, task.error)
            else:
                task.item = await self._result(task, given, account=account)
                self._weigh(task, account=account)
        finally:
            self._working -= 1
            task.done.set()

    async def _result(self, task: Task, given: _Input, *, account: Account) -> Item:
        wish = task.wish
        job = Job(
            picture=given.picture,
            model=wish.model,
            format=wish.output_format,
            faults=task.faults,
            quality=wish.output_quality,
            keep_alpha=wish.keep_alpha,
        )
        made = await self._common.studio.make(job)
        cost = self._charge(task, account=account)
        item: Item = {
            "taskType": wish.task_type,
            "taskUUID": wish.task_uuid,
            "imageUUID": str(uuid.uuid4()),
            "inputImageUUID": given.image_uuid,
        }
        item |= self._output(made, wish, image_uuid=str(item["imageUUID"]), faults=task.faults)
        return item | ({"cost": float(cost)} if wish.include_cost else {})

    def _output(self, made: Made, wish: Wish, *, image_uuid: str, faults: TaskFaults) -> Item:
        if wish.output_type == "dataURI":
            return {"imageDataURI": data_uri(made.content, media_type=made.media_type)}
        if wish.output_type == "base64Data":
            uri = data_uri(made.content, media_type=made.media_type)
            return {"imageBase64Data": uri.partition(",")[2]}
        path = f"{IMAGE_PATH}{image_uuid}.{made.extension}"
        lifetime_s = wish.ttl_s or self._common.options.times.runware_file_s
        self._put(path, made, lifetime_s=lifetime_s, faults=faults)
        return {"imageURL": FOREIGN_URL if Kind.URL_FOREIGN in faults else self._files_url + path}

    def _put(self, path: str, made: Made, *, lifetime_s: float, faults: TaskFaults) -> None:
        file = HostedFile(
            content=made.content,
            media_type=made.media_type,
            expires_at=self._common.clock() + lifetime_s,
            faults=faults,
        )
        self._shelf.put(path, file)

    def _charge(self, task: Task, *, account: Account) -> Decimal:
        wish = task.wish
        if task.dry:
            return Decimal(0)
        usd = self._common.options.prices[wish.model]
        self._usd[account.name] = self._usd.get(account.name, Decimal(0)) + usd
        self._common.bill.charge(
            Provider.RUNWARE, model=wish.model, task_id=wish.task_uuid, usd=usd
        )
        return usd

    def _refuse(self, wish: Wish, refusal: Refusal) -> None:
        self._common.bill.refuse(
            Provider.RUNWARE, model=wish.model, task_id=wish.task_uuid, reason=refusal.code
        )

    def _check_capacity(self, account: Account, *, wish: Wish) -> None:
        options = self._common.options
        if self.balance_usd(account) < options.prices[wish.model]:
            raise _insufficient_credits()
        if self._working > options.limits.tasks_at_once:
            raise _rate_limited()

    @staticmethod
    def _check_faults(faults: TaskFaults) -> None:
        if faults.take(Kind.DROP_UNACCEPTED):
            raise Unaccepted
        if Kind.INSUFFICIENT_CREDITS in faults:
            raise _insufficient_credits()
        if faults.take(Kind.RATE_LIMITED, default=float("inf")):
            raise _rate_limited()

    @staticmethod
    def _add_marks(task: Task, given: _Input) -> None:
        """The picture's own faults join the task's."""
        marks = (*written_marks(given.content), *drawn_marks(given.picture.rgb))
        task.faults.add(offered(marks, Provider.RUNWARE, Stage.TASK, model=task.wish.model))

    def _duration_s(self, faults: TaskFaults) -> float:
        times = self._common.options.times
        slow_s = faults.amount(Kind.SLOW, times.slow_s)
        return times.runware_task_s + slow_s + faults.amount(Kind.LATE, times.late_s)

    async def _load(self, image: str) -> _Input:
        known = self._uploads.get(image.lower())
        if known is not None:
            image = self._files_url + known
        content = await self._bytes_of(image)
        picture = await self._decode(content)
        return _Input(picture, str(uuid.uuid4()), content)

    async def _bytes_of(self, image: str) -> bytes:
        limits = self._common.options.limits
        try:
            if _ADDRESS.match(image):
                if (hosted := self._own(image)) is not None:
                    return hosted
                return await self._common.fetch(image, max_bytes=limits.body_bytes)
            return await self._common.studio.run(decode_base64, image)
        except BadPicture as error:
            raise _bad_image(error) from error

    def _own(self, address: str) -> bytes | None:
        path = address.removeprefix(self._files_url)
        file = self._shelf.get(path) if path != address else None
        return file.content if file else None

    async def _decode(self, content: bytes) -> Picture:
        limits = self._common.options.limits
        try:
            return await self._common.studio.run(
                decode,
                content,
                max_pixels=limits.input_pixels,
                max_side_px=limits.inline_side_px,
            )
        except BadPicture as error:
            raise _bad_image(error) from error

    def _keep_upload(self, content: bytes, *, extension: str) -> tuple[str, str]:
        image_uuid = str(uuid.uuid4())
        path = f"{IMAGE_PATH}upload/{image_uuid}.{extension}"
        made = Made(content, f"image/{extension}")
        self._put(path, made, lifetime_s=_UPLOAD_SECONDS, faults=TaskFaults())
        self._uploads[image_uuid] = path
        if len(self._uploads) > self._common.options.limits.tasks_kept:
            self._uploads.popitem(last=False)
        return image_uuid, self._files_url + path

    def _remember(self, key: tuple[str, str], task: Task) -> None:
        self._tasks[key] = task
        if len(self._tasks) > self._common.options.limits.tasks_kept:
            self._forget_oldest()

    def _weigh(self, task: Task, *, account: Account) -> None:
        """Results inside replies are kept for polls, within the bytes that files may take."""
        if (account.name, task.wish.task_uuid) not in self._tasks:
            return
        task.weight = sum(len(each) for each in (task.item or {}).values() if isinstance(each, str))
        self._kept_bytes += task.weight
        while self._kept_bytes > self._common.options.limits.hosted_bytes and len(self._tasks) > 1:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, gone = self._tasks.popitem(last=False)
        self._kept_bytes -= gone.weight


def _without_image(task: TaskObject) -> Item:
    """The request as getTaskDetails shows it: no megabytes of base64."""
    return {name: _shortened(value) for name, value in task.items()}


def _shortened(value: object) -> object:
    if isinstance(value, dict):
        return _without_image(value)
    return value[:100] + "…" if isinstance(value, str) and len(value) > 200 else value


def _conflict() -> Refusal:
    return Refusal(
        "conflictTaskUUID", "A task with this UUID has been taken already.", parameter="taskUUID"
    )


def _insufficient_credits() -> Refusal:
    return Refusal("insufficientCredits", "Insufficient credits: top up your balance.")


def _rate_limited() -> Refusal:
    return Refusal("rateLimitExceeded", "Too many requests at this moment, try again later.")


def _bad_image(error: BadPicture) -> Refusal:
    return Refusal(
        "invalidInputImage",
        f"Invalid value for 'image' parameter: {error}.",
        parameter="inputs.image",
    )
