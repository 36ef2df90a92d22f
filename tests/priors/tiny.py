"""Tiny pipelines of diffusers with random weights, one builder per family; nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

WORDS = ("a", "red", "duck", "mushroom", "front", "side", "view", "blurry")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def clip_tokenizer(length: int = 16) -> Any:
    """Byte-pair merges that build every word of :data:`WORDS` from its letters."""
    from transformers import CLIPTokenizer

    pieces = ["<|startoftext|>", "<|endoftext|>", *(w + "</w>" for w in WORDS), *LETTERS]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    merges = []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
            vocabulary.setdefault(parts[0], len(vocabulary))
        for letter in (*word[:-1], word[-1] + "</w>"):
            vocabulary.setdefault(letter, len(vocabulary))
    return CLIPTokenizer(vocab=vocabulary, merges=list(dict.fromkeys(merges)), model_max_length=length)


def clip(tokenizer: Any, projected: bool = False, width: int = 16) -> Any:
    """A text encoder for :func:`clip_tokenizer`."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=16, num_hidden_layers=3, projection_dim=width,
        num_attention_heads=2, max_position_embeddings=tokenizer.model_max_length, bos_token_id=0, eos_token_id=1,
        pad_token_id=1,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    pieces = ["<pad>", "</s>", "<unk>", *(f"▁{w}" for w in WORDS), "▁", *LETTERS, *LETTERS.upper(), ","]
    return T5Tokenizer(vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], extra_ids=0)


def t5(tokenizer: Any, width: int = 16) -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=16, num_layers=2, num_heads=2,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    )  # fmt: skip
    return T5EncoderModel(config)


def gemma_tokenizer() -> Any:
    from tokenizers import processors
    from transformers import GemmaTokenizer

    pieces = [
        "<pad>",
        "<eos>",
        "<bos>",
        "<unk>",
        *(f"▁{w}" for w in WORDS),
        "▁",
        *LETTERS,
        *LETTERS.upper(),
        ",",
    ]
    merges = []
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    for word in WORDS:
        parts = ["▁", *word]
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
            vocabulary.setdefault(parts[0], len(vocabulary))
    tokenizer = GemmaTokenizer(vocab=vocabulary, merges=list(dict.fromkeys(merges)))
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    return tokenizer


def gemma(tokenizer: Any, width: int = 16) -> Any:
    from transformers import Gemma2Config, Gemma2Model

    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=2048,
    )  # fmt: skip
    return Gemma2Model(config)


def vae(channels: int = 4, **options: Any) -> Any:
    """Four pixels per latent; eight with four levels."""
    from diffusers import AutoencoderKL

    levels = options.pop("levels", 3)
    return AutoencoderKL(
        block_out_channels=(8,) * levels, down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels, latent_channels=channels, norm_num_groups=4, sample_size=32,
        **{"scaling_factor": 0.18215, **options},
    )  # fmt: skip


def unet(**options: Any) -> Any:
    from diffusers import UNet2DConditionModel

    settings: dict[str, Any] = {
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (16, 32), "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": 16, "attention_head_dim": 2,
        "norm_num_groups": 8,
    }  # fmt: skip
    return UNet2DConditionModel(**{**settings, **options})


BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
DDIM = {**BETAS, "set_alpha_to_one": False, "clip_sample": False}


def lcm() -> Any:
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler

    tokenizer = clip_tokenizer()
    return LatentConsistencyModelPipeline(
        vae(), clip(tokenizer), tokenizer, unet(time_cond_proj_dim=12), LCMScheduler(**DDIM),
        None, None, None, requires_safety_checker=False,
    )  # fmt: skip


