"""MVDream: published names, attention that joins the views of a group, cameras in its makers' convention."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from safetensors.torch import save_file

from tests.priors.latent_diffusion import published, weights
from threedistill.cameras import orbit
from threedistill.conditions import Conditions
from threedistill.errors import UsageError
from threedistill.priors.diffusers import DiffusersPrior
from threedistill.priors.families import MVDream
from threedistill.priors.families.mvdream import camera_rows
from threedistill.priors.multiview_unet import MultiViewUNet, from_published, layout, own_name

FULL = published(320, (1, 2, 4, 4), 1024)


def test_the_names_of_the_published_checkpoint_at_full_width() -> None:
    config = layout(FULL, head_width=64)
    with torch.device("meta"):
        network = MultiViewUNet(**config)
    own = {own_name(name): shape for name, shape in FULL.items()}
    assert len(own) == len(FULL) == 690 and None not in own  # 686 of Stable Diffusion 2 and 4 of the cameras
    assert own == {name: tuple(value.shape) for name, value in network.state_dict().items()}
    count = sum(math.prod(shape) for shape in FULL.values())
    assert count == 865_910_724 + (16 * 1280 + 1280) + (
        1280 * 1280 + 1280
    )  # Stable Diffusion 2.1's, and the cameras'
    assert network.config["attention_head_dim"] == (5, 10, 20, 20)
    assert own_name("cond_stage_model.transformer.weight") is None and own_name("image_embed.latents") is None


def test_the_network_answers_as_diffusers_own_conversion_does() -> None:
    """A foreign reader of the same names; without cameras and with groups of one the network is an ordinary UNet."""
    given = weights()
    mine = from_published(
        {f"model.diffusion_model.{name}": value for name, value in given.items()}, 1, 16
    ).eval()
    config = {k: v for k, v in layout(published(), 16).items() if "class" not in k}
    plain = UNet2DConditionModel(**config).eval()
    prefixed = {f"model.diffusion_model.{k}": v for k, v in given.items() if not k.startswith("camera_embed")}
    plain.load_state_dict(convert_ldm_unet_checkpoint(prefixed, {**config, "class_embed_type": None}))
    generator = torch.Generator().manual_seed(1)
    x, text = torch.randn(4, 4, 8, 8, generator=generator), torch.randn(4, 5, 16, generator=generator)
    time = torch.tensor([10.0, 300, 600, 900])
    with torch.no_grad():
        expected = plain(x, time, text).sample
        alone = mine(x, time, text, class_labels=torch.zeros(4, 17)).sample
        mine.join(4)
        joined = mine(x, time, text, class_labels=torch.zeros(4, 17)).sample
    torch.testing.assert_close(alone, expected, rtol=1e-4, atol=1e-4)
    assert float((joined - expected).abs().max()) > 1e-2
    with pytest.raises(ValueError, match="3 views are no multiple of groups of 4"):
        mine(x[:3], time[:3], text[:3], class_labels=torch.zeros(3, 17))


def test_wrong_weights_are_named() -> None:
    given = weights()
    short = {name: value for name, value in given.items() if name != "out.0.weight"}
    with pytest.raises(
        UsageError, match=r"1 differ, such as conv_norm_out\.weight \(missing in place of \(32,\)\)"
    ):
        from_published(short, 4, 16)
    with pytest.raises(
        UsageError, match=r"not those of a multi-view UNet \(it has no 'camera_embed\.0\.weight'\)"
    ):
        from_published(weights(camera=None), 4, 16)


def test_cameras_are_told_in_the_convention_of_its_makers() -> None:
    """From their words: the world's up is Z, the camera of the front stands on +X, the place is on the unit sphere."""
    azimuth, elevation = math.radians(30), math.radians(20)
    told = camera_rows(orbit(12, elevation=20, distance=3.0)[1:2], 1)[0]
    matrix = told[:16].view(4, 4)
    place = [
        math.cos(elevation) * math.cos(azimuth),
        math.cos(elevation) * math.sin(azimuth),
        math.sin(elevation),
    ]
    torch.testing.assert_close(matrix[:3, 3], torch.tensor(place))
    torch.testing.assert_close(matrix[:3, 2], torch.tensor(place))  # it looks down its -z, at the origin
    torch.testing.assert_close(matrix[:3, 0], torch.tensor([-math.sin(azimuth), math.cos(azimuth), 0.0]))
    assert matrix[3].tolist() == [0, 0, 0, 1] and told[16] == 1
    assert float(torch.linalg.det(matrix[:3, :3])) == pytest.approx(1.0, abs=1e-5)
    assert not camera_rows(None, 4).any()


