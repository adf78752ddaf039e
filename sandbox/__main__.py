"""`python -m sandbox`: the look-alikes until Ctrl-C, at addresses that are printed first."""

import argparse
import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from sandbox.faults import parse_switches
from sandbox.opening import Sandbox, open_sandbox
from sandbox.options import Options, Ports, Times

_ISNET = Path("weights/models/isnet-general-use/isnet-general-use.onnx")
_PORTS = Ports(runware_ws=8901, runware_http=8902, kie_api=8903, kie_upload=8904, kie_files=8905)
_DOORS = ("runware_ws", "runware_http", "kie_api", "kie_upload", "kie_files")


def main(arguments: Sequence[str] | None = None) -> int:
    wanted = _parser().parse_args(arguments)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(_options(wanted), faults=wanted.faults, as_json=wanted.json))
    return 0


async def _serve(options: Options, *, faults: str, as_json: bool) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, stopped.set)
    async with open_sandbox(options) as sandbox:
        sandbox.faults.set(faults)
        _say(sandbox, as_json=as_json)
        await stopped.wait()


def _say(sandbox: Sandbox, *, as_json: bool) -> None:
    addresses = sandbox.addresses()
    if as_json:
        sys.stdout.write(json.dumps(addresses) + "\n")
    else:
        lines = [f"{name.upper() + '_URL':<18} {url}" for name, url in addresses.items()]
        sys.stdout.write("\n".join([*lines, "Keys: sandbox, sandbox-<name>. Ctrl-C ends.", ""]))
    sys.stdout.flush()


def _options(wanted: argparse.Namespace) -> Options:
    ports = {name: getattr(wanted, f"{name}_port") for name in _DOORS}
    if wanted.free_ports:
        ports = dict.fromkeys(_DOORS, 0)
    return Options(
        ports=Ports(**ports),
        times=Times(runware_task_s=wanted.delay, kie_step_s=wanted.delay),
        isnet=None if wanted.no_isnet else wanted.isnet,
        real_status=wanted.real_status,
    )


def _faults(text: str) -> str:
    try:
        parse_switches(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    parser.add_argument("--free-ports", action="store_true", help="take any free ports")
    for name in _DOORS:
        default = getattr(_PORTS, name)
        parser.add_argument(f"--{name.replace('_', '-')}-port", type=int, default=default)
    parser.add_argument("--json", action="store_true", help="print the addresses as JSON")
    parser.add_argument("--faults", type=_faults, default="", help="switches, joined by commas")
    parser.add_argument("--delay", type=float, default=0.3, help="seconds a task or state takes")
    parser.add_argument("--isnet", type=Path, default=_ISNET, help="ISNet's weights")
    parser.add_argument("--no-isnet", action="store_true", help="cut with the knock-out only")
    parser.add_argument("--real-status", action="store_true", help="Kie: codes as HTTP status")
    return parser


if __name__ == "__main__":
    sys.exit(main())
