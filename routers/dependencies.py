"""What the routes ask for, as types: a route's signature reads like a sentence."""

from typing import Annotated

from fastapi import Depends, Path, Request

from services.container import Services


def _services(request: Request) -> Services:
    services: Services = request.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]
RequestId = Annotated[
    str, Path(pattern="^[0-9a-f]{32}$", description="The shot's id, as its record gives it.")
]
