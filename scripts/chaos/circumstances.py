"""What is done to the service; each function makes one circumstance and ends it again."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench.memory_watch import new_control_group
from scripts.chaos import needs
from scripts.chaos.doors import Mood
from scripts.chaos.names import names_away, names_by_hand, shoot_by_url
from scripts.chaos.stage import Stage
from scripts.chaos.termination import terminate_in_the_middle
from scripts.chaos.traffic import CLIENTS, NEURAL, QUICK, Clients, Seen

MIB = 1 << 20


@dataclass(frozen=True)
class Circumstance:
    """One row of the table.

    `done` is what was done, for people; `run` does it, `prepare` before the service starts.
    `may_crash`: a model's process is killed, so that entries may say so. `silence_s` is how long
    /health may say nothing, `well_s` how long it may take to be well.
    """

    name: str
    done: str
    run: Callable[[Stage, Seen], None]
    prepare: Callable[[Stage], None] = lambda _: None
    env: Mapping[str, str] = field(default_factory=dict)
    entering: Callable[[Stage], tuple[str, ...]] = lambda _: ()
    missing: Callable[[], str | None] = lambda: None
    clients: Clients = CLIENTS
    may_crash: bool = False
    silence_s: float = 10
    well_s: float = 60
    models: str = QUICK


# Providers


def flap(stage: Stage, _: Seen) -> None:
    """Each provider is in another mood every few seconds, then well for as long."""
    for mood in (Mood.REFUSE, Mood.RESET, Mood.HANG, Mood.GARBAGE, Mood.REFUSE):
        for door in stage.doors.values():
            door.be(mood)
        time.sleep(5)
        for door in stage.doors.values():
            door.be(Mood.PASS)
        time.sleep(4)


def storm(stage: Stage, _: Seen) -> None:
    for switches in (
        ("runware.rate_limited", "kie.rate_limited"),
        ("runware.handshake_503", "kie.html_502"),
        ("runware.provider_error", "kie.create_500"),
        ("runware.drop_after_ack", "kie.lost_reply"),
        ("runware.silent", "kie.poll_500=50"),
    ):
        stage.faults(*switches)
        time.sleep(7)
    stage.faults()


def providers_away(stage: Stage, _: Seen) -> None:
    for door in stage.doors.values():
        door.be(Mood.HANG)
    time.sleep(25)
    for door in stage.doors.values():
        door.be(Mood.PASS)


# Disks


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)


def small_disk(name: str, megabytes: int) -> Callable[[Stage], None]:
    def prepare(stage: Stage) -> None:
        _mount("-t", "tmpfs", "-o", f"size={megabytes}m", "chaos", str(stage.folder / name))

    return prepare


def full(name: str) -> Callable[[Stage, Seen], None]:
    """To the last byte, then a little free, again and again: writes fail in every place."""

    def run(stage: Stage, _: Seen) -> None:
        ballast = stage.folder / name / "ballast"
        try:
            until = time.monotonic() + 35
            while time.monotonic() < until:
                _fill(ballast)
                time.sleep(random.uniform(0.3, 2))  # noqa: S311  # nosec B311
                freed = random.choice((0, 20_000, 300_000, 3 * MIB))  # noqa: S311  # nosec B311
                with suppress(OSError):
                    os.truncate(ballast, max(0, ballast.stat().st_size - freed))
                time.sleep(random.uniform(0.1, 0.6))  # noqa: S311  # nosec B311
        finally:
            ballast.unlink(missing_ok=True)

    return run


def _fill(ballast: Path) -> None:
    with suppress(OSError), ballast.open("ab", buffering=0) as file:
        for size in (MIB, 4096, 512):
            with suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass


def read_only(name: str) -> Callable[[Stage, Seen], None]:
    """A mount over the folder that cannot be written; what is open already still can be.

    A mount with files open for writing cannot be made read-only, not even by root.
    """

    def run(stage: Stage, _: Seen) -> None:
        folder = str(stage.folder / name)
        _cover(folder)
        time.sleep(20)
        subprocess.run(["umount", "--lazy", folder], check=True)

    return run


def _cover(folder: str) -> None:
    _mount("--bind", folder, folder)
    _mount("-o", "remount,bind,ro", folder)


def data_is_read_only(stage: Stage) -> None:
    _cover(str(stage.data_dir))


def nothing(_stage: Stage, _seen: Seen) -> None:
    time.sleep(20)


def owner_changed(stage: Stage, _: Seen) -> None:
    """The volume's files belong to somebody else, and the service is not root."""
    _chown(stage.folder, 0)
    time.sleep(20)
    _chown(stage.folder, needs.NOBODY)


