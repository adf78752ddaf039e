"""The follower reads a Dockerfile as Docker does, and refuses what it does not know."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from scripts.build_context import IgnoreRules, context_files, untracked_in_context
from scripts.build_without_docker import Builder, load_stage, run_words
from scripts.dockerfile_steps import (
    Dockerfile,
    DockerfileError,
    ImageConfig,
    Scope,
    Step,
    after,
    expand,
    parse,
)
from scripts.machine_network import MachineNetwork
from scripts.scratch_root import (
    Mount,
    Program,
    command_in_root,
    inside,
    mount_points,
    remove_tree,
    user_of,
)
from tests.conftest import ROOT

IS_ROOT = os.geteuid() == 0


def last_image(text: str, *, build_args: Mapping[str, str] | None = None) -> ImageConfig:
    """What the last stage says, its files left aside."""
    return last_scope(text, build_args=build_args).image


def last_scope(text: str, *, build_args: Mapping[str, str] | None = None) -> Scope:
    given = build_args or {}
    steps = parse(text, build_args=given)
    scope = Scope(ImageConfig(command=("bash",)))
    for step in steps.stages[-1].steps:
        scope = after(scope, step, given=given, outer=steps.arguments)
    return scope


def only_step(line: str) -> Step:
    return parse(f"FROM a\n{line}").stages[0].steps[0]


# --- what is refused


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("ADD a b", "ADD"),
        ("ONBUILD RUN a", "ONBUILD"),
        ("MAINTAINER me", "MAINTAINER"),
        ("COPY --parents a b", "--parents"),
        ("COPY --exclude=*.md a b", "--exclude"),
        ("RUN --network=none a", "--network"),
        ("RUN --security=insecure a", "--security"),
        ("RUN --mount=type=secret,id=key a", "type=secret"),
        ("RUN --mount=type=ssh a", "type=ssh"),
        ("RUN --mount=type=cache,target=/c,uid=5 a", "uid"),
        ("RUN --mount=type=cache a", "type=cache"),
        ("COPY <<END /a\nb\nEND", "here-document"),
    ],
)
def test_what_it_does_not_know_is_refused_with_its_line(line: str, named: str) -> None:
    with pytest.raises(DockerfileError, match=r"Dockerfile line 2: ") as refused:
        parse(f"FROM a\n{line}\n")
    assert named in str(refused.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("FROM a\nRUNN b", "not followed"),
        ("RUN a", "in front of the first FROM"),
        ("ARG A", "no FROM"),
        ("# escape=`\nFROM a", "escape"),
        ("FROM a AS", "not understood"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(text: str, reason: str) -> None:
    with pytest.raises(DockerfileError, match=reason):
        parse(text)


def test_a_build_argument_that_nobody_takes_is_refused() -> None:
    with pytest.raises(DockerfileError, match="TYPO"):
        parse("FROM a\nARG KNOWN", build_args={"KNOWN": "1", "TYPO": "1"})


# --- stages


STAGES = """
FROM debian:bookworm-slim AS base
FROM base AS tools
FROM base AS weights
FROM base AS aside
RUN --mount=type=bind,from=weights,target=/w ls
FROM tools AS packages
FROM base
COPY --from=packages /opt /opt
COPY --from=2 /weights /weights
"""


def names(steps: Dockerfile, target: str = "") -> list[str]:
    return [each.name for each in steps.needed_for(target)]


def test_a_target_takes_the_stages_it_names_and_no_others() -> None:
    steps = parse(STAGES)
    assert names(steps) == ["base", "tools", "weights", "packages", "5"]
    assert names(steps, "packages") == ["base", "tools", "packages"]
    assert names(steps, "aside") == ["base", "weights", "aside"]
    assert names(steps, "0") == ["base"]


def test_an_unknown_target_or_source_is_refused() -> None:
    with pytest.raises(DockerfileError, match="no stage 'nowhere'"):
        parse(STAGES).needed_for("nowhere")
    with pytest.raises(DockerfileError, match=r"line 2: 'image:1' is not a stage"):
        parse("FROM a\nCOPY --from=image:1 /a /b").needed_for()


def test_the_base_may_come_from_an_argument_in_front() -> None:
    text = "ARG IMAGE=debian:12\nFROM ${IMAGE}-slim AS One\n"
    assert parse(text).stages[0].base == "debian:12-slim"
    assert parse(text).stage("one") is not None
    assert parse(text, build_args={"IMAGE": "b"}).stages[0].base == "b-slim"


# --- variables


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("$A/b", "1/b"),
        ("${A}b", "1b"),
        ("${NONE:-x}", "x"),
        ("${NONE:-$A}", "1"),
        ("${EMPTY:-x}", "x"),
        ("${A:-x}", "1"),
        ("${A:+x}", "x"),
        ("${NONE:+x}", ""),
        ("$NONE", ""),
        (r"\$A", "$A"),
        ("'$A'", "$A"),
        ('"$A b"', "1 b"),
        ('"a \\"b\\" \\c"', 'a "b" \\c'),
        ("cost: 5$", "cost: 5$"),
    ],
)
def test_words_are_expanded_as_docker_expands_them(written: str, meant: str) -> None:
    assert expand(written, {"A": "1", "EMPTY": ""}, line=1) == meant


@pytest.mark.parametrize("written", ["${A:?needed}", "${A#x}", "${A:-${B}}", "'open", "${A"])
def test_forms_of_variables_that_are_not_known_are_refused(written: str) -> None:
    with pytest.raises(DockerfileError, match="line 7"):
        expand(written, {}, line=7)


def test_env_sees_what_was_before_its_line_and_outweighs_arg() -> None:
    scope = last_scope("FROM a\nARG A=arg\nENV A=env B=$A\nENV C=$A PATH=/v/bin:$PATH")
    assert scope.image.env["B"] == "arg"
    assert scope.image.env["C"] == "env"
    assert scope.image.env["PATH"].startswith("/v/bin:/usr/local/sbin:")
    assert scope.variables["A"] == "env"


@pytest.mark.parametrize(
    ("inside_stage", "given", "value"),
    [
        ("ARG A", {}, "front"),
        ("ARG A=own", {}, "own"),
        ("ARG A=own", {"A": "given"}, "given"),
        ("ARG A", {"A": "given"}, "given"),
        ("", {}, ""),
    ],
)
def test_an_argument_in_front_of_from_counts_in_a_stage_that_declares_it(
    inside_stage: str, given: dict[str, str], value: str
) -> None:
    image = last_image(f"ARG A=front\nFROM b\n{inside_stage}\nLABEL a=$A\n", build_args=given)
    assert image.labels["a"] == value


def test_arguments_of_one_stage_are_not_those_of_the_next() -> None:
    assert last_image("FROM a\nARG A=1\nFROM a\nLABEL a=x$A").labels["a"] == "x"


# --- what an image says


def test_an_image_says_how_it_runs() -> None:
    image = last_image("""FROM a
