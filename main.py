"""The application: `uvicorn main:app`."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TypedDict

from fastapi import FastAPI

from config import Settings, SettingsError, load_settings
from models.schemas import ModelId
from routers import documentation, pages, perimeter, problems
from routers.every import ROUTERS
from services.container import Services, open_services
from services.remover import BackgroundRemover
from utils import logs

VERSION = "1.0.0"


class State(TypedDict):
    """What the lifespan hands to every request."""

    services: Services


def create_app(
    settings: Settings, *, stand_ins: Mapping[ModelId, BackgroundRemover] | None = None
) -> FastAPI:
    """Build the service, opening nothing yet; `stand_ins` replace removers of the same id."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        logs.configure(settings.work.log_level)
        async with open_services(settings, version=VERSION, stand_ins=stand_ins or {}) as services:
            yield {"services": services}

    app = FastAPI(
        title="DTF image service",
        version=VERSION,
        summary="Background removal by several models at once, for direct-to-film printing.",
        license_info={"name": "MIT", "identifier": "MIT"},
        lifespan=lifespan,
        openapi_url="/openapi.json" if settings.network.docs_enabled else None,
    )
    perimeter.install(app, _edge(settings))
    problems.install(app)
    for router in ROUTERS:
        app.include_router(router)
    app.include_router(pages.pages(embedded_by=settings.access.page_embedded_by))
    documentation.install(app)
    return app


def _edge(settings: Settings) -> perimeter.Edge:
    return perimeter.Edge(
        proxies=settings.network.trusted_proxies,
        hosts=settings.network.allowed_hosts,
        public_base_url=settings.storage.public_base_url,
        origins=settings.network.cors_origins,
    )


def _settings_or_exit() -> Settings:
    try:
        return load_settings()
    except SettingsError as error:
        raise SystemExit(f"The settings cannot be used:\n{error}") from None


app = create_app(_settings_or_exit())