def sdxl(second: int = 16, **scheduler: Any) -> Any:
    """``second``: width of the second text encoder."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    tokenizer = clip_tokenizer()
    network = unet(
        cross_attention_dim=16 + second, addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=second + 6 * 4,
    )  # fmt: skip
    return StableDiffusionXLPipeline(
        vae(scaling_factor=0.13025), clip(tokenizer), clip(tokenizer, True, second), tokenizer, tokenizer, network,
        EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", **scheduler),
    )  # fmt: skip


def sd3(t5_there: bool = True) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    words, pieces = clip_tokenizer(), t5_tokenizer()
    network = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=8, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32, out_channels=8,
        pos_embed_max_size=16,
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        network, FlowMatchEulerDiscreteScheduler(shift=3.0), vae(8, scaling_factor=1.5, shift_factor=0.06),
        clip(words, True), words, clip(words, True), words, t5(pieces, 32) if t5_there else None,
        pieces if t5_there else None,
    )  # fmt: skip


def flux(dev: bool = True) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    words, pieces = clip_tokenizer(), t5_tokenizer()
    network = FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, guidance_embeds=dev, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(
        **({"use_dynamic_shifting": True, "shift": 3.0, "base_image_seq_len": 4, "max_image_seq_len": 64}
           if dev else {"shift": 1.0})
    )  # fmt: skip
    return FluxPipeline(
        scheduler,
        vae(4, scaling_factor=0.3611, shift_factor=0.1159),
        clip(words),
        words,
        t5(pieces),
        pieces,
        network,
    )


def qwen_tokenizer() -> Any:
    """A token per byte, and a chat's frame."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    tokenizer = Qwen2Tokenizer(
        vocab={byte: i for i, byte in enumerate(sorted(ByteLevel.alphabet()))}, merges=[]
    )
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.content }}>{% endfor %}{% if add_generation_prompt %}:{% endif %}"
    )
    return tokenizer


def qwen(tokenizer: Any) -> Any:
    """As deep as its readers look."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=28, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=128,
    )  # fmt: skip
    return Qwen3ForCausalLM(config)


def mistral(tokenizer: Any) -> Any:
    """As deep as its readers look."""
    from transformers import (
        Mistral3Config,
        Mistral3ForConditionalGeneration,
        MistralConfig,
        PixtralVisionConfig,
    )

    text = MistralConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=31, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=1024,
    )  # fmt: skip
    sight = PixtralVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, head_dim=8, image_size=32,
        patch_size=16,
    )  # fmt: skip
    return Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=sight))


def flux2(dev: bool = False) -> Any:
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Pipeline,
        Flux2Transformer2DModel,
    )

    space = AutoencoderKLFlux2(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4, sample_size=32,
    )  # fmt: skip
    torch.nn.init.normal_(space.bn.running_mean)
    torch.nn.init.uniform_(space.bn.running_var, 0.5, 2.0)
    network = Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=dev,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
    tokenizer = qwen_tokenizer()
    if dev:  # its tokenizer is part of what reads pictures too, and messages are lists of parts
        network.context_embedder.weight.data *= 20  # few of its many tokens are the prompt's
        tokenizer.chat_template = (
            "{% for m in messages %}<{% for c in m['content'] %}{{ c['text'] }}{% endfor %}>{% endfor %}"
        )
        return Flux2Pipeline(scheduler, space, mistral(tokenizer), tokenizer, network)
    return Flux2KleinPipeline(scheduler, space, qwen(tokenizer), tokenizer, network)


def pixart(sigma: bool = True) -> Any:
    from diffusers import DDIMScheduler, PixArtAlphaPipeline, PixArtSigmaPipeline, PixArtTransformer2DModel

    network = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2,
        cross_attention_dim=16, sample_size=8, patch_size=2, caption_channels=16, norm_num_groups=1,
        use_additional_conditions=False,
    ) if sigma else PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=8, num_layers=2,
        cross_attention_dim=24, sample_size=128, patch_size=2, caption_channels=16, norm_num_groups=1,
        use_additional_conditions=True, interpolation_scale=2,
    )  # fmt: skip
    pieces = t5_tokenizer()
    scheduler = DDIMScheduler(
        beta_schedule="linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    return (PixArtSigmaPipeline if sigma else PixArtAlphaPipeline)(
        pieces, t5(pieces), vae(4, scaling_factor=0.13025), network, scheduler
    )


def sana(solver: bool = True) -> Any:
    from diffusers import (
        AutoencoderDC,
        DPMSolverMultistepScheduler,
        FlowMatchEulerDiscreteScheduler,
        SanaPipeline,
        SanaTransformer2DModel,
    )

    network = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=16,
        sample_size=8, patch_size=1,
    )  # fmt: skip
    space = AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), downsample_block_type="conv",
        upsample_block_type="interpolate", decoder_norm_types="rms_norm", decoder_act_fns="silu",
        scaling_factor=0.41407,
    )  # fmt: skip
    scheduler = (
        DPMSolverMultistepScheduler(
            solver_order=1, use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction",
            algorithm_type="dpmsolver++", final_sigmas_type="zero",
        ) if solver else FlowMatchEulerDiscreteScheduler(shift=3.0)
    )  # fmt: skip
    tokenizer = gemma_tokenizer()
    return SanaPipeline(tokenizer, gemma(tokenizer), space, network, scheduler)


def deepfloyd() -> Any:
    from diffusers import DPMSolverMultistepScheduler, IFPipeline

    pieces = t5_tokenizer()
    network = unet(
        sample_size=16, in_channels=3, out_channels=6, block_out_channels=(16, 32), encoder_hid_dim=16,
        encoder_hid_dim_type="text_proj", addition_embed_type="text", addition_embed_type_num_heads=2,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", resnet_time_scale_shift="scale_shift",
        act_fn="gelu", class_embed_type=None, time_embedding_act_fn="gelu", attention_head_dim=8,
    )  # fmt: skip
    scheduler = DPMSolverMultistepScheduler(
        solver_order=1, beta_schedule="squaredcos_cap_v2", variance_type="learned_range", final_sigmas_type="zero",
    )  # fmt: skip
    return IFPipeline(pieces, t5(pieces), network, scheduler, None, None, None, requires_safety_checker=False)


def controlnet(network: Any, **options: Any) -> Any:
    """Copied from the UNet, and no longer silent: fresh ones add zeros."""
    from diffusers import ControlNetModel

    made = ControlNetModel.from_unet(network, conditioning_embedding_out_channels=(8, 8, 16), **options)
    for parameter in made.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=1.0)
    return made


def sd_controlnet() -> Any:
    from diffusers import DDIMScheduler, StableDiffusionControlNetPipeline

    tokenizer, network = clip_tokenizer(), unet()
    return StableDiffusionControlNetPipeline(
        vae(),
        clip(tokenizer),
        tokenizer,
        network,
        controlnet(network),
        DDIMScheduler(**DDIM),
        None,
        None,
        None,
        False,
    )


def sdxl_controlnet() -> Any:
    from diffusers import StableDiffusionXLControlNetPipeline

    parts = sdxl().components
    parts = {k: v for k, v in parts.items() if k not in ("image_encoder", "feature_extractor")}
    return StableDiffusionXLControlNetPipeline(**parts, controlnet=controlnet(parts["unet"]))


def inpainting() -> Any:
    from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline

    tokenizer = clip_tokenizer()
    return StableDiffusionInpaintPipeline(
        vae(), clip(tokenizer), tokenizer, unet(in_channels=9), DDIMScheduler(**DDIM), None, None, None, False
    )


def pose_projection() -> Any:
    """Of Zero123's folders, with the same random weights each time."""
    from tests.priors.tiny_adapters import WIDTH
    from threedistill.priors.pose_unet import PoseProjection

    made = PoseProjection(WIDTH)
    generator = torch.Generator().manual_seed(3)
    for parameter in made.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return made


