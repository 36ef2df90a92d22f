"""``--stages FILE``: a list of stages in a YAML file, as the override that says the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from threedistill.errors import UsageError

__all__ = ["stages_override"]


def stages_override(file: str) -> str:
    """The line ``stages=[...]`` for a YAML file that holds a list of stages, or a mapping with the key ``stages``.

    Raises:
        UsageError: a file that cannot be read, or that holds something else.
    """
    from threedistill.config import parse_yaml, spelled

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
    return "stages=" + spelled(content, f"--stages {file}")
