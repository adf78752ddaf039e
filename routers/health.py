"""Whether the process lives, whether it can work, and which models there are."""

from fastapi import APIRouter, Response

from models.schemas import Health, ModelTable, Readiness
from routers.dependencies import ServicesDep

router = APIRouter(tags=["operations"])


@router.get("/health")
async def health(services: ServicesDep) -> Health:
    """The process is alive; nothing else is looked at."""
    return Health(
        version=services.version,
        uptime_s=services.uptime_s(),
        keys_required=services.access.required,
    )


@router.get("/ready", responses={503: {"model": Readiness, "description": "No model is ready"}})
async def ready(services: ServicesDep, response: Response) -> Readiness:
    """200 when a shot with default parameters finds at least one model that is ready."""
    report = await services.readiness()
    response.status_code = 200 if report.ready else 503
    return report


@router.get("/models")
async def models(services: ServicesDep) -> ModelTable:
    """The models in their fixed order: licence, price, availability, latency."""
    return services.model_table()
