"""Carry out a plan on one of Hydra's launchers, with progress, a deadline, and Ctrl-C that loses nothing."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threedistill.atomic import read_json
from threedistill.config import compose, pictures
from threedistill.errors import ThreedistillError, UsageError, nearest
from threedistill.sweeps.job import finished, looked_at, read_record, run_job
from threedistill.sweeps.plan import Cell, Plan, Setting
from threedistill.sweeps.workers import me
from threedistill.training.run_folder import RunFolder

if TYPE_CHECKING:
    from threedistill.training.plan import PriorPlan

__all__ = [
    "LAUNCHERS", "Checked", "Launch", "Progress", "SweepInterrupted", "carry_out", "check_launcher",
    "check_runs", "clock", "prepare",
]  # fmt: skip

#: Launcher -> (module that brings it, package, extra); None for the one that Hydra brings itself.
LAUNCHERS: dict[str, tuple[str, str, str] | None] = {
    "basic": None,
    "joblib": ("hydra_plugins.hydra_joblib_launcher", "hydra-joblib-launcher", "sweep"),
    "submitit_local": ("hydra_plugins.hydra_submitit_launcher", "hydra-submitit-launcher", "sweep"),
    "submitit_slurm": ("hydra_plugins.hydra_submitit_launcher", "hydra-submitit-launcher", "sweep"),
    "ray": ("hydra_plugins.hydra_ray_launcher", "hydra-ray-launcher", "sweep-ray"),
}


@dataclass(frozen=True)
class Launch:
    """How the runs are carried out; none of it changes a run.

    Attributes:
        launcher: one of :data:`LAUNCHERS`.
        options: ``hydra.*`` lines for Hydra itself, e.g. ``hydra.launcher.n_jobs=4``.
        seconds: no run is started later than this many seconds from now; None = no limit.
        evaluate: judge the assets.
        quiet: no progress on stderr.
    """

    launcher: str = "basic"
    options: tuple[str, ...] = ()
    seconds: float | None = None
    evaluate: bool = True
    quiet: bool = False


def check_launcher(name: str) -> None:
    """Refuse a launcher that does not exist, is not installed, or has nothing to launch on."""
    if name not in LAUNCHERS:
        close = nearest(name, LAUNCHERS, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UsageError(f"hydra/launcher: there is no {name!r}{hint} (there are: {', '.join(LAUNCHERS)})")
    needed = LAUNCHERS[name]
    if needed is None:
        return
    module, package, extra = needed
    if not _installed(module):
        raise UsageError(
            f'hydra/launcher={name} needs {package}, which is not installed: pip install "threedistill[{extra}]"'
        )
    if name == "submitit_slurm" and (missing := [c for c in ("sbatch", "srun") if shutil.which(c) is None]):
        raise UsageError(
            f"hydra/launcher={name}: there is no {missing[0]} here; start it where SLURM's commands are, or take "
            "submitit_local"
        )


def _installed(module: str) -> bool:
    with contextlib.suppress(ModuleNotFoundError):
        return importlib.util.find_spec(module) is not None
    return False


@dataclass(frozen=True)
class Checked:
    """Runs that can be made, with what each setting is composed to.

    Attributes:
        runs: what is left of the request.
        configs: by a setting's name, its configuration.
        impossible: (setting, reason) of what was left out; the reason names a prompt where it is only that one's.
    """

    runs: tuple[Cell, ...]
    configs: dict[str, dict[str, Any]]
    impossible: tuple[tuple[str, str], ...] = ()


def check_runs(runs: Sequence[Cell], *, skip_impossible: bool = False) -> Checked:
    """Compose and check every setting and every prompt; nothing is written.

    Raises:
        UsageError: without ``skip_impossible``, a setting that cannot work, or prompts that its prior has no words for
            (all of them at once); with it, nothing left to run.
    """
    from threedistill.training.planning import build_plan
    from threedistill.training.references import read_images
    from threedistill.training.refusals import WrongPrompt, check_words, refusal

    composed: dict[str, dict[str, Any]] = {}
    impossible: list[tuple[str, str]] = []
    wrong: dict[tuple[str, str], WrongPrompt] = {}
    settings: dict[str, tuple[Setting, list[str]]] = {}
    for cell in runs:
        settings.setdefault(cell.setting.name, (cell.setting, []))[1].append(cell.prompt)
    for name, (setting, prompts) in settings.items():
        prior: PriorPlan | None = None
        for prompt in dict.fromkeys(prompts):
            try:
                if prior is not None:
                    check_words(prompt, prior)
                else:  # the first prompt with nothing wrong shows what is wrong with the setting
                    config = _compose(setting, prompt)
                    plan = build_plan(config)
                    read_images(plan.images)
                    prior = plan.prior
                    composed[name] = config
            except WrongPrompt as error:
                wrong[name, prompt] = error
            except UsageError as error:
                if not skip_impossible:
                    raise UsageError(f"{name}: {error}" if len(settings) > 1 else str(error)) from None
                impossible.append((name, str(error)))
                break
    if wrong and not skip_impossible:
        line = refusal({prompt: error for (_, prompt), error in wrong.items()})
        raise UsageError(f"{line}; or leave out what cannot be made with --skip-impossible")
    impossible += [(name, str(error)) for (name, _), error in wrong.items()]
    kept = tuple(
        cell for cell in runs
        if cell.setting.name in composed and (cell.setting.name, cell.prompt) not in wrong
    )  # fmt: skip
    if not kept:
        reasons = list(dict.fromkeys(reason for _, reason in impossible))
        more = f" (and {len(reasons) - 1} other reasons)" if len(reasons) > 1 else ""
        raise UsageError(f"nothing to run: {reasons[0]}{more}")
    return Checked(kept, composed, tuple(impossible))


def prepare(root: Path, checked: Checked) -> tuple[Plan, list[int]]:
    """Add the runs to the plan on disk, which another sweep may be adding to; it and the numbers of the runs."""
    plan = Plan(root)
    with plan.locked():
        settings = {cell.setting.name: cell.setting for cell in checked.runs}
        configs = {
            name: plan.keep_config(plan.keep_pictures(setting, checked.configs[name]))
            for name, setting in settings.items()
        }
        numbers = plan.add(checked.runs, configs)
        plan.write()
    return plan, numbers


def _compose(setting: Setting, prompt: str) -> dict[str, Any]:
    shown = pictures([p.source for p in setting.pictures], [p.camera for p in setting.pictures])
    return compose(
        prompt=prompt,
        negative=setting.negative,
        device=setting.device,
        images=shown,
        overrides=setting.overrides,
    )


class SweepInterrupted(KeyboardInterrupt):
    """Stopped on request; what is finished stays finished."""

    hint = "; nothing finished is lost, the same command continues"


def carry_out(plan: Plan, numbers: Sequence[int], launch: Launch) -> None:
    """Make what is not finished yet; returns when everything has been tried once or the time is up.

    Raises:
        KeyboardInterrupt: stopped on request; a second call goes on.
    """
    open_runs = [n for n in numbers if not _settled(plan.folder(n), launch.evaluate)]
    progress = Progress(plan, numbers, quiet=launch.quiet)
    progress.say(
        f"{len(numbers)} runs, {len(numbers) - len(open_runs)} of them finished before; folder {plan.root}"
    )
    _warn_about_old(plan, numbers, progress)
    if not open_runs:
        return
    here = launch.launcher == "basic"
    with progress.watching(in_background=not here):
        if here:
            _launch(plan, open_runs, launch, _Reporting(progress))
        else:
            _launch(plan, open_runs, launch, run_job)


def _settled(folder: Path, evaluate: bool) -> bool:
    return finished(folder) and (not evaluate or looked_at(folder))


def _warn_about_old(plan: Plan, numbers: Sequence[int], progress: Progress) -> None:
    def made_with(n: int) -> object:
        return read_json(plan.folder(n) / "run.json").get("request")

    old = [n for n in numbers if finished(plan.folder(n)) and made_with(n) != plan.entries[n]["config"]]
    if old:
        progress.say(
            f"warning: {len(old)} finished runs were made with other defaults than today's, e.g. "
            f"{plan.folder(old[0])}; delete such folders to make them anew"
        )


def _launch(plan: Plan, numbers: Sequence[int], launch: Launch, task: Any) -> None:
    from hydra_zen import launch as hydra_launch

    deadline = 0.0 if launch.seconds is None else time.time() + launch.seconds
    place = str(plan.root.resolve() / "sweep" / "hydra").replace("\\", "\\\\").replace("'", "\\'")
    overrides = [
        f"hydra/launcher={launch.launcher}",
        f"hydra.sweep.dir='{place}'",
        "hydra.sweep.subdir=${hydra.job.num}", "hydra.output_subdir=null", "hydra.job.chdir=false",
        "hydra/job_logging=disabled", "hydra/hydra_logging=disabled",
        *_batches(launch), *_gpus(launch), *launch.options, "job=" + ",".join(map(str, numbers)),
    ]  # fmt: skip
    config = {
        "root": str(plan.root.resolve()), "job": 0, "threads": _threads(launch), "deadline": deadline,
        "evaluate": launch.evaluate, "parent": me(), "gpu": launch.launcher in ("joblib", "submitit_local"),
    }  # fmt: skip
    with _joining(launch):
        hydra_launch(
            config, task, overrides=overrides, multirun=True, version_base=None, job_name="threedistill-sweep",
            config_name="threedistill_sweep", with_log_configuration=False,
        )  # fmt: skip


@contextlib.contextmanager
def _joining(launch: Launch) -> Iterator[None]:
    """One line where a Ray cluster is not there or does not let us in; Ray's own lines stand above it."""
    try:
        yield
    except ConnectionError as error:
        if launch.launcher != "ray":
            raise
        line = " ".join(str(error).split())
        raise ThreedistillError(
            f"hydra/launcher=ray: {line}; is it running, and where it wants a token, are RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN set as they are there?"
        ) from None


