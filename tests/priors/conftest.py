"""Tiny Stable Diffusion pipelines with random weights, built and saved once per session; nothing is downloaded."""

from __future__ import annotations

import pytest
import torch

from tests.priors.tiny import clip_tokenizer


def build_pipeline(prediction_type: str, seed: int, **scheduler):
    """A StableDiffusionPipeline of some 100k parameters: 32-pixel pictures, 8x8 latents."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    tokenizer = clip_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=16, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16, attention_head_dim=2, norm_num_groups=8,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, latent_channels=4, norm_num_groups=4, sample_size=32,
        scaling_factor=0.18215,
    )  # fmt: skip
    options = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    options |= {
        "set_alpha_to_one": False,
        "clip_sample": False,
        "prediction_type": prediction_type,
        **scheduler,
    }
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=CLIPTextModel(text), tokenizer=tokenizer, unet=unet,
        scheduler=DDIMScheduler(**options), safety_checker=None, feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory):
    """Folder and loaded pipeline by name: eps, v, and v with zero terminal SNR and trailing steps."""
    root = tmp_path_factory.mktemp("pipelines")
    kinds = {
        "eps": ("epsilon", {}),
        "v": ("v_prediction", {}),
        "zero": ("v_prediction", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}),
    }
    made = {}
    for seed, (name, (kind, scheduler)) in enumerate(kinds.items()):
        pipeline = build_pipeline(kind, seed, **scheduler)
        pipeline.save_pretrained(root / name, safe_serialization=True)
        made[name] = (root / name, pipeline)
    return made