WORKDIR /app
WORKDIR sub
USER 10001:10001
EXPOSE 8000/tcp
VOLUME ["/data"]
STOPSIGNAL SIGINT
HEALTHCHECK --interval=30s --timeout=5s CMD ["python3", "-c", "pass"]
ENTRYPOINT ["tini", "--"]
CMD ["uvicorn", "main:app"]
LABEL one="a b" two=c
""")
    assert image.workdir == "/app/sub"
    assert image.user == "10001:10001"
    assert image.exposed == ("8000/tcp",)
    assert image.volumes == ("/data",)
    assert image.stop_signal == "SIGINT"
    assert image.health == ("python3", "-c", "pass")
    assert image.health_flags == {"interval": "30s", "timeout": "5s"}
    assert [*image.entrypoint, *image.command] == ["tini", "--", "uvicorn", "main:app"]
    assert image.labels == {"one": "a b", "two": "c"}


def test_the_shell_form_starts_the_shell_that_holds_then() -> None:
    image = last_image('FROM a\nCMD one two\nSHELL ["/bin/bash", "-c"]\nENTRYPOINT three "$A"')
    assert image.command == ("/bin/sh", "-c", "one two")
    assert image.entrypoint == ("/bin/bash", "-c", 'three "$A"')


def test_an_entrypoint_drops_the_command_of_its_base_and_not_its_own() -> None:
    assert last_image("FROM a").command == ("bash",)
    assert last_image('FROM a\nENTRYPOINT ["x"]').command == ()
    assert last_image('FROM a\nCMD ["y"]\nENTRYPOINT ["x"]').command == ("y",)


def test_a_healthcheck_can_be_taken_back() -> None:
    assert last_image("FROM a\nHEALTHCHECK CMD x\nHEALTHCHECK NONE").health == ()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('RUN ["a", "b c"]', ["a", "b c"]),
        ("RUN a \\\n  && b", ["/bin/sh", "-c", "a   && b"]),
        ("RUN <<END\na\nb $C\nEND", ["/bin/sh", "-c", "a\nb $C\n"]),
        ("RUN cat <<END > f\na\nEND", ["/bin/sh", "-c", "cat <<END > f\na\nEND\n"]),
    ],
)
def test_a_run_starts_what_is_written(line: str, words: list[str]) -> None:
    assert run_words(only_step(line), Scope(ImageConfig())) == words


def test_a_here_document_with_an_interpreter_is_refused() -> None:
    with pytest.raises(DockerfileError, match="#!"):
        run_words(only_step("RUN <<END\n#!/usr/bin/python3\nEND"), Scope(ImageConfig()))


def test_a_runs_mounts_are_read_by_either_name() -> None:
    (cache, bind) = only_step(
        "RUN --mount=type=cache,target=/c,sharing=locked --mount=type=bind,src=a,dst=/b x"
    ).mounts
    assert (cache.kind, cache.target, cache.cache_id) == ("cache", "/c", "/c")
    assert (bind.kind, bind.source, bind.target) == ("bind", "a", "/b")


def test_our_own_dockerfile_is_followed_throughout() -> None:
    """Nothing in it is refused, whichever its target."""
    steps = parse((ROOT / "Dockerfile").read_text("utf-8"))
    for stage in steps.stages:
        assert steps.needed_for(stage.name)[-1] == stage


# --- the context


@pytest.mark.parametrize(
    ("patterns", "ignored", "kept"),
    [
        (["*.md"], ["a.md"], ["b/a.md", "a.mdx"]),
        (["**/*.md"], ["a.md", "b/c/a.md"], ["a.txt"]),
        (["docs"], ["docs/a", "docs/b/c"], ["docs2/a", "b/docs/a"]),
        (["/docs/"], ["docs/a"], ["b/docs/a"]),
        (["**/cache"], ["cache/a", "b/cache/a"], ["cached"]),
        (["docs", "!docs/keep"], ["docs/a"], ["docs/keep"]),
        (["!docs/keep", "docs"], ["docs/keep"], []),
        (["*", "!main.py"], ["a", "b/main.py"], ["main.py"]),
        (["a?c", "x[0-9].py"], ["abc", "x1.py"], ["ac", "abbc", "xy.py"]),
        (["# b", "", " ", "a "], ["a"], ["b", "# b"]),
        (["a/**/z"], ["a/z", "a/b/c/z"], ["b/z"]),
        (["."], [], ["a"]),
        (["./a"], ["a"], []),
        (["a.c"], ["a.c"], ["abc"]),
    ],
)
def test_dockerignore_is_read_as_docker_reads_it(
    patterns: list[str], ignored: list[str], kept: list[str]
) -> None:
    rules = IgnoreRules(patterns)
    assert [each for each in ignored if not rules.ignores(each)] == []
    assert [each for each in kept if rules.ignores(each)] == []


def test_the_context_is_what_git_knows_and_docker_is_let_see(tmp_path: Path) -> None:
    for name, text in {
        "main.py": "",
        "docs/a.md": "",
        ".dockerignore": "docs\nsecret",
        "secret": "",
        "loose": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "init", "-q", "."], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "main.py", "docs", ".dockerignore"], cwd=tmp_path, check=True)
    assert context_files(tmp_path) == [".dockerignore", "main.py"]
    assert untracked_in_context(tmp_path) == ["loose"]


# --- roots


def test_links_of_a_root_stay_in_it(tmp_path: Path) -> None:
    """An absolute link in a root means the root's own file, never the machine's."""
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "evil").symlink_to("/etc")
    (tmp_path / "up").symlink_to("../../../../etc")
    assert inside(tmp_path, "/bin/sh") == tmp_path / "usr/bin/sh"
    assert inside(tmp_path, "/evil/passwd") == tmp_path / "etc/passwd"
    assert inside(tmp_path, "/up/passwd") == tmp_path / "etc/passwd"
    assert inside(tmp_path, "/../../a/./b") == tmp_path / "a/b"


def test_links_that_go_round_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="go round"):
        inside(tmp_path, "/a")


def test_users_are_looked_up_in_the_root(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nme:x:77:78::/:/bin/sh\n")
    (tmp_path / "etc/group").write_text("staff:x:50:\n")
    assert user_of(tmp_path, "") == (0, 0)
    assert user_of(tmp_path, "me") == (77, 78)
    assert user_of(tmp_path, "77") == (77, 78)
    assert user_of(tmp_path, "10001") == (10001, 0)
    assert user_of(tmp_path, "me:staff") == (77, 50)
    assert user_of(tmp_path, "1:2") == (1, 2)
    with pytest.raises(LookupError, match="nobody"):
        user_of(tmp_path, "nobody")


def test_mount_points_go_again_if_nothing_came_into_them(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    root = tmp_path / "root"
    (root / "there").mkdir(parents=True)
    mounts = [Mount("/there"), Mount("/new/deep"), Mount("/etc/a", file), Mount("/used")]
    with mount_points(root, mounts):
        assert (root / "new/deep").is_dir()
        assert (root / "etc/a").is_file()
        (root / "used/left").touch()
    assert sorted(str(each.relative_to(root)) for each in root.rglob("*")) == [
        "there",
        "used",
        "used/left",
    ]


@pytest.mark.skipif(not IS_ROOT, reason="mounting is root's")
def test_nothing_is_removed_while_something_is_mounted_in_it(tmp_path: Path) -> None:
    """In a mount namespace of the test's own, which takes the mount away with it."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/precious").touch()
    (tmp_path / "root/mounted").mkdir(parents=True)
    program = (
        "from pathlib import Path; import sys; from scripts.scratch_root import remove_tree\n"
        "remove_tree(Path(sys.argv[1]))"
    )
    script = f'mount --bind "$1/kept" "$1/root/mounted" && "$2" -c \'{program}\' "$1/root"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path), ROOT / ".venv/bin/python"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert "StillMounted" in done.stderr
    assert (tmp_path / "kept/precious").exists()
    remove_tree(tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_a_program_starts_with_its_own_environment_and_few_rights(tmp_path: Path) -> None:
    program = Program(["a b", "c"], env={"X": "1 2"}, workdir="/app", uid=5, gid=6)
    script = command_in_root(tmp_path, program)[-1]
    assert script.splitlines()[-1].endswith("/usr/bin/env -i --chdir=/app 'X=1 2' 'a b' c")
    assert "--reuid=5 --regid=6 --clear-groups" in script
    assert "--bounding-set=-all,+chown" in script
    assert "sys_admin" not in script


# --- COPY, without a root of Debian's


def copied(tmp_path: Path, *lines: str) -> Path:
    """A root of nothing but what these lines copied out of a small context."""
    context, root = tmp_path / "context", tmp_path / "stage/root"
    for name in ("one.txt", "two.txt", "folder/a", "folder/deep/b"):
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_text(name)
    (context / "folder/link").symlink_to("a")
    root.mkdir(parents=True)
    steps = parse("\n".join(["FROM a", *lines]))
    builder = Builder(tmp_path, context, steps, {}, MachineNetwork({}, ()))
    scope = Scope(ImageConfig())
    for number, step in enumerate(steps.stages[0].steps):
        scope = builder.follow(steps.stages[0], number, step, scope, root)
    return root


def files(root: Path) -> list[str]:
    return sorted(str(each.relative_to(root)) for each in root.rglob("*") if not each.is_dir())


@pytest.mark.skipif(not IS_ROOT, reason="owners are root's to give")
@pytest.mark.parametrize(
    ("lines", "there"),
    [
        (["COPY one.txt /a/b"], ["a/b"]),
        (["COPY one.txt /a/"], ["a/one.txt"]),
        (["COPY *.txt /a/"], ["a/one.txt", "a/two.txt"]),
        (["COPY folder /f"], ["f/a", "f/deep/b", "f/link"]),
        (["COPY folder one.txt /f/"], ["f/a", "f/deep/b", "f/link", "f/one.txt"]),
        (["WORKDIR /app", "COPY one.txt ./"], ["app/one.txt"]),
        (["WORKDIR /app", "COPY one.txt ."], ["app/one.txt"]),
        (["ENV F=folder", "COPY ${F}/deep /d"], ["d/b"]),
    ],
)
def test_copies_land_where_docker_puts_them(
    tmp_path: Path, lines: list[str], there: list[str]
) -> None:
    assert files(copied(tmp_path, *lines)) == there


@pytest.mark.skipif(not IS_ROOT, reason="owners are root's to give")
def test_copies_have_the_owner_and_mode_asked_for(tmp_path: Path) -> None:
    root = copied(tmp_path, "COPY --chown=7:8 --chmod=750 folder one.txt /f/", "COPY two.txt /")
    for name in ("f/a", "f/deep/b", "f/one.txt"):
        entry = (root / name).stat()
        assert (entry.st_uid, entry.st_gid, entry.st_mode & 0o777) == (7, 8, 0o750)
    assert (root / "two.txt").stat().st_uid == 0


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("COPY nowhere /a", "no nowhere to copy"),
        ("COPY *.none /a/", "to copy"),
        ("COPY one.txt two.txt /a", "wants a folder/"),
    ],
)
def test_a_copy_of_nothing_or_of_much_onto_one_file_is_refused(
    tmp_path: Path, line: str, reason: str
) -> None:
    with pytest.raises(DockerfileError, match=reason):
        copied(tmp_path, line)


def test_another_base_than_debians_is_refused(tmp_path: Path) -> None:
    steps = parse("FROM alpine:3\nRUN a")
    builder = Builder(tmp_path, tmp_path, steps, {}, MachineNetwork({}, ()))
    with pytest.raises(DockerfileError, match="line 1: alpine:3 cannot be made here"):
        builder.build(steps.stages[0])
    assert load_stage(tmp_path / "stages" / "0") is None
