"""The table of models: their fixed order, where they run, under which licence, and which cost."""

from dataclasses import dataclass

from models.schemas import ModelId


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One model as /models describes it; `paid` says that asking it costs money."""

    id: ModelId
    runs_on: str
    licence: str
    paid: bool = False
    in_default_five: bool = True


CATALOGUE = (
    CatalogueEntry(ModelId.RUNWARE_RMBG, "Runware (WebSocket)", "provider's terms", paid=True),
    CatalogueEntry(ModelId.RUNWARE_BIREFNET, "Runware (WebSocket)", "provider's terms", paid=True),
    CatalogueEntry(ModelId.KIE_RECRAFT, "Kie.ai (REST)", "provider's terms", paid=True),
    CatalogueEntry(ModelId.LOCAL_BIREFNET, "this machine", "MIT (BiRefNet)"),
    CatalogueEntry(ModelId.LOCAL_ISNET, "this machine", "Apache-2.0 (DIS; weights by rembg)"),
    CatalogueEntry(
        ModelId.LOCAL_KNOCKOUT, "this machine", "MIT (this project)", in_default_five=False
    ),
    CatalogueEntry(
        ModelId.LOCAL_BEN2,
        "this machine (as BEN2_DEVICE says)",
        "MIT (BEN2)",
        in_default_five=False,
    ),
)


PAID = frozenset(entry.id for entry in CATALOGUE if entry.paid)


def default_models(*, knockout: bool, ben2: bool) -> tuple[ModelId, ...]:
    """The five, then the knock-out and BEN2 where the settings say so."""
    added = {ModelId.LOCAL_KNOCKOUT: knockout, ModelId.LOCAL_BEN2: ben2}
    return tuple(entry.id for entry in CATALOGUE if entry.in_default_five or added.get(entry.id))