def _chown(folder: Path, owner: int) -> None:
    for root in (folder / "data", folder / "temp"):
        for each in (root, *root.rglob("*")):
            with suppress(FileNotFoundError):
                os.chown(each, owner, owner)


def as_nobody(stage: Stage) -> tuple[str, ...]:
    _chown(stage.folder, needs.NOBODY)
    stage.folder.chmod(0o755)
    who = f"--reuid={needs.NOBODY}", f"--regid={needs.NOBODY}", "--clear-groups"
    return ("setpriv", *who)


# Clocks


def jump(*offsets: str) -> Callable[[Stage, Seen], None]:
    """Libfaketime reads its file again at every call; the monotonic clock goes on, as in life."""

    def run(stage: Stage, _: Seen) -> None:
        for offset in offsets:
            (stage.folder / "clock").write_text(f"{offset}\n")
            time.sleep(12)

    return run


def true_clock(stage: Stage) -> None:
    (stage.folder / "clock").write_text("+0\n")


def with_false_clock(stage: Stage) -> tuple[str, ...]:
    return (
        "env",
        f"LD_PRELOAD={needs.LIBFAKETIME}",
        f"FAKETIME_TIMESTAMP_FILE={stage.folder / 'clock'}",
        "FAKETIME_NO_CACHE=1",
        "DONT_FAKE_MONOTONIC=1",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
        "NO_FAKE_STAT=1",
    )


# Processes


def kill_worker(number: int) -> Callable[[Stage, Seen], None]:
    def run(stage: Stage, seen: Seen) -> None:
        until = time.monotonic() + 40
        while time.monotonic() < until:
            if (worker := stage.worker()) is not None:
                with suppress(ProcessLookupError):
                    os.kill(worker, number)
                    seen.count("done to it", signal.Signals(number).name)
            time.sleep(random.uniform(0.5, 4))  # noqa: S311  # nosec B311

    return run


def kill_service(stage: Stage, seen: Seen) -> None:
    """In the middle of everything, five times, and started again each time."""
    for _ in range(5):
        time.sleep(random.uniform(2, 6))  # noqa: S311  # nosec B311
        stage.stop(signal.SIGKILL)
        seen.count("done to it", "SIGKILL")
        stage.start()
        seen.longest_silence_s = 0


def eat_memory(stage: Stage, _: Seen) -> None:
    """1.5 GB in the service's own control group, held for twenty seconds."""
    group = needs.group_of(stage.server.pid)
    eating = "import time; held = bytearray(1_500_000_000); time.sleep(20)"
    entering = f'echo $$ > "{group}/cgroup.procs"; echo -800 > /proc/self/oom_score_adj; exec "$@"'
    subprocess.run(["sh", "-c", entering, "sh", sys.executable, "-c", eating], check=False)


def crowd_of_connections(stage: Stage, _: Seen) -> None:
    """Two hundred that say nothing, held for twenty seconds."""
    import socket  # noqa: PLC0415

    held = []
    try:
        for __ in range(200):
            with suppress(OSError):
                held.append(socket.create_connection(("127.0.0.1", stage.port), timeout=2))
        time.sleep(20)
    finally:
        for each in held:
            each.close()


def in_a_group(stage: Stage) -> None:
    stage.closing.enter_context(new_control_group(limit_bytes=2 << 30))


def entering_the_group(_: Stage) -> tuple[str, ...]:
    folder = f"/sys/fs/cgroup/memory/dtf-bench-{os.getpid()}"
    return ("sh", "-c", f'echo $$ > "{folder}/cgroup.procs" && exec "$@"', "sh")


