"""``threedistill bench``: its plan is consistent, its noise measure is right, and a small one runs to its page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from threedistill import pipeline
from threedistill.config import compose
from threedistill.errors import UsageError
from threedistill.evaluation.statistics import Estimate
from threedistill.sweeps import launch as launch_module
from threedistill.sweeps.launch import check_runs
from threedistill.sweeps.plan import Cell, Setting
from threedistill.sweeps.table import rows
from threedistill.toybox.bench import noise as gradient_noise
from threedistill.toybox.bench.noise import NoiseShare, measure, noise_share, paired_noise
from threedistill.toybox.bench.parts import CLAIMS, FRONT_BIAS, PARTS, PROMPTS, RULES, SCALES, chosen
from threedistill.toybox.commands import bench
from threedistill.toybox.grammar import parse
from threedistill.toybox.lexicon import FRONTED
from threedistill.toybox.scenes import is_held_out
from threedistill.training.run_folder import RunFolder


def test_the_plan_is_consistent():
    for prompt in PROMPTS:
        scene = parse(prompt).scene
        assert scene.objects[0].kind in FRONTED and not is_held_out(scene)
    assert len({parse(p).scene.objects[0].kind for p in PROMPTS}) == len(PROMPTS)
    for part in PARTS:
        names = [s.name for s in part.settings]
        assert len(set(names)) == len(names)
        figures = set(rows_of_nothing())
        for claim in CLAIMS[part.name]:
            assert {claim.first, claim.second, *claim.students} <= set(names), claim.text
            assert claim.diseased is None or claim.diseased in names
            assert claim.figure in figures
        assert set(part.figures) <= figures
    runs = {cell.folder for part in PARTS for cell in part.runs()}
    total = sum(len(part.runs()) for part in PARTS)
    assert total - len(runs) == 8, "tier 1's plain SDS serves the remedies too"
    assert len(chosen(tier=1)[0].runs()) == 8 * 5 * 4
    assert {float(s.choices["cfg.scale"]) for p in PARTS if p.name == "scale" for s in p.settings} == set(
        SCALES
    )


def test_rules_run_as_published_without_what_holds_them_on_toybox():
    """No anchor, CSD's own coefficients, and the guidance that goes with that; on the exact teacher its own."""
    seen = set()
    for setting in RULES:
        config = compose(prompt="a red duck", overrides=list(setting.overrides))
        rule, own = config["guidance"]["rule"], config["guidance"]["recommended"]
        assert rule.get("anchor", 0) == 0, setting.name
        name = config["guidance"]["name"]
        seen.add(name)
        if name == "csd":
            assert [rule[k] for k in ("cond", "empty", "negative", "noise")] == [
                own[k] for k in ("cond", "empty", "negative", "noise")
            ]
        if name in ("ism", "nfsd", "cds", "usd"):
            row = config["prior"]["recommended"][name]
            assert config["cfg"]["scale"] == row["unanchored"] > row["scale"]
            if name != "usd":  # which wants another student there
                exact = compose(prompt="a red duck", overrides=[*setting.overrides, "prior=world"])
                assert exact["cfg"]["scale"] == 1
    assert {"vsd", "esd", "csm", "csd", "ism", "nfsd", "cds"} <= seen


def rows_of_nothing() -> list[str]:
    from threedistill.sweeps.table import FIGURES, RECORD

    return [*FIGURES, *RECORD, "diversity", "seconds"]


@pytest.mark.slow
def test_every_setting_composes_and_passes_the_checks():
    cells = [cell for part in chosen(prompts=1, seeds=1) for cell in part.runs()]
    checked = check_runs(cells, skip_impossible=True)
    left_out = [name for name, _ in checked.impossible]
    assert not set(left_out) - {"MV-SDS"}, checked.impossible  # a teacher of one view at a time cannot do it


def test_settings_mean_what_their_names_say():
    named = {s.name: s for part in PARTS for s in part.settings}
    cells = [Cell(PROMPTS[0], 0, named[name]) for name in ("ESD 1 blind", "VSD s=7.5")]
    configs = check_runs(cells).configs
    blind, scaled = configs["ESD 1 blind"], configs["VSD s=7.5"]
    assert blind["prior"]["camera"] == "words" and blind["prompts"]["view_words"] is False
    assert blind["prompts"]["front_bias"] == FRONT_BIAS
    for name in ("SDS view words", "SDS Perp-Neg"):
        (told,) = check_runs([Cell(PROMPTS[0], 0, named[name])]).configs.values()
        assert told["prior"]["camera"] == "words" and told["prompts"]["view_words"] is True
        assert told["prompts"]["front_bias"] == FRONT_BIAS
    assert blind["guidance"]["rule"]["lam"] == 1 and blind["student"]["model"] is not None
    assert scaled["guidance"]["rule"]["cfg"]["scale"] == 7.5
    assert scaled["guidance"]["rule"]["cfg"]["x0_clip"] in ("none", None)


