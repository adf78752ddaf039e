"""A Dockerfile as stages of checked steps, and what its variables and metadata come to.

Pure: nothing here touches a root or starts a program. What this does not know it refuses, with
the line; a step that was skipped would prove nothing.
Semantics: Docker's reference for the Dockerfile, as BuildKit carries it out.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import dockerfile

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SHELL = ("/bin/sh", "-c")
_PLATFORM = {
    "TARGETPLATFORM": "linux/amd64",
    "TARGETOS": "linux",
    "TARGETARCH": "amd64",
    "TARGETVARIANT": "",
    "BUILDPLATFORM": "linux/amd64",
    "BUILDOS": "linux",
    "BUILDARCH": "amd64",
    "BUILDVARIANT": "",
}
_HEALTH_FLAGS = frozenset({"interval", "timeout", "start-period", "start-interval", "retries"})
_FLAGS: Mapping[str, frozenset[str]] = {
    "FROM": frozenset({"platform"}),
    "RUN": frozenset({"mount"}),
    "COPY": frozenset({"from", "chown", "chmod", "link"}),
    "HEALTHCHECK": _HEALTH_FLAGS,
    **{
        each: frozenset()
        for each in (
            "ARG", "CMD", "ENTRYPOINT", "ENV", "EXPOSE", "LABEL", "SHELL", "STOPSIGNAL", "USER",
            "VOLUME", "WORKDIR",
        )
    },
}  # fmt: skip
_MOUNT_KEYS: Mapping[str, frozenset[str]] = {
    "cache": frozenset({"type", "target", "id", "sharing"}),
    "bind": frozenset({"type", "target", "source", "from"}),
    "tmpfs": frozenset({"type", "target"}),
}
_MOUNT_SYNONYMS = {"dst": "target", "destination": "target", "src": "source"}
_VARIABLE = re.compile(r"\$(?:(?P<bare>\w+)|\{(?P<name>\w+)(?:(?P<how>:[-+])(?P<word>[^{}]*))?\})")
_STRANGE_ESCAPE = re.compile(r"^#\s*escape\s*=\s*[^\\\s]", re.IGNORECASE)


class DockerfileError(Exception):
    """Something in the Dockerfile that is wrong, or that this follower does not know."""

    def __init__(self, reason: str, *, line: int) -> None:
        super().__init__(f"Dockerfile line {line}: {reason}")


@dataclass(frozen=True, slots=True)
class RunMount:
    """One `--mount` of a RUN; `source` is a path in the context, or in the stage `stage`."""

    kind: str
    target: str
    source: str = "."
    stage: str = ""
    cache_id: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction: its words as written, unexpanded, or the parts of its JSON form."""

    name: str
    words: tuple[str, ...]
    line: int
    is_json: bool = False
    flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    heredocs: tuple[tuple[str, str], ...] = ()
    original: str = ""

    def flag(self, name: str) -> str:
        return self.flags.get(name, ("",))[-1]

    @property
    def mounts(self) -> tuple[RunMount, ...]:
        return tuple(_run_mount(text, self.line) for text in self.flags.get("mount", ()))