CIRCUMSTANCES = (
    Circumstance(
        "flapping",
        "The providers, every 9 s in another way: connections refused, reset in mid-answer, never "
        "answered, answered with garbage",
        flap,
    ),
    Circumstance(
        "storms",
        "429 and 503 and 5xx from both providers, sockets dropped after the ack, replies lost, "
        "tasks never heard of again, 7 s each",
        storm,
        well_s=90,
    ),
    Circumstance(
        "network-away", "The providers take connections and say nothing for 25 s", providers_away
    ),
    Circumstance(
        "names-away",
        "For 25 s no name resolves and the resolver does not answer either: providers and "
        "`image_url`",
        names_away,
        names_by_hand,
        missing=needs.mounts,
        clients=(*CLIENTS, shoot_by_url),
    ),
    Circumstance(
        "temp-full",
        "`TEMP_DIR` (48 MiB) filled to the last byte again and again for 35 s",
        full("temp"),
        small_disk("temp", 48),
        env={"MIN_FREE_DISK_MB": "0"},
        missing=needs.mounts,
    ),
    Circumstance(
        "data-full",
        "`DATA_DIR` (16 MiB) filled in the same way, `PICKS_ON_FAILURE=refuse`",
        full("data"),
        small_disk("data", 16),
        missing=needs.mounts,
    ),
    Circumstance(
        "data-full-log",
        "`DATA_DIR` (16 MiB) filled in the same way, `PICKS_ON_FAILURE=log`",
        full("data"),
        small_disk("data", 16),
        env={"PICKS_ON_FAILURE": "log"},
        missing=needs.mounts,
    ),
    Circumstance(
        "data-read-only",
        "`DATA_DIR` read-only for 20 s in the middle of it",
        read_only("data"),
        missing=needs.mounts,
    ),
    Circumstance(
        "temp-read-only",
        "`TEMP_DIR` read-only for 20 s in the middle of it",
        read_only("temp"),
        missing=needs.mounts,
    ),
    Circumstance(
        "owner-changed",
        "Both folders given to another user for 20 s, the service not being root",
        owner_changed,
        entering=as_nobody,
        missing=needs.root,
    ),
    Circumstance(
        "clock-forward",
        "The clock jumps 2 h forward, then a day, while it runs",
        jump("+2h", "+1d"),
        true_clock,
        entering=with_false_clock,
        missing=needs.faketime,
    ),
    Circumstance(
        "clock-back",
        "The clock jumps 1 h back, then a day forward, then to the true time",
        jump("-1h", "+1d", "+0"),
        true_clock,
        entering=with_false_clock,
        missing=needs.faketime,
    ),
    Circumstance(
        "worker-killed",
        "SIGKILL for the inference worker every 0.5 to 4 s, 40 s long",
        kill_worker(signal.SIGKILL),
        may_crash=True,
        well_s=150,  # a network that crashed five times in a row rests for a while
        env={"MODEL_TIMEOUT_S": "60"},
        models=f"{QUICK},{NEURAL}",
    ),
    Circumstance(
        "worker-stopped",
        "SIGSTOP for the inference worker, and for each that follows it, 40 s long",
        kill_worker(signal.SIGSTOP),
        env={"MODEL_TIMEOUT_S": "15"},
        models=f"{QUICK},{NEURAL}",
    ),
    Circumstance(
        "service-killed",
        "SIGKILL for the service in the middle of everything, five times",
        kill_service,
        silence_s=15,
    ),
    Circumstance(
        "terminated",
        "SIGTERM in the middle of a stream, a promised shot with paid tasks under way, an "
        "enlargement being sent and an upload half sent; then started again",
        terminate_in_the_middle,
        silence_s=90,
    ),
    Circumstance(
        "memory",
        "1.5 GB taken by somebody else for 20 s in the service's own group of 2 GiB",
        eat_memory,
        in_a_group,
        env={"MODEL_TIMEOUT_S": "60"},
        entering=entering_the_group,
        missing=needs.memory_group,
        models=f"{QUICK},{NEURAL}",
    ),
    Circumstance(
        "data-read-only-start",
        "`DATA_DIR` read-only from the start, `PICKS_ON_FAILURE=log`",
        nothing,
        data_is_read_only,
        env={"PICKS_ON_FAILURE": "log"},
        missing=needs.mounts,
    ),
    Circumstance(
        "descriptors",
        "200 silent connections for 20 s against `ulimit -n 128`",
        crowd_of_connections,
        entering=lambda _: ("sh", "-c", 'ulimit -n 128; exec "$@"', "sh"),
        silence_s=40,
    ),
)
