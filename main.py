"""The application: `uvicorn main:app`."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TypedDict

from fastapi import FastAPI

from config import Settings, SettingsError, load_settings
from models.schemas import ModelId
from routers import background, costs, documentation, health, pipeline, problems, results, upscale
from routers.middleware import RequestFrame
from services.container import Services, open_services
from services.remover import BackgroundRemover
from utils import logs

VERSION = "0.1.0"

_log = logging.getLogger(__name__)


class State(TypedDict):
    """What the lifespan hands to every request."""

    services: Services


def create_app(
    settings: Settings, *, stand_ins: Mapping[ModelId, BackgroundRemover] | None = None
) -> FastAPI:
    """Build the service from its settings; nothing is opened before it starts.

    `stand_ins` are removers that take the place of those of the same id.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        logs.configure(settings.work.log_level)
        async with open_services(settings, version=VERSION, stand_ins=stand_ins or {}) as services:
            _warn_about_keys(settings)
            yield {"services": services}

    app = FastAPI(
        title="DTF image service",
        version=VERSION,
        summary="Background removal by several models at once, for direct-to-film printing.",
        license_info={"name": "MIT", "identifier": "MIT"},
        lifespan=lifespan,
    )
    app.add_middleware(RequestFrame)
    problems.install(app)
    for module in (health, background, upscale, pipeline, results, costs):
        app.include_router(module.router)
    documentation.install(app)
    return app


def _warn_about_keys(settings: Settings) -> None:
    """A missing key costs a model; one that is set can be spent by anybody who reaches the port."""
    for name in ("runware_api_key", "kie_api_key"):
        key = getattr(settings.providers, name)
        if key is None or not key.get_secret_value().startswith("sandbox"):
            event = "provider_unconfigured" if key is None else "paid_provider_open_to_anybody"
            _log.warning(event, extra={"setting": name.upper()})


def _settings_or_exit() -> Settings:
    try:
        return load_settings()
    except SettingsError as error:
        raise SystemExit(f"The settings cannot be used:\n{error}") from None


app = create_app(_settings_or_exit())
