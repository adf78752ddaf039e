"""remove.bg's words: the parameters, answers and errors of its public OpenAPI description.

Source: https://www.remove.bg/api/swagger.yaml, as kept in APIs-guru/openapi-directory
(APIs/remove.bg/1.0.0). What each word does here is told in docs/REMOVEBG.md.
"""

import re
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

_NUMBER = r"\d{1,6}(\.\d{1,6})?"
_LENGTH = rf"{_NUMBER}(px|%)"
_PERCENT = r"(100(\.0{1,6})?|\d{1,2}(\.\d{1,6})?)%"


def _as_text(value: object) -> object:
    """JSON's own true, false and numbers in the words that a form would have used."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


def _as_flag(value: object) -> object:
    text = _as_text(value)
    lowered = text.strip().lower() if isinstance(text, str) else text
    flags: dict[object, bool] = {"true": True, "1": True, "false": False, "0": False}
    return flags.get(lowered, value)


def _lowered(value: object) -> object:
    text = _as_text(value)
    return text.strip().lower() if isinstance(text, str) else text


def _optional_text(value: object) -> object:
    return _lowered(value) or None


def _written(pattern: str, *, like: str) -> AfterValidator:
    """A check of how a value is written, that says in words how it should be."""
    shape = re.compile(pattern)

    def check(value: str | None) -> str | None:
        if value is not None and not shape.fullmatch(value):
            raise PydanticCustomError("written_otherwise", "must be like {like}", {"like": like})
        return value

    return AfterValidator(check)


Flag: TypeAlias = Annotated[bool, Field(strict=True), BeforeValidator(_as_flag)]
Word = BeforeValidator(_lowered)
Maybe = BeforeValidator(_optional_text)


_ROI = rf"{_LENGTH}( +{_LENGTH}){{3}}"
_MARGIN = rf"(0|{_LENGTH})( +(0|{_LENGTH})){{0,3}}"
_SCALE = r"original|(100(\.0{1,6})?|[1-9]\d(\.\d{1,6})?)%"
_POSITION = rf"original|center|{_PERCENT}( +{_PERCENT})?"


class RemovebgParameters(BaseModel):
    """What a client of remove.bg may say beside its picture; an empty value counts as left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: Annotated[
        Literal["preview", "small", "regular", "medium", "hd", "full", "4k", "auto"], Word
    ] = Field(
        "preview",
        description="Most pixels of the picture: `preview` (also `small`, `regular`) 0.25 million, "
        "`medium` 1.5, `hd` 4, `full` (also `4k`, `auto`) 25 as JPEG or ZIP and 10 as PNG.",
    )
    type: Annotated[Literal["auto", "person", "product", "car"], Word] = Field(
        "auto", description="Only `auto`: the models here take no hint."
    )
    type_level: Annotated[Literal["none", "1", "2", "latest"], Word] = Field(
        "1",
        description="How `X-Type` tells what the foreground is: `none` not at all, `1` always "
        "`other`, `2` and `latest` `graphics` for artwork on a plain ground.",
    )
    format: Annotated[Literal["auto", "png", "jpg", "zip"], Word] = Field(
        "auto",
        description="`auto` is PNG where anything is transparent, else JPEG; `jpg` is on white "
        "unless a background is given; `zip` holds color.jpg and alpha.png.",
    )
    roi: Annotated[str, Word, _written(_ROI, like="10% 0px 90% 500px")] = Field(
        "0% 0% 100% 100%",
        json_schema_extra={"pattern": f"^({_ROI})$"},
        description="Left, top, right, bottom of the region that may be foreground, in px or %.",
        examples=["10% 0px 90% 500px"],
    )
    crop: Flag = Field(default=False, description="Cut off what is empty around the subject.")
    crop_margin: Annotated[str, Word, _written(_MARGIN, like="30px or 10% 5%")] = Field(
        "0",
        json_schema_extra={"pattern": f"^({_MARGIN})$"},
        description="Room around a cropped subject, in px (at most 500) or % of the subject (at "
        "most 50): for all sides; top/bottom and left/right; or top, right, bottom, left.",
        examples=["30px", "10% 5%"],
    )
    scale: Annotated[str, Word, _written(_SCALE, like="50%, from 10% to 100%")] = Field(
        "original",
        json_schema_extra={"pattern": f"^({_SCALE})$"},
        description="`10%` to `100%`: how large the subject shall be in the canvas.",
    )
    position: Annotated[
        str | None,
        BeforeValidator(_optional_text),
        _written(_POSITION, like="50%, 0% 100% or center"),
    ] = Field(
        None,
        json_schema_extra={"pattern": f"^({_POSITION})$"},
        description="Where the subject stands: `original`, `center`, or one or two values from "
        "`0%` to `100%` (across, down). Left out: `original`, with a scale `center`.",
    )
    channels: Annotated[Literal["rgba", "alpha"], Word] = Field(
        "rgba", description="`alpha` answers with the mask alone, as a grey picture."
    )
    add_shadow: Flag = Field(default=False, description="Only false: no shadows are made here.")
    shadow_method: Annotated[Literal["latest", "legacy"], Word] = Field(
        "latest", description="Has an effect with `add_shadow` alone, so none here."
    )
    semitransparency: Flag = Field(
        default=True, description="Only true: soft regions stay as the models give them."
    )
    bg_color: Annotated[str | None, Maybe] = Field(
        None,
        max_length=64,
        description="3, 4, 6 or 8 hex digits (the last of 4 or 8 are alpha) or a colour's name.",
        examples=["81d4fa", "green"],
    )
    bg_image_url: Annotated[str | None, BeforeValidator(lambda value: value or None)] = Field(
        None,
        description="Public http(s) address of a picture to put behind, centred and filling.",
    )


class RemovebgError(BaseModel):
    """One thing that is wrong."""

    title: str = Field(examples=["File too large"])
    code: str = Field(examples=["file_too_large"])
    detail: str = Field(examples=["The picture is larger than 100 MiB."])


class RemovebgErrors(BaseModel):
    """How remove.bg tells errors; here there is always exactly one."""

    errors: list[RemovebgError]


class RemovebgPicture(BaseModel):
    """The picture inside JSON, and where the foreground stands in it, in pixels."""

    result_b64: str
    foreground_top: int
    foreground_left: int
    foreground_width: int
    foreground_height: int


class RemovebgAnswer(BaseModel):
    """With `Accept: application/json`."""

    data: RemovebgPicture


class Credits(BaseModel):
    """What is left of today's budget, in credits; null where no budget limits it."""

    total: float | None
    subscription: float | None
    payg: float = 0
    enterprise: float = 0


class AccountApi(BaseModel):
    free_calls: int = Field(0, description="Always 0: calls are counted in credits alone.")
    sizes: Literal["all"] = "all"


class AccountAttributes(BaseModel):
    credits: Credits
    api: AccountApi


class AccountData(BaseModel):
    attributes: AccountAttributes


class Account(BaseModel):
    """GET /v1.0/account."""

    data: AccountData
