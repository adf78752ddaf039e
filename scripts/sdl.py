"""The house rules for deploy.yaml and deploy-gpu.yaml, beyond what Akash's own validator asks.

`python -m scripts.sdl [FILE …]` prints what is wrong and exits 1; `make sdl` asks Akash's validator
as well. A file of another name is a copy to deploy: then image and keys must have been filled in.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from config import GROUPS, MIB

ROOT = Path(__file__).parent.parent

BLOCKS_PER_MONTH = 14_400 * 30
"""Blocks of 6 s in 30 days, as Akash's documentation counts them."""
BODY_BYTES = 100 * MIB
SILENCE_MS = 60_000
INGRESS = {
    "max_body_size": BODY_BYTES,
    "read_timeout": SILENCE_MS,
    "send_timeout": SILENCE_MS,
    "next_cases": ["off"],
}
"""The provider's proxy at its maxima (bytes, milliseconds), and never the same request twice."""
CLASSES = {"default", "beta1", "beta2", "beta3", "ram"}
UNFILLED_KEYS = "set-in-the-console"
"""Stands for API_KEYS in the committed files, and is refused by the service at start."""
FORM_BYTES = 64 * 1024
"""What a multipart form may add to its picture."""
SPARE_MIB = 512
"""Of the root disk: raw rows of pictures that cannot be read in order, logs."""

Document = Mapping[str, Any]
_UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
_IMAGE = re.compile(r"\S+/\S+/[\w.-]+(:(?P<tag>[\w.-]+)|@sha256:[0-9a-f]{64})")


@dataclass(frozen=True)
class Box:
    """What a file asks for: vCPU, bytes, graphics cards, the dearest bid in uact a block."""

    cpu: int
    memory: int
    disk: int
    ceiling: int
    models: frozenset[str] = frozenset()
    tag_end: str = ""


BOXES = {
    "deploy.yaml": Box(cpu=2, memory=4 << 30, disk=5 << 30, ceiling=100),
    "deploy-gpu.yaml": Box(
        cpu=4,
        memory=8 << 30,
        disk=10 << 30,
        ceiling=1000,
        models=frozenset({"rtx3090", "rtx4090"}),
        tag_end="-gpu",
    ),
}


def read(path: Path) -> Document:
    """The file as YAML 1.2, in which a bare `off` is a word."""
    document: Document = YAML(typ="safe", pure=True).load(path.read_text())
    return document


def complaints(document: Document, box: Box, *, committed: bool = True) -> list[str]:
    """What is wrong with it, a line for each; empty where nothing is.

    A committed file holds no keys; one that is not is about to be deployed and must.
    """
    found: list[str] = []
    for rule in (*RULES, no_secrets if committed else filled_in):
        try:
            found += rule(document, box)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            found.append(f"{rule.__name__}: cannot be read ({type(error).__name__}: {error})")
    return found


def one_service(document: Document, _: Box) -> Iterator[str]:
    if document["version"] != "2.0":
        yield 'version must be "2.0", in quotes'
    places = document["deployment"].get("api", {})
    if list(document["services"]) != ["api"] or list(document["deployment"]) != ["api"]:
        yield "there must be one service, api"
    for name, place in places.items():
        if place != {"profile": "api", "count": 1}:
            yield f"deployment.api.{name} must be profile api, count 1"
        if name not in document["profiles"]["placement"]:
            yield f"placement {name} is not described"


def image(document: Document, box: Box) -> Iterator[str]:
    found = _IMAGE.fullmatch(_api(document)["image"])
    if not found:
        yield "image must be REGISTRY/OWNER/name with a version tag or a digest"
    elif (tag := found["tag"]) is not None:
        if tag == "latest":
            yield "image must not be tagged latest"
        if not tag.endswith(box.tag_end):
            yield f"the image's tag must end in {box.tag_end}"


