"""Noise paths against published tables and diffusers' own schedulers; spaces against what they promise."""

from __future__ import annotations

import math

import pytest
import torch

from threedistill.errors import UsageError
from threedistill.priors.noise_path import DiscretePath, RectifiedFlowPath
from threedistill.priors.schedulers import scheduler_path
from threedistill.priors.space import FoldedPixelSpace, LatentSpace, PixelSpace, resize
from threedistill.protocols import ImageSpace, NoisePath

# Stable Diffusion's schedule: t, alpha, sigma, sigma/alpha, rectified-flow sigma of the same noise, log-SNR.
ANCHORS = [
    (1, 0.9991, 0.0413, 0.041, 0.040, 6.37),
    (20, 0.9906, 0.1367, 0.138, 0.121, 3.96),
    (200, 0.8682, 0.4963, 0.572, 0.364, 1.12),
    (300, 0.7684, 0.6399, 0.833, 0.454, 0.37),
    (500, 0.5257, 0.8507, 1.618, 0.618, -0.96),
    (700, 0.2873, 0.9579, 3.334, 0.769, -2.41),
    (980, 0.0764, 0.9971, 13.04, 0.929, -5.14),
]


@pytest.mark.parametrize("t, alpha, sigma, bar, flow, log_snr", ANCHORS)
def test_stable_diffusion_anchors(t, alpha, sigma, bar, flow, log_snr):
    path = DiscretePath.from_betas()
    level = path.at(torch.tensor([t]))
    assert float(level.alpha) == pytest.approx(alpha, abs=6e-5)
    assert float(level.sigma) == pytest.approx(sigma, abs=6e-5)
    assert float(level.sigma_bar) == pytest.approx(bar, rel=2e-3, abs=6e-4)
    assert float(level.log_snr) == pytest.approx(log_snr, abs=6e-3)
    assert float(path.at_log_snr(level.log_snr).index) == pytest.approx(t, abs=1e-3)
    assert float(RectifiedFlowPath().at_log_snr(level.log_snr).sigma) == pytest.approx(flow, abs=6e-4)


@pytest.mark.parametrize(
    "config",
    [
        {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2"},
        {
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "rescale_betas_zero_snr": True,
        },
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 200},
    ],
)
def test_tables_are_those_of_diffusers(config):
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(**config)
    path = DiscretePath.from_scheduler_config(dict(scheduler.config))
    level = path.at(torch.arange(path.steps))
    # 2e-6: their tables are float32 products of up to 1000 factors, ours float64
    torch.testing.assert_close(level.alpha**2, scheduler.alphas_cumprod, rtol=1e-4, atol=2e-6)
    torch.testing.assert_close(level.alpha**2 + level.sigma**2, torch.ones(path.steps))


def test_between_indices_log_snr_is_linear_and_invertible():
    path = DiscretePath.from_betas("squaredcos_cap_v2")
    ends = path.at(torch.tensor([400.0, 401.0], dtype=torch.float64)).log_snr
    middle = path.at(torch.tensor([400.25], dtype=torch.float64)).log_snr
    assert float(middle) == pytest.approx(float(0.75 * ends[0] + 0.25 * ends[1]), abs=1e-12)
    index = torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 990
    torch.testing.assert_close(path.at_log_snr(path.at(index).log_snr).index, index, rtol=0, atol=1e-9)


def test_zero_terminal_snr_stays_finite_and_out_of_windows():
    path = DiscretePath.from_betas(zero_terminal_snr=True)
    last = path.at(torch.tensor([999.0]))
    assert float(last.alpha) < 1e-8 and float(last.sigma) == 1.0 and math.isfinite(float(last.log_snr))
    assert float(path.at_fraction(torch.tensor([1.0])).index) == 998
    assert float(path.at_log_snr(torch.tensor([-100.0])).index) == 998
    assert float(path.at_log_snr(torch.tensor([100.0])).index) == 0


def test_rectified_flow_ends_and_direction():
    path = RectifiedFlowPath()
    level = path.at(torch.tensor([0.0, 250.0, 1000.0]))
    torch.testing.assert_close(level.alpha + level.sigma, torch.tensor([1.0, 1.0, 1.0]))
    assert float(level.sigma[1]) == pytest.approx(0.25)
    # Pure noise is reached where a scheduler asks for it, and never drawn.
    assert float(level.sigma[0]) > 0 and float(level.sigma[2]) == 1
    assert bool(torch.isfinite(level.log_snr).all())
    assert float(path.at_fraction(torch.tensor([1.0])).sigma) < 1
    assert (
        path == RectifiedFlowPath()
        and path != RectifiedFlowPath(scale=1.0)
        and path != RectifiedFlowPath(shift=3.0)
        and path != DiscretePath.from_betas()
    )


@pytest.mark.parametrize(
    ("name", "options", "tokens", "shift"),
    [
        ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, 0, 3.0),
        (
            "FlowMatchEulerDiscreteScheduler",
            {"use_dynamic_shifting": True, "max_shift": 1.15},
            4096,
            math.exp(1.15),
        ),
        ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}, 256, math.exp(0.5)),
        (
            "FlowMatchEulerDiscreteScheduler",
            {"use_dynamic_shifting": True, "time_shift_type": "linear"},
            256,
            0.5,
        ),
        ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True, "flow_shift": 3.0}, 0, 3.0),
        ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "flow_shift": 5.0}, 0, 5.0),
    ],
)
def test_flow_schedulers_shift_as_they_say(name, options, tokens, shift):
    import diffusers

    scheduler = getattr(diffusers, name)(**options)
    path, kind = scheduler_path(dict(scheduler.config) | {"_class_name": name}, tokens)
    assert kind == "flow" and isinstance(path, RectifiedFlowPath)
    assert path.shift == pytest.approx(shift)
    if options.get("use_dynamic_shifting"):  # what the scheduler itself makes of the middle
        mu = math.log(shift) if options.get("time_shift_type") != "linear" else shift
        theirs = float(scheduler.time_shift(mu, 1.0, torch.tensor(0.5)))
        assert float(path.at_fraction(torch.tensor([0.5])).sigma) == pytest.approx(theirs, rel=1e-5)