@dataclass(frozen=True, slots=True)
class Stage:
    """`base` is the name of an earlier stage, or of an image."""

    name: str
    base: str
    steps: tuple[Step, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """`arguments` are the values of the ARGs in front of the first FROM, and the platform's."""

    arguments: Mapping[str, str]
    stages: tuple[Stage, ...]

    def stage(self, name: str) -> Stage | None:
        """A stage by its name or its number."""
        if name.isdigit() and int(name) < len(self.stages):
            return self.stages[int(name)]
        return next((each for each in self.stages if each.name == name.lower()), None)

    def needed_for(self, target: str = "") -> list[Stage]:
        """The stages that a target (the last one unless named) takes, in the order to build them.

        Raises:
            DockerfileError: there is no such stage.
        """
        wanted = self.stage(target) if target else self.stages[-1]
        if wanted is None:
            raise DockerfileError(f"there is no stage {target!r}", line=1)
        names = {wanted.name}
        for each in reversed(self.stages[: self.stages.index(wanted) + 1]):
            if each.name in names:
                names |= {found.name for found in self._stages_named_in(each)}
        return [each for each in self.stages if each.name in names]

    def _stages_named_in(self, stage: Stage) -> Iterator[Stage]:
        for reference, line in stage_references(stage):
            found = self.stage(reference)
            if found is not None:
                yield found
            elif reference != stage.base:
                raise DockerfileError(f"{reference!r} is not a stage of this file", line=line)


def stage_references(stage: Stage) -> Iterator[tuple[str, int]]:
    """Whatever a stage names as a source, with the line: its base, COPY --from, a mount's from."""
    yield stage.base, stage.line
    for step in stage.steps:
        if step.flag("from"):
            yield step.flag("from"), step.line
        for mount in step.mounts:
            if mount.stage:
                yield mount.stage, step.line


def parse(text: str, *, build_args: Mapping[str, str] | None = None) -> Dockerfile:
    """The stages of a Dockerfile.

    Raises:
        DockerfileError: it cannot be parsed, or has an instruction, flag or argument that this
            follower does not know.
    """
    if any(_STRANGE_ESCAPE.match(line) for line in text.splitlines()):
        raise DockerfileError("another escape character than \\ is not followed here", line=1)
    try:
        commands = dockerfile.parse_string(text)
    except dockerfile.GoParseError as error:
        raise DockerfileError(str(error), line=1) from error
    steps = [_checked(_step(each)) for each in commands]
    given = dict(build_args or {})
    arguments = _arguments_in_front(steps, given)
    _refuse_unused(given, steps)
    return Dockerfile(arguments, tuple(_stages(steps, arguments)))


def _step(command: dockerfile.Command) -> Step:
    return Step(
        name=command.cmd.upper(),
        words=tuple(command.value),
        line=command.start_line,
        is_json=command.json,
        flags=_flags(command.flags),
        heredocs=tuple((each.name, each.content) for each in command.heredocs),
        original=command.original,
    )


def _flags(written: Iterable[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for each in written:
        name, _, value = each.removeprefix("--").partition("=")
        found[name] = (*found.get(name, ()), value)
    return found


def _checked(step: Step) -> Step:
    if step.name not in _FLAGS:
        raise DockerfileError(f"{step.name} is not followed here", line=step.line)
    for flag in step.flags:
        if flag not in _FLAGS[step.name]:
            raise DockerfileError(f"{step.name} --{flag} is not followed here", line=step.line)
    if step.name == "COPY" and step.heredocs:
        raise DockerfileError("COPY of a here-document is not followed here", line=step.line)
    _ = step.mounts  # which refuses what it does not know
    return step


def _run_mount(text: str, line: int) -> RunMount:
    given: dict[str, str] = {}
    for each in text.split(","):
        key, _, value = each.partition("=")
        given[_MOUNT_SYNONYMS.get(key, key)] = value
    kind = given.get("type", "bind")
    known = _MOUNT_KEYS.get(kind)
    if known is None or "target" not in given:
        raise DockerfileError(f"--mount={text} is not followed here", line=line)
    if strange := sorted(given.keys() - known):
        raise DockerfileError(f"--mount: {', '.join(strange)} is not followed here", line=line)
    return RunMount(
        kind=kind,
        target=given["target"],
        source=given.get("source", "."),
        stage=given.get("from", ""),
        cache_id=given.get("id", given["target"]),
    )


def _arguments_in_front(steps: Sequence[Step], given: Mapping[str, str]) -> dict[str, str]:
    found = dict(_PLATFORM)
    for step in steps:
        if step.name == "FROM":
            return found
        if step.name != "ARG":
            raise DockerfileError(f"{step.name} in front of the first FROM", line=step.line)
        found |= declared_arguments(step, given=given, outer={}, variables=found)
    raise DockerfileError("there is no FROM", line=1)


def _refuse_unused(given: Mapping[str, str], steps: Sequence[Step]) -> None:
    words = [word for step in steps if step.name == "ARG" for word in step.words]
    declared = {each.partition("=")[0] for each in words}
    if unused := sorted(given.keys() - declared):
        raise DockerfileError(f"no ARG takes the build argument {', '.join(unused)}", line=1)


def _stages(steps: Sequence[Step], arguments: Mapping[str, str]) -> Iterator[Stage]:
    starts = [at for at, step in enumerate(steps) if step.name == "FROM"]
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(steps)], strict=True)):
        first = steps[start]
        words = [expand(word, arguments, line=first.line) for word in first.words]
        if len(words) not in {1, 3} or (len(words) == 3 and words[1].upper() != "AS"):
            raise DockerfileError(f"{first.original} is not understood", line=first.line)
        name = words[2].lower() if len(words) == 3 else str(number)
        yield Stage(name, words[0], tuple(steps[start + 1 : end]), first.line)


def declared_arguments(
    step: Step,
    *,
    given: Mapping[str, str],
    outer: Mapping[str, str],
    variables: Mapping[str, str],
) -> dict[str, str]:
    """What an ARG brings: the build argument, else its default, else the one in front of FROM."""
    found: dict[str, str] = {}
    for word in step.words:
        name, has_default, default = word.partition("=")
        if name in given:
            found[name] = given[name]
        elif has_default:
            found[name] = expand(default, {**variables, **found}, line=step.line)
        elif name in outer:
            found[name] = outer[name]
    return found


