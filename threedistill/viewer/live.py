"""Watching a run while it runs: the scene, what its teacher sees and wants, its curves; and steering it.

Everything that touches the scene happens in the run's own thread between two steps, paid from a budget of its time, so
that a viewer cannot slow a run by more than that, and nothing is looked at half written. Without a browser nothing is
done at all. What a browser asks for goes through :class:`threedistill.training.steering.Steering`.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch

from threedistill.errors import ThreedistillError
from threedistill.protocols import RenderContext
from threedistill.training.steering import Steering
from threedistill.training.system import ScoreDistillation
from threedistill.viewer.budget import Budget
from threedistill.viewer.panel import Panel, seen
from threedistill.viewer.scene import frustum, seen_from, splat_arrays, surface_arrays
from threedistill.viewer.serving import LOCAL, served

if TYPE_CHECKING:
    from viser import ClientHandle, ViserServer

__all__ = ["LiveViewer", "live_viewer"]

#: Pixels a side of a square view's renders while its camera rests, one after the other; others have as many pixels.
HEIGHTS = (64, 128, 256)
#: Cells a side of a surface that is extracted while a run runs.
CELLS = 96


@contextlib.contextmanager
def live_viewer(port: int, steering: Steering, quiet: bool) -> Iterator[LiveViewer]:
    """A viewer of a run, for as long as the block lasts.

    Raises:
        UsageError: viser is not installed, or the port is taken.
    """
    with served(port) as server:
        if not quiet:
            print(f"viewer: http://{LOCAL}:{port}", file=sys.stderr, flush=True)
        yield LiveViewer(server, steering)


class LiveViewer(pl.Callback):
    """Shows a stage between its steps.

    Arguments:
        server: viser's.
        steering: the run's door.
        budget: how much of the run's time it takes.
    """

    def __init__(self, server: ViserServer, steering: Steering, budget: Budget | None = None) -> None:
        self.server, self.steering = server, steering
        self.budget = budget or Budget()
        self.panel = Panel(server, steering)
        self._views: dict[int, _View] = {}
        self._lock = threading.Lock()
        self._shown = -1
        self._framed: torch.Tensor | None = None
        server.on_client_connect(self._joins)
        server.on_client_disconnect(self._leaves)

    # ---- the run's side -------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, ScoreDistillation)
        self.panel.begin(pl_module)
        self.budget.wait()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, ScoreDistillation)
        self.panel.note(pl_module)
        pl_module.keep_wishes |= bool(self._views)
        self.budget.accrue()
        self._work(pl_module, free=False)

    def work(self, system: ScoreDistillation) -> None:
        """The run waits: there is time."""
        self._work(system, free=True)
        self.budget.wait()

    def _work(self, system: ScoreDistillation, free: bool) -> None:
        self.panel.serve(system)
        with self._lock:
            views = list(self._views.values())
        if not views:
            return
        iteration = int(system.iteration)
        jobs = [("panel", 1.0, lambda: self.panel.show(system), self.panel.due(iteration))]
        if self._kind(system) != "render":
            jobs.append((self._kind(system), 1.0, lambda: self._draw(system), iteration != self._shown))
        jobs.append(("frusta", 1.0, lambda: self._frame(system), self._unframed(system)))
        if self._kind(system) == "render":
            for view in views:
                height = view.wanted(iteration, lambda h: free or self.budget.fits("render", h * h))
                if height is not None:
                    jobs.append(
                        ("render", height * height, lambda v=view, h=height: v.render(system, h), True)
                    )
        for name, size, job, due in jobs:
            if due and (free or self.budget.affords(name, size)):
                try:
                    self.budget.pay(name, job, size, free)
                except Exception as error:
                    # A camera that is none, a browser that has gone: not the run's business.
                    line = " ".join(str(error).split()) or type(error).__name__
                    self.panel.say(f"the {name} cannot be shown: {line}")

    def _kind(self, system: ScoreDistillation) -> str:
        """How the scene is shown: as splats where it has some, else as asked."""
        wanted = self.panel.kind
        if system.scenes[0].has_splats and wanted == "scene":
            return "splats"
        return "mesh" if wanted == "mesh" else "render"

    def _draw(self, system: ScoreDistillation) -> None:
        """The first scene as an object in the browser."""
        self._shown = int(system.iteration)
        if self._kind(system) == "splats":
            splats = system.scenes[0].splats()
            assert splats is not None
            arrays = splat_arrays(splats)
            self.server.scene.add_gaussian_splats("/scene", **arrays)
        else:
            try:
                mesh = surface_arrays(system.scenes[0], CELLS)
            except ThreedistillError:  # nothing solid yet
                self.server.scene.remove_by_name("/scene")
                return
            import trimesh

            assert mesh.colors is not None
            colors = (mesh.colors.numpy() * 255).astype(np.uint8)
            shape = trimesh.Trimesh(
                mesh.vertices.numpy(), mesh.faces.numpy(), vertex_colors=colors, process=False
            )
            self.server.scene.add_mesh_trimesh("/scene", shape)
        for client in self.server.get_clients().values():
            client.scene.set_background_image(None)

    def _unframed(self, system: ScoreDistillation) -> bool:
        return system.wishes is not None and system.wishes.x0 is not self._framed

    def _frame(self, system: ScoreDistillation) -> None:
        """The cameras of the last step, with what they saw."""
        wishes = system.wishes
        assert wishes is not None and wishes.cameras is not None
        self._framed = wishes.x0
        pictures = seen(system, wishes.x0)
        for row in range(min(len(wishes.cameras), 8)):
            self.server.scene.add_camera_frustum(
                f"/teacher/{row}", scale=0.12, color=(230, 120, 40), visible=self.panel.frusta,
                image=pictures[row], **frustum(wishes.cameras, row),
            )  # fmt: skip

    # ---- the browsers' side -------------------------------------------------------------------------

    def _joins(self, client: ClientHandle) -> None:
        with self._lock:
            view = self._views[client.client_id] = _View(client)
        self._shown = -1
        client.camera.on_update(lambda _: view.moved())

    def _leaves(self, client: ClientHandle) -> None:
        with self._lock:
            self._views.pop(client.client_id, None)


class _View:
    """One browser's view of a scene that is rendered here: coarse while its camera moves, sharper while it rests."""

    def __init__(self, client: ClientHandle) -> None:
        self.client = client
        self._level = 0
        self._rendered: tuple[int, int] | None = None
        self._moved = time.monotonic()

    def moved(self) -> None:
        """The camera is somewhere else."""
        self._level, self._rendered, self._moved = 0, None, time.monotonic()

    def wanted(self, iteration: int, fits: Callable[[int], bool]) -> int | None:
        """The height of the picture that is due; None = what is shown is as sharp and as new as it gets.

        Arguments:
            iteration: of the scene as it is now.
            fits: whether there is time for a height; the coarsest is drawn all the same.
        """
        level = self._level
        while level and not fits(HEIGHTS[level]):
            level -= 1
        if self._rendered is not None and self._rendered[0] == iteration and self._rendered[1] >= level:
            return None
        return HEIGHTS[level]

    @torch.no_grad()
    def render(self, system: ScoreDistillation, height: int) -> None:
        """Draw the scene as it is now behind the browser's camera."""
        level = HEIGHTS.index(height)
        aspect = min(max(self.client.camera.aspect, 0.2), 5.0)
        side = max(16, round(height / aspect**0.5 / 8) * 8)
        cameras = seen_from(self.client.camera, side).to(system.device)
        scene, progress = system.scenes[0], int(system.iteration) / system.stage.iterations
        context = RenderContext(
            progress=progress, background=torch.ones(1, 3, device=system.device), shading=system.stage.shading
        )
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # a field's advice about its sample budget is for its own resolution
            rgb = scene.render(cameras, context).rgb[0].clamp(0, 1)
        picture = (rgb * 255).byte().cpu().numpy()
        self.client.scene.set_background_image(picture, format="jpeg", jpeg_quality=88)
        self._rendered = (int(system.iteration), level)
        self._level = min(level + 1, len(HEIGHTS) - 1)