def test_tables_are_the_schedulers_own_and_what_has_none_is_refused():
    import diffusers

    shifted = diffusers.CogVideoXDDIMScheduler(snr_shift_scale=3.0)
    path, _ = scheduler_path(dict(shifted.config) | {"_class_name": "CogVideoXDDIMScheduler"})
    index = torch.arange(0, 999, 111)
    torch.testing.assert_close(
        path.at(index).alpha ** 2, shifted.alphas_cumprod[index].float(), rtol=1e-4, atol=2e-6
    )
    euler = {"_class_name": "EulerDiscreteScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085,
             "beta_end": 0.012}  # fmt: skip
    assert scheduler_path(euler)[0] == DiscretePath.from_betas()
    for config in (
        {"_class_name": "EDMEulerScheduler"},
        {"_class_name": "DDPMWuerstchenScheduler"},
        {"_class_name": "SCMScheduler"},
        {"_class_name": "FutureScheduler"},
        {**euler, "timestep_type": "continuous", "prediction_type": "v_prediction"},
    ):
        with pytest.raises(
            UsageError, match=f"scheduler {config['_class_name']} is not understood|prediction_type"
        ):
            scheduler_path(config)


def test_broken_tables_are_refused():
    with pytest.raises(ValueError, match="strictly falling"):
        DiscretePath(torch.tensor([0.9, 0.95, 0.5]))
    with pytest.raises(ValueError, match="beta schedule 'cosine' must be"):
        DiscretePath.from_scheduler_config({"beta_schedule": "cosine"})


def test_paths_and_spaces_fulfil_the_contracts():
    assert isinstance(DiscretePath.from_betas(), NoisePath) and isinstance(RectifiedFlowPath(), NoisePath)
    assert isinstance(PixelSpace(), ImageSpace) and isinstance(FoldedPixelSpace(), ImageSpace)


@pytest.mark.parametrize("space", [PixelSpace(16), FoldedPixelSpace(16, 4), FoldedPixelSpace(16, 8)])
def test_pixel_spaces_are_exactly_invertible(space):
    rgb = torch.rand(3, 16, 16, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x0 = space.encode(rgb)
    assert tuple(x0.shape[1:]) == space.shape
    torch.testing.assert_close(space.decode(x0), rgb, rtol=0, atol=1e-15)
    assert float(x0.square().sum()) == pytest.approx(float((2 * rgb - 1).square().sum()))  # orthogonal


def test_folding_keeps_pixels_where_it_says():
    rgb = torch.rand(1, 8, 8, 3, generator=torch.Generator().manual_seed(1))
    x0 = FoldedPixelSpace(8, 4).encode(rgb)
    for c, i, j, y, x in ((0, 0, 0, 0, 0), (2, 3, 1, 1, 0), (1, 2, 2, 0, 1)):
        assert float(x0[0, (c * 4 + i) * 4 + j, y, x]) == pytest.approx(
            float(2 * rgb[0, 4 * y + i, 4 * x + j, c] - 1)
        )


def test_the_embedded_prior_folds_alike():
    from threedistill.toybox.conditioning import fold
    from threedistill.toybox.networks import FOLDED_SHAPE

    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2)) * 2 - 1
    space = FoldedPixelSpace(64, 4)
    assert space.shape == FOLDED_SHAPE
    torch.testing.assert_close(
        space.encode((image.permute(0, 2, 3, 1) + 1) / 2), fold(image), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("size", [24, 16, 8])
def test_resizing_is_antialiased_and_keeps_the_mean(size):
    images = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    small = resize(images, size)
    assert float(small.mean()) == pytest.approx(float(images.mean()), abs=5e-3)
    assert float(small.std()) < 0.75 * float(images.std())  # noise averages out, as without aliasing it must
    with pytest.raises(ValueError, match="square pictures, got 10 x 12 pixels"):
        resize(torch.zeros(1, 3, 12, 10), 8)


def test_gradient_through_resizing_and_folding_against_finite_differences():
    space = FoldedPixelSpace(8, 4)
    rgb = torch.rand(1, 12, 12, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    assert torch.autograd.gradcheck(space.encode, rgb.requires_grad_(True))


def test_latents_are_shifted_and_then_scaled():
    """``x0 = (z - shift) scale`` and ``z = x0 / scale + shift``, as the families with a shift are trained.

    Source: Esser et al. 2024 (Stable Diffusion 3), as in diffusers' ``pipeline_stable_diffusion_3_img2img``.
    """
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4, sample_size=16,
        scaling_factor=1.5, shift_factor=0.7,
    )  # fmt: skip
    space = LatentSpace(vae, 16)
    rgb = torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        z = vae.encode(2 * rgb.permute(0, 3, 1, 2) - 1).latent_dist.mode()
        shown = (vae.decode(z).sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(space.encode(rgb), (z - 0.7) * 1.5)
    torch.testing.assert_close(space.decode((z - 0.7) * 1.5), shown)