@pytest.fixture(scope="module")
def prior(pipelines: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> DiffusersPrior:
    file = tmp_path_factory.mktemp("mvdream") / "4view.safetensors"
    save_file(weights(), file)
    family = MVDream(checkpoint=str(file), head_width=16)
    return DiffusersPrior(name="mv", family=family, model=str(pipelines["eps"][0]), size=32, cache=False)


def test_the_views_of_a_group_see_each_other_and_no_others(prior: DiffusersPrior) -> None:
    views = Conditions(["a duck"] * 8, orbit(8))
    told, level = prior.conditioning(views), prior.path.at(torch.full((8,), 400.0))
    x_t = torch.randn(8, *prior.space.shape, generator=torch.Generator().manual_seed(0))
    before = prior.predict(x_t, level, told).value
    other = x_t.clone()
    other[2] += 1
    moved = (prior.predict(other, level, told).value - before).abs().amax((1, 2, 3))
    assert bool((moved[:4] > 1e-3).all()) and not bool((moved[4:] > 1e-6).any())
    turned = prior.predict(
        x_t, level, prior.conditioning(Conditions(["a duck"] * 8, orbit(8, elevation=60)))
    ).value
    blind = prior.predict(x_t, level, prior.conditioning(Conditions(["a duck"] * 8))).value
    for answer in (turned, blind):
        assert float((answer - before).abs().max()) > 1e-3
    assert prior.view_group == 4 and prior.wants == {"text", "camera"}
    assert "4view.safetensors@" in (prior.version or "")


def test_the_command_line_runs(
    prior: DiffusersPrior, pipelines: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.priors.test_whole_run import TINY
    from threedistill.cli import main

    checkpoint = prior.family.checkpoint  # type: ignore[attr-defined]
    words = [
        "generate",
        "a red duck",
        "--prior",
        "mvdream",
        "--guidance",
        "mvsds",
        "--out",
        str(tmp_path / "run"),
    ]
    options = [f"prior.model.family.checkpoint={checkpoint}", "prior.model.family.head_width=16"]
    options += [
        f"prior.model.model={pipelines['eps'][0]}",
        "prior.model.size=32",
        "guidance.rule.group=4",
        *TINY,
    ]
    code = main([*words, "--preset", "draft", "--quiet", *options, "budget.views=4"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert Path(captured.out.splitlines()[-1]).read_bytes()[:4] == b"glTF"


def test_checkpoints_that_are_not_there(pipelines: dict[str, Any], tmp_path: Path) -> None:
    for place, words in (
        (str(tmp_path / "gone.safetensors"), "no such folder"),
        (str(tmp_path), "no such file"),
    ):
        with pytest.raises(UsageError, match=words):
            DiffusersPrior(
                name="mv", family=MVDream(checkpoint=place), model=str(pipelines["eps"][0]), cache=False
            )
    (tmp_path / "old.ckpt").write_bytes(b"")
    with pytest.raises(UsageError, match=r"only \.safetensors is read"):
        DiffusersPrior(
            name="mv",
            family=MVDream(checkpoint=str(tmp_path / "old.ckpt")),
            model=str(pipelines["eps"][0]),
            cache=False,
        )
