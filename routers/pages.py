"""The pages in web/: read once, served as they are, and nothing else of the disk.

The files are listed when the service is built; an address is looked up among them, so that no path
is ever made of what a client sends.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response

WEB = Path(__file__).parent.parent / "web"

PAGES = {"/": "index.html", "/ops": "ops.html"}
"""The addresses that people type."""

_ASSETS = "/web/"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""What is served by suffix; a file of any other kind is not."""


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file as it is answered."""

    content: bytes
    media_type: str
    etag: str


def _read(path: Path) -> PageFile:
    content = path.read_bytes()
    return PageFile(content, _TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def page_files(folder: Path = WEB) -> Mapping[str, PageFile]:
    """Every file of the pages by its address."""
    found = {
        _ASSETS + path.relative_to(folder).as_posix(): _read(path)
        for path in sorted(folder.rglob("*"))
        if path.suffix in _TYPES and path.is_file()
    }
    return found | {address: found[_ASSETS + name] for address, name in PAGES.items()}


FILES = page_files()


def policy(embedded_by: Iterable[str] = ()) -> str:
    """The Content-Security-Policy: this origin alone, no inline code, no markup from strings.

    `embedded_by` are the origins of shops that may show the page in a frame.
    """
    rules = {
        "default-src": "'self'",
        "img-src": "'self' blob: data:",
        "object-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": " ".join(sorted(embedded_by)) or "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def pages(*, embedded_by: Iterable[str] = ()) -> APIRouter:
    """The routes of every file in web/."""
    router = APIRouter(include_in_schema=False)
    headers = {
        "Cache-Control": "no-cache",  # asked for again each time, and then a 304 of no bytes
        "Content-Security-Policy": policy(embedded_by),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    }

    def answer(request: Request) -> Response:
        address = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        file = FILES[address]
        told = headers | {"ETag": file.etag}
        known = {each.strip() for each in request.headers.get("if-none-match", "").split(",")}
        if file.etag in known:
            return Response(status_code=304, headers=told)
        return Response(file.content, media_type=file.media_type, headers=told)

    for address in FILES:
        router.add_api_route(address, answer, methods=["GET", "HEAD"], response_class=Response)
    return router
