"""What may be asked about proofs of a print: shirts, the white plate, the bundle; its manifest."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from models.images import Edge, Flag
from models.print_check import SHIRT, Garment, PrintCheck
from models.schemas import EdgeReport, ImageInfo, ModelId, RenderedFrom, SizeParameters

SIDE_FIELD = Field(ge=16, le=2048, description="Longest side in pixels; never more than it has.")
USUAL_GARMENTS = "black,white,heather"


class Choke(StrEnum):
    """How far the white stays behind the colour; services/underbase.py has the millimetres."""

    TEXT = "text"
    PHOTO = "photo"
    DEFAULT = "default"
    BOLD = "bold"


class GarmentQuery(BaseModel):
    """A cut-out as it looks on a shirt."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    garment: Garment = Field(
        "black",
        description="The shirt's colour: `black`, `white`, `heather`, another of docs/PRINT.md's "
        "names, or `#rrggbb`.",
    )
    side: Annotated[int, SIDE_FIELD] = 800


class PlateQuery(SizeParameters):
    """The white plate of a cut-out; without a size, of the prints its record has, or of itself."""

    choke: Choke = Field(
        Choke.DEFAULT,
        description="How far the white stays behind the colour: `text` 0.2 mm, `photo` 0.3, "
        "`default` 0.5, `bold` 1.0.",
    )
    choke_mm: float | None = Field(
        None, ge=0, le=2, allow_inf_nan=False, description="The same in millimetres."
    )
    white_from: int = Field(
        255,
        ge=250,
        le=255,
        description="From here on in all three channels a colour counts as pure white, where the "
        "plate itself is what shows, and is not choked.",
    )


class SheetQuery(BaseModel):
    """All cut-outs of a shot beside one another."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    garments: str = Field(
        USUAL_GARMENTS,
        max_length=200,
        pattern=f"^(({SHIRT})(,({SHIRT})){{0,7}})?$",
        description="Shirts, at most eight, separated by commas; empty: none.",
    )


class BundleQuery(PlateQuery, SheetQuery):
    """Everything of a shot in one archive."""

    model: ModelId | None = Field(None, description="This cut-out alone; left out: every one.")
    side: Annotated[int, SIDE_FIELD] = 800


class FileKind(StrEnum):
    """What a file of a bundle is."""

    CUTOUT = "cutout"
    PRINT = "print"
    WHITE = "white"
    GARMENT = "garment"
    CONTACT_SHEET = "contact_sheet"


class BundledFile(BaseModel):
    """A file of a bundle; `sha256` (hex) and sizes are of what lies in it."""

    name: str = Field(examples=["local-isnet/cutout.png"])
    kind: FileKind
    model: ModelId | None = None
    bytes: int
    sha256: str
    width: int
    height: int
    width_in: float | None = None
    height_in: float | None = None
    dpi: float | None = Field(None, description="Dots an inch that it is printed at.")
    source_dpi: float | None = Field(None, description="The picture's own pixels an inch.")
    garment: str | None = None
    choke_mm: float | None = None
    edge: Edge | None = None
    edge_report: EdgeReport | None = None


class BundledModel(BaseModel):
    """A cut-out of a bundle: whose it is, under which licence, and what is known of it."""

    model: ModelId
    licence: str
    runs_on: str
    variant: str | None = None
    sandbox: bool | None = None
    score: float | None = None
    rank: int | None = None
    edge_report: EdgeReport | None = None
    flags: list[Flag] | None = None
    bbox: tuple[int, int, int, int] | None = None
    print_check: PrintCheck | None = None


class Manifest(BaseModel):
    """What a bundle holds; manifest.json in it."""

    service: str
    version: str
    pillow: str
    request_id: str
    created_at: datetime
    image: ImageInfo
    recommended: ModelId | None = None
    rendered_from: RenderedFrom | None = None
    models: list[BundledModel]
    files: list[BundledFile]
