"""A released network's file turned into a rewritten, proven one, with a manifest beside it.

The result reaches its place only whole and proven (`*.part`, then an atomic rename). The manifest
says what it was made from, by which tools, how far its answers are from the original's, and for
which files this holds; where it fits, there is nothing to do. Weights are never held in memory:
what the step needs is what its proof needs.
"""

import contextlib
import os
import shutil
from collections import Counter
from collections.abc import Collection
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

from onnx import ModelProto, TensorProto
from pydantic import BaseModel, ConfigDict, ValidationError

from services.rewrite import Rewriting, rewrite
from services.rewrite_file import BadModelFile, ModelFile
from services.rewrite_proof import Gap, difference_by_pieces, difference_of_files
from services.weight_sources import sha256_of
from utils.memory import granted_bytes

_RECIPE = 1  # a new one makes every file anew
_MANIFEST = ".rewrite.json"  # takes the place of .onnx
_TOOLS = ("numpy", "onnx", "onnxruntime")
_SPARE_DISK_BYTES = 64 << 20
NEEDED_BYTES = 3 << 29
"""What preparing BiRefNet-General takes at most: 1.1 GB measured, 1.4 GB with split rows."""

Proof: TypeAlias = Literal["pieces", "whole"]
M = TypeVar("M", bound=BaseModel)


