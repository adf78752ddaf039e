"""POST /sessions: a token for a browser, which may shoot within limits and read what it shot."""

from datetime import UTC, datetime

from fastapi import APIRouter, Request, Response

from models import errors
from models.schemas import SessionParameters, SessionToken
from routers.dependencies import ServicesDep
from routers.documentation import describes_json
from routers.parameters import parse, small_json
from routers.problems import responses
from services.access import CallerKind, caller

router = APIRouter(tags=["sessions"])


@router.post(
    "/sessions",
    status_code=201,
    responses=responses(errors.InvalidParameter, errors.BodyTooSlow, errors.FileTooLarge),
    openapi_extra=describes_json(SessionParameters),
)
async def mint(request: Request, response: Response, services: ServicesDep) -> SessionToken:
    """A token for one browser, short-lived, limited in shots and spend; it wants an API key.

    The body is optional and may lower what the settings allow, never raise it.
    """
    asking = caller.get()
    if asking.kind is not CallerKind.KEY:
        raise errors.NotAllowed("Sessions are made with an API key, and none are set here.")
    asked = parse(SessionParameters, await small_json(request))
    token, session = services.access.sessions.mint(asking.key_id, asked)
    response.headers["Cache-Control"] = "no-store"
    return SessionToken(
        token=token,
        expires_at=datetime.fromtimestamp(session.expires_at, UTC),
        shots=session.shots,
        max_cost_usd=float(session.max_cost_usd),
    )
