"""The doctor's look at the machine: processor, memory, disks, and the native libraries."""

import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from config import Settings
from scripts.findings import Finding, broken, skipped, warning, well
from services.inference import cpu_flags
from utils import memory, processors

_ROOT = Path(__file__).resolve().parent.parent
_MIB = 1 << 20
_PROBE_S = 120
_SYNCS = 5
_SLOW_SYNC_MS = 50
_FILES_A_REQUEST = 8  # its socket, its upload, a result, a database and some room
_FILES_AT_REST = 128
_BF16 = frozenset({"avx512_bf16", "amx_bf16"})


def processor() -> Iterator[Finding]:
    """What the CPU can do of what the service uses, and what the lack of it costs."""
    flags = cpu_flags()
    if not flags:
        yield skipped("CPU flags", "/proc/cpuinfo names none.")
        return
    if "sse4_2" not in flags:
        yield broken(
            "CPU flags",
            "No SSE4.2: Pillow-SIMD, OpenVINO and onnxruntime end with an illegal instruction.",
            "Take another machine.",
        )
    elif "avx2" not in flags:
        yield warning(
            "CPU flags",
            "SSE4.2 without AVX2: Pillow-SIMD's SSE4 build runs, an enlargement takes 98 ms where "
            "AVX2 takes 85 (docs/IMAGE.md), and the networks take longer.",
            "Nothing must be done; choose a provider with AVX2 next time.",
        )
    else:
        wide = "AVX-512" if "avx512f" in flags else "no AVX-512 (the networks are slower)"
        yield well("CPU flags", f"SSE4.2, AVX2, {wide}.")
    yield _bf16(flags)


def _bf16(flags: frozenset[str]) -> Finding:
    found = sorted(_BF16 & flags)
    if found:
        gain = "LOCAL_PROFILE=balanced would use it: twice as fast, masks within a level."
        return well("bf16", f"{' and '.join(found)}. {gain}")
    return well("bf16", "None: LOCAL_PROFILE=balanced computes in f32, BiRefNet takes 13 s, not 7.")


def processors_granted(settings: Settings | None) -> Iterator[Finding]:
    granted, seen = processors.granted(), processors.seen()
    told = f"{granted:g} granted, {seen} seen."
    if settings is None:
        yield well("processors", told)
        return
    wanted = {
        "PIXEL_THREADS": settings.work.pixel_threads,
        "INFERENCE_THREADS": settings.local.inference_threads,
        "OMP_NUM_THREADS": int(os.environ.get("OMP_NUM_THREADS", "0") or 0),
    }
    too_many = {name: count for name, count in wanted.items() if count > math.ceil(granted)}
    if too_many:
        said = ", ".join(f"{name} is {count}" for name, count in too_many.items())
        yield warning(
            "processors",
            f"{told} {said}: threads beyond what is granted are stopped in mid-work.",
            f"Set them to {math.ceil(granted)}.",
        )
    else:
        yield well("processors", told)


def memory_granted(settings: Settings | None) -> Iterator[Finding]:
    granted, free = memory.granted_bytes(), memory.free_bytes()
    if granted is None:
        yield skipped("memory", "The system does not tell how much is granted.")
        return
    told = f"{granted // _MIB} MiB granted, {(free or 0) // _MIB} free."
    limit = 0 if settings is None else settings.local.memory_limit_mb * _MIB
    if limit > granted:
        yield broken(
            "memory",
            f"{told} MEMORY_LIMIT_MB is {limit // _MIB}: the kernel will end the service.",
            f"Set MEMORY_LIMIT_MB to {granted // _MIB} or 0.",
        )
    elif limit:
        yield well("memory", f"{told} MEMORY_LIMIT_MB divides {limit // _MIB} of it.")
    else:
        yield well("memory", told)
    yield _swap()


def _swap() -> Finding:
    lines = _read(Path("/proc/meminfo")).splitlines()
    total = next((int(line.split()[1]) for line in lines if line.startswith("SwapTotal")), 0)
    if total:
        return well(
            "swap", f"{total // 1024} MiB on this machine: too little memory is slow first."
        )
    return well("swap", "None: too little memory ends a process, the networks' own first.")


