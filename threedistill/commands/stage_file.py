"""``--stages FILE``: a list of stages in a YAML file, as the override that says the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from threedistill.errors import UsageError

__all__ = ["stages_override"]


def stages_override(file: str) -> str:
    """The line ``stages=[...]`` for a YAML file that holds a list of stages, or a mapping with the key ``stages``.

    Raises:
        UsageError: a file that cannot be read, or that holds something else.
    """
    from threedistill.config import parse_yaml

    try:
        text = Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--stages {file}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"--stages {file}: not UTF-8 text (byte {error.start})") from None
    content: Any = parse_yaml(text, f"--stages {file}: not readable as YAML")
    if isinstance(content, dict):
        content = content.get("stages")
    if not isinstance(content, list) or not all(isinstance(stage, dict) for stage in content):
        raise UsageError(f"--stages {file}: it must hold a list of stages, or a mapping with the key stages")
    return f"stages={_written(content, file)}"


def _written(value: Any, file: str) -> str:
    """A value in the grammar of overrides."""
    if isinstance(value, dict):
        bad = [key for key in value if not (isinstance(key, str) and re.fullmatch(r"\w+", key))]
        if bad:
            raise UsageError(f"--stages {file}: {bad[0]!r} cannot be a key")
        return "{" + ",".join(f"{key}:{_written(item, file)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_written(item, file) for item in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    if not isinstance(value, str):
        raise UsageError(f"--stages {file}: {value!r} is neither text nor a number; put it in quotes")
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