def expand(text: str, variables: Mapping[str, str], *, line: int) -> str:
    """A word without its quotes and escapes, its variables replaced; an unknown one is empty.

    Raises:
        DockerfileError: a quote that does not end, or `${...}` of a form not known here.
    """
    out: list[str] = []
    quote, at = "", 0
    while at < len(text):
        char, after = text[at], text[at + 1 : at + 2]
        taken, length = char, 1
        if char == "\\" and quote != "'" and after:
            taken, length = (after if quote != '"' or after in '"$\\' else char + after), 2
        elif char == quote or (not quote and char in "'\""):
            taken, quote = "", ("" if quote else char)
        elif char == "$" and quote != "'":
            taken, length = _variable(text, at, variables, line)
        out.append(taken)
        at += length
    if quote:
        raise DockerfileError(f"a quote does not end in {text!r}", line=line)
    return "".join(out)


def _variable(text: str, at: int, variables: Mapping[str, str], line: int) -> tuple[str, int]:
    """The value of the variable at a place in the text, and how long its mention is there."""
    match = _VARIABLE.match(text, at)
    if match is None:
        if text.startswith("${", at):
            raise DockerfileError(f"{text[at:]!r} is not followed here", line=line)
        return "$", 1
    value = variables.get(match["bare"] or match["name"], "")
    if match["how"] == ":-":
        value = value or expand(match["word"], variables, line=line)
    elif match["how"] == ":+":
        value = expand(match["word"], variables, line=line) if value else ""
    return value, len(match[0])


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image says about how to run it, and about itself."""

    env: Mapping[str, str] = field(default_factory=lambda: {"PATH": DEFAULT_PATH})
    workdir: str = "/"
    user: str = ""
    shell: tuple[str, ...] = _SHELL
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    exposed: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    health: tuple[str, ...] = ()
    health_flags: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = "SIGTERM"


@dataclass(frozen=True, slots=True)
class Scope:
    """A stage in the middle of its steps: the image so far, and the ARGs declared so far."""

    image: ImageConfig
    arguments: Mapping[str, str] = field(default_factory=dict)
    command_is_own: bool = False

    @property
    def variables(self) -> dict[str, str]:
        return {**self.arguments, **self.image.env}

    def expanded(self, step: Step) -> list[str]:
        if step.is_json and step.name != "COPY":
            return list(step.words)
        return [expand(word, self.variables, line=step.line) for word in step.words]

    def shell_or_exec(self, step: Step) -> tuple[str, ...]:
        """The program and its arguments that RUN, CMD or ENTRYPOINT start."""
        if step.is_json:
            return step.words
        return (*self.image.shell, " ".join(step.words))


def after(scope: Scope, step: Step, *, given: Mapping[str, str], outer: Mapping[str, str]) -> Scope:
    """The scope behind a step; RUN and COPY change files alone."""
    if step.name == "ARG":
        found = declared_arguments(step, given=given, outer=outer, variables=scope.variables)
        return replace(scope, arguments={**scope.arguments, **found})
    changed = _changed_image(scope, step)
    own = scope.command_is_own or step.name == "CMD"
    if step.name == "ENTRYPOINT" and not scope.command_is_own:
        changed = replace(changed, command=())  # what a base image would start goes with it
    return replace(scope, image=changed, command_is_own=own)


def _changed_image(scope: Scope, step: Step) -> ImageConfig:
    change = _CHANGES.get(step.name)
    return replace(scope.image, **change(scope, step)) if change else scope.image


def _pairs(scope: Scope, step: Step) -> dict[str, str]:
    words = scope.expanded(step)
    return dict(zip(words[::2], words[1::2], strict=True))


def _joined(folder: str, path: str) -> str:
    return path if path.startswith("/") else f"{folder.rstrip('/')}/{path}"


def _health(scope: Scope, step: Step) -> dict[str, Any]:
    kind, *words = step.words
    if kind.upper() == "NONE":
        return {"health": (), "health_flags": {}}
    health = tuple(words) if step.is_json else (*scope.image.shell, " ".join(words))
    flags = {name: values[-1] for name, values in step.flags.items()}
    return {"health": health, "health_flags": flags}


# What each kind of step changes of an image: fields and their new values.
_CHANGES: Mapping[str, Callable[[Scope, Step], dict[str, Any]]] = {
    "ENV": lambda scope, step: {"env": {**scope.image.env, **_pairs(scope, step)}},
    "LABEL": lambda scope, step: {"labels": {**scope.image.labels, **_pairs(scope, step)}},
    "WORKDIR": lambda scope, step: {
        "workdir": _joined(scope.image.workdir, scope.expanded(step)[0])
    },
    "USER": lambda scope, step: {"user": scope.expanded(step)[0]},
    "SHELL": lambda _, step: {"shell": step.words},
    "ENTRYPOINT": lambda scope, step: {"entrypoint": scope.shell_or_exec(step)},
    "CMD": lambda scope, step: {"command": scope.shell_or_exec(step)},
    "EXPOSE": lambda scope, step: {"exposed": (*scope.image.exposed, *scope.expanded(step))},
    "VOLUME": lambda scope, step: {"volumes": (*scope.image.volumes, *scope.expanded(step))},
    "STOPSIGNAL": lambda scope, step: {"stop_signal": scope.expanded(step)[0]},
    "HEALTHCHECK": _health,
}