class RewriteRefused(Exception):
    """The network was not rewritten, or not proven; `reason` says why, for people."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Recipe(BaseModel):
    """What is asked for; another recipe makes another file."""

    model_config = ConfigDict(frozen=True)

    first_output_only: bool = True
    split_rows: bool = False
    proof: Proof = "pieces"
    tolerance: float = 1e-4
    deformable_convolutions: int | None = None
    """How many there must be; None where any number will do."""


class Place(BaseModel):
    """A file as it was when it was hashed."""

    model_config = ConfigDict(frozen=True)

    sha256: str
    size_bytes: int
    mtime_s: int  # whole seconds: image layers and archives keep no more

    @classmethod
    def of(cls, path: Path) -> "Place":
        entry = path.stat()
        digest = sha256_of(path)
        return cls(sha256=digest, size_bytes=entry.st_size, mtime_s=int(entry.st_mtime))

    def fits(self, path: Path) -> bool:
        with contextlib.suppress(OSError):
            entry = path.stat()
            return (entry.st_size, int(entry.st_mtime)) == (self.size_bytes, self.mtime_s)
        return False


class RewriteManifest(BaseModel):
    """What a rewritten file is and what speaks for it."""

    model_config = ConfigDict(frozen=True)

    recipe_version: int
    recipe: Recipe
    source: Place
    result: Place
    max_difference: float
    max_relative_difference: float
    rewritten: int
    tails: int
    nodes: dict[str, int]
    """How often the result has the operators that tell: DeformConv and GatherND."""
    tools: dict[str, str]
    licence: str
    made_at: datetime

    def fits(self, source: Path, target: Path, recipe: Recipe) -> bool:
        return self.source.fits(source) and self.is_whole(target, recipe)

    def is_whole(self, target: Path, recipe: Recipe) -> bool:
        """Whether the result is in place as it was made, by that recipe."""
        ours = (self.recipe_version, self.recipe) == (_RECIPE, recipe)
        return ours and self.result.fits(target)


def prepare(
    source: Path,
    target: Path,
    *,
    licence: str,
    recipe: Recipe | None = None,
    granted: int | None = None,
) -> RewriteManifest:
    """Makes `target` from `source`, or finds that it is there already. Blocks: for a thread.

    One caller at a time for one target. `granted` is the memory to work in; None asks the system.

    Raises:
        RewriteRefused: nothing was put in place; what was there before stays.
    """
    recipe = recipe or Recipe()
    known = manifest_of(target)
    if known is not None and known.fits(source, target, recipe):
        return known
    require_memory(NEEDED_BYTES, granted_bytes() if granted is None else granted)
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _require_disk(source, target.parent)
        with ModelFile(source) as file:
            rewriting = rewrite(
                file.model,
                first_output_only=recipe.first_output_only,
                split_rows=recipe.split_rows,
                read=file.values,
            )
            _require_found(rewriting, recipe)
            gap = difference_by_pieces(file.model, rewriting, read=file.values)
            _require_small(gap, recipe)
            _write(file, rewriting.model, part)
        if recipe.proof == "whole":
            gap = gap.or_wider(difference_of_files(source, part))
            _require_small(gap, recipe)
        manifest = _manifest(source, part, recipe, rewriting, gap, licence)
        part.replace(target)
        publish(manifest, target)
    except (OSError, BadModelFile) as error:
        raise RewriteRefused(f"{source.name} cannot be rewritten: {error}") from error
    finally:
        part.unlink(missing_ok=True)
    return manifest


def stands_alone(target: Path, recipe: Recipe, *, released: Collection[str]) -> bool:
    """Whether `target` is in place, made of one of the files of these SHA-256 (hex)."""
    known = manifest_of(target)
    made_of_it = known is not None and known.source.sha256 in released
    return known is not None and made_of_it and known.is_whole(target, recipe)


def manifest_of(target: Path) -> RewriteManifest | None:
    """What is written beside a rewritten file; whether it still fits is another question."""
    return read_manifest(target, RewriteManifest)


def read_manifest(target: Path, kind: type[M]) -> M | None:
    """The manifest of that `kind` beside `target`; None where there is none or it is another."""
    try:
        return kind.model_validate_json(target.with_suffix(_MANIFEST).read_bytes())
    except (OSError, ValidationError):
        return None


def publish(manifest: BaseModel, target: Path) -> None:
    """Put the manifest beside `target`: whole, or not at all."""
    path = target.with_suffix(_MANIFEST)
    part = path.with_name(path.name + ".part")
    part.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def require_memory(needed: int, granted: int | None) -> None:
    """Raises RewriteRefused, with what to do instead, where less is granted (None: unknown)."""
    if granted is not None and granted < needed:
        raise RewriteRefused(
            f"rewriting takes up to {needed >> 20} MiB of memory and {granted >> 20} MiB are "
            "granted: prepare the weights on a larger machine, once, and copy the result"
        )


def _require_disk(source: Path, folder: Path) -> None:
    free, needed = shutil.disk_usage(folder).free, source.stat().st_size + _SPARE_DISK_BYTES
    if free < needed:
        raise RewriteRefused(
            f"{free >> 20} MiB of disk are free in {folder} and the rewritten file takes "
            f"{needed >> 20} MiB"
        )


def _require_found(rewriting: Rewriting, recipe: Recipe) -> None:
    if rewriting.left_alone:
        raise RewriteRefused(f"the network was left alone: {rewriting.left_alone}")
    found, wanted = len(rewriting.deforms), recipe.deformable_convolutions
    if wanted is not None and found != wanted:
        raise RewriteRefused(
            f"{found} deformable convolutions were recognised where {wanted} must be"
        )
    if not rewriting.changed:
        raise RewriteRefused("there is nothing in this network to rewrite")


def _require_small(gap: Gap, recipe: Recipe) -> None:
    if not gap.relative <= recipe.tolerance:
        raise RewriteRefused(
            f"the rewritten network differs from the original by {gap.absolute:.3g} "
            f"({gap.relative:.3g} of its largest value), and {recipe.tolerance:g} are allowed"
        )


def _write(file: ModelFile, model: ModelProto, part: Path) -> None:
    """Writes the model and reads its graph again: what is in the file is what was meant."""
    with part.open("wb") as target:
        file.write(model, target)
        target.flush()
        os.fsync(target.fileno())
    with ModelFile(part) as written:
        meant, found = model.graph, written.model.graph
        if list(found.node) != list(meant.node) or not all(
            _same(written, tensor, file, wanted)
            for tensor, wanted in zip_longest(found.initializer, meant.initializer)
        ):
            raise BadModelFile("what was written is not what was meant")


def _same(
    written: ModelFile, tensor: TensorProto | None, file: ModelFile, meant: TensorProto | None
) -> bool:
    if tensor is None or meant is None or tensor.name != meant.name:
        return False
    found, wanted = written.values(tensor), file.values(meant)
    same_kind = (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    return same_kind and found.tobytes() == wanted.tobytes()


def _manifest(  # noqa: PLR0913, PLR0917  # all that is known
    source: Path, part: Path, recipe: Recipe, rewriting: Rewriting, gap: Gap, licence: str
) -> RewriteManifest:
    counts = Counter(node.op_type for node in rewriting.model.graph.node)
    return RewriteManifest(
        recipe_version=_RECIPE,
        recipe=recipe,
        source=Place.of(source),
        result=Place.of(part),
        max_difference=gap.absolute,
        max_relative_difference=gap.relative,
        rewritten=len(rewriting.deforms),
        tails=len(rewriting.tails),
        nodes={op: counts[op] for op in ("DeformConv", "GatherND")},
        tools={tool: version(tool) for tool in _TOOLS},
        licence=licence,
        made_at=datetime.now(tz=UTC),
    )
