"""Pictures of all that is around: where they are seen, how bright they are, and Radiance's format by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from threedistill.cameras import orbit
from threedistill.config import compose
from threedistill.errors import UsageError
from threedistill.lights import Lighting
from threedistill.panorama import Panorama, decoded_radiance, panorama
from threedistill.representations.background import BackgroundSampler
from threedistill.rng import Streams
from threedistill.training.assemble import build_prior, build_stages
from threedistill.training.planning import build_plan

#: Unit directions and the (column, row), in shares, that look there.
PLACES = {
    (0.0, 0.0, -1.0): (0.5, 0.5), (1.0, 0.0, 0.0): (0.75, 0.5), (-1.0, 0.0, 0.0): (0.25, 0.5),
    (0.0, 0.6, -0.8): (0.5, math.acos(0.6) / math.pi),
}  # fmt: skip


@pytest.mark.parametrize(("direction", "place"), PLACES.items())
def test_directions_look_at_their_place(direction, place):
    """On a picture whose red is the column and whose green is the row, both linear between the pixels."""
    height, width = 64, 128
    row, column = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    picture = torch.stack([column / width, row / height, torch.zeros(height, width)], -1)
    found = Panorama(picture, False).at(torch.tensor(direction))
    torch.testing.assert_close(found[:2], torch.tensor(place), atol=1e-5, rtol=0)


def test_the_edges_meet_behind_the_camera():
    picture = torch.zeros(4, 8, 3)
    picture[:, 0], picture[:, -1] = 1.0, 0.5
    around = torch.tensor([[math.sin(a), 0.0, math.cos(a)] for a in (-0.01, 0.0, 0.01)])
    seen = Panorama(picture, True).at(around)[:, 0]
    assert float(seen[1]) == pytest.approx(0.75, abs=1e-5) and float(seen.max() - seen.min()) < 0.02


def test_light_comes_from_where_it_is_bright_by_solid_angle():
    uniform = torch.rand(20000, 3, generator=torch.Generator().manual_seed(0))
    even = Panorama(torch.ones(32, 64, 3), True).towards(uniform)
    torch.testing.assert_close(even.norm(dim=1), torch.ones(20000))
    torch.testing.assert_close(even.mean(0), torch.zeros(3), atol=0.02, rtol=0)
    torch.testing.assert_close(even.square().mean(0), torch.full((3,), 1 / 3), atol=0.02, rtol=0)
    suns = torch.full((32, 64, 3), 0.0)
    suns[16, 48], suns[16, 32] = 3.0, 1.0  # to the right, and behind the object
    drawn = Panorama(suns, True).towards(uniform)
    right = drawn[:, 0] > 0.9
    assert float(right.float().mean()) == pytest.approx(0.75, abs=0.02)
    assert bool((drawn[~right, 2] < -0.9).all())
    dark = Panorama(torch.zeros(32, 64, 3), True).towards(uniform)
    torch.testing.assert_close(dark.mean(0), torch.zeros(3), atol=0.02, rtol=0)


HEAD = b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n"


def test_radiance_pictures_by_hand():
    """Mantissas over 256 times two to the exponent less 128: (128, 64, 32, 129) is (1, 0.5, 0.25)."""
    flat = HEAD + b"-Y 1 +X 2\n" + bytes([128, 64, 32, 129, 255, 0, 0, 0])
    assert decoded_radiance(flat).tolist() == [[[1.0, 0.5, 0.25], [0.0, 0.0, 0.0]]]
    packed = HEAD + b"-Y 1 +X 8\n" + bytes([2, 2, 0, 8])
    packed += (
        bytes([136, 128]) + bytes([4, 64, 64, 0, 0, 132, 128]) + bytes([136, 0]) + bytes([132, 129, 132, 130])
    )
    found = decoded_radiance(packed)[0]
    assert found[:, 0].tolist() == [1.0] * 4 + [2.0] * 4
    assert found[:, 1].tolist() == [0.5, 0.5, 0, 0, 2, 2, 2, 2] and float(found[:, 2].abs().max()) == 0


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"#?RADIANCE\n\n-Y 1 +X 2\n" + bytes(8), "not 32-bit_rle_rgbe"),
        (HEAD + b"+X 2 -Y 1\n" + bytes(8), "from the top left"),
        (HEAD + b"-Y 1 +X 2\n" + bytes(7), "ends too early"),
        (HEAD + b"-Y 99999 +X 99999\n", "are the most"),
        (HEAD + b"-Y 1 +X 8\n" + bytes([2, 2, 0, 9]), "another width"),
        (HEAD + b"-Y 1 +X 8\n" + bytes([2, 2, 0, 8, 137, 1]), "damaged scanline"),
        (HEAD + b"-Y 1 +X 8\n" + bytes([2, 2, 0, 8, 0]), "damaged scanline"),
    ],
)
def test_damaged_radiance_pictures_are_refused(data, words):
    with pytest.raises(ValueError, match=words):
        decoded_radiance(data)


def picture(path: Path, size: tuple[int, int] = (16, 8)) -> Path:
    Image.new("RGB", size, (255, 0, 0)).save(path)
    return path


def test_files_that_are_no_panorama_are_refused_in_one_line(tmp_path):
    cases = {
        "missing.png": "no such file", "square.png": "twice as wide as high", "text.png": "no sound PNG",
    }  # fmt: skip
    picture(tmp_path / "square.png", (8, 8))
    (tmp_path / "text.png").write_text("not a picture")
    for name, words in cases.items():
        with pytest.raises(UsageError, match=words) as caught:
            panorama(str(tmp_path / name))
        assert "\n" not in str(caught.value)
    for wrong, words in (
        ({"law": "panorama"}, r"law=panorama needs picture=FILE"), ({"picture": "x.png"}, "looks at no picture"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            Lighting(**wrong)
    with pytest.raises(ValueError, match="picture is never seen with learned=0"):
        BackgroundSampler(picture=str(tmp_path / "square.png"))
    with pytest.raises(
        UsageError, match=r"background\.picture is the user's to give: background\.picture=PATH"
    ):
        compose(prompt="a red mushroom", overrides=["background=panorama"])


def test_a_run_stands_before_its_picture_and_is_lit_by_it(tmp_path):
    """Where nothing is, the render shows the picture; light comes from its bright side."""
    file = tmp_path / "around.png"
    image = Image.new("RGB", (64, 32), (0, 0, 0))
    image.paste((0, 255, 0), (40, 8, 56, 24))  # to the right
    image.save(file)
    config = compose(
        prompt="a red mushroom", preset="draft", prior="gaussian", representation="gaussians",
        overrides=[
            "background=panorama", f"background.picture='{file}'", "background.learned=1", "light=panorama",
            f"light.picture='{file}'", "representation.model.count=50", "prior.model.size=16", "budget.resolution=32",
        ],
    )  # fmt: skip
    plan = build_plan(config)
    system = build_stages(plan, build_prior(plan, torch.device("cpu")))[0]
    assert system.surroundings is None
    _, out, _ = system.look(0.0, system.streams.at(0))
    assert out.behind is not None
    empty = out.opacity[..., 0] < 1e-6
    assert bool(empty.any())
    torch.testing.assert_close(out.rgb[empty], out.behind[empty])
    light = system.light.direction(Streams(0).at(0), orbit(8), 1)
    assert light is not None and bool((light[:, 0] > 0).all())
    torch.testing.assert_close(out.behind, panorama(str(file)).at(_rays(system)).clamp(0, 1))


def _rays(system):
    cameras, _ = system._views(0.0, system.streams.at(0))
    return cameras.rays()[1]
