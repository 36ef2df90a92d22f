"""The field's metrics where the answer is known: the toy judge is the encoder, the world's own objects the assets."""

import json
import math
import random

import numpy as np
import pytest
import torch
from PIL import Image

from threedistill.cli import main
from threedistill.config.metrics import Asked, metrics_for
from threedistill.errors import UsageError
from threedistill.evaluation.metrics.looks import folder_pictures, frechet_distance, kernel_distance
from threedistill.evaluation.metrics.metric import RIG, Sight
from threedistill.evaluation.metrics.texts import shipped_distractors
from threedistill.exports.asset import ExportSettings, write_mesh
from threedistill.scoring import Scorer
from threedistill.toybox.grammar import parse
from threedistill.toybox.judge_data import many_faced
from threedistill.toybox.scenes import held_out
from threedistill.toybox.world import build
from threedistill.types import Mesh

#: Three with a front and three without, kinds and colours apart.
PROMPTS = [*held_out()[:3], *held_out()[12:14], held_out()[22]]


class Seen(Sight):
    """A true object in place of a file."""

    def __init__(self, prompt: str, mesh: Mesh) -> None:
        super().__init__(prompt, None)  # type: ignore[arg-type]
        self.__dict__["mesh"] = mesh


@pytest.fixture(scope="module")
def truths() -> dict[str, Seen]:
    return {prompt: Seen(prompt, build(parse(prompt).scene, None)) for prompt in PROMPTS}


@pytest.fixture(scope="module")
def metrics():
    return metrics_for(Asked(("rprecision:toybox", "janus:toybox", "consistency:toybox", "toybox")))


def test_ground_truth_is_retrieved_and_shuffled_prompts_are_at_chance(truths, metrics):
    retrieval = metrics["rprecision:toybox"]
    found = [retrieval.measure(sight) for sight in truths.values()]
    assert sum(one["value"] for one in found) / len(found) >= 0.95
    assert all(one["first"] == 1 and one["candidates"] == len(held_out()) for one in found)
    shuffled = [
        retrieval.measure(Seen(other, sight.mesh))
        for (own, sight), other in zip(truths.items(), [*PROMPTS[1:], PROMPTS[0]])
        if own != other
    ]
    # Guessing is right once in 54; six assets of 24 views cannot tell that from never.
    assert sum(one["value"] for one in shuffled) / len(shuffled) <= 3 * shuffled[0]["chance"]
    assert all(one["first"] == 0 for one in shuffled)
    own, score = PROMPTS[0], metrics["toybox"]
    wrong = score.measure(Seen(PROMPTS[1], truths[own].mesh))["value"]
    assert score.measure(truths[own])["value"] > -1 and wrong < -5


class Random(Scorer):
    """Gives every picture and text an independent number."""

    size = 8
    version = "none"

    def __call__(self, pictures, texts):
        return torch.rand(len(pictures), len(texts), generator=torch.Generator().manual_seed(len(texts)))


def test_a_scorer_that_guesses_is_at_chance(truths):
    """Mean over 40 lists of 2 to 5 rivals, 24 views each: within three standard errors of 1 / candidates."""
    from threedistill.evaluation.metrics.texts import Retrieval

    scorer, sight, off = Random(), truths[PROMPTS[0]], []
    for count in range(2, 42):
        scorer.rivals = lambda n=count: tuple(f"thing {k}" for k in range(2 + n % 4))  # type: ignore[method-assign]
        torch.manual_seed(count)
        scorer.__class__.__call__ = lambda self, p, t: torch.rand(len(p), len(t))  # type: ignore[method-assign]
        found = Retrieval(scorer).measure(sight)
        off.append(found["value"] - found["chance"])
    assert abs(sum(off) / len(off)) < 3 * math.sqrt(0.25 * 0.75 / (24 * len(off)))


