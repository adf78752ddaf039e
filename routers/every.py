"""Every router of the service, in the order in which the OpenAPI document tells their routes."""

from routers import (
    analyze,
    background,
    costs,
    health,
    metrics,
    pipeline,
    preferences,
    removebg,
    render,
    results,
    sessions,
    upscale,
)

ROUTERS = tuple(
    module.router
    for module in (
        health,
        metrics,
        background,
        upscale,
        pipeline,
        analyze,
        results,
        render,
        sessions,
        costs,
        preferences,
        removebg,
    )
)