def environment(document: Document, _: Box) -> Iterator[str]:
    """Every name is a setting, no value is one that the service would refuse."""
    lines = _api(document)["env"]
    names = [line.partition("=")[0] for line in lines]
    known = {name.upper() for group in GROUPS.values() for name in group.model_fields}
    if strange := sorted({*names} - known):
        yield f"env: no settings: {', '.join(strange)}"
    if len({*names}) != len(names) or not all("=" in line for line in lines):
        yield "env: each name once, as NAME=value"
    if "API_KEYS" not in names:
        yield "env: API_KEYS is missing: the port would be open"
    given = _environment(document)
    if given.get("API_KEYS") == UNFILLED_KEYS:
        given.pop("API_KEYS")
    yield from _refused(given)


def no_secrets(document: Document, _: Box) -> Iterator[str]:
    """Keys are names with nothing behind them."""
    for name, value in _environment(document).items():
        secret = name.endswith(("_KEY", "_KEYS", "_SECRET"))
        if secret and value != (UNFILLED_KEYS if name == "API_KEYS" else ""):
            yield f"env: {name} holds a value; keys do not belong into a committed file"
    if "credentials" in _api(document):
        yield "credentials do not belong into a committed file"


def filled_in(document: Document, _: Box) -> Iterator[str]:
    """Nothing is left of what the committed file has in an answer's place."""
    if _api(document)["image"].startswith("REGISTRY/OWNER/"):
        yield "image: name your own registry and account"
    if _environment(document).get("API_KEYS") in {UNFILLED_KEYS, ""}:
        yield "env: API_KEYS is not filled in: the port would be open"


def ingress(document: Document, _: Box) -> Iterator[str]:
    (port,) = _api(document)["expose"]
    if (port["port"], port["as"], port.get("proto", "tcp").lower()) != (8000, 80, "tcp"):
        yield "expose: port 8000 as 80, TCP"
    if port["to"] != [{"global": True}]:
        yield "expose: to the world, and by no other way"
    if port["http_options"] != INGRESS:
        yield f"http_options must be {INGRESS}"


def resources(document: Document, box: Box) -> Iterator[str]:
    asked = _resources(document)
    if asked["cpu"]["units"] != box.cpu:
        yield f"cpu must be {box.cpu}"
    if _bytes(asked["memory"]["size"]) != box.memory:
        yield f"memory must be {box.memory >> 30}Gi"
    if sum(_bytes(each["size"]) for each in asked["storage"]) != box.disk:
        yield f"storage must be {box.disk >> 30}Gi in all"


def graphics(document: Document, box: Box) -> Iterator[str]:
    gpu = _resources(document).get("gpu")
    if gpu is None:
        if box.models:
            yield "gpu is missing"
        return
    models = {each["model"] for each in gpu["attributes"]["vendor"]["nvidia"]}
    if not box.models:
        yield "gpu must be left out"
    elif gpu["units"] != 1 or models != box.models:
        yield f"gpu must be one of {', '.join(sorted(box.models))}"


def storage(document: Document, _: Box) -> Iterator[str]:
    """One root disk, one persistent volume, mounted where DATA_DIR says and writable."""
    disks = _resources(document)["storage"]
    volumes = [each for each in disks if each.get("attributes", {}).get("persistent") is True]
    for each in disks:
        kind = each.get("attributes", {}).get("class")
        if kind is not None and kind not in CLASSES:
            yield f"storage: there is no class {kind}"
        if kind == "ram" or (kind is not None and each not in volumes):
            yield f"storage: class {kind} must be a persistent one"
    if len(volumes) != 1 or len(disks) != 2:
        yield "storage: one root disk and one persistent volume"
        return
    given = _environment(document)
    (mounted,) = [_api(document)["params"]["storage"][volumes[0]["name"]]]
    if mounted != {"mount": given["DATA_DIR"], "readOnly": False}:
        yield "storage: the volume must be mounted at DATA_DIR, writable"
    if Path(given["TEMP_DIR"]).is_relative_to(given["DATA_DIR"]):
        yield "storage: TEMP_DIR must not fill the volume"