def test_a_second_face_raises_the_janus_figure(truths, metrics):
    janus, duck = metrics["janus:toybox"], truths[PROMPTS[0]]
    assert "duck" in PROMPTS[0]
    plain = janus.measure(duck)
    faced = janus.measure(Seen(duck.prompt, many_faced(duck.mesh, "mirrored")))
    assert plain["value"] == 0 and plain["fronts"] == 1
    assert faced["value"] >= 0.5
    assert not janus.higher


def test_neighbouring_views_agree_more_on_what_is_round(truths, metrics):
    consistency = metrics["consistency:toybox"]
    tree = consistency.measure(truths[next(p for p in PROMPTS if "donut" in p or "mushroom" in p)])
    car = consistency.measure(truths[next(p for p in PROMPTS if "car" in p)])
    assert car["value"] < tree["value"] <= 1 + 1e-6 and car["worst"] <= car["value"]


def test_fid_is_that_of_the_matrix_root():
    """Against scipy's square root of S_x S_y, full rank and not; the same set is at distance 0."""
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(0)
    for n, m, d in ((400, 300, 12), (9, 7, 12)):
        x, y = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)), rng.normal(1, 2, (m, d))
        sx, sy = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
        # The product of two singular matrices has no stable root; a little is added for the oracle alone.
        root = sqrtm((sx + 1e-9 * np.eye(d)) @ (sy + 1e-9 * np.eye(d)))
        wanted = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(sx + sy - 2 * root.real)
        mine = frechet_distance(torch.from_numpy(x), torch.from_numpy(y))
        assert mine == pytest.approx(wanted, rel=1e-6 if n > d else 1e-3)
    assert frechet_distance(torch.from_numpy(x), torch.from_numpy(x)) == pytest.approx(0, abs=1e-9)


def test_kid_is_the_sum_over_pairs():
    rng = random.Random(0)
    x = [[rng.gauss(0, 1) for _ in range(3)] for _ in range(5)]
    y = [[rng.gauss(1, 1) for _ in range(3)] for _ in range(4)]

    def k(a, b):
        return (sum(p * q for p, q in zip(a, b)) / 3 + 1) ** 3

    within = sum(k(x[i], x[j]) for i in range(5) for j in range(5) if i != j) / 20
    within += sum(k(y[i], y[j]) for i in range(4) for j in range(4) if i != j) / 12
    wanted = within - 2 * sum(k(a, b) for a in x for b in y) / 20
    assert kernel_distance(torch.tensor(x).double(), torch.tensor(y).double()) == pytest.approx(wanted)