def _option(launch: Launch, key: str) -> str | None:
    found = [line.split("=", 1)[1] for line in launch.options if line.split("=", 1)[0].lstrip("+") == key]
    return found[-1] if found else None


def _at_once(launch: Launch) -> int:
    """How many runs share this machine."""
    from threedistill.threads import usable_cores

    if launch.launcher == "joblib":
        wanted = int(_option(launch, "hydra.launcher.n_jobs") or -1)
        return usable_cores() if wanted < 1 else wanted
    if launch.launcher == "submitit_local":
        return int(_option(launch, "hydra.sweeper.max_batch_size") or usable_cores())
    return 1


def _threads(launch: Launch) -> int:
    """Threads for each run: runs that share a machine share its cores."""
    from threedistill.threads import usable_cores

    if launch.launcher in ("joblib", "submitit_local"):
        return max(usable_cores() // _at_once(launch), 1)
    return 0


def _batches(launch: Launch) -> list[str]:
    """Submitit would start every local run at once: no more than there are cores."""
    if launch.launcher == "submitit_local" and _option(launch, "hydra.sweeper.max_batch_size") is None:
        return [f"hydra.sweeper.max_batch_size={_at_once(launch)}"]
    return []


def _gpus(launch: Launch) -> list[str]:
    """Ray hides GPUs from those who do not ask: one for each run, where there are some."""
    asked = "hydra.launcher.ray.remote.num_gpus"
    if launch.launcher != "ray" or _option(launch, asked) is not None:
        return []
    import torch

    return [f"+{asked}=1"] if torch.cuda.device_count() else []


@dataclass
class _Reporting:
    """The job of the basic launcher, which tells the progress what it did."""

    progress: Progress

    def __call__(self, cfg: Any) -> str:
        outcome = run_job(cfg)
        self.progress.look()
        return outcome


@dataclass
class Progress:
    """One line per finished run on stderr, with the rate and the time left; read from the run folders."""

    plan: Plan
    numbers: Sequence[int]
    quiet: bool = False
    _seen: set[int] = field(default_factory=set)
    _made: int = 0
    _start: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._before = {n: self._stamp(n) for n in self.numbers}
        self._seen = {n for n in self.numbers if finished(self.plan.folder(n))}

    def _stamp(self, number: int) -> tuple[str, int]:
        """Status and time of the last change, by which a failure of today differs from yesterday's."""
        path = RunFolder(self.plan.folder(number)).record_path
        with contextlib.suppress(OSError):
            return read_record(path.parent)["status"], path.stat().st_mtime_ns
        return "", 0

    def look(self) -> None:
        """Report what has ended since the last look."""
        for number in self.numbers:
            if number in self._seen:
                continue
            stamp = self._stamp(number)
            if stamp[0] in ("done", "failed") and stamp != self._before[number]:
                self._seen.add(number)
                self._made += 1
                self._report(number, stamp[0])

    def _report(self, number: int, status: str) -> None:
        entry = self.plan.entries[number]
        record = read_record(self.plan.folder(number))
        seconds = sum(record["seconds"].values())
        verdict = read_json(self.plan.folder(number) / "eval.json").get("verdict")
        what = f"failed: {record['error']}" if status == "failed" else f"{seconds:.0f} s"
        if verdict and status == "done":
            what += f", {verdict}"
        rate = self._made / max(time.monotonic() - self._start, 1e-9)
        left = len(self.numbers) - len(self._seen)
        self.say(
            f"[{len(self._seen)}/{len(self.numbers)}] {self.plan.prompt(number)}, {entry['setting']}, "
            f"seed {entry['seed']}: {what} | {60 * rate:.1f} runs/min, {clock(left / rate)} left"
        )

    @contextlib.contextmanager
    def watching(self, in_background: bool, every: float = 3.0) -> Iterator[None]:
        """Keep looking while runs go on in other processes."""
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(every):
                self.look()

        thread = threading.Thread(target=watch, daemon=True) if in_background else None
        if thread:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            if thread:
                thread.join()
            self.look()

    def say(self, text: str) -> None:
        """One line on stderr."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """A duration for people: 40 s, 12 min, 2 h 05 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
