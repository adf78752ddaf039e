"""What a Runware task object asks for, checked field by field, in its old and its new shape."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from sandbox.options import KIE_MODEL, Options
from sandbox.pictures import OutputFormat

TaskObject: TypeAlias = Mapping[str, object]
_T = TypeVar("_T")

NEW_TYPE = "removeBackground"
OLD_TYPE = "imageBackgroundRemoval"
REMOVAL_TYPES = (NEW_TYPE, OLD_TYPE)
OUTPUT_TYPES = ("URL", "base64Data", "dataURI")

_SHARED_FIELDS = {
    "taskType",
    "taskUUID",
    "model",
    "outputType",
    "outputFormat",
    "outputQuality",
    "deliveryMethod",
    "includeCost",
    "webhookURL",
    "ttl",
    "uploadEndpoint",
    "routing",
    "providerSettings",
    "safety",
}
_SETTINGS = {
    "rgba",
    "postProcessMask",
    "returnOnlyMask",
    "alphaMatting",
    "alphaMattingForegroundThreshold",
    "alphaMattingBackgroundThreshold",
    "alphaMattingErodeSize",
}
_FIELDS = {
    NEW_TYPE: _SHARED_FIELDS | {"inputs", "settings"},
    OLD_TYPE: _SHARED_FIELDS | {"inputImage", "settings"} | _SETTINGS,
}
_SETTINGS_MODEL = "runware:109@1"
_PRESERVE_ALPHA_MODEL = "bria:2@1"
_SHORTEST_TTL_S = 60


class Refusal(Exception):
    """A task, or a whole frame, that is turned down with one entry of `errors`."""

    def __init__(
        self, code: str, message: str, *, parameter: str | None = None, **details: object
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.parameter = parameter
        self.details = details


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    task_type: str
    task_uuid: str
    model: str
    image: str
    is_async: bool
    output_type: str
    output_format: OutputFormat
    output_quality: int
    include_cost: bool
    ttl_s: int | None
    keep_alpha: bool


def read_wish(task: TaskObject, *, options: Options) -> Wish:
    """The removal a task object asks for; raises Refusal at its first fault."""
    kind = str(task["taskType"])
    task_uuid = read_uuid(task)
    _refuse_unknown(task, known=_FIELDS[kind])
    model = _model(task, options=options)
    output_type = _choice(task, "outputType", choices=OUTPUT_TYPES, default="URL")
    _check_settings(task, model=model, kind=kind)
    return Wish(
        task_type=kind,
        task_uuid=task_uuid,
        model=model,
        image=_image(task, kind=kind),
        is_async=_choice(task, "deliveryMethod", choices=("sync", "async"), default="sync")
        == "async",
        output_type=output_type,
        output_format=OutputFormat(
            _choice(task, "outputFormat", choices=tuple(OutputFormat), default="JPG")
        ),
        output_quality=_integer(task, "outputQuality", low=20, high=99) or 95,
        include_cost=_typed(task, "includeCost", bool, "boolean") or False,
        ttl_s=_ttl(task, output_type=output_type),
        keep_alpha=_keep_alpha(task, model=model),
    )


def read_uuid(task: TaskObject) -> str:
    """The task's own id, which must be a version 4 UUID."""
    value = task.get("taskUUID")
    if value is None:
        raise Refusal("missingTaskUUID", "Missing 'taskUUID' parameter.", parameter="taskUUID")
    try:
        parsed = uuid.UUID(value) if isinstance(value, str) else None
    except ValueError:
        parsed = None
    if parsed is None or parsed.version != 4 or str(parsed) != str(value).lower():
        raise _invalid("taskUUID", "It must be a version 4 UUID.", type="string")
    return str(value)


def read_image(task: TaskObject, name: str) -> str:
    """A field that holds a picture: an id, an address, a data URI or base64."""
    value = task.get(name)
    if value is None:
        raise Refusal(
            f"missing{name[0].upper()}{name[1:]}", f"Missing '{name}' parameter.", parameter=name
        )
    if not isinstance(value, str) or not value:
        raise _invalid(name, "It must be a UUID, an address, a data URI or base64.", type="string")
    return value


