"""Root file systems in folders: Debian's, made by debootstrap, and programs that run in them.

Every mount is made inside a mount namespace of the program's own, which the kernel takes down with
its last process however that ends: none is ever seen, or left behind, in this one.
Needs root (CAP_SYS_ADMIN), debootstrap and util-linux.
"""

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

RELEASE = "bookworm"
IMAGES = ("debian:bookworm-slim", "debian:12-slim")
_MIRROR = "http://deb.debian.org/debian"
_SHARED_MEMORY = "dev/shm"
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
# Docker's default set: moby, profiles "Capabilities" of a container that asks for nothing.
CAPABILITIES = (
    "chown", "dac_override", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
    "net_bind_service", "net_raw", "sys_chroot", "mknod", "audit_write", "setfcap",
)  # fmt: skip
# As in the image's own recipe (debuerreotype's slimify): documents that nothing reads at run time.
_SLIM_RULES = """\
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/groff/*
path-exclude /usr/share/info/*
path-exclude /usr/share/linda/*
path-exclude /usr/share/lintian/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/man/*
"""
_SLIM_REMOVES = """\
find /usr/share/doc -mindepth 2 -not -name copyright -not -type d -delete
find /usr/share/doc -depth -type d -empty -delete
rm -rf /usr/share/groff /usr/share/info /usr/share/lintian /usr/share/linda
rm -rf /usr/share/locale/* /usr/share/man/*
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb /var/log/*.log
"""
_AFTER_APT = """\
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true"; };
APT::Update::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true"; };
Acquire::Languages "none";
"""
_SOURCES = f"""\
deb {_MIRROR} {RELEASE} main
deb {_MIRROR} {RELEASE}-updates main
deb {_MIRROR}-security {RELEASE}-security main
"""


class StillMounted(Exception):
    """Something is mounted at or below a folder that was to be removed."""


@dataclass(frozen=True, slots=True)
class Mount:
    """`source` seen at `target` in the root; an empty tmpfs where there is no source."""

    target: str
    source: Path | None = None
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Program:
    """What to start in a root, and as whom: numbers of user and group, the folder, the words."""

    words: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = "/"
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class Confinement:
    """How little a program may: as a container's engine is told.

    `group` is the folder of a memory control group (its `version` 1 or 2) to start in; the
    program sees it, read-only, as the whole of its control groups.
    """

    read_only_root: bool = False
    no_new_privileges: bool = False
    capabilities: Sequence[str] = CAPABILITIES
    cpus: Sequence[int] = ()
    group: Path | None = None
    group_version: int = 1


def command_in_root(
    root: Path,
    program: Program,
    *,
    mounts: Sequence[Mount] = (),
    confinement: Confinement | None = None,
) -> list[str]:
    """The command that starts a program as process 1 of a root's own PID and mount namespaces.

    The mount points must be there: see `mount_points`.
    """
    limits = confinement or Confinement()
    group = limits.group
    unshare = ["/usr/bin/unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child"]
    if group is not None:
        unshare.append("--cgroup")
    inner = [*unshare, "--", "/bin/sh", "-c", _script(root, program, mounts, limits)]
    if limits.cpus:
        inner = ["/usr/bin/taskset", "--cpu-list", ",".join(map(str, limits.cpus)), *inner]
    if group is None:
        return inner
    entering = f'echo $$ > {shlex.quote(str(group / "cgroup.procs"))} && exec "$@"'
    return ["/bin/sh", "-c", entering, "sh", *inner]


def _script(root: Path, program: Program, mounts: Sequence[Mount], limits: Confinement) -> str:
    """The shell's way from fresh namespaces into the root; each line ends it when it fails."""
    at = shlex.quote(str(root))
    lines = [
        "set -e",
        "mount --make-rprivate /",
        f"mount --bind {at} {at}",
        f"mount -t proc proc {at}/proc",
        f"mount -t sysfs -o ro sysfs {at}/sys",
        *_control_group(at, limits),
        f"mount -t tmpfs -o mode=755,size=1m tmpfs {at}/dev",
        *_devices(at),
        *(line for each in mounts for line in _mount_lines(root, each)),
    ]
    if limits.read_only_root:
        lines.append(f"mount -o remount,bind,ro {at}")
    return "\n".join([*lines, _exec_line(at, program, limits)])


