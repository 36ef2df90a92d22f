"""Writing the page: ``index.html`` with its data, and a folder ``report/`` of what is loaded when it is looked at.

    ROOT/index.html              the page: style, script and the table of runs are in it
    ROOT/report/<run>.webp       a small picture of each asset
    ROOT/report/<run>.js         what the page shows of a run
    ROOT/report/<run>-3d.js      its mesh and splats
    ROOT/report/viewers/         what draws them (assets/report/vendor, with the licences)

Browsers let a page from a disk load scripts but not fetch files, so data travel in scripts. With ``one_file`` all of it
is in ``index.html``, which can then be sent to somebody.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from threedistill import __version__
from threedistill.atomic import make_folder, remove, write_bytes, write_text
from threedistill.errors import UsageError
from threedistill.reports.details import details, motion, scene
from threedistill.resources import assets_dir
from threedistill.viewing import data_url

__all__ = ["MARK", "key_of", "refuse_foreign", "write_report"]

#: What tells our page from anybody else's index.html.
MARK = '<meta name="generator" content="threedistill'

#: Columns of a row that are no figure and no setting.
_PLAIN = ("run", "number", "prompt", "seed", "setting", "status", "prior_version", "error", "deterministic")

#: Viewer -> its files.
VIEWERS = {"model-viewer": "model-viewer.js", "gsplat": "gsplat.js", "uplot": "uplot.js"}

_PIXELS = 256


def write_report(
    root: Path, rows: Sequence[dict[str, Any]], summary: dict[str, Any], title: str, axes: Sequence[str],
    one_file: bool = False,
) -> Path:  # fmt: skip
    """Write the page of a folder's runs; its path.

    Arguments:
        root: the folder; the page goes into it, and what it links to lies beside it.
        rows: one per run (:func:`threedistill.sweeps.table.rows`): ``run`` is its folder, relative to ``root``.
        summary: means and intervals by setting (:func:`threedistill.sweeps.table.summary`).
        title: of the page.
        axes: which columns are settings; all others that hold numbers are figures.
        one_file: everything in ``index.html``.
    """
    page = root / "index.html"
    runs, payloads, pictures = [], {}, {}
    for row in rows:
        folder, key = root / row["run"], key_of(row["run"])
        moving = motion(folder)
        files = None if one_file else _Files(root / "report", key, _newest(folder))
        runs.append({**row, "key": key, "folder": _url(row["run"]), "moving": moving, "poster": None})
        if moving is not None:
            poster = _Poster(folder / moving["file"], moving["frames"])
            if files is None:
                pictures[key] = poster.data()
                drawn = pictures[key] is not None
            else:
                drawn = files.picture(poster)
            runs[-1]["poster"] = key if drawn else None
        if files is None:
            about = details(folder)
            about["media"] = _embedded(folder, [moving["file"]] if moving else [], about["previews"])
            payloads[key], payloads[f"{key}-3d"] = about, scene(folder)
        else:
            files.script(key, lambda folder=folder: details(folder))
            files.script(f"{key}-3d", lambda folder=folder: scene(folder))
    figures = _figures(rows, axes)
    data = {
        "title": title, "version": __version__, "axes": list(axes), "figures": figures, "runs": runs,
        "summary": summary,
        "links": [n for n in ("results.csv", "results.json", "guidance.md") if (root / n).is_file()],
        "plots": sorted(_url(p.relative_to(root)) for p in root.glob("plots/*") if p.suffix in (".svg", ".png")),
        "pictures": pictures,
    }  # fmt: skip
    if one_file:
        data["plots"] = [_data_url(root / p) for p in data["plots"]]
    else:
        _tidy(root / "report", {run["key"] for run in runs})
        for name in sorted((_home() / "vendor").rglob("*")):
            target = root / "report" / "viewers" / name.relative_to(_home() / "vendor")
            if name.is_file() and not (target.is_file() and target.stat().st_size == name.stat().st_size):
                write_bytes(target, name.read_bytes())
    write_text(page, _page(title, data, payloads if one_file else None))
    return page


def refuse_foreign(page: Path) -> None:
    """Refuse to replace a page that somebody else wrote (UsageError)."""
    if page.is_file() and MARK not in page.read_text(encoding="utf-8", errors="replace")[:2000]:
        raise UsageError(f"{page} is not a report of ours; move it away, or report on another folder")


def key_of(run: object) -> str:
    """A run's name in the page's folder: the same for the same place, whatever else is there."""
    return hashlib.sha256(str(run).encode("utf-8", "surrogateescape")).hexdigest()[:12]


# ---- the page -------------------------------------------------------------------------


def _page(title: str, data: dict[str, Any], payloads: dict[str, Any] | None) -> str:
    """The document. Whatever users wrote is in the data, which the script puts into text nodes only."""
    style = _asset("page.css") + "\n" + _asset("vendor/uplot.css")
    script = _asset("page.js")
    viewers = (
        {name: _asset(f"vendor/{file}") for name, file in VIEWERS.items()} if payloads is not None else {}
    )
    hashes = " ".join(f"'sha256-{_digest(text)}'" for text in (script, *viewers.values()))
    # Nothing but this page's own scripts runs, and nothing is fetched from anywhere else.
    policy = (
        f"default-src 'none'; script-src {hashes} 'self' file: 'wasm-unsafe-eval' blob:; style-src 'unsafe-inline'; "
        "img-src 'self' file: data: blob:; connect-src data: blob:; worker-src blob: data:; base-uri 'none'; "
        "form-action 'none'"
    )
    blocks = [_json_block("data", data)]
    blocks += [_json_block(f"payload-{key}", value) for key, value in (payloads or {}).items()]
    blocks += [f'<script type="text/plain" id="viewer-{n}">{_inert(t)}</script>' for n, t in viewers.items()]
    body = _asset("page.html")
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n{MARK} {__version__}">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_escaped(title)}</title>\n<style>{style}</style>\n{body}\n{chr(10).join(blocks)}\n"
        f"<script>{script}</script>\n</html>\n"
    )


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _json_block(name: str, value: Any) -> str:
    return f'<script type="application/json" id="{name}">{_json(value)}</script>'


def _json(value: Any) -> str:
    """JSON that ends no script element, and opens no comment in one."""
    text = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=str)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _finite(value: Any) -> Any:
    """The same with null for every number that JSON has no word for."""
    if isinstance(value, dict):
        return {name: _finite(child) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _inert(script: str) -> str:
    """A script as the content of an element: the browser must not see its end in it."""
    if re.search(r"</script|<!--", script, re.IGNORECASE):
        return "base64," + base64.b64encode(script.encode()).decode("ascii")
    return script


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _home() -> Path:
    return assets_dir() / "report"


def _asset(name: str) -> str:
    return (_home() / name).read_text(encoding="utf-8")


def _figures(rows: Sequence[dict[str, Any]], axes: Sequence[str]) -> list[str]:
    """Columns that hold a number in at least one row, in the rows' order."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [
        name
        for name in names
        if name not in (*_PLAIN, *axes) and any(isinstance(row.get(name), int | float) for row in rows)
    ]


