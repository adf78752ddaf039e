"""The table of models: their fixed order, where they run, their licence and list price.

List prices are the user's; a provider's reply says what a picture really cost.
"""

from dataclasses import dataclass
from decimal import Decimal

from models.schemas import ModelId


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One model as /models describes it; `price_usd` is the list price of one picture."""

    id: ModelId
    runs_on: str
    licence: str
    price_usd: Decimal = Decimal(0)
    in_default_five: bool = True


CATALOGUE = (
    CatalogueEntry(
        ModelId.RUNWARE_RMBG, "Runware (WebSocket)", "provider's terms", Decimal("0.0006")
    ),
    CatalogueEntry(
        ModelId.RUNWARE_BIREFNET, "Runware (WebSocket)", "provider's terms", Decimal("0.0006")
    ),
    CatalogueEntry(ModelId.KIE_RECRAFT, "Kie.ai (REST)", "provider's terms", Decimal("0.005")),
    CatalogueEntry(ModelId.LOCAL_BIREFNET, "this machine", "MIT (BiRefNet)"),
    CatalogueEntry(ModelId.LOCAL_ISNET, "this machine", "Apache-2.0 (DIS; weights by rembg)"),
    CatalogueEntry(
        ModelId.LOCAL_KNOCKOUT, "this machine", "MIT (this project)", in_default_five=False
    ),
)


def default_models(*, knockout: bool) -> tuple[ModelId, ...]:
    """The five, and the knock-out where the settings say so."""
    return tuple(
        entry.id
        for entry in CATALOGUE
        if entry.in_default_five or (knockout and entry.id is ModelId.LOCAL_KNOCKOUT)
    )