def test_parts_can_be_cut_but_not_bent():
    assert [p.name for p in chosen(tier=2, only=("scale", "janus"))] == ["scale"]
    assert {(p.prompts, p.seeds) for p in chosen(prompts=2, seeds=1)} == {(2, 1)}
    assert (
        "budget.iterations=9"
        in chosen(only=("janus",), extra=["budget.iterations=9"])[0].settings[0].overrides
    )
    with pytest.raises(UsageError, match="the benchmark decides about cfg"):
        chosen(extra=["cfg.scale=3"])
    with pytest.raises(UsageError, match=r"the benchmark decides about prompts\.front_bias"):
        chosen(extra=["prompts.front_bias=0"])
    with pytest.raises(UsageError, match="leave nothing"):
        chosen(tier=1, only=("scale",))


def test_the_noise_share_of_known_draws():
    rng = torch.Generator().manual_seed(0)
    signal = torch.zeros(3, 8, 8)
    signal[0] = 2.0  # ||m||^2 = 256
    noise = torch.randn(4000, 3, 8, 8, generator=rng)  # tr Var = 192
    assert noise_share(signal + noise) == pytest.approx(192 / (192 + 256), abs=0.01)
    few = torch.stack([torch.tensor(noise_share(signal + noise[k : k + 4])) for k in range(0, 400, 4)])
    assert float(few.mean()) == pytest.approx(192 / 448, abs=0.03), "no bias from taking few draws"
    assert noise_share(signal.expand(5, 3, 8, 8)) == 0
    assert noise_share(noise[:8]) > 0.85
    with pytest.raises(ValueError, match="two draws"):
        noise_share(noise[:1])


def test_pairs_of_noise_shares_are_of_the_same_picture():
    flat = Estimate(0, 0, 0, 1)
    one = NoiseShare("a", flat, flat, (("p", "true", 0.5, 0.6), ("q", "true", 0.4, 0.7)))
    two = NoiseShare("b", flat, flat, (("q", "true", 0.1, 0.2), ("p", "true", 0.3, 0.1), ("r", "true", 0, 0)))
    assert paired_noise(one, two).value == pytest.approx((-0.3 - 0.2) / 2)
    assert paired_noise(one, two, "drawn").value == pytest.approx((-0.5 - 0.5) / 2)
    # One picture of p, three of q: two drawn prompts differ by 1, 1/4 or 0.
    keys = [("p", "1", 1), *(("q", str(k), 0) for k in range(3))]
    one, two = (NoiseShare("a", flat, flat, tuple((*k[:2], s * k[2], 0) for k in keys)) for s in (0.0, 1.0))
    assert paired_noise(one, two) == Estimate(0.25, 0, 1, 4)


def test_the_interval_of_a_noise_share_is_that_of_whole_prompts(monkeypatch: pytest.MonkeyPatch):
    """Two pictures of each of three prompts: all three draws hit the one noisy prompt in 1 of 27."""
    noisy = {"a": 1.0, "b": 0.0, "c": 0.0}
    monkeypatch.setattr(gradient_noise, "_system", lambda setting, prompt, views, seed: prompt)
    monkeypatch.setattr(
        gradient_noise,
        "_shares",
        lambda system, prompt, state, draws, seed: (noisy[prompt], 1 - noisy[prompt]),
    )
    (found,) = measure([Setting("SDS", ())], list(noisy))
    assert (found.fixed.low, found.fixed.high, found.fixed.count) == (0, 1, 6)
    assert (found.drawn.low, found.drawn.high) == (0, 1)


def test_deterministic_inversion_has_no_noise_and_fresh_noise_has():
    """On the Gaussian prior of the oracle: CSM's direction is a function of the picture, SDS's is not."""
    lines = ("prior=oracle", "budget.resolution=64")
    settings = [Setting(r.upper(), (f"guidance={r}", *lines)) for r in ("sds", "csm")]
    sds, csm = measure(settings, ["a red mushroom"], draws=3, views=1)
    # The oracle's Gaussian is narrow, so even SDS knows nearly where to go: k = alpha^2 S^2 / v is small, not zero.
    assert csm.fixed.value == pytest.approx(0, abs=1e-7)
    assert 1e-5 < sds.fixed.value < 1e-2
    assert {s[1] for s in sds.samples} == {"true", "half-finished"}


