"""``--image``: pictures reach the network that wants them, stay with the run, and are refused where nobody does."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import threedistill.training.stages as stages
from tests.toybox.test_teacher import TINY as NETWORKS
from threedistill.cameras import orbit
from threedistill.commands import generate as command
from threedistill.config import compose, pictures
from threedistill.errors import ThreedistillError, UsageError
from threedistill.pipeline import Result, generate, resume
from threedistill.toybox.model import ModelSettings, ToyboxPipeline
from threedistill.toybox.priors.embedded import ToyboxPrior
from threedistill.toybox.teacher import TransformerToyboxPipeline
from threedistill.training.plan import PicturePlan
from threedistill.training.planning import build_plan
from threedistill.training.references import load_images, read_images, save_images

RUN = [
    "representation.model.log2_entries=8", "representation.model.levels=2", "representation.model.start_levels=1",
    "representation.model.finest_resolution=16", "representation.model.steps=16", "budget.iterations=3",
    "representation.model.occupancy_resolution=16", "budget.views=1", "budget.resolution=16", "budget.grid=24",
    "budget.faces=100", "budget.texture=16", "trainer.preview_every=0", "export.turntable_frames=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Small random networks that are shown reference views."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    found = TransformerToyboxPipeline.create(NETWORKS)
    with torch.no_grad():
        for parameter in found.transformer.parameters():
            if not parameter.any() or parameter.std() < 2e-3:
                parameter.copy_(0.2 * torch.randn(parameter.shape))
    found.save(folder, dtype=torch.float32)
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Red where it is opaque; the file's last column is transparent."""
    pixels = np.zeros((20, 24, 4), np.uint8)
    pixels[..., 0], pixels[:, :23, 3] = 200, 255
    Image.fromarray(pixels, "RGBA").save(tmp_path / "duck.png")
    return tmp_path / "duck.png"


def make(out: Path, weights: Path, *images: Path, resuming: bool = False) -> Result:
    return generate(
        "a red ball", out=out, prior="toybox", images=images, image_cameras=[(30.0, 15.0)] * len(images),
        quiet=True, resume=resuming, overrides=[*RUN, f"prior.model.folder='{weights}'"],
    )  # fmt: skip


def test_pictures_reach_the_network_and_an_interrupted_run_goes_on_exactly(
    weights: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, ...]] = []
    real = ToyboxPrior.conditioning

    def recorded(self, conditions):
        inputs = real(self, conditions)
        told.append(tuple(inputs["views"].shape) if "views" in inputs else ())
        return inputs

    monkeypatch.setattr(ToyboxPrior, "conditioning", recorded)
    whole = make(tmp_path / "whole", weights, picture)
    assert {bool(shape) for shape in told} == {True, False}, "the branch without the prompt is not shown them"

    step = stages.ScoreDistillation.training_step

    def signalled(self, index, *rest):
        if index == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, index, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(stages.ScoreDistillation, "training_step", signalled)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "stopped", weights, picture)
    picture.unlink()
    again = resume(tmp_path / "stopped", quiet=True)
    assert again.asset.read_bytes() == whole.asset.read_bytes()
    with pytest.raises(UsageError, match="was made with other settings: images="):
        make(tmp_path / "stopped", weights, tmp_path / "goose.png", resuming=True)
    (tmp_path / "stopped" / "checkpoints" / "images.safetensors").unlink()
    with pytest.raises(ThreedistillError, match="copy of its --image files, is missing or damaged"):
        resume(tmp_path / "stopped", quiet=True)


