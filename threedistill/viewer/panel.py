"""The panel beside a live scene: how far the run is, what its teacher sees, its curves, and what can be changed."""

from __future__ import annotations

import io
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from threedistill.atomic import make_folder
from threedistill.config import parse_override
from threedistill.errors import ThreedistillError, UsageError
from threedistill.guidance.cfg import base_of
from threedistill.training.steering import Steering
from threedistill.training.system import ScoreDistillation
from threedistill.viewer.scene import add_curve

if TYPE_CHECKING:
    from viser import ViserServer

__all__ = ["Panel", "seen"]

#: Points that a curve remembers.
_POINTS = 600
#: Seconds between two looks at pictures and curves, at least.
_EVERY = 0.5
#: What is no curve: durations, and counts that are 0.
_ASIDE = ("seconds_", "nonfinite")
_MOST_CURVES = 6
_SHADINGS = ("none", "lambertian", "textureless", "normal")
_PICTURES = {
    "render": "Render",
    "wished": "What the rule would rather see",
    "predicted": "The teacher's clean prediction",
    "gradient": "Where it pulls (dark red = hardest)",
}


class Panel:
    """viser's controls for one run.

    Arguments:
        server: viser's.
        steering: the run's door.
    """

    def __init__(self, server: ViserServer, steering: Steering) -> None:
        self.server, self.steering = server, steering
        self._history: dict[str, deque[tuple[int, float]]] = {}
        self._curves: dict[str, Any] = {}
        self._shown, self._last = -1, 0.0
        self._began, self._first = time.monotonic(), 0
        self._export = threading.Event()
        self._build()

    # ---- asked by the viewer -------------------------------------------------------------------------

    @property
    def kind(self) -> str:
        """``scene`` (splats, or a render), ``render`` or ``mesh``."""
        return {"As it is": "scene", "Render": "render", "Mesh": "mesh"}[self._kind.value]

    @property
    def frusta(self) -> bool:
        """Whether the teacher's cameras are shown."""
        return self._frusta.value

    def begin(self, system: ScoreDistillation) -> None:
        """A stage begins: the controls show what it was told."""
        self._began, self._first = time.monotonic(), int(system.iteration)
        self._fill(system)

    def note(self, system: ScoreDistillation) -> None:
        """Remember the last step's numbers."""
        for name, value in system.metrics.items():
            if not name.startswith(_ASIDE):
                points = self._history.setdefault(name, deque(maxlen=_POINTS))
                points.append((int(system.iteration), value))

    def due(self, iteration: int) -> bool:
        """Whether there is something new to show."""
        return iteration != self._shown and time.monotonic() - self._last > _EVERY

    def show(self, system: ScoreDistillation) -> None:
        """Progress, pictures and curves as they are now."""
        iteration = int(system.iteration)
        self._shown, self._last = iteration, time.monotonic()
        rate = (iteration - self._first) / max(time.monotonic() - self._began, 1e-9)
        state = "paused" if self.steering.paused else f"{rate:.2f} steps/s"
        self._progress.value = 100 * iteration / system.stage.iterations
        self._status.content = f"**{system.stage.name}** {iteration} / {system.stage.iterations} ({state})"
        if system.wishes is not None:
            for name, views in self.pictures(system).items():
                handle = self._pictures[name]
                handle.image, handle.visible = np.concatenate(list(views[:4]), 1), True
        self._draw_curves()

    def pictures(self, system: ScoreDistillation) -> dict[str, np.ndarray]:
        """(B, H, W, 3) bytes of each picture of the last step's views."""
        wishes = system.wishes
        assert wishes is not None
        found = {"render": seen(system, wishes.x0), "wished": seen(system, wishes.wished)}
        if wishes.predicted is not None:
            found["predicted"] = seen(system, wishes.predicted)
        pull = (wishes.x0 - wishes.wished).norm(dim=1, keepdim=True)
        pull = torch.nn.functional.interpolate(pull, found["render"].shape[1:3])[:, 0]
        found["gradient"] = _heat(pull / pull.amax().clamp(min=1e-9))
        return found

    def serve(self, system: ScoreDistillation) -> None:
        """Do what was asked for between two steps, whatever it takes."""
        if self._export.is_set():
            self._export.clear()
            self.say(self._exported(system))

    def say(self, text: str) -> None:
        """Show the answer to what was asked for."""
        self._message.value = text

    # ---- what is built once -------------------------------------------------------------------------

    def _build(self) -> None:
        gui = self.server.gui
        gui.set_panel_label("threedistill")
        self._status = gui.add_markdown("waiting for the first step")
        self._progress = gui.add_progress_bar(0.0)
        row = gui.add_button_group("Run", ("Pause", "Step", "Continue"))
        row.on_click(lambda event: self._run(row.value))
        self._kind = gui.add_dropdown("Show", ("As it is", "Render", "Mesh"))
        self._frusta = gui.add_checkbox("Teacher's cameras", True)
        self._frusta.on_update(lambda _: self._toggle_frusta())
        save = gui.add_button_group("Save", ("Export now", "Screenshot"))
        save.on_click(
            lambda event: self._export.set() if save.value == "Export now" else _screenshot(event.client)
        )
        with gui.add_folder("What the teacher sees"):
            blank = np.full((16, 64, 3), 255, dtype=np.uint8)
            self._pictures = {
                name: gui.add_image(blank, label=label, format="png", visible=False)
                for name, label in _PICTURES.items()
            }
        with gui.add_folder("Change"):
            self._scale = gui.add_number("CFG scale", 7.5, min=0.0, max=1000.0, step=0.5)
            self._window = gui.add_multi_slider("Noise window", 0.0, 1.0, 0.01, (0.02, 0.98))
            self._background = gui.add_rgb("Background", (255, 255, 255))
            self._white = gui.add_slider("Share of that colour", 0.0, 1.0, 0.05, 0.5)
            self._shading = gui.add_dropdown("Shading", _SHADINGS)
            self._prompt = gui.add_text("Prompt", "")
            self._other = gui.add_text("Other", "", hint="key=value, such as guidance.rule.cfg.rescale=0.5")
            gui.add_button("Apply").on_click(lambda _: self._apply())
            self._message = gui.add_text("Last answer", "", disabled=True, multiline=True)
        self._folder = gui.add_folder("Curves")
        self._asked = self._values()

    def _fill(self, system: ScoreDistillation) -> None:
        """The stage's own values, where they are plain numbers."""
        guided = base_of(system.guidance.rule.cfg)
        scale = None if guided is None else guided.scale
        window = getattr(system.guidance.timesteps, "window", None)
        self._scale.value = float(scale) if isinstance(scale, int | float) else self._scale.value
        low, high = getattr(window, "min", None), getattr(window, "max", None)
        if isinstance(low, int | float) and isinstance(high, int | float):
            self._window.value = (float(low), float(high))
        red, green, blue = (round(255 * c) for c in system.background.plain)
        self._background.value = (red, green, blue)
        self._white.value = system.background.white
        self._shading.value = system.stage.shading
        self._prompt.value = system.prompts.prompt
        self._asked = self._values()

    def _values(self) -> dict[str, Any]:
        return {
            "guidance.rule.cfg.scale": float(self._scale.value),
            "guidance.timesteps.window": tuple(self._window.value),
            "background.plain": tuple(self._background.value),
            "background.white": float(self._white.value), "shading": self._shading.value,
            "prompt": self._prompt.value,
        }  # fmt: skip

    # ---- what a browser asks for -------------------------------------------------------------------------

    def _run(self, word: str) -> None:
        {"Pause": self.steering.pause, "Step": self.steering.step, "Continue": self.steering.go_on}[word]()
        self._shown = -1

    def _apply(self) -> None:
        """Ask for every value that differs from what was asked for last; each is answered in one line."""
        wanted: list[tuple[str, Any]] = []
        for key, value in self._values().items():
            if value != self._asked[key]:
                wanted += _settings(key, value)
        answers = []
        try:
            if self._other.value.strip():
                wanted.append(parse_override(self._other.value.strip()))
            for key, value in wanted:
                self.steering.ask(key, value)
                answers.append(f"{key} = {value} from the next step on")
            self._asked, self._other.value = self._values(), ""
        except UsageError as error:
            answers.append(f"refused: {error}")
        self.say("\n".join(answers) or "nothing has changed")

    def _toggle_frusta(self) -> None:
        for row in range(8):
            handle = self.server.scene.get_handle_by_name(f"/teacher/{row}")
            if handle is not None:
                handle.visible = self.frusta

    def _exported(self, system: ScoreDistillation) -> str:
        from threedistill.training.finish import write_asset
        from threedistill.training.record import facts_of

        plan, run = self.steering.plan, self.steering.run
        folder = run.base / "preview" / f"{int(system.iteration):06d}"
        try:
            make_folder(folder)
            with torch.random.fork_rng(devices=[]):
                files = write_asset(system.scenes[0], folder, plan.export, facts_of(plan.names, run))
        except (ThreedistillError, OSError) as error:
            return f"not exported: {error}"
        for client in self.server.get_clients().values():
            client.send_file_download(files[0].name, files[0].read_bytes())
        return f"exported to {folder}"

    # ---- curves -------------------------------------------------------------------------

    def _draw_curves(self) -> None:
        names = [name for name, points in self._history.items() if len({y for _, y in points}) > 1]
        for name in names[:_MOST_CURVES]:
            x, y = (np.array(column, dtype=np.float64) for column in zip(*self._history[name]))
            if name in self._curves:
                self._curves[name].data = (x, y)
                continue
            with self._folder:
                self._curves[name] = add_curve(self.server, name, x, y, "step")


