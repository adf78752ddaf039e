"""Where one answer leads to: the OpenAPI document's links from a shot to all that comes of it."""

from collections.abc import Mapping
from typing import Any, TypeAlias

Link: TypeAlias = dict[str, Any]

_SHOT = "$response.body#/request_id"
_BEST = "$response.body#/recommended"


def _to(method: str, address: str, told: str, **more: str) -> Link:
    """A link to `method` of `address`, of the shot in the answer; `more` are further parameters."""
    return {
        "to": (address, method),
        "description": told,
        "parameters": {"request_id": _SHOT, **more},
    }


_RESULT = "/results/{request_id}"
_CUTOUT = f"{_RESULT}/{{model}}"

_OF_A_SHOT: Mapping[str, Link] = {
    "record": _to("get", _RESULT, "The shot as it is by then."),
    "cutout": _to("get", f"{_CUTOUT}.png", "The recommended cut-out.", model=_BEST),
    "print": _to(
        "get", f"{_CUTOUT}.png", "The recommended cut-out, twice as large.", model=_BEST, scale="2"
    ),
    "garment": _to("get", f"{_CUTOUT}/garment.webp", "It on a shirt.", model=_BEST),
    "whitePlate": _to("get", f"{_CUTOUT}/white.png", "The white under its print.", model=_BEST),
    "contactSheet": _to("get", f"{_RESULT}/contact-sheet.webp", "All cut-outs side by side."),
    "bundle": _to("get", f"{_RESULT}/bundle.zip", "All of it in one archive."),
    "disagreement": _to("get", f"{_RESULT}/disagreement.png", "Where the cut-outs differ."),
    "original": _to("get", f"{_RESULT}/original.webp", "The picture as it was sent, small."),
    "render": _to("post", f"{_RESULT}/render", "A cut-out rendered anew."),
    "forget": _to("delete", _RESULT, "Remove the shot and its pictures now."),
    "forgetPicks": _to("delete", "/preferences/{request_id}", "Take back what was picked of it."),
    "pick": {
        "to": ("/preferences", "post"),
        "description": "Take down which cut-out the customer took.",
        "requestBody": {"request_id": _SHOT, "model": _BEST},
    },
}
_OF_A_PICK = {name: _OF_A_SHOT[name] for name in ("record", "forget", "forgetPicks")}

_LINKS: Mapping[tuple[str, str], tuple[tuple[str, ...], Mapping[str, Link]]] = {
    ("/remove-background", "post"): (("200", "202"), _OF_A_SHOT),
    ("/process", "post"): (("200", "202"), _OF_A_SHOT),
    (_RESULT, "get"): (("200",), _OF_A_SHOT),
    (f"{_RESULT}/render", "post"): (("201",), _OF_A_SHOT),
    ("/preferences", "post"): (("200", "201", "202"), _OF_A_PICK),
}
"""From which operation, out of which of its answers, to what."""


def add_links(paths: dict[str, Any]) -> None:
    """The links among the document's responses, each by the id of the operation it leads to."""
    for (address, method), (statuses, links) in _LINKS.items():
        for status in statuses:
            response = paths[address][method]["responses"][status]
            response["links"] = {name: _told(link, paths) for name, link in links.items()}


def _told(link: Link, paths: dict[str, Any]) -> Link:
    address, method = link["to"]
    rest = {key: value for key, value in link.items() if key != "to"}
    return {"operationId": paths[address][method]["operationId"], **rest}