# ---- what lies beside it -------------------------------------------------------------------------


class _Poster:
    """The first view of a turntable or of a strip, small."""

    def __init__(self, file: Path, frames: int) -> None:
        self.file, self.frames = file, frames

    def bytes(self) -> bytes | None:
        """WebP; None where the picture cannot be read."""
        import io

        from PIL import Image

        try:
            with Image.open(self.file) as image:
                picture = image.convert("RGB")
        except OSError:
            return None
        if self.frames:
            picture = picture.crop((0, 0, picture.height, picture.height))
        picture.thumbnail((_PIXELS, _PIXELS), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, format="WEBP", quality=82)
        return buffer.getvalue()

    def data(self) -> str | None:
        """The same as an address."""
        found = self.bytes()
        return None if found is None else data_url(found, "image/webp")


class _Files:
    """A run's files in the page's folder, made anew where the run has changed since."""

    def __init__(self, folder: Path, key: str, newest: float) -> None:
        self.folder, self.key, self.newest = folder, key, newest
        make_folder(folder)

    def picture(self, poster: _Poster) -> bool:
        """The run's small picture; whether there is one."""
        target = self.folder / f"{self.key}.webp"
        if self._stale(target) and (data := poster.bytes()) is not None:
            write_bytes(target, data)
        return target.is_file()

    def script(self, name: str, content: Any) -> None:
        """Data as a script that hands them to the page."""
        target = self.folder / f"{name}.js"
        if self._stale(target):
            write_text(target, f"threedistill.put({json.dumps(name)},{_json(content())});\n")

    def _stale(self, target: Path) -> bool:
        return not target.is_file() or target.stat().st_mtime <= self.newest


def _newest(folder: Path) -> float:
    """When anything of a run was last written."""
    inner = [p for pattern in ("*", "asset/*", "preview/*") for p in folder.glob(pattern)]
    return max((p.stat().st_mtime for p in inner if not p.name.startswith(".")), default=0.0)


def _tidy(folder: Path, keys: set[str]) -> None:
    """Remove what earlier reports wrote about runs that are gone; nothing else."""
    for file in folder.iterdir():
        named = re.fullmatch(r"([0-9a-f]{12})(-3d)?\.(js|webp)", file.name)
        if named and named.group(1) not in keys:
            remove(file)


def _url(path: object) -> str:
    return quote(str(path))


def _embedded(folder: Path, *groups: Iterable[str]) -> dict[str, str]:
    names = dict.fromkeys(name for group in groups for name in group)
    return {name: _data_url(folder / name) for name in names if (folder / name).is_file()}


def _data_url(file: Path) -> str:
    kind = {"svg": "svg+xml"}.get(file.suffix[1:], file.suffix[1:])
    return data_url(file.read_bytes(), f"image/{kind}")
