"""Kie's upload host: three ways in, one file with a public address out."""

import posixpath
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from sandbox.common import Common
from sandbox.faults import Kind, Provider, Stage, TaskFaults
from sandbox.keys import Account
from sandbox.kie.envelope import Answered, account_of, blocked, check_agent, json_response
from sandbox.marks import drawn_marks, written_marks
from sandbox.pictures import BadPicture, decode, decode_base64
from sandbox.shelf import HostedFile, Shelf

_URL_BYTES = 100 << 20
_MEDIA_TYPES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}


def kie_upload_app(
    common: Common, *, shelf: Shelf, files_url: str, extra: list[Route]
) -> Starlette:
    uploads = _Uploads(common, shelf=shelf, files_url=files_url)
    routes: list[BaseRoute] = [
        Route(f"/api/file-{way}-upload", uploads.route(way), methods=["POST"])
        for way in ("stream", "base64", "url")
    ]
    return Starlette(routes=[*routes, *extra])


class _Uploads:
    def __init__(self, common: Common, *, shelf: Shelf, files_url: str) -> None:
        self._common = common
        self._shelf = shelf
        self._files_url = files_url
        self._readers = {"stream": self._stream, "base64": self._base64, "url": self._url}

    def route(self, way: str) -> Callable[[Request], Awaitable[Response]]:
        read = self._readers[way]

        async def upload(request: Request) -> Response:
            try:
                check_agent(self._common, request)
                account = self._account(request)
                content, path = await read(request)
                return await self._store(content, path, account=account)
            except Answered as answered:
                return answered.response

        return upload

    def _account(self, request: Request) -> Account:
        account = account_of(request)
        if account is None:
            raise self._refused(401, "Authentication failed: Invalid API Key")
        return account

    async def _stream(self, request: Request) -> tuple[bytes, str]:
        async with request.form(max_files=1, max_fields=5) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise self._refused(400, "Missing required parameter: file")
            path = self._path(dict(form), default_name=file.filename)
            return await file.read(), path

    async def _base64(self, request: Request) -> tuple[bytes, str]:
        wanted = await self._json(request)
        text = self._text(wanted, "base64Data")
        path = self._path(wanted)
        if len(text) > self._common.options.limits.kie_base64_bytes * 4 // 3:
            raise self._refused(400, "The file is too large for a Base64 upload")
        try:
            return await self._common.studio.run(decode_base64, text), path
        except BadPicture as error:
            raise self._refused(400, "Base64 decoding failed: Invalid Base64 format") from error

    async def _url(self, request: Request) -> tuple[bytes, str]:
        wanted = await self._json(request)
        address, path = self._text(wanted, "fileUrl"), self._path(wanted)
        try:
            return await self._common.fetch(address, max_bytes=_URL_BYTES), path
        except BadPicture as error:
            raise self._refused(400, "The file could not be downloaded") from error

    async def _json(self, request: Request) -> dict[str, object]:
        try:
            wanted = await request.json()
        except ValueError:
            wanted = None
        if not isinstance(wanted, dict):
            raise self._refused(400, "The body must be a JSON object")
        return wanted

    def _text(self, wanted: dict[str, object], name: str) -> str:
        value = wanted.get(name)
        if not isinstance(value, str) or not value:
            raise self._refused(400, f"Missing required parameter: {name}")
        return value

    def _path(self, wanted: dict[str, object], *, default_name: str | None = None) -> str:
        folder = self._text(wanted, "uploadPath")
        given = wanted.get("fileName")
        name = given if isinstance(given, str) and given else default_name
        path = posixpath.join(folder, name or f"{uuid.uuid4().hex}.png")
        if folder.strip("/") != folder or ".." in path.split("/"):
            raise self._refused(400, "Invalid parameter: uploadPath")
        return path

    async def _store(self, content: bytes, path: str, *, account: Account) -> Response:
        self._common.journal.note(Provider.KIE, "upload", task_id=path)
        faults = await self._faults(content, path, account=account)
        if Kind.EDGE_1010 in faults:
            return blocked()
        if faults.take(Kind.UPLOAD_500, default=float("inf")):
            raise self._refused(500, "Internal server error")
        lifetime_s = self._common.options.times.kie_upload_s
        file = HostedFile(
            content=content,
            media_type=_media_type(content),
            expires_at=self._common.clock() + lifetime_s,
        )
        self._shelf.put(f"/{account.name}/{path}", file)
        address = f"{self._files_url}/{account.name}/{path}"
        describe = _quickstart if Kind.QUICKSTART_UPLOAD in faults else _described
        data = describe(path, address, file, lifetime_s)
        body = {"success": True, "code": 200, "msg": "File uploaded successfully", "data": data}
        return json_response(self._common, body, code=200)

    async def _faults(self, content: bytes, path: str, *, account: Account) -> TaskFaults:
        marks = (*account.marks, *written_marks(content))
        try:
            picture = await self._common.studio.run(
                decode, content, max_pixels=self._common.options.limits.input_pixels
            )
            marks = (*marks, *drawn_marks(picture.rgb))
        except BadPicture:
            pass  # any file may be uploaded
        return self._common.faults.draw(
            (account.name, path), provider=Provider.KIE, stage=Stage.UPLOAD, marks=marks
        )

    def _refused(self, code: int, msg: str) -> Answered:
        body = {"success": False, "code": code, "msg": msg}
        return Answered(json_response(self._common, body, code=code))


def _described(path: str, address: str, file: HostedFile, lifetime_s: float) -> dict[str, object]:  # noqa: ARG001  # one signature for both
    return {
        "fileName": posixpath.basename(path),
        "filePath": path,
        "downloadUrl": address,
        "fileSize": len(file.content),
        "mimeType": file.media_type,
        "uploadedAt": _stamp(),
    }


def _quickstart(path: str, address: str, file: HostedFile, lifetime_s: float) -> dict[str, object]:
    """The other page's shape, without `downloadUrl` so that a client must read `fileUrl`."""
    name = posixpath.basename(path)
    return {
        "fileId": f"file_{uuid.uuid4().hex[:9]}",
        "fileName": name,
        "originalName": name,
        "fileSize": len(file.content),
        "mimeType": file.media_type,
        "uploadPath": posixpath.dirname(path),
        "fileUrl": address,
        "uploadTime": _stamp(),
        "expiresAt": _stamp(lifetime_s),
    }


def _media_type(content: bytes) -> str:
    known = (value for magic, value in _MEDIA_TYPES.items() if content.startswith(magic))
    return next(known, "application/octet-stream")


def _stamp(later_s: float = 0) -> str:
    moment = datetime.now(UTC) + timedelta(seconds=later_s)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