def test_every_run_of_a_sweep_is_shown_the_pictures(
    weights: Path, picture: Path, command, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[torch.Tensor] = []
    real = ToyboxPrior.conditioning
    monkeypatch.setattr(
        ToyboxPrior,
        "conditioning",
        lambda self, facts: (told.extend(i.rgba for i in facts.images), real(self, facts))[1],
    )
    Path("ball.txt").write_text("a red ball\n")
    words = ("sweep", "--prompts", "ball.txt", "--no-eval", *RUN, f"prior.model.folder='{weights}'")
    shown = (*words, "--image", str(picture), "--image-camera", "30,15")
    first = command(*shown)
    assert first.status == 0, first.err
    assert (
        told
        and all(torch.equal(rgba, told[0]) for rgba in told)
        and float(told[0][2, 0, 0]) == pytest.approx(200 / 255)
    )
    (run,) = Path("sweeps/ball/runs").iterdir()
    (kept,) = load_images(run / "checkpoints" / "images.safetensors", [PicturePlan("", (30.0, 15.0))])
    assert torch.equal(kept.rgba, told[0])
    (copy,) = Path("sweeps/ball/sweep/images").iterdir()
    assert copy.read_bytes() == picture.read_bytes()
    assert "1 of them finished before" in command(*shown).err, "the same picture is the same run"
    Image.new("RGBA", (8, 8), "blue").save(picture)
    others = [command(*line, "--dry-run").out for line in (shown, (*shown[:-1], "30,16"), words)]
    assert len(set(others)) == 3 and all(run.name not in line for line in others)


def test_a_sweep_refuses_pictures_before_it_writes(picture: Path, command) -> None:
    Path("ball.txt").write_text("a red ball\n")
    Path("words.png").write_text("no picture")
    words = ("sweep", "--prompts", "ball.txt")
    for line, said in (
        (("prior=gaussian", "--image", str(picture)), "--image: prior=gaussian cannot be shown pictures"),
        (("--image", "none.png"), "--image none.png: no such file or directory"),
        (("--image", "words.png"), "--image words.png: the picture"),
        (("--image-camera", "3,4"), "there is none"),
    ):
        refused = command(*words, *line)
        assert refused.status == 2 and said in refused.err, refused.err
    assert not Path("sweeps").exists()


def test_a_picture_is_what_its_file_says_seen_from_where_it_was_taken(picture: Path, tmp_path: Path) -> None:
    plans = [PicturePlan(str(picture), (30.0, 15.0)), PicturePlan(str(picture), None)]
    seen, unplaced = read_images(plans)
    assert seen.rgba.shape == (24, 24, 4) and unplaced.camera is None
    assert [bool(row.any()) for row in seen.rgba] == [False] * 2 + [True] * 20 + [False] * 2, (
        "in the middle of a square"
    )
    assert float(seen.over()[2, 0, 0]) == pytest.approx(200 / 255) and bool((seen.over()[:, 23] == 1).all())
    assert seen.camera is not None and (seen.camera.height, seen.camera.width) == (24, 24)
    expected = orbit(1, elevation=15.0, start=30.0)
    assert torch.equal(seen.camera.c2w, expected.c2w) and seen.fingerprint != unplaced.fingerprint
    save_images((seen, unplaced), tmp_path / "images.safetensors")
    kept = load_images(tmp_path / "images.safetensors", plans)
    assert [image.fingerprint for image in kept] == [seen.fingerprint, unplaced.fingerprint]


def test_what_cannot_be_used_is_refused_in_a_line(picture: Path, tmp_path: Path) -> None:
    def plan(prior: str, file: Path = picture):
        return build_plan(compose(prompt="a red ball", prior=prior, images=pictures([file])))

    with pytest.raises(
        UsageError, match=r"prior=gaussian cannot be shown pictures \(it is told: background, text"
    ):
        plan("gaussian")
    for prior in ("sd15", "flux"):  # not a file of them is looked for
        with pytest.raises(
            UsageError, match=rf"--image: prior={prior} cannot be shown pictures \(it is told: text\)"
        ):
            plan(prior)
    with pytest.raises(
        UsageError, match=r"--image: prior=toybox cannot be shown pictures \(it is told: back"
    ):
        ToyboxPipeline.create(ModelSettings(channels=(32, 32, 32))).save(tmp_path / "unet")
        generate(
            "a red ball", out=tmp_path / "run", prior="toybox", images=[picture], quiet=True,
            overrides=[f"prior.model.folder={tmp_path / 'unet'}"],
        )  # fmt: skip
    assert not (tmp_path / "run").exists()
    (tmp_path / "words.png").write_text("no picture")
    for name, reason in (("none.png", "no such file or directory"), ("words.png", "the picture")):
        with pytest.raises(UsageError, match=f"--image {tmp_path / name}: {reason}"):
            read_images([PicturePlan(str(tmp_path / name), None)])


def test_the_command_line_says_which_picture_is_seen_from_where() -> None:
    words = [
        "a duck",
        "--image",
        "a.png",
        "--image-camera",
        "-30,15",
        "--image",
        "b.png",
        "--image-camera",
        "90,-5.5",
    ]
    request = command.parse(words)
    assert request.images == (Path("a.png"), Path("b.png"))
    assert request.image_cameras == ((-30.0, 15.0), (90.0, -5.5))
    for line, complaint in (
        (["a duck", "--image-camera", "3,4"], "--image-camera says where an --image was taken from; there is none"),
        (["a duck", "--image", "a.png", "--image-camera", "3"], "--image-camera needs an azimuth and an elevation"),
        (["a duck", "--image", "a.png", "--image-camera", "nan,3"], "--image-camera needs an azimuth and an elevation"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=complaint):
            command.parse(line)
    with pytest.raises(UsageError, match="2 --image and 1 --image-camera: give none, or one for each image"):
        pictures(["a.png", "b.png"], [(0.0, 0.0)])
    with pytest.raises(UsageError, match="--image-camera 0,91: the azimuth is within 360"):
        pictures(["a.png"], [(0.0, 91.0)])
