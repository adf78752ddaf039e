"""Schemathesis over the whole OpenAPI document: `python -m fuzz.api --examples 200`.

Two services are asked: one that wants a key, with it (and, by the check `ignored_auth`, without
it and with a wrong one), and one that is open to everybody. Each with valid and invalid requests,
operation by operation, and along the document's links. Exits with 1 where anything was found.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.schemas import ModelId
from tests.conftest import Server, serving
from tests.fakes import FakeRemover

ROOT = Path(__file__).parent.parent
KEY = "a-key-of-the-fuzzer"
PHASES = ("examples", "coverage", "fuzzing", "stateful")

_CONFIGURATION = """
# a picture may be refused for what it is: no schema can say which bytes are one
checks.positive_data_acceptance.enabled = false
# 402 and 413 refuse as well
checks.negative_data_rejection.expected-statuses = [
    400, 401, 402, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429, "5xx",
]
# without keys set, every key is welcome
checks.ignored_auth.enabled = {keyed}

# DELETE of one of these is that of a pick whose shot has this name, which is no id: 400
[[operations]]
include-path = ["/preferences/stats", "/preferences/export"]
checks.unsupported_method.enabled = false
checks.allow_header_conformance.enabled = false
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What schemathesis said, whether it found nothing, and how often it asked."""

    text: str
    passed: bool
    cases: int


@contextmanager
def service(folder: Path, *, keyed: bool) -> Iterator[Server]:
    """A service of stand-ins and the real knock-out, that limits no rate.

    Each model can be asked: that one cannot is told by a 503 or 502, which schemathesis calls one
    of our crashes.
    """
    others = sorted(set(ModelId) - {ModelId.LOCAL_KNOCKOUT})
    keys = f"shop:{KEY}" if keyed else ""
    with serving(
        folder,
        stand_ins={each: FakeRemover(each) for each in others},
        api_keys=keys,
        log_level="ERROR",
        rate_limit_per_minute=0,
        refusal_limit_per_minute=0,
    ) as server:
        yield server


def ask(  # noqa: PLR0913  # what schemathesis is told
    url: str,
    folder: Path,
    *,
    keyed: bool,
    examples: int,
    phases: Sequence[str] = PHASES,
    seed: int | None = None,
    only: Sequence[str] = (),
) -> Outcome:
    """One run against a service; with `seed` None it is the same every time.

    `only` are addresses, none for all of them. Reports go to `folder`.
    """
    report = folder / "report.json"
    configuration = folder / "schemathesis.toml"
    configuration.write_text(_CONFIGURATION.format(keyed=str(keyed).lower()))
    repeatable = ("--generation-deterministic",) if seed is None else ("--seed", str(seed))
    key = ("--header", f"Authorization: Bearer {KEY}") if keyed else ()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(configuration)),
            *("run", f"{url}/openapi.json", *key),
            *("--phases", ",".join(phases)),
            *("--max-examples", str(examples), *repeatable, "--suppress-health-check", "all"),
            *("--continue-on-failure", "--request-timeout", "60", "--no-color"),
            *("--report", "json", "--report-json-path", str(report)),
            *(part for address in only for part in ("--include-path", address)),
        ],
        cwd=folder,
        env=os.environ | {"SCHEMATHESIS_HOOKS": "fuzz.api_hooks", "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    cases = json.loads(report.read_text())["test_cases"]["generated"] if report.exists() else 0
    return Outcome(done.stdout + done.stderr, done.returncode == 0, cases)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz.api", description=__doc__)
    parser.add_argument("--examples", type=int, default=100, help="of each operation and phase")
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=PHASES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[], help="addresses, as the document has them")
    asked = parser.parse_args()
    os.nice(19)
    passed = True
    for keyed in (True, False):
        with tempfile.TemporaryDirectory() as name, service(Path(name), keyed=keyed) as server:
            outcome = ask(
                server.url,
                Path(name),
                keyed=keyed,
                examples=asked.examples,
                phases=asked.phases,
                seed=asked.seed,
                only=asked.only,
            )
        print(outcome.text)
        print(f"{'with keys' if keyed else 'open'}: {outcome.cases} cases", flush=True)
        passed = passed and outcome.passed
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
