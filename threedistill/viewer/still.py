"""Looking at what is done: a run's asset, its previews and curves, or any file that is read."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from threedistill.errors import ThreedistillError, UsageError
from threedistill.exports.frames import Axis
from threedistill.training.run_folder import RunFolder
from threedistill.types import Mesh, Splats
from threedistill.viewer.scene import add_curve, glb_of, splat_arrays
from threedistill.viewer.serving import LOCAL, PORT, served

if TYPE_CHECKING:
    from viser import ViserServer

__all__ = ["assets_of", "show", "view"]


def view(
    path: str | Path, port: int = PORT, host: str = LOCAL, up: Axis | None = None, front: Axis | None = None,
    wait: Callable[[], None] | None = None,
) -> None:  # fmt: skip
    """Show a run or a file in a browser until ``wait`` returns (default: for ever, until Ctrl-C).

    Arguments:
        path: a run's folder, or a file of any mesh or splat format that is read.
        port, host: where the page is served.
        up, front: a file's axes; None = what it says, else its format's habit.
        wait: called once the page is there.

    Raises:
        UsageError: nothing there that can be shown, viser is not installed, or the port is taken.
    """
    found = assets_of(Path(path), up, front)
    with served(port, host) as server:
        show(server, found, Path(path))
        print(f"viewer: http://{host}:{port} (Ctrl-C ends it)", file=sys.stderr, flush=True)
        try:
            wait() if wait is not None else _for_ever()
        except KeyboardInterrupt:
            if wait is not None:
                raise


def assets_of(path: Path, up: Axis | None = None, front: Axis | None = None) -> dict[str, Mesh | Splats]:
    """What is to be seen at a place, by ``mesh`` and ``splats``.

    Raises:
        UsageError: nothing there, or a file that cannot be read.
    """
    from threedistill.exports.read import open_file, read_asset, read_asset_splats

    if not path.exists():
        raise UsageError(f"{path}: there is no such file or folder")
    if path.is_file():
        asset = open_file(path, up=up, front=front).asset
        return {"mesh" if isinstance(asset, Mesh) else "splats": asset}
    found: dict[str, Mesh | Splats] = {}
    for name, read in (("mesh", read_asset), ("splats", read_asset_splats)):
        try:
            found[name] = read(path / "asset")
        except ThreedistillError as error:
            reason = error
    if not found:
        raise UsageError(f"{path}: {reason}")
    return found


def show(server: ViserServer, found: dict[str, Mesh | Splats], path: Path) -> None:
    """Put assets and, of a run, its previews and curves on a server's page."""
    server.gui.set_panel_label("threedistill")
    size = _place_camera(server, found)
    shown = {}
    for name, asset in found.items():
        if isinstance(asset, Splats):
            shown[name] = server.scene.add_gaussian_splats(f"/{name}", **splat_arrays(asset))
        else:
            shown[name] = server.scene.add_glb(f"/{name}", glb_of(asset))
    first = "splats" if "splats" in found else "mesh"
    facts = [_facts(name, asset) for name, asset in found.items()]
    server.gui.add_markdown("\n\n".join([*facts, f"longest side {size:.3g} m"]))
    if len(shown) > 1:
        choice = server.gui.add_dropdown("Show", tuple(shown), initial_value=first)

        def choose() -> None:
            for name, handle in shown.items():
                handle.visible = name == choice.value

        choice.on_update(lambda _: choose())
        choose()
    if path.is_dir():
        _add_run(server, RunFolder(path))


def _place_camera(server: ViserServer, found: dict[str, Mesh | Splats]) -> float:
    """Look at the middle of what is shown, from as far as it takes; its longest side."""
    points = [a.vertices if isinstance(a, Mesh) else a.means for a in found.values()]
    low = np.min([p.amin(0).numpy() for p in points], 0)
    high = np.max([p.amax(0).numpy() for p in points], 0)
    middle, size = (low + high) / 2, float(np.max(high - low))
    server.initial_camera.position = tuple(middle + max(size, 1e-3) * np.array([0.5, 0.35, 1.1]))
    server.initial_camera.look_at = tuple(middle)
    return size


def _facts(name: str, asset: Mesh | Splats) -> str:
    if isinstance(asset, Splats):
        return f"**splats**: {len(asset)}, harmonics of degree {asset.sh_degree}"
    texture = (
        "" if asset.texture is None else f", texture {asset.texture.shape[1]} x {asset.texture.shape[0]}"
    )
    return f"**{name}**: {len(asset.vertices)} vertices, {len(asset.faces)} triangles{texture}"


def _add_run(server: ViserServer, run: RunFolder) -> None:
    from PIL import Image

    from threedistill.training.curves import curves

    previews = run.previews
    if previews:
        with server.gui.add_folder("On the way"):
            first = np.asarray(Image.open(previews[-1]).convert("RGB"))
            picture = server.gui.add_image(first, format="png")
            if len(previews) > 1:
                slider = server.gui.add_slider("Preview", 0, len(previews) - 1, 1, len(previews) - 1)

                def turn() -> None:
                    picture.image = np.asarray(Image.open(previews[int(slider.value)]).convert("RGB"))

                slider.on_update(lambda _: turn())
    found = curves(run.base)
    if found is None:
        return
    with server.gui.add_folder("Curves"):
        x = np.array(found["x"], dtype=np.float64)
        for name, y in found["series"].items():
            if not name.startswith("seconds_"):
                add_curve(server, name, x, np.array(y, dtype=np.float64), "step")


def _for_ever() -> None:
    while True:
        time.sleep(3600)
