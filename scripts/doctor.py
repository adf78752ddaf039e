"""Tests the box itself and says in plain words what is well, what is not, and what to do about it.

Run `python -m scripts.doctor`; in a container `docker exec --user 10001:10001 NAME python
-m scripts.doctor`. It may run beside the service: it works in a folder of its own inside TEMP_DIR,
asks the providers who we are and what is left without sending them a task, and tries a network only
where its memory is free. `--quick` leaves the networks out. The exit status is 0 when all is well,
1 when something is broken, 2 when there are only warnings, 3 when the command line is wrong.
"""

import argparse
import asyncio
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NoReturn

from config import Settings, SettingsError, load_settings
from scripts import doctor_box as box
from scripts import doctor_outside as outside
from scripts.findings import (
    EXIT_STATUS,
    Finding,
    Level,
    as_json,
    as_line,
    broken,
    skipped,
    summary,
    well,
    without_secrets,
    worst,
)

SECTIONS = ("machine", "libraries", "settings", "folders", "service", "providers", "models")
_SCRATCH = "doctor-"
_ABANDONED_S = 3600
_NO_SETTINGS = "Not looked at: it goes by the settings."


class _Parser(argparse.ArgumentParser):
    """argparse's own status for a wrong command line is 2, which is taken."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(3, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status as the module says."""
    asked = _parser().parse_args(arguments)
    begun = time.monotonic()
    findings = asyncio.run(_examined(asked.only, quick=asked.quick, say=not asked.json))
    if asked.json:
        print(as_json(findings, seconds=time.monotonic() - begun))
    else:
        print(summary(findings))
    return EXIT_STATUS[worst(findings)]


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m scripts.doctor", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="leave the networks out")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="look at these alone"
    )
    return parser


async def _examined(only: Collection[str], *, quick: bool, say: bool) -> list[Finding]:
    """Every finding, without secrets; said as soon as it is known, since networks take a while."""
    settings, problems = _settings()
    secrets = _secrets(settings)
    findings = []
    with _scratch(settings) as scratch:
        examination = _Examination(settings, problems, scratch, quick)
        async for each in examination.findings(only):
            findings.append(without_secrets(each, secrets))
            if say:
                print(as_line(findings[-1]), flush=True)
    return findings


@dataclass(slots=True)
class _Examination:
    """One run; `paid` are the providers that took their key."""

    settings: Settings | None
    problems: list[Finding]
    scratch: Path | None
    quick: bool
    paid: set[str] = field(default_factory=set)

    async def findings(self, only: Collection[str]) -> AsyncIterator[Finding]:
        for section in (each for each in SECTIONS if each in only):
            try:
                async for finding in self._section(section):
                    yield finding
            except Exception as error:  # noqa: BLE001  # said, and counted against the box
                words = f"The look itself failed: {type(error).__name__}: {error}"
                yield broken(section, words, "Report it with this line.")

    def _section(self, name: str) -> AsyncIterator[Finding]:
        sections = {
            "machine": self._machine,
            "libraries": self._libraries,
            "settings": self._door,
            "folders": self._folders,
            "service": self._service,
            "providers": self._providers,
            "models": self._models,
        }
        return sections[name]()

    async def _machine(self) -> AsyncIterator[Finding]:
        looks = (
            box.processor(),
            box.processors_granted(self.settings),
            box.memory_granted(self.settings),
            box.open_files(self.settings),
        )
        for finding in chain(*looks):
            yield finding

    async def _libraries(self) -> AsyncIterator[Finding]:
        for finding in box.libraries(self.scratch):
            yield finding

    async def _door(self) -> AsyncIterator[Finding]:
        doors = outside.door(self.settings) if self.settings else ()
        for finding in chain(self.problems, doors):
            yield finding

    async def _folders(self) -> AsyncIterator[Finding]:
        if self.settings is None:
            yield skipped("folders", _NO_SETTINGS)
            return
        for finding in box.folders(self.settings):
            yield finding

    async def _service(self) -> AsyncIterator[Finding]:
        for finding in outside.service_beside():
            yield finding

    async def _providers(self) -> AsyncIterator[Finding]:
        if self.settings is None:
            yield skipped("providers", _NO_SETTINGS)
            return
        clocks = outside.Clocks()
        for finding in await outside.providers(self.settings.providers, clocks):
            if finding.level is Level.WELL:
                self.paid.add(finding.check)
            yield finding
        for finding in outside.clock(clocks):
            yield finding

    async def _models(self) -> AsyncIterator[Finding]:
        if self.settings is None:
            yield skipped("models", _NO_SETTINGS)
        elif self.scratch is None:
            yield skipped(
                "models", "TEMP_DIR cannot be written: there is no folder to try them in."
            )
        else:
            from scripts.doctor_pictures import Ward, examined  # noqa: PLC0415  # half the service

            ward = Ward(self.settings, self.scratch)
            async for finding in examined(ward, quick=self.quick, paid=self.paid):
                yield finding


def _settings() -> tuple[Settings | None, list[Finding]]:
    try:
        return load_settings(), [well("settings", "All of them can be used.")]
    except SettingsError as error:
        advice = "docs/CONFIGURATION.md; the service does not start like this."
        return None, [broken("settings", line, advice) for line in str(error).splitlines()]


@contextmanager
def _scratch(settings: Settings | None) -> Iterator[Path | None]:
    """A folder of our own in TEMP_DIR; None where there cannot be one."""
    above = None if settings is None else box.existing(settings.storage.temp_dir)
    _remove_abandoned(above)
    try:
        folder = tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=above)
    except OSError:
        yield None
        return
    with folder as path:
        yield Path(path)


def _remove_abandoned(above: Path | None) -> None:
    """What a doctor that was killed has left; one that still works is younger."""
    for folder in above.glob(f"{_SCRATCH}*") if above else ():
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(folder, ignore_errors=True)


def _secrets(settings: Settings | None) -> set[str]:
    """Every secret as it may stand in somebody's answer."""
    shown = {part.strip().partition(":")[2] for part in os.environ.get("API_KEYS", "").split(",")}
    if settings is not None:
        keys = (
            settings.providers.runware_api_key,
            settings.providers.kie_api_key,
            settings.access.signing_secret,
            settings.webhooks.webhook_secret,
            settings.observability.metrics_token,
            settings.observability.otel_exporter_otlp_headers,
        )
        shown |= {key.get_secret_value() for key in keys if key is not None}
    return shown - {"", "sandbox"}


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # the findings say it; the service's own log is elsewhere
    sys.exit(main())
