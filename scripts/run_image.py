"""Starts a stage that `scripts.build_without_docker` built, as a container's engine would.

Its ENTRYPOINT and CMD as process 1 of namespaces of their own, in a root that cannot be written but
for the volumes, with Docker's default capabilities, none to be won back, in a memory control group
and on so many processors. The network is this machine's.

    python -m scripts.run_image --volume /data=/srv/data --env RUNWARE_API_KEY=sandbox
"""

import argparse
import ctypes
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench.memory_watch import ControlGroup, new_control_group, tree
from scripts.build_without_docker import FOLDER, BuiltStage, load_stage
from scripts.scratch_root import (
    CAPABILITIES,
    Confinement,
    Mount,
    Program,
    command_in_root,
    mount_points,
    user_of,
)

LIMIT_BYTES = 4 << 30
CPUS = (0, 1)
STAGE = "runtime"
_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_NAMESPACES_S = 10


@dataclass(frozen=True, slots=True)
class Terms:
    """How an image is to run: `docker run`'s --env, --volume, --tmpfs, --read-only, --user.

    `volumes` are folders here by their path inside, those in `read_only_volumes` not writable.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    volumes: Mapping[str, Path] = field(default_factory=dict)
    read_only_volumes: Mapping[str, Path] = field(default_factory=dict)
    tmpfs: Sequence[str] = ()
    read_only_root: bool = True
    user: str = ""
    cpus: Sequence[int] = CPUS
    capabilities: Sequence[str] = CAPABILITIES

    def mounts(self) -> list[Mount]:
        machine = [Path("/etc/resolv.conf"), Path("/etc/hosts")]
        return [
            *(Mount(str(each), each, read_only=True) for each in machine if each.exists()),
            *(Mount(target) for target in self.tmpfs),
            *(Mount(target, source) for target, source in self.volumes.items()),
            *(
                Mount(target, source, read_only=True)
                for target, source in self.read_only_volumes.items()
            ),
        ]


@dataclass(frozen=True, slots=True)
class Container:
    """A running image; `pid` is its process 1 as this machine counts."""

    process: subprocess.Popen[bytes]
    pid: int
    log: Path
    group: ControlGroup | None

    def stop(self, *, signal_number: int = signal.SIGTERM, timeout_s: float = 60) -> int:
        """Ask process 1 to end, and its exit status once it has.

        Raises:
            subprocess.TimeoutExpired: it has not.
        """
        os.kill(self.pid, signal_number)
        return self.process.wait(timeout_s)

    def run_inside(
        self, words: Sequence[str], *, env: Mapping[str, str], user: str = "0:0"
    ) -> subprocess.CompletedProcess[bytes]:
        """What `docker exec` does: a command in the container's namespaces and root."""
        uid, gid = user.split(":")
        entering = [
            "nsenter", f"--target={self.pid}", "--mount", "--pid", "--ipc", "--uts", "--root",
            "--wd", f"--setuid={uid}", f"--setgid={gid}", "--", "/usr/bin/env", "-i",
            *(f"{name}={value}" for name, value in env.items()),
        ]  # fmt: skip
        return subprocess.run([*entering, *words], capture_output=True, check=False)


@contextmanager
def running_image(
    stage: BuiltStage,
    terms: Terms,
    *,
    log: Path,
    limit_bytes: int | None = LIMIT_BYTES,
) -> Iterator[Container]:
    """The image running; killed at the end if it still does. Its output goes to `log`."""
    mounts = terms.mounts()
    with (
        new_control_group(limit_bytes=limit_bytes) as group,
        mount_points(stage.root, mounts),
        log.open("ab") as output,
    ):
        process = subprocess.Popen(
            command_in_root(
                stage.root,
                _program(stage, terms),
                mounts=mounts,
                confinement=Confinement(
                    read_only_root=terms.read_only_root,
                    no_new_privileges=True,
                    capabilities=terms.capabilities,
                    cpus=_cpus_here(terms.cpus),
                    group=group.folder if group else None,
                    group_version=group.version if group else 1,
                ),
            ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        with _ended(process) as first:
            yield Container(process, first, log, group)


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[int]:
    """Process 1 of the image; killed in the end, and with it all that is in its namespace.

    Killing `unshare` is not enough: the signal that --kill-child arranges is forgotten by the
    kernel where process 1 changes its user.
    """
    try:
        first = _process_one(process)
        try:
            yield first
        finally:
            if process.poll() is None:
                os.kill(first, signal.SIGKILL)
                process.wait()
    finally:
        process.kill()
        process.wait()


def environment(stage: BuiltStage, terms: Terms) -> dict[str, str]:
    return {"HOME": "/root", **stage.image.env, **terms.env}


def _program(stage: BuiltStage, terms: Terms) -> Program:
    uid, gid = user_of(stage.root, terms.user or stage.image.user)
    return Program(
        [*stage.image.entrypoint, *stage.image.command],
        env=environment(stage, terms),
        workdir=stage.image.workdir,
        uid=uid,
        gid=gid,
    )


def _cpus_here(cpus: Sequence[int]) -> list[int]:
    return sorted(set(cpus) & os.sched_getaffinity(0))


def _process_one(process: subprocess.Popen[bytes]) -> int:
    """The child of `unshare`, as soon as it is there."""
    begun = time.monotonic()
    while process.poll() is None and time.monotonic() - begun < _NAMESPACES_S:
        with suppress(ValueError):
            _, first = tree(process.pid)[:2]
            return first
        time.sleep(0.01)
    raise SystemExit("The image did not start.")


def enter_private_network() -> None:
    """This process, and what it starts, on a loopback of its own: any port free, nothing else.

    To be called before there are threads.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "no network namespace of our own")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        request = struct.pack("16sh", b"lo", 0)
        request = fcntl.ioctl(asking, _SIOCGIFFLAGS, request + bytes(22))
        (flags,) = struct.unpack_from("h", request, 16)
        fcntl.ioctl(asking, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | _IFF_UP) + bytes(22))


def built_stage(folder: Path, name: str) -> BuiltStage:
    """A stage that was built, or the end of the program."""
    stage = load_stage(folder / "stages" / name)
    if stage is None:
        sys.exit(f"{folder} has no stage {name}: python -m scripts.build_without_docker")
    return stage


def main() -> int:
    asked = _parser().parse_args()
    stage = built_stage(asked.folder, asked.stage)
    terms = Terms(
        env=_pairs(asked.env),
        volumes={target: Path(source) for target, source in _pairs(asked.volume).items()},
        tmpfs=["/tmp"],  # noqa: S108  # nosec B108  # the container's own
    )
    with running_image(stage, terms, log=Path("/dev/stdout")) as container:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: os.kill(container.pid, signal.SIGTERM))
        return container.process.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.run_image",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", nargs="?", default=STAGE, help="default: %(default)s")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="default: %(default)s")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--volume", action="append", default=[], metavar="INSIDE=FOLDER")
    return parser


def _pairs(given: Sequence[str]) -> dict[str, str]:
    return dict(each.partition("=")[::2] for each in given)


if __name__ == "__main__":
    sys.exit(main())