def test_a_folders_pictures_stand_on_white_in_a_square(tmp_path):
    Image.fromarray(np.full((4, 8, 4), [255, 0, 0, 0], dtype=np.uint8)).save(tmp_path / "b.png")
    Image.fromarray(np.full((8, 8, 3), [0, 0, 255], dtype=np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("no picture")
    found = folder_pictures(tmp_path, 8)
    assert found.shape == (2, 8, 8, 3)
    assert torch.equal(found[0], torch.tensor([0.0, 0, 1]).expand(8, 8, 3)) and bool((found[1] == 1).all())
    with pytest.raises(UsageError, match="no folder with pictures"):
        folder_pictures(tmp_path / "nowhere", 8)
    (tmp_path / "c.png").write_bytes(b"\x89PNG\r\n\x1a\nhalf")
    with pytest.raises(UsageError, match=r"c\.png cannot be read"):
        folder_pictures(tmp_path, 8)


def make_run(folder, prompt: str, mesh: Mesh):
    (folder / "asset").mkdir(parents=True)
    write_mesh(mesh, folder / "asset" / "model.glb", ExportSettings())
    (folder / "config.yaml").write_text("schema: 2\n")
    record = {"prompt": prompt, "seed": 0, "status": "done", "seconds": {"stage": 2.0}, "peak_bytes": 123}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


@pytest.mark.slow
def test_eval_measures_runs_alone_and_together_and_keeps_what_it_knew(tmp_path, truths, capsys):
    duck = make_run(tmp_path / "duck", PROMPTS[0], truths[PROMPTS[0]].mesh)
    # Nobody knows these words: the mesh's health is said, and whatever needs no words is measured.
    bust = make_run(tmp_path / "bust", "a marble bust of Ada", truths[PROMPTS[1]].mesh)
    reference = tmp_path / "pictures"
    reference.mkdir()
    for index, one in enumerate(truths[PROMPTS[0]].pictures(64)[::6]):
        Image.fromarray((one * 255).byte().numpy()).save(reference / f"{index}.png")
    line = ["eval", str(duck), "--json", "--metrics", "rprecision:toybox,fid:toybox,kid:toybox"]
    assert main([*line, "--reference", str(reference), "--out", str(tmp_path / "all.json")]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["together"]["fid:toybox"]["pictures"] == 24 and said["together"]["fid:toybox"]["value"] < 0.2
    assert said["together"]["kid:toybox"]["reference"] == 4
    kept = json.loads((duck / "eval.json").read_text())
    assert kept["metrics"]["rprecision:toybox"]["value"] >= 0.95 and kept["rig"] == RIG
    assert kept["metrics"]["rprecision:toybox"]["by"] == kept["judge_version"]
    assert kept["peak_bytes"] == 123 and kept["seconds"] == {"stage": 2.0}
    assert "fid:toybox" not in kept["metrics"]
    assert main(["eval", str(duck), str(bust), "--metrics", "consistency:toybox"]) == 0
    assert "2 runs of 2 prompts" in capsys.readouterr().out
    both = json.loads((duck / "eval.json").read_text())["metrics"]
    assert set(both) == {"rprecision:toybox", "consistency:toybox"}
    plain = json.loads((bust / "eval.json").read_text())
    assert plain["health"]["faces"] > 100 and "judge" not in plain and plain["topology"]["pieces"] > 0
    assert main(["eval", str(bust), "--metrics", "toybox"]) == 2
    assert "marble" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--metrics", "clp"], "there is no 'clp'; did you mean clip?"),
        (["--metrics", "clip"], "clip needs its model's folder: --model clip=DIR"),
        (["--metrics", "fid:toybox"], "fid:toybox needs --reference DIR"),
        (["--metrics", "toybox", "--model", "siglip=x"], "no metric asks it"),
        (["--model", "siglip=x"], "no metric asks it"),
        (["--metrics", "critic:toybox"], "critic asks no scorer"),
        (["--metrics", "toybox", "--model", "clip"], "--model needs SCORER=DIR"),
        (["--metrics", ","], "--metrics needs names"),
    ],
)
def test_wrong_requests_are_one_line(tmp_path, truths, capsys, words, line):
    run = make_run(tmp_path / "duck", PROMPTS[0], truths[PROMPTS[0]].mesh)
    assert main(["eval", str(run), *words]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and line in said[0]


def test_a_punctured_mesh_is_not_watertight(truths):
    from threedistill.evaluation.report import plain_facts

    ball = build(parse("a red ball").scene, None)
    from dataclasses import replace

    assert plain_facts_of(ball)["health"]["watertight"] is True
    hole = plain_facts_of(replace(ball, faces=ball.faces[1:]))
    assert hole["health"]["watertight"] is False and hole["topology"]["holes"] == 1
    assert "not watertight" in hole["verdict"] and plain_facts.__doc__


def plain_facts_of(mesh: Mesh):
    import tempfile
    from pathlib import Path

    from threedistill.evaluation.report import plain_facts

    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "model.glb")
        write_mesh(mesh, file, ExportSettings())
        return plain_facts(file, "a thing")


def test_the_shipped_distractors_are_many_and_different():
    found = shipped_distractors()
    assert len(found) >= 150 and len(set(map(str.casefold, found))) == len(found)
