"""One target in one process under libFuzzer: `python -m fuzz.engine TARGET [its flags] FOLDER…`."""

import importlib
import resource
import sys
from pathlib import Path

import atheris

_OURS = ["utils", "services", "routers", "models"]
_READERS = ["PIL", "python_multipart"]  # whose branches tell one kind of file from another
_MOST_GROWTH = 2 << 30


def main(name: str, arguments: list[str]) -> None:
    with atheris.instrument_imports(include=[*_OURS, *_READERS]):
        target = importlib.import_module(f"fuzz.{name}").TARGET
    _limit_memory()
    mutate = target.mutate
    custom = {}
    if mutate is not None:
        custom["custom_mutator"] = lambda data, longest, seed: mutate(
            data, longest, seed, atheris.Mutate
        )
    atheris.Setup([name, f"-max_len={target.longest}", *arguments], target.run, **custom)
    atheris.Fuzz()


def _limit_memory() -> None:
    """Whoever asks for gigabytes is told MemoryError, which is a finding with its stack."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + _MOST_GROWTH
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