def _control_group(at: str, limits: Confinement) -> list[str]:
    if limits.group is None:
        return []
    source = shlex.quote(str(limits.group))
    if limits.group_version == 2:
        return [f"mount --bind -o ro {source} {at}/sys/fs/cgroup"]
    return [
        f"mount -t tmpfs -o mode=755,size=1m tmpfs {at}/sys/fs/cgroup",
        f"mkdir {at}/sys/fs/cgroup/memory",
        f"mount --bind {source} {at}/sys/fs/cgroup/memory",
        f"mount -o remount,bind,ro {at}/sys/fs/cgroup/memory",
    ]


def _devices(at: str) -> Iterator[str]:
    for name in _DEVICES:
        yield f"touch {at}/dev/{name} && mount --bind /dev/{name} {at}/dev/{name}"
    yield f"ln -s /proc/self/fd {at}/dev/fd"
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        yield f"ln -s /proc/self/fd/{number} {at}/dev/{name}"
    shared = f"{at}/{_SHARED_MEMORY}"
    yield f"mkdir {shared} && mount -t tmpfs -o mode=1777,size=64m tmpfs {shared}"


def _mount_lines(root: Path, mount: Mount) -> Iterator[str]:
    target = shlex.quote(str(inside(root, mount.target)))
    if mount.source is None:
        yield f"mount -t tmpfs -o mode=1777 tmpfs {target}"
        return
    if mount.source.is_dir():
        yield f"mkdir -p {target}"  # it may lie in a tmpfs
    yield f"mount --bind {shlex.quote(str(mount.source))} {target}"
    if mount.read_only:
        yield f"mount -o remount,bind,ro {target}"


def _exec_line(at: str, program: Program, limits: Confinement) -> str:
    """The root's own setpriv gives the rights up: whoever has few may not chroot any more."""
    kept = ",".join(["-all", *(f"+{each}" for each in limits.capabilities)])
    words = [
        "/usr/bin/setpriv", f"--bounding-set={kept}", "--inh-caps=-all",
        f"--reuid={program.uid}", f"--regid={program.gid}", "--clear-groups",
        *(["--no-new-privs"] if limits.no_new_privileges else []),
        "/usr/bin/env", "-i", f"--chdir={program.workdir}",
        *(f"{name}={value}" for name, value in program.env.items()),
        *program.words,
    ]  # fmt: skip
    return f"exec /usr/sbin/chroot {at} {shlex.join(words)}"


@contextmanager
def mount_points(root: Path, mounts: Sequence[Mount]) -> Iterator[None]:
    """The mount points of a root; those that were not there go again, if still empty."""
    made: list[Path] = []
    try:
        for each in mounts:
            made += _made_mount_point(root, each)
        yield
    finally:
        for place in reversed(made):
            if place.is_dir():
                if not any(place.iterdir()):
                    place.rmdir()
            elif place.is_file() and place.stat().st_size == 0:
                place.unlink()


def _made_mount_point(root: Path, mount: Mount) -> list[Path]:
    place = inside(root, mount.target)
    if place.exists():
        return []
    made = [each for each in (*reversed(place.parents), place) if not each.exists()]
    if mount.source is not None and mount.source.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    else:
        place.mkdir(parents=True)
    return made


def inside(root: Path, path: str) -> Path:
    """Where a path of the root is on this machine, its links followed as the root sees them.

    Raises:
        OSError: the links go round.
    """
    waiting = [each for each in path.split("/") if each]
    here: list[str] = []
    for _ in range(1000):
        if not waiting:
            return root.joinpath(*here)
        name = waiting.pop(0)
        if name in {".", ".."}:
            here = here if name == "." else here[:-1]
            continue
        place = root.joinpath(*here, name)
        if not place.is_symlink():
            here.append(name)
            continue
        link = str(place.readlink())
        here = [] if link.startswith("/") else here
        waiting = [*(each for each in link.split("/") if each), *waiting]
    raise OSError(f"the links of {path} go round")


