"""GET /metrics: for a Prometheus scraper."""

from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from routers.dependencies import ServicesDep
from services.metric_states import exposition

router = APIRouter(tags=["operations"])

_TEXT: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}}
}


@router.get("/metrics", response_class=Response, responses=_TEXT)
async def metrics(services: ServicesDep) -> Response:
    """Counters, histograms and states in Prometheus' text format (docs/METRICS.md)."""
    return Response(await exposition(services), media_type=CONTENT_TYPE_PLAIN_0_0_4)
