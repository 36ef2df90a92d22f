"""A pipeline class of diffusers with nothing in it but what encodes texts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

__all__ = ["shell"]


def shell(index: Mapping[str, Any], parts: Mapping[str, Any]) -> Any:
    """The pipeline that ``model_index.json`` names, with these components and without the others.

    Arguments:
        index: ``model_index.json``; its plain entries are the pipeline's own settings.
        parts: the components that are there, by name.
    """
    import diffusers

    cls = getattr(diffusers, str(index["_class_name"]))
    given: dict[str, Any] = {}
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        if name == "self":
            continue
        if name in parts:
            given[name] = parts[name]
        elif name == "requires_safety_checker":
            given[name] = False
        elif name in index and not isinstance(index[name], (list, tuple)):
            given[name] = index[name]
        elif parameter.default in (inspect.Parameter.empty, None):
            given[name] = None
    return cls(**given)
