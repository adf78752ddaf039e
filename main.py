"""The application: `uvicorn main:app`."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TypedDict

from fastapi import FastAPI

from config import Settings, SettingsError, load_settings
from models.schemas import ModelId
from routers import connections, documentation, pages, perimeter, problems
from routers.every import ROUTERS
from routers.signals import ended_by_signals
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
        connections.guard()
        async with open_services(settings, version=VERSION, stand_ins=stand_ins or {}) as services:
            with ended_by_signals(services.drain):
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
        stall_s=settings.inputs.upload_stall_s,
        upload_s=settings.inputs.upload_timeout_s,
    )


def _settings_or_exit() -> Settings:
    try:
        return load_settings()
    except SettingsError as error:
        raise SystemExit(f"The settings cannot be used:\n{error}") from None


_settings = _settings_or_exit()
logs.configure(_settings.work.log_level)  # before the server's own first lines
logging.captureWarnings(capture=True)
app = create_app(_settings)