def open_files(settings: Settings | None) -> Iterator[Finding]:
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    told = f"{limit} of at most {most}."
    if settings is None:
        yield well("open files", told)
        return
    work = settings.work
    needed = _FILES_AT_REST + _FILES_A_REQUEST * 2 * (work.max_concurrent_jobs + work.queue_limit)
    if limit < needed:
        advice = f"ulimit -n {needed}, or --ulimit nofile={needed} for docker run."
        yield warning("open files", f"{told} A full house may want {needed}.", advice)
    else:
        yield well("open files", told)


def libraries(scratch: Path | None) -> Iterator[Finding]:
    """Each tried in a process of its own: what the CPU cannot do would end this one."""
    if scratch is None:
        yield skipped("libraries", "There is no folder to try them in.")
        return
    yield _pillow(_probe("pillow", scratch))
    yield _libvips(_probe("libvips", scratch))
    for engine in ("onnxruntime", "openvino"):
        yield _engine(engine, _probe(engine, scratch))


def _probe(name: str, scratch: Path) -> dict[str, Any] | str:
    """What the probe said, or a sentence on how it ended."""
    environment = {**os.environ, "TMPDIR": str(scratch), "HOME": str(scratch)}
    words = [sys.executable, "-m", "scripts.doctor_probe", name, str(scratch)]
    try:
        done = subprocess.run(
            words, cwd=_ROOT, env=environment, capture_output=True, timeout=_PROBE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"It did not end within {_PROBE_S} s."
    if done.returncode < 0:
        return f"It was ended by {signal.Signals(-done.returncode).name}."
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return f"It failed: {''.join(last)}"
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _pillow(said: dict[str, Any] | str) -> Finding:
    advice = "In an image: SIMD_ISA; else `make setup` with a C compiler."
    if isinstance(said, str):
        return broken("Pillow", said, f"This build does not fit the CPU. {advice}")
    timed = f"1024x1024 with alpha four times larger in {said['ms']} ms, the best of three."
    if said["version"].endswith(".post0"):
        return well("Pillow", f"Pillow-SIMD {said['version']}; {timed}")
    return warning("Pillow", f"Plain Pillow {said['version']}, no SIMD; {timed}", advice)


def _libvips(said: dict[str, Any] | str) -> Finding:
    if isinstance(said, str):
        return broken("libvips", said, "Enlargements will fail: install requirements.txt anew.")
    there = ", ".join(said["there"]) or "none is built in"
    if said["open"]:
        open_ones = ", ".join(said["open"])
        return warning(
            "libvips",
            f"{said['version']}; loaders not meant for strangers' files that run: {open_ones}.",
            "The service names the loader for each file itself, so none of them meets an upload; "
            "report it all the same.",
        )
    return well(
        "libvips",
        f"{said['version']}; loaders not meant for strangers' files: {there}, all blocked."
        if said["there"]
        else f"{said['version']}; of those: {there}.",
    )


def _engine(name: str, said: dict[str, Any] | str) -> Finding:
    if isinstance(said, str):
        return broken(
            name, said, "Install requirements.txt anew; INFERENCE_ENGINE names the other."
        )
    if not said["right"]:
        return broken(
            name, f"{said['version']} computes x + x wrongly.", "Do not use this machine."
        )
    return well(name, f"{said['version']}; a network of one operator runs and is right.")


def folders(settings: Settings) -> Iterator[Finding]:
    """TEMP_DIR and DATA_DIR: room, rights, how long a write takes to be safe."""
    storage = settings.storage
    data = storage.data_dir or storage.temp_dir / "data"
    yield from _user(storage.temp_dir)
    yield _folder("TEMP_DIR", storage.temp_dir, least_mb=storage.min_free_disk_mb)
    yield _room(settings)
    yield _folder("DATA_DIR", data, least_mb=1)
    yield _apart(settings, data)


def _user(temp_dir: Path) -> Iterator[Finding]:
    owner = existing(temp_dir).stat().st_uid
    if os.geteuid() == 0 and owner != 0:
        yield warning(
            "user",
            f"This is root, but TEMP_DIR belongs to {owner}: what follows of rights is root's.",
            f"docker exec --user {owner}:{owner} … python -m scripts.doctor",
        )


def _folder(name: str, folder: Path, *, least_mb: int) -> Finding:
    here = existing(folder)
    not_there = "" if here == folder else " It is not there yet; looked at the folder above."
    try:
        milliseconds = _sync_ms(here)
    except OSError as error:
        return broken(
            name,
            f"It cannot be written: {error.strerror}.{not_there}",
            "Mount a folder that the service's user may write.",
        )
    free = shutil.disk_usage(here).free // _MIB
    kind = _file_system(here)
    told = f"{free} MiB free on {kind}; fsync takes {milliseconds:.1f} ms.{not_there}"
    if free < least_mb:
        return broken(
            name, f"{told} {least_mb} must stay free.", "Make room, or take a larger disk."
        )
    if kind == "tmpfs":
        return warning(
            name,
            f"{told} A tmpfs counts as memory, and ends with the container.",
            "Mount a disk there.",
        )
    if name == "DATA_DIR" and milliseconds > _SLOW_SYNC_MS:
        return warning(
            name,
            f"{told} Every pick waits for one.",
            "Take a faster volume (class beta3 on Akash).",
        )
    return well(name, told)


def _room(settings: Settings) -> Finding:
    """What results and a full house of uploads may take, beside what lies there already."""
    storage, work = settings.storage, settings.work
    uploads = 2 * (work.max_concurrent_jobs + work.queue_limit) * settings.inputs.max_upload_mb
    most = storage.result_quota_mb + uploads + storage.min_free_disk_mb
    disk = shutil.disk_usage(existing(storage.temp_dir))
    kept = storage.min_free_disk_mb
    said = f"Results {storage.result_quota_mb}, uploads {uploads}, kept free {kept}"
    if most * _MIB > disk.total:
        return warning(
            "room",
            f"{said}: {most} MiB at most, and the disk has {disk.total // _MIB}; a full house is "
            "told 507.",
            "Lower RESULT_QUOTA_MB, MAX_UPLOAD_MB or QUEUE_LIMIT. (Akash: count what was rented, "
            "the disk shown here is the node's.)",
        )
    return well("room", f"{said}: {most} MiB at most.")


def _apart(settings: Settings, data: Path) -> Finding:
    if settings.storage.data_dir is None:
        return warning(
            "volume",
            "DATA_DIR is not set: ledger, records and picks lie in TEMP_DIR and go with it.",
            "Mount a persistent volume and set DATA_DIR.",
        )
    if existing(data).stat().st_dev == existing(settings.storage.temp_dir).stat().st_dev:
        return warning(
            "volume",
            "TEMP_DIR and DATA_DIR are on one file system: pictures can fill the picks' disk.",
            "Mount a volume of its own at DATA_DIR.",
        )
    return well("volume", "TEMP_DIR and DATA_DIR are file systems of their own.")


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(each for each in (folder, *folder.absolute().parents) if each.exists())


def _sync_ms(folder: Path) -> float:
    """Milliseconds from a small write to its being safe; raises OSError where none is taken."""
    taken = []
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
        for _ in range(_SYNCS):
            begun = time.perf_counter()
            file.write(b"x" * 512)
            file.flush()
            os.fsync(file.fileno())
            taken.append(1000 * (time.perf_counter() - begun))
    return median(taken)


def _file_system(folder: Path) -> str:
    """The kind of the mount that holds it, as /proc/mounts calls it."""
    real, best, kind = folder.resolve(), "", "an unknown file system"
    for line in _read(Path("/proc/mounts")).splitlines():
        _, place, name, *_ = line.split()
        if real.is_relative_to(place) and len(place) >= len(best):
            best, kind = place, name
    return kind


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
