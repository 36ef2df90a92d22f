"""The shape of a complete configuration: what is composed and what is read from a file are held to the same.

Here stand the parts and the plain values; what is in a node with a ``_target_`` is checked by the constructor it names
(``config/building.py``).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from threedistill.errors import UsageError
from threedistill.messages import complaint
from threedistill.texts import check_prompt, check_text

__all__ = ["SCHEMA_VERSION", "Config", "check_shape", "pictures", "with_pictures"]

Config = dict[str, Any]

#: Bumped when a config.yaml written by an older version can no longer be resumed.
SCHEMA_VERSION = 1

#: More are a sweep, and every stage is a checkpoint.
_MOST_STAGES = 64

#: All of them are rendered and written; what they take in memory is counted besides.
_MOST_PARTICLES = 1024


def pictures(files: Sequence[object], cameras: Sequence[tuple[float, float] | None] = ()) -> list[Config]:
    """The nodes of reference pictures with where they were taken from; without cameras, nobody knows.

    Raises:
        UsageError: another number of cameras than of pictures, or angles that are none.
    """
    if cameras and len(cameras) != len(files):
        raise UsageError(
            f"{len(files)} --image and {len(cameras)} --image-camera: give none, or one for each image"
        )
    for seen in cameras:
        if seen is not None and not (abs(seen[0]) <= 360 and abs(seen[1]) <= 90):
            raise UsageError(
                f"--image-camera {seen[0]:g},{seen[1]:g}: the azimuth is within 360 degrees and the elevation within 90"
            )
    placed = zip(files, cameras or [None] * len(files), strict=True)
    return [
        {"file": str(file), "camera": None if seen is None else list(map(float, seen))}
        for file, seen in placed
    ]


def with_pictures(config: Config, place: Callable[[int, str], str]) -> Config:
    """The configuration with its reference pictures elsewhere: ``place`` says where, by their number and their file."""
    nodes = [{**node, "file": place(i, node["file"])} for i, node in enumerate(config.get("images", ()))]
    return {**config, "images": nodes}


def check_shape(config: object, source: str = "") -> None:
    """Refuse a configuration that lacks a part, or has one of another type.

    Arguments:
        config: the whole configuration.
        source: where it comes from, for messages.

    Raises:
        UsageError: with the place.
    """
    from pydantic_core import ValidationError

    before = f"{source}: " if source else ""
    try:
        _model().validate_python(config)
    except ValidationError as error:
        raise UsageError(before + complaint(error, whole=True)) from None
    assert isinstance(config, dict)
    _check_finite(config, before, "")
    check_prompt(config["prompt"])
    check_text(config["negative"], "the negative prompt")


def _check_finite(node: object, before: str, where: str) -> None:
    """No number of a configuration is infinite or none at all, whether something reads it or not."""
    if isinstance(node, float) and not math.isfinite(node):
        raise UsageError(f"{before}{where}={node} must be a finite number")
    steps = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in steps:
        _check_finite(child, before, f"{where}.{key}".strip("."))


@functools.cache
def _model() -> Any:
    """Written for pydantic's core: from annotations, a start would spend 0.1 s on making it."""
    from pydantic_core import SchemaValidator
    from pydantic_core import core_schema as core

    rules = core.CoreConfig(strict=True, allow_inf_nan=False)

    def part(needed: Config, optional: Config | None = None) -> Any:
        """A mapping with these keys; what else is in it is for interpolation, for stages and for plug-ins."""
        fields = {key: core.typed_dict_field(kind, required=True) for key, kind in needed.items()}
        fields |= {key: core.typed_dict_field(kind, required=False) for key, kind in (optional or {}).items()}
        return core.typed_dict_schema(fields, extra_behavior="allow", config=rules)

    def mapping(kind: Any) -> Any:
        return core.dict_schema(core.str_schema(), kind)

    def is_node(value: Config) -> Config:
        if not isinstance(value.get("_target_"), str):
            raise ValueError("must be a mapping with a _target_")
        return value

    any_mapping = mapping(core.any_schema())
    node = core.no_info_after_validator_function(is_node, any_mapping)
    maybe_node = core.no_info_after_validator_function(
        lambda value: value and is_node(value), core.nullable_schema(any_mapping)
    )
    name = core.str_schema(min_length=1, max_length=200)
    text, flag = core.str_schema(), core.bool_schema()
    maybe_text = core.nullable_schema(text)

    network = part({"name": name, "model": maybe_node})
    student = part(
        {"name": name, "model": maybe_node, "training": maybe_node, "keep": flag}, {"base": maybe_node}
    )
    #: Further networks by name, the light and the reward; earlier versions wrote none.
    newer = {
        "networks": mapping(network), "learners": mapping(student), "light": node, "reward": maybe_node,
    }  # fmt: skip
    camera = core.nullable_schema(core.list_schema(core.float_schema(), min_length=2, max_length=2))
    own = {
        "prior": part({"name": name, "model": node}),
        "representation": part({"name": name, "lr": any_mapping, "model": node}),
        "guidance": part({"name": name, "rule": node, "timesteps": node, "weighting": node, "surrogate": node}),
        "baseline": network,
        "student": student,
        "optim": node, "cameras": node, "background": node, "regularizers": node, "watchdog": node, "convert": node,
    }  # fmt: skip
    stage = part({"name": name, "_target_": text}, {**own, **newer})
    prompts = part(
        {
            "view_words": flag, "view_wordings": core.literal_schema(["one", "several"]),
            "front_bias": core.float_schema(ge=0, le=1), "category": maybe_text, "source": maybe_text, "inverse": text,
        },
        {"flaws": text},
    )  # fmt: skip
    #: What presets set and other parts interpolate; a plug-in's preset may have more.
    size = core.int_schema(ge=0, lt=2**31)
    budget = part(
        {},
        {
            "iterations": size, "views": core.int_schema(ge=1, lt=2**31),
            "resolution": core.union_schema([core.int_schema(), any_mapping]), "grid": size, "faces": core.any_schema(),
            "texture": size,
        },
    )  # fmt: skip
    whole = part(
        {
            "schema": core.int_schema(), "prompt": text, "negative": text, "seed": core.int_schema(ge=0, lt=2**63),
            "device": core.literal_schema(["auto", "cpu", "cuda"]), "init": maybe_text, "cfg": node,
            "stages": core.list_schema(stage, min_length=1, max_length=_MOST_STAGES),
            "particles": core.int_schema(ge=1, le=_MOST_PARTICLES), "prompts": prompts,
            "plugins": core.list_schema(text), "budget": budget, "trainer": node, "export": node, **own,
        },
        {"images": core.list_schema(part({"file": text, "camera": camera})), **newer},
    )  # fmt: skip
    return SchemaValidator(whole)