def test_a_small_benchmark_ends_with_its_page(
    command: Callable, workspace: Path, monkeypatch: pytest.MonkeyPatch
):
    """Stubbed runs: VSD learned, ESD did not; ESD 1 learned and has half of VSD's Janus."""
    log: list[str] = []

    def start_run(config: dict, path: Path, *, quiet: bool, facts: dict) -> None:
        run = RunFolder(path)
        log.append(path.name)
        (run.path / "asset").mkdir(parents=True)
        (run.path / "asset" / "model.glb").write_bytes(b"glTF")
        gain = 0.1 if "esd-0-5" in path.name else 0.5
        run.update_record(**facts, status="done", seconds={"all": 1.0}, prior_version="w1",
                          student={"student_gain": gain, "camera_gain": 0.01})  # fmt: skip

    def evaluate(folder: Path) -> None:
        share = {"sds": 0.6, "vsd": 0.5, "esd": 0.2}[
            next(r for r in ("sds", "vsd", "esd") if f"-{r}-" in folder.name)
        ]
        share += 0.01 * (len(folder.name) % 7)
        judged = {"judge": {"kind_right": True, "kind_p": 0.9, "janus": {"share": share}}}
        (folder / "eval.json").write_text(json.dumps(judged))
        Image.new("RGB", (12 * 8, 8), "red").save(folder / "asset" / "views.png")

    monkeypatch.setattr(pipeline, "start_run", start_run)
    monkeypatch.setattr("threedistill.sweeps.job.evaluate_run", evaluate)
    # Composing four settings six times over is not what is tested here.
    whole = launch_module.compose(prompt=PROMPTS[0], preset="bench")
    monkeypatch.setattr(
        launch_module, "compose", lambda **request: {**whole, "overrides": request["overrides"]}
    )
    words = ["bench", "guidance", "--tier", "1", "--prompts", "3", "--seeds", "1"]
    plan = command(*words, "--dry-run")
    assert plan.status == 0 and "12 runs in bench/guidance" in plan.err and log == []
    none = command(*words, "--budget", "0")
    assert none.status == 0 and "[partial: 0 of 3 pairs]" in none.err and log == []
    done = command(*words)
    assert done.status == 0, done.err
    assert done.out.strip() == "bench/guidance/guidance.md" and len(log) == 12
    said = done.err
    assert "VSD blind: student_gain 0.50 (needed 0.3)" in said and "medians of 3 runs: learned" in said
    assert "ESD (lambda 0.5) lowers VSD's Janus estimate: NO VERDICT" in said
    assert "ESD (lambda 1) lowers VSD's Janus estimate: HOLDS" in said
    page = Path("bench/guidance/guidance.md").read_text()
    assert "| VSD blind | 3/3 |" in page and "prior w1" in page and "Partial" not in page
    for name in ("janus-janus.svg", "janus-sheet.png"):
        assert f"plots/{name}" in page and Path("bench/guidance/plots", name).exists()
    facts = json.loads(Path("bench/guidance/guidance.json").read_text())
    assert [f["verdict"] for f in facts["parts"]["janus"]["findings"]][:2] == ["no verdict", "holds"]
    command(*words[:-1], "2", "--table")
    assert len(log) == 12, "--table makes nothing"
    assert "Partial: 12 of 24 runs" in Path("bench/guidance/guidance.md").read_text()
    assert command(*words).status == 0 and len(log) == 12


def test_bench_requests_that_make_no_sense(command: Callable):
    for words, said in (
        (["bench"], "bench what? threedistill bench guidance"),
        (["bench", "guidence"], "did you mean guidance?"),
        (["bench", "guidance", "--only", "janos"], "did you mean janus?"),
        (["bench", "guidance", "seed"], "not a setting: 'seed'"),
        (["bench", "guidance", "--tier", "3"], "--tier must lie between 1 and 2"),
    ):
        outcome = command(*words)
        assert outcome.status == 2 and said in outcome.err, outcome.err


def test_the_noise_is_measured_once(workspace: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[list[str]] = []
    flat = Estimate(0.5, 0.4, 0.6, 2)

    def fake(settings, prompts):
        calls.append([s.name for s in settings])
        return [NoiseShare(s.name, flat, flat, (("p", "true", 0.5, 0.5),)) for s in settings]

    monkeypatch.setattr("threedistill.toybox.bench.noise.measure", fake)
    request = bench.NoiseRequest(2)
    assert bench.noise_shares(Path("."), request, only_read=True) == []
    first = bench.noise_shares(Path("."), request, only_read=False)
    assert bench.noise_shares(Path("."), request, only_read=False) == first and len(calls) == 1
    assert {"SDS", "CSM"} <= set(calls[0]) <= {s.name for s in RULES}
    bench.noise_shares(Path("."), bench.NoiseRequest(3), only_read=False)
    assert len(calls) == 2


def test_rows_without_runs_have_every_column(tmp_path: Path):
    from threedistill.sweeps.plan import Plan, cells

    plan = Plan(tmp_path)
    plan.add(cells(["a"], [0], [Setting("x")]), {"x": "d"})
    assert set(rows_of_nothing()) <= set(rows(plan)[0])
