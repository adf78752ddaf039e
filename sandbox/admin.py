"""The sandbox's own routes, on every HTTP port: faults, bill, journal. Not part of any provider."""

from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox.common import Common
from sandbox.faults import OFFERED, Switch


def admin_routes(common: Common) -> list[Route]:
    async def faults(request: Request) -> Response:
        if request.method == "POST":
            try:
                await _switch_on(common, request)
            except (ValueError, TypeError, AttributeError) as error:
                return JSONResponse({"error": str(error)}, 422)
        elif request.method == "DELETE":
            common.faults.clear()
        active = [_shown(each) for each in common.faults.active]
        return JSONResponse({"active": active, "offered": _offered()})

    async def bill(_: Request) -> Response:
        return JSONResponse(common.bill.as_json())

    async def journal(_: Request) -> Response:
        return JSONResponse({"calls": [asdict(each) for each in common.journal.calls()]})

    return [
        Route("/sandbox/faults", faults, methods=["GET", "POST", "DELETE"]),
        Route("/sandbox/bill", bill, methods=["GET"]),
        Route("/sandbox/journal", journal, methods=["GET"]),
    ]


async def _switch_on(common: Common, request: Request) -> None:
    wanted = await request.json()
    times = wanted.get("times")
    if times is not None and (not isinstance(times, int) or times < 1):
        raise ValueError("times must be a whole number of at least 1")
    for text in wanted["faults"] if isinstance(wanted.get("faults"), list) else _missing():
        common.faults.set(str(text), times=times)


def _missing() -> list[str]:
    raise ValueError("faults must be a list of switches")


def _shown(switch: Switch) -> dict[str, object]:
    return {"fault": str(switch), "times": switch.times}


def _offered() -> dict[str, str]:
    return {
        f"{provider}.{kind}": says
        for provider, stages in OFFERED.items()
        for kinds in stages.values()
        for kind, says in kinds.items()
    }
