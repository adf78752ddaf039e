"""Whether the process lives and can work, which models there are, and what went wrong lately."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from models import errors
from models.recent_errors import RecentErrors
from models.schemas import Health, ModelTable, Readiness
from routers.dependencies import ServicesDep
from routers.problems import responses

router = APIRouter(tags=["operations"])


@router.get("/health")
async def health(services: ServicesDep) -> Health:
    """The process is alive; nothing else is looked at."""
    return Health(version=services.version, uptime_s=services.uptime_s())


@router.get("/ready", responses={503: {"model": Readiness, "description": "`problems` says why"}})
async def ready(services: ServicesDep, response: Response) -> Readiness:
    """200 when a shot with default parameters would be taken now and find a model that is ready."""
    report = await services.readiness()
    response.status_code = 200 if report.ready else 503
    return report


@router.get("/models")
async def models(services: ServicesDep) -> ModelTable:
    """The models in their fixed order: licence, price, availability, latency."""
    return services.model_table()


@router.get(
    "/errors",
    response_model_exclude_none=True,
    responses=responses(errors.InvalidParameter),
)
async def recent_errors(
    services: ServicesDep,
    limit: Annotated[int, Query(ge=1, le=200, description="At most so many, the latest.")] = 50,
) -> RecentErrors:
    """Problems answered and models failed, the latest first; kept in memory since the start."""
    return services.recent_errors.report(limit=limit)
