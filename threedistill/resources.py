"""Where the files that travel with the package are: inside it when installed, beside it in a checkout."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["assets_dir", "configs_dir", "weights_hash"]

_PACKAGE = Path(__file__).resolve().parent


def _find(name: str) -> Path:
    packaged = _PACKAGE / name
    return packaged if packaged.is_dir() else _PACKAGE.parent / name


def configs_dir() -> Path:
    """The folder of Hydra config groups."""
    return _find("configs")


def assets_dir() -> Path:
    """The folder with the embedded prior, the judge and their lists."""
    return _find("assets")


def weights_hash(folder: Path) -> str | None:
    """The first 12 hex digits of the SHA-256 over all weight files below a folder, in order; None without any."""
    files = sorted(folder.rglob("*.safetensors"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12] if files else None