def seen(system: ScoreDistillation, x0: Tensor) -> np.ndarray:
    """(B, H, W, 3) bytes of clean samples."""
    return (system.prior.space.decode(x0).clamp(0, 1) * 255).byte().cpu().numpy()


def _settings(key: str, value: Any) -> list[tuple[str, Any]]:
    """A control's value as the settings it stands for."""
    if key == "guidance.timesteps.window":
        return [(f"{key}.min", float(value[0])), (f"{key}.max", float(value[1]))]
    if key == "background.plain":
        return [(key, [round(c / 255, 4) for c in value])]
    return [(key, value)]


def _heat(value: Tensor) -> np.ndarray:
    """(B, H, W) in [0, 1] as colours from white through orange to dark red."""
    stops = torch.tensor([[255, 255, 255], [253, 174, 97], [165, 0, 38]], dtype=torch.float32)
    place = value.clamp(0, 1).cpu()[..., None] * 2
    low, high = place.clamp(max=1), (place - 1).clamp(min=0)
    mixed = stops[0] + (stops[1] - stops[0]) * low + (stops[2] - stops[1]) * high
    return mixed.round().byte().numpy()


def _screenshot(client: Any) -> None:
    """What one browser sees, as a file for it."""
    from PIL import Image

    if client is None:
        return
    picture = client.get_render(height=1080, width=round(1080 * client.camera.aspect / 2) * 2)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    client.send_file_download("threedistill.png", buffer.getvalue())
