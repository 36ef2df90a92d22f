"""Faults that the tests must notice: each is put into a copy of the checkout, where its tests must fail.

Run by name, because every fault starts pytest anew:

    python -m tests.mutations                 all of them
    python -m tests.mutations span bitangent  those whose names contain one of the words

A wire that is cut, or two halves that are wrong in the same way, leaves every part right by itself: what is listed
here once went through all tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Mutation:
    """One fault.

    Attributes:
        name: what is wrong.
        file: below ``threedistill/``.
        old, new: the text that stands there once, and what is put in its place.
        test: the pytest id that must fail.
    """

    name: str
    file: str
    old: str
    new: str
    test: str


_WIRING = "tests/training/test_wiring.py::"
_SPAN = _WIRING + "test_the_guidance_and_the_student_follow_the_span_and_the_scene_its_stage"
_BACKGROUND = _WIRING + "test_the_background_keeps_away_from_the_running_mean_colour_of_the_object"
_FACTS = "tests/test_cli_run.py::test_the_facts_travel_whichever_way_a_file_is_made"

MUTATIONS = (
    Mutation(
        "stage.span ignored by the guidance", "training/system.py",
        "evidence = self._asked(x0, facts, self.stage.along(progress), rng, out)",
        "evidence = self._asked(x0, facts, progress, rng, out)",
        _SPAN,
    ),
    Mutation(
        "stage.span ignored by the student", "training/system.py",
        "shown, rng, self.stage.along(progress), self.manual_backward", "shown, rng, progress, self.manual_backward",
        _SPAN,
    ),
    Mutation(
        "the bitangent flipped in baker and reader", "exports/meshes/normal_map.py",
        "torch.where(carried[:, 3:] < 0, -1.0, 1.0)", "torch.where(carried[:, 3:] < 0, 1.0, -1.0)",
        "tests/exports/test_materials.py::test_a_normal_map_means_what_gltf_says",
    ),
    Mutation(
        "the bitangent's sign flipped in the file", "exports/meshes/normal_map.py",
        "(torch.linalg.cross(normal, tangent) * bitangent).sum(1) < 0, -1.0, 1.0",
        "(torch.linalg.cross(normal, tangent) * bitangent).sum(1) < 0, 1.0, -1.0",
        "tests/exports/test_materials.py::test_a_normal_map_means_what_gltf_says",
    ),
    Mutation(
        "the VAE's shift added when encoding", "priors/space.py",
        "mean - _like(self.shift, mean)", "mean + _like(self.shift, mean)",
        "tests/priors/test_paths_and_spaces.py::test_latents_are_shifted_and_then_scaled",
    ),
    Mutation(
        "the VAE's shift taken off when decoding", "priors/space.py",
        "+ _like(self.shift, x0)", "- _like(self.shift, x0)",
        "tests/priors/test_paths_and_spaces.py::test_latents_are_shifted_and_then_scaled",
    ),
    Mutation(
        "the bootstrap draws as if groups were of equal size", "evaluation/statistics.py",
        "total[picks].sum(1) / size[picks].sum(1)", "(total / size)[picks].mean(1)",
        "tests/evaluation/test_figures.py::test_bootstrap_draws_whole_groups_of_any_size",
    ),
    Mutation(
        "the bootstrap divides by the number of values", "evaluation/statistics.py",
        "total[picks].sum(1) / size[picks].sum(1)", "total[picks].sum(1) / len(x)",
        "tests/evaluation/test_figures.py::test_bootstrap_draws_whole_groups_of_any_size",
    ),
    Mutation(
        "a column's interval is that of single runs", "evaluation/report.py",
        "bootstrap(values, groups=prompts)", "bootstrap(values)",
        "tests/evaluation/test_report.py::test_columns_average_runs_and_resample_prompts",
    ),
    Mutation(
        "a claim's interval is that of single runs", "evaluation/claims.py",
        "bootstrap([d for _, d, _ in found], groups=[prompt for prompt, _, _ in found])",
        "bootstrap([d for _, d, _ in found])",
        "tests/evaluation/test_claims.py::test_the_interval_is_that_of_whole_prompts",
    ),
    Mutation(
        "a prior's figures have the interval of single pictures", "toybox/evaluation/prior_figures.py",
        "bootstrap(numbers, groups=[p for p, _ in pairs])", "bootstrap(numbers)",
        "tests/toybox/test_judge.py::test_a_priors_figures_have_intervals_over_prompts",
    ),
    Mutation(
        "a noise share's interval is that of single pictures", "toybox/bench/noise.py",
        "bootstrap([s[2] for s in samples], groups)", "bootstrap([s[2] for s in samples])",
        "tests/sweeps/test_bench.py::test_the_interval_of_a_noise_share_is_that_of_whole_prompts",
    ),
    Mutation(
        "a difference of noise shares has the interval of single pictures", "toybox/bench/noise.py",
        "bootstrap([mine[key] - theirs[key] for key in both], [key[0] for key in both])",
        "bootstrap([mine[key] - theirs[key] for key in both])",
        "tests/sweeps/test_bench.py::test_pairs_of_noise_shares_are_of_the_same_picture",
    ),
    Mutation(
        "prior_licence dropped from the run's record", "training/record.py",
        '"prior_licence": " + ".join(dict.fromkeys(prior.licence for prior in priors)),', "", _FACTS,
    ),
    Mutation(
        "prior_licence dropped from the asset's facts", "training/record.py",
        ' "prior_licence": record.get("prior_licence"),', "", _FACTS,
    ),
    Mutation(
        "the background told no colour to avoid", "training/system.py",
        "group, avoid=self.mean_color)", "group)", _BACKGROUND,
    ),
    Mutation(
        "the colour to avoid never learned", "training/system.py",
        "self.mean_color.lerp_(color.to(self.mean_color), 0.05)", "pass", _BACKGROUND,
    ),
)  # fmt: skip


def _copied(folder: Path) -> None:
    """The checkout in ``folder``: what may be changed or knows its own place is copied, the rest linked."""
    for item in ROOT.iterdir():
        if item.name in ("threedistill", "tests"):
            shutil.copytree(item, folder / item.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif not item.name.startswith("."):
            (folder / item.name).symlink_to(item)


def _pytest(folder: Path, tests: Sequence[str]) -> int:
    """pytest's exit status in the copy: 0 = passed, 1 = failed, anything else = could not run."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    words = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", *tests]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, check=False).returncode


def main(words: Sequence[str]) -> int:
    """Carry out the chosen mutations; 0 where every one was noticed."""
    chosen = [m for m in MUTATIONS if not words or any(word in m.name for word in words)]
    if not chosen:
        print("no mutation has a name with " + " or ".join(words), file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        _copied(folder)
        if status := _pytest(folder, sorted({m.test for m in chosen})):
            print(f"the tests do not pass without a mutation (pytest ends with {status})", file=sys.stderr)
            return 1
        survived = 0
        for mutation in chosen:
            file, began = folder / "threedistill" / mutation.file, time.monotonic()
            text = file.read_text(encoding="utf-8")
            file.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
            status = _pytest(folder, [mutation.test])
            file.write_text(text, encoding="utf-8")
            survived += status != 1
            verdict = {0: "SURVIVED", 1: "noticed"}.get(status, f"pytest ended with {status}")
            print(f"{verdict:9s} {time.monotonic() - began:4.0f} s  {mutation.name}", flush=True)
    print(f"{len(chosen) - survived} of {len(chosen)} noticed")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