def zero123_weights() -> dict[str, torch.Tensor]:
    """Of Zero123 by the published names."""
    from tests.priors.latent_diffusion import weights
    from tests.priors.tiny_adapters import WIDTH

    state = pose_projection().state_dict()
    named = {f"cc_projection.{kind}": state[f"proj.{kind}"] for kind in ("weight", "bias")}
    return weights(context=WIDTH, camera=None, told=8, linear=False) | named


class Zero123:
    """A folder of Zero123's: diffusers has no pipeline that saves one."""

    def save_pretrained(self, place: Path) -> None:
        from diffusers import DDIMScheduler
        from transformers import CLIPVisionModelWithProjection

        from tests.priors.tiny_adapters import WIDTH, vision

        parts: dict[str, tuple[str, Any]] = {
            "unet": ("diffusers", unet(in_channels=8, cross_attention_dim=WIDTH)), "vae": ("diffusers", vae()),
            "scheduler": ("diffusers", DDIMScheduler(**DDIM)),
            "image_encoder": ("transformers", CLIPVisionModelWithProjection(vision())),
            "clip_camera_projection": ("zero123", pose_projection()),
        }  # fmt: skip
        for name, (_, part) in parts.items():
            part.save_pretrained(place / name)
        index = {name: [library, type(part).__name__] for name, (library, part) in parts.items()}
        (place / "model_index.json").write_text(json.dumps({"_class_name": "Zero123Pipeline", **index}))