def user_of(root: Path, text: str) -> tuple[int, int]:
    """The numbers of `user`, `user:group`, by name or number; a name's own group, else 0.

    Raises:
        LookupError: the root has no such name.
    """
    user, _, group = text.partition(":")
    uid, own_gid = _looked_up(root / "etc/passwd", user or "0")
    gid = _looked_up(root / "etc/group", group)[0] if group else own_gid
    return uid, gid


def _looked_up(file: Path, name: str) -> tuple[int, int]:
    """The number of a name, and the one behind it, in /etc/passwd or /etc/group."""
    for line in file.read_text("utf-8").splitlines() if file.is_file() else []:
        fields = line.split(":")
        if name in {fields[0], fields[2]}:
            return int(fields[2]), int(fields[3] or 0) if fields[3].isdigit() else 0
    if name.isdigit():
        return int(name), 0
    raise LookupError(f"{file.name} of the root has no {name!r}")


def make_debian(cache: Path, root: Path) -> None:
    """A fresh root as debian:bookworm-slim is; made once, kept as an archive in the cache."""
    archive = cache / f"debian-{RELEASE}-slim.tar"
    if not archive.exists():
        _make_archive(archive)
    root.mkdir(parents=True)
    subprocess.run(["tar", "-xpf", archive, "-C", root, "--numeric-owner"], check=True)


def _make_archive(archive: Path) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    work = archive.with_suffix(".making")
    remove_tree(work)
    bootstrap = ["debootstrap", "--variant=minbase", RELEASE, str(work), _MIRROR]
    apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]
    try:
        subprocess.run([*apart, *bootstrap], check=True, stdout=subprocess.DEVNULL)
        _make_slim(work)
        part = archive.with_suffix(".part")
        subprocess.run(["tar", "-cpf", part, "-C", work, "--numeric-owner", "."], check=True)
        part.replace(archive)
    finally:
        remove_tree(work)


def _make_slim(root: Path) -> None:
    (root / "etc/dpkg/dpkg.cfg.d/docker").write_text(_SLIM_RULES, "ascii")
    (root / "etc/apt/apt.conf.d/docker-clean").write_text(_AFTER_APT, "ascii")
    (root / "etc/apt/sources.list").write_text(_SOURCES, "ascii")
    refusing = root / "usr/sbin/policy-rc.d"  # packages' scripts start no services
    refusing.write_text("#!/bin/sh\nexit 101\n", "ascii")
    refusing.chmod(0o755)
    program = Program(["/bin/sh", "-ec", _SLIM_REMOVES], env={"PATH": os.environ["PATH"]})
    subprocess.run(command_in_root(root, program), check=True)
    for name in ("resolv.conf", "hostname"):  # an engine puts its own there
        (root / "etc" / name).unlink(missing_ok=True)


def copy_root(source: Path, target: Path) -> None:
    """All of a root, with owners, modes, links and times."""
    subprocess.run(["cp", "-a", "--no-target-directory", source, target], check=True)


def remove_tree(folder: Path) -> None:
    """Remove a folder, if it is there, after making sure that nothing is mounted in it.

    Raises:
        StillMounted: something is.
    """
    if not folder.exists():
        return
    whole = folder.resolve()
    mounted = [each for each in _mount_points_here() if each == whole or whole in each.parents]
    if mounted:
        raise StillMounted(f"not removed, for there is something mounted: {mounted[0]}")
    shutil.rmtree(whole)


def _mount_points_here() -> list[Path]:
    lines = Path("/proc/self/mountinfo").read_text("utf-8").splitlines()
    return [Path(line.split()[4].encode().decode("unicode_escape")) for line in lines]