def _image(task: TaskObject, *, kind: str) -> str:
    if kind == OLD_TYPE:
        return read_image(task, "inputImage")
    inputs = _object(task, "inputs")
    if inputs is None:
        raise Refusal("missingInputs", "Missing 'inputs' parameter.", parameter="inputs")
    _refuse_unknown(inputs, known={"image"}, prefix="inputs.")
    return read_image(inputs, "image")


def _model(task: TaskObject, *, options: Options) -> str:
    model = task.get("model")
    if model is None:
        raise Refusal("missingModel", "Missing 'model' parameter.", parameter="model")
    served = set(options.prices) - options.retired - {KIE_MODEL}
    if not isinstance(model, str) or model not in served:
        raise _invalid("model", "No such model for this task type.", type="string")
    return model


def _check_settings(task: TaskObject, *, model: str, kind: str) -> None:
    settings = _object(task, "settings")
    if settings is None or kind == OLD_TYPE:
        return
    if model != _SETTINGS_MODEL:
        raise Refusal(
            "unsupportedParameter",
            f"The parameter 'settings' is not supported by {model}.",
            parameter="settings",
        )
    _refuse_unknown(settings, known=_SETTINGS, prefix="settings.")


def _keep_alpha(task: TaskObject, *, model: str) -> bool:
    settings = _object(task, "providerSettings")
    if settings is None:
        return True
    bria = settings.get("bria")
    if model != _PRESERVE_ALPHA_MODEL or not isinstance(bria, dict):
        raise Refusal(
            "unsupportedParameter",
            f"These provider settings are not supported by {model}.",
            parameter="providerSettings",
        )
    _refuse_unknown(bria, known={"preserveAlpha"}, prefix="providerSettings.bria.")
    keep = _typed(bria, "preserveAlpha", bool, "boolean")
    return keep is not False


def _ttl(task: TaskObject, *, output_type: str) -> int | None:
    ttl = _integer(task, "ttl", low=_SHORTEST_TTL_S)
    if ttl is not None and output_type != "URL":
        raise Refusal("incompatibleParameters", "'ttl' needs outputType URL.", parameter="ttl")
    return ttl


def _choice(task: TaskObject, name: str, *, choices: tuple[str, ...], default: str) -> str:
    value = task.get(name, default)
    if not isinstance(value, str) or value not in choices:
        raise _invalid(name, f"Allowed are: {', '.join(choices)}.", type="string")
    return value


def _integer(task: TaskObject, name: str, *, low: int, high: int | None = None) -> int | None:
    value = _typed(task, name, int, "integer")
    if value is None:
        return None
    if isinstance(value, bool) or value < low or (high is not None and value > high):
        bounds = {"min": low} if high is None else {"min": low, "max": high}
        raise _invalid(name, f"It must be an integer of at least {low}.", type="integer", **bounds)
    return value


def _typed(task: TaskObject, name: str, type_: type[_T], word: str) -> _T | None:
    value = task.get(name)
    if value is None:
        return None
    if not isinstance(value, type_):
        raise _invalid(name, f"It must be of type {word}.", type=word)
    return value


def _object(task: TaskObject, name: str) -> TaskObject | None:
    found: dict[str, object] | None = _typed(task, name, dict, "object")
    return found


def _refuse_unknown(task: TaskObject, *, known: set[str], prefix: str = "") -> None:
    for name in task:
        if name not in known:
            raise Refusal(
                "unknownParameter",
                f"The parameter '{prefix}{name}' is not known for this task.",
                parameter=prefix + name,
            )


def _invalid(name: str, why: str, **details: object) -> Refusal:
    code = f"invalid{name[0].upper()}{name[1:]}"
    message = f"Invalid value for '{name}' parameter. {why}"
    return Refusal(code, message, parameter=name, **details)