def limits_fit(document: Document, _: Box) -> Iterator[str]:
    """What the service is told agrees with what the box is given."""
    given, asked = _environment(document), _resources(document)
    if int(given["MEMORY_LIMIT_MB"]) * MIB != _bytes(asked["memory"]["size"]):
        yield "MEMORY_LIMIT_MB is not the memory asked for"
    threads = {int(given["PIXEL_THREADS"]), int(given["INFERENCE_THREADS"])}
    if threads != {asked["cpu"]["units"]}:
        yield "PIXEL_THREADS and INFERENCE_THREADS are not the vCPU asked for"
    if int(given["MAX_UPLOAD_MB"]) * MIB + FORM_BYTES > BODY_BYTES:
        yield "MAX_UPLOAD_MB leaves the ingress no room for the form"
    (root,) = [_bytes(each["size"]) for each in asked["storage"] if "attributes" not in each]
    if disk_needed_mib(given) + SPARE_MIB > root // MIB:
        yield f"results and uploads may take {disk_needed_mib(given)} MiB of the root disk"


def price(document: Document, box: Box) -> Iterator[str]:
    for place in document["profiles"]["placement"].values():
        asked = place["pricing"]["api"]
        if asked["denom"] != "uact":
            yield "pricing: denom must be uact"
        if not 0 < asked["amount"] <= box.ceiling:
            yield f"pricing: amount must be above 0 and at most {box.ceiling} uact a block"


Rule = Callable[[Document, Box], Iterator[str]]
RULES: tuple[Rule, ...] = (
    one_service,
    image,
    environment,
    ingress,
    resources,
    graphics,
    storage,
    limits_fit,
    price,
)


def disk_needed_mib(environment: Mapping[str, str]) -> int:
    """MiB that pictures and uploads, at work and waiting at both gates, may take together."""
    waiting = int(environment["MAX_CONCURRENT_JOBS"]) + int(environment["QUEUE_LIMIT"])
    return int(environment["RESULT_QUOTA_MB"]) + 2 * waiting * int(environment["MAX_UPLOAD_MB"])


def month_usd(uact_per_block: Decimal | int) -> Decimal:
    """US dollars in 30 days, an ACT counted as one dollar."""
    return Decimal(uact_per_block) * BLOCKS_PER_MONTH / 1_000_000


def _api(document: Document) -> dict[str, Any]:
    service: dict[str, Any] = document["services"]["api"]
    return service


def _resources(document: Document) -> dict[str, Any]:
    asked: dict[str, Any] = document["profiles"]["compute"]["api"]["resources"]
    return asked


def _environment(document: Document) -> dict[str, str]:
    pairs = [line.partition("=") for line in _api(document)["env"]]
    return {name: value for name, _, value in pairs}


def _refused(given: Mapping[str, str]) -> Iterator[str]:
    """What the service would refuse at start."""
    for group in GROUPS.values():
        chosen: dict[str, Any] = {
            name: given[name.upper()] for name in group.model_fields if name.upper() in given
        }
        try:
            group(_env_file=None, **chosen)
        except ValidationError as error:
            for each in error.errors():
                yield f"env: {str(each['loc'][0]).upper()}: {each['msg']}"


def _bytes(size: str) -> int:
    """`4Gi` in bytes. Raises ValueError and KeyError."""
    return int(size[:-2]) * _UNITS[size[-2:]]


def main(arguments: list[str]) -> int:
    """Print every complaint; 1 where there is one."""
    wrong = 0
    for path in map(Path, arguments or [str(ROOT / name) for name in BOXES]):
        document = read(path)
        committed = path.name in BOXES
        box = BOXES[path.name] if committed else _nearest(document)
        found = complaints(document, box, committed=committed)
        for each in found:
            print(f"{path.name}: {each}", file=sys.stderr)
        if not found:
            print(f"{path.name}: keeps the house rules")
        wrong += bool(found)
    return int(wrong > 0)


def _nearest(document: Document) -> Box:
    return BOXES["deploy-gpu.yaml" if "gpu" in _resources(document) else "deploy.yaml"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
