"""Builds what a Dockerfile says without a Docker engine: `python -m scripts.build_without_docker`.

Each stage becomes a root file system in a folder: Debian from debootstrap, every RUN in a chroot
with mount and PID namespaces of its own, every COPY from the tracked files that .dockerignore lets
in. Stages that nothing changed for are kept between runs. It proves that the steps work; it is no
engine: there are no layers, and only what our Dockerfile needs is followed, the rest refused.
Needs root, debootstrap, util-linux, and the registries that the steps ask.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.build_context import context_files, digest, lay_out, untracked_in_context
from scripts.dockerfile_steps import (
    Dockerfile,
    DockerfileError,
    ImageConfig,
    RunMount,
    Scope,
    Stage,
    Step,
    after,
    expand,
    parse,
    stage_references,
)
from scripts.machine_network import MachineNetwork, machine_network
from scripts.scratch_root import (
    IMAGES,
    Mount,
    Program,
    command_in_root,
    copy_root,
    inside,
    make_debian,
    mount_points,
    remove_tree,
    user_of,
)

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path(os.environ.get("TMPDIR") or "/var/tmp") / "img-proc-image"  # noqa: S108  # nosec B108  # kept on purpose
_PLAIN_SHEBANG = "#!"
_SHOWN_LINES = 30


class StepFailed(Exception):
    """A RUN ended with another status than 0."""


@dataclass(frozen=True, slots=True)
class BuiltStage:
    """A finished stage: its root, what its image says, and what it was made from."""

    root: Path
    image: ImageConfig
    fingerprint: str


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _parser().parse_args(arguments)
    if os.geteuid() != 0:
        sys.exit("This needs root: chroot, mount namespaces and files of other owners.")
    given = dict(each.partition("=")[::2] for each in asked.build_arg)
    try:
        built = build(asked.context, asked.folder, build_args=given, target=asked.target)
    except (DockerfileError, StepFailed) as failure:
        print(failure, file=sys.stderr)
        return 1
    print(built.root)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.build_without_docker",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("context", nargs="?", type=Path, default=ROOT, help="default: %(default)s")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="default: %(default)s")
    parser.add_argument("--target", default="", help="the stage to build; default: the last one")
    parser.add_argument(
        "--build-arg", action="append", default=[], metavar="NAME=VALUE", help="may be repeated"
    )
    return parser


def build(
    context: Path, folder: Path, *, build_args: Mapping[str, str], target: str = ""
) -> BuiltStage:
    """Build a target of `context`/Dockerfile under `folder`; the stage that came out.

    Raises:
        DockerfileError: the Dockerfile says something that is not followed here.
        StepFailed: one of its commands failed.
    """
    text = (context / "Dockerfile").read_text("utf-8")
    steps = parse(text, build_args=build_args)
    needed = steps.needed_for(target)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="context-") as laid_out:
        files = context_files(context)
        lay_out(context, files, Path(laid_out))
        print(f"context: {len(files)} tracked files")
        if strangers := untracked_in_context(context):
            print(f"!! a build on this disk would also be sent: {', '.join(strangers[:10])}")
        network = machine_network(folder)
        print(network.told())
        builder = Builder(folder, Path(laid_out), steps, build_args, network)
        for stage in needed:
            builder.build(stage)
    return builder.built[needed[-1].name]


class Builder:
    """Builds one stage after another; `built` holds those that are there."""

    def __init__(
        self,
        folder: Path,
        context: Path,
        steps: Dockerfile,
        build_args: Mapping[str, str],
        network: MachineNetwork,
    ) -> None:
        self.built: dict[str, BuiltStage] = {}
        self._folder = folder
        self._context = context
        self._steps = steps
        self._given = build_args
        self._network = network

    def build(self, stage: Stage) -> None:
        """One stage whose sources are built; a kept one is taken if nothing changed for it."""
        place = self._folder / "stages" / stage.name
        fingerprint = self._fingerprint(stage)
        kept = load_stage(place)
        if kept is not None and kept.fingerprint == fingerprint:
            print(f"[{stage.name}] as it was")
            self.built[stage.name] = kept
            return
        part = place.with_name(f"{stage.name}.part")
        remove_tree(part)
        remove_tree(place)
        scope = self._begin(stage, part)
        for number, step in enumerate(stage.steps, start=1):
            begun = time.monotonic()
            scope = self.follow(stage, number, step, scope, part / "root")
            print(
                f"[{stage.name} {number}/{len(stage.steps)}] {_short(step.original)}"
                f" ({time.monotonic() - begun:.1f} s)",
                flush=True,
            )
        told = {"fingerprint": fingerprint, "image": asdict(scope.image)}
        (part / "image.json").write_text(json.dumps(told, indent=2), "utf-8")
        part.replace(place)
        self.built[stage.name] = BuiltStage(place / "root", scope.image, fingerprint)

    def _begin(self, stage: Stage, part: Path) -> Scope:
        part.mkdir(parents=True)
        earlier = self._steps.stage(stage.base)
        if earlier is not None:
            base = self.built[earlier.name]
            copy_root(base.root, part / "root")
            return Scope(base.image)
        name, _, pinned = stage.base.partition("@")
        if name not in IMAGES:
            raise DockerfileError(
                f"{name} cannot be made here, only {', '.join(IMAGES)}", line=stage.line
            )
        if pinned:
            print(f"[{stage.name}] the base is today's {name}, not proven to be {pinned}")
        make_debian(self._folder / "cache", part / "root")
        return Scope(ImageConfig(command=("bash",)))

    def _fingerprint(self, stage: Stage) -> str:
        """Of all that a stage is made from, what the registries serve excepted."""
        parts = [Path(__file__).read_text("utf-8"), repr(sorted(self._steps.arguments.items()))]
        parts += [step.original for step in stage.steps]
        parts += [f"{k}={v}" for k, v in sorted(self._given.items()) if self._takes(stage, k)]
        for reference, _ in stage_references(stage):
            earlier = self._steps.stage(reference)
            parts.append(self.built[earlier.name].fingerprint if earlier else reference)
        parts += [digest(self._context / each) for each in _context_sources(stage, self._context)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    @staticmethod
    def _takes(stage: Stage, name: str) -> bool:
        declared = [step.words for step in stage.steps if step.name == "ARG"]
        return any(word.partition("=")[0] == name for words in declared for word in words)

    def follow(self, stage: Stage, number: int, step: Step, scope: Scope, root: Path) -> Scope:
        if step.name == "RUN":
            log = self._folder / "logs" / f"{stage.name}-{number}.log"
            self._run(step, scope, root, log)
            return scope
        if step.name == "COPY":
            self._copy(step, scope, root)
            return scope
        changed = after(scope, step, given=self._given, outer=self._steps.arguments)
        if step.name == "WORKDIR":
            inside(root, changed.image.workdir).mkdir(parents=True, exist_ok=True)
        return changed

    # RUN

    def _run(self, step: Step, scope: Scope, root: Path, log: Path) -> None:
        uid, gid = user_of(root, scope.image.user)
        home = "/root" if uid == 0 else "/"
        program = Program(
            run_words(step, scope),
            env={"HOME": home, **scope.arguments, **scope.image.env, **self._network.env},
            workdir=scope.image.workdir,
            uid=uid,
            gid=gid,
        )
        log.parent.mkdir(parents=True, exist_ok=True)
        mounts = [*self._network.mounts, *map(self._mount, step.mounts)]
        with mount_points(root, mounts), log.open("wb") as output:
            done = subprocess.run(
                command_in_root(root, program, mounts=mounts),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode != 0:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-_SHOWN_LINES:])
            raise StepFailed(
                f"Dockerfile line {step.line} ended with {done.returncode} ({log}):\n{tail}"
            )

    def _mount(self, asked: RunMount) -> Mount:
        if asked.kind == "tmpfs":
            return Mount(asked.target)
        if asked.kind == "cache":
            name = re.sub(r"[^\w.-]+", "_", asked.cache_id).strip("_")
            cache = self._folder / "caches" / name
            cache.mkdir(parents=True, exist_ok=True)
            return Mount(asked.target, cache)
        source_root = self._source_root(asked.stage)
        return Mount(asked.target, inside(source_root, asked.source), read_only=True)

    def _source_root(self, reference: str) -> Path:
        earlier = self._steps.stage(reference) if reference else None
        return self.built[earlier.name].root if earlier else self._context

    # COPY

    def _copy(self, step: Step, scope: Scope, root: Path) -> None:
        *patterns, target = scope.expanded(step)
        from_root = self._source_root(step.flag("from"))
        sources = [found for each in patterns for found in _matches(from_root, each, step)]
        into_folder = target.endswith(("/", "/.")) or target in {".", ".."}
        if len(sources) > 1 and not into_folder:
            raise DockerfileError("COPY of several sources wants a folder/", line=step.line)
        if not target.startswith("/"):
            target = f"{scope.image.workdir.rstrip('/')}/{target}"
        owner = _owner(step, scope, root, is_from_context=not step.flag("from"))
        mode = expand(step.flag("chmod"), scope.variables, line=step.line)
        place = inside(root, target)
        for source in sources:
            if source.is_dir():
                _copy_folder(source, place, owner=owner, mode=mode)
            else:
                into = place / source.name if into_folder or place.is_dir() else place
                _copy_file(source, into, owner=owner, mode=mode)


def run_words(step: Step, scope: Scope) -> list[str]:
    """The words that a RUN starts; a here-document is the script, or stays with its command.

    Raises:
        DockerfileError: a here-document with an interpreter of its own.
    """
    if step.is_json or not step.heredocs:
        return list(scope.shell_or_exec(step))
    command = " ".join(step.words)
    if len(step.heredocs) == 1 and re.fullmatch(r"<<-?['\"]?\w+['\"]?", command):
        script = step.heredocs[0][1]
        if script.startswith(_PLAIN_SHEBANG):
            raise DockerfileError("a here-document with #! is not followed here", line=step.line)
        return [*scope.image.shell, script]
    documents = "".join(f"{content}{name}\n" for name, content in step.heredocs)
    return [*scope.image.shell, f"{command}\n{documents}"]


def load_stage(place: Path) -> BuiltStage | None:
    """A stage that an earlier run left, or None."""
    file = place / "image.json"
    if not file.is_file():
        return None
    told = json.loads(file.read_text("utf-8"))
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in told["image"].items()
    }
    return BuiltStage(place / "root", ImageConfig(**fields), told["fingerprint"])


def _context_sources(stage: Stage, context: Path) -> list[str]:
    """What of the context a stage reads; all of it where a variable has a say in that."""
    found: list[str] = []
    for step in stage.steps:
        if step.name == "COPY" and not step.flag("from"):
            found += step.words[:-1]
        found += [each.source for each in step.mounts if each.kind == "bind" and not each.stage]
    if any("$" in each for each in found):
        return ["."]
    return [
        str(match.relative_to(context)) for each in found for match in _matches(context, each, None)
    ]


def _matches(root: Path, pattern: str, step: Step | None) -> list[Path]:
    """The files of a root that a source of COPY names: at least one, or the build ends."""
    cleaned = os.path.normpath(pattern).lstrip("/")
    if not re.search(r"[*?\[]", cleaned):
        found = [inside(root, cleaned)]
    else:
        found = sorted(root.glob(cleaned))
    if not found or not all(each.exists() or each.is_symlink() for each in found):
        raise DockerfileError(f"there is no {pattern} to copy", line=step.line if step else 1)
    return found


def _owner(
    step: Step, scope: Scope, root: Path, *, is_from_context: bool
) -> tuple[int, int] | None:
    """The numbers a copy gets; None: those it has, as between stages."""
    asked = expand(step.flag("chown"), scope.variables, line=step.line)
    if asked:
        uid, gid = user_of(root, asked)
        return uid, (gid if ":" in asked else uid)
    return (0, 0) if is_from_context else None


def _copy_folder(source: Path, place: Path, *, owner: tuple[int, int] | None, mode: str) -> None:
    """What is in a folder into another one, which is made if it is not there."""
    _make_folder(place, owner)
    pack = ["tar", "-C", str(source), "--numeric-owner", "-cf", "-"]
    if owner is not None:
        pack += [f"--owner=:{owner[0]}", f"--group=:{owner[1]}"]
    if mode:
        pack.append(f"--mode={mode}")
    unpack = ["tar", "-C", str(place), "--numeric-owner", "-xpf", "-", "--no-overwrite-dir"]
    with subprocess.Popen([*pack, "."], stdout=subprocess.PIPE) as packing:
        subprocess.run(unpack, stdin=packing.stdout, check=True)
    if packing.returncode != 0:
        raise StepFailed(f"{source} could not be read")


def _copy_file(source: Path, place: Path, *, owner: tuple[int, int] | None, mode: str) -> None:
    _make_folder(place.parent, owner)
    place.unlink(missing_ok=True)
    shutil.copy2(source, place, follow_symlinks=False)
    had = source.lstat()
    os.chown(place, *(owner or (had.st_uid, had.st_gid)), follow_symlinks=False)
    if mode and not place.is_symlink():
        place.chmod(int(mode, 8))


def _make_folder(place: Path, owner: tuple[int, int] | None) -> None:
    for each in reversed([place, *place.parents]):
        if not each.exists():
            each.mkdir(mode=0o755)
            if owner is not None:
                os.chown(each, *owner)


def _short(text: str, *, width: int = 90) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"


if __name__ == "__main__":
    sys.exit(main())
