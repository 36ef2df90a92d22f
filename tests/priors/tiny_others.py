"""Tiny pipelines with random weights of families that nobody wrote an adapter for; nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch

from tests.priors.tiny import (
    LETTERS,
    WORDS,
    clip,
    clip_tokenizer,
    gemma,
    gemma_tokenizer,
    t5,
    t5_tokenizer,
    vae,
)


def bytes_tokenizer(begins: bool = False) -> Any:
    """Every byte is a token; ``begins`` = a text begins with one of its own."""
    from tokenizers import processors
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    pieces = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet())]
    words = Qwen2Tokenizer(
        vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], unk_token="<|endoftext|>",
        pad_token="<|endoftext|>", eos_token="<|endoftext|>", extra_special_tokens=["<|im_start|>", "<|im_end|>"],
    )  # fmt: skip
    if begins:
        words.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
        )
    return words


def _flow(**options: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**options)


DYNAMIC = {"use_dynamic_shifting": True, "base_image_seq_len": 4, "max_image_seq_len": 64}


def lumina2() -> Any:
    from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel

    network = Lumina2Transformer2DModel(
        sample_size=4, patch_size=2, in_channels=4, hidden_size=24, num_layers=2, num_refiner_layers=1,
        num_attention_heads=2, num_kv_heads=1, multiple_of=8, axes_dim_rope=(4, 4, 4), axes_lens=(300, 64, 64),
        cap_feat_dim=16,
    )  # fmt: skip
    weight = network.get_parameter("time_caption_embed.caption_embedder.1.weight")
    weight.data *= 20  # of random weights the words are hardly heard
    words = gemma_tokenizer()
    space = vae(4, scaling_factor=0.3611, shift_factor=0.1159, levels=4)
    return Lumina2Pipeline(network, _flow(**DYNAMIC), space, gemma(words), words)


def qwen_vl(words: Any) -> Any:
    """A text encoder that reads pictures too."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        "vocab_size": len(words), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 2048,
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16, "patch_size": 14,
    }  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))


def qwen_image() -> Any:
    from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel

    network = QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    space = AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[0.1, -0.2, 0.3, 0.4], latents_std=[1.5, 0.5, 2.0, 0.8],
    )  # fmt: skip
    words = bytes_tokenizer()
    scheduler = _flow(**DYNAMIC, shift_terminal=0.02)
    return QwenImagePipeline(scheduler, space, qwen_vl(words), words, network)


def z_image() -> Any:
    from diffusers import ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    network = ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16,
        axes_dims=[8, 4, 4], axes_lens=[256, 32, 32],
    )  # fmt: skip
    words = bytes_tokenizer()
    words.chat_template = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}{% endfor %}"
    config = Qwen3Config(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    space = vae(4, scaling_factor=0.3611, shift_factor=0.1159, levels=4)
    return ZImagePipeline(_flow(shift=3.0), space, Qwen3Model(config), words, network)


def hunyuandit() -> Any:
    from diffusers import DDIMScheduler, HunyuanDiT2DModel, HunyuanDiTPipeline
    from transformers import BertConfig, BertModel, BertTokenizer

    network = HunyuanDiT2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, patch_size=2, sample_size=4, hidden_size=16,
        num_layers=2, cross_attention_dim=16, cross_attention_dim_t5=16, pooled_projection_dim=16, text_len=77,
        text_len_t5=256,
    )  # fmt: skip
    names = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *WORDS,
        *LETTERS,
        *(f"##{letter}" for letter in LETTERS),
        ",",
    ]
    first = BertTokenizer(vocab={name: i for i, name in enumerate(dict.fromkeys(names))}, model_max_length=77)
    bert = BertConfig(
        vocab_size=len(first), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=77,
    )  # fmt: skip
    second = t5_tokenizer()
    scheduler: Any = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.03, prediction_type="v_prediction",
        clip_sample=False, set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    nobody: Any = None
    return HunyuanDiTPipeline(
        vae(4, levels=4), BertModel(bert, add_pooling_layer=False), first, network, scheduler, nobody, nobody, False,
        t5(second), second,
    )  # fmt: skip


def auraflow() -> Any:
    from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel
    from transformers import UMT5Config, UMT5EncoderModel

    network = AuraFlowTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1,
        attention_head_dim=8, num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=16,
        out_channels=4, pos_embed_max_size=144,
    )  # fmt: skip
    for block in (*network.joint_transformer_blocks, *network.single_transformer_blocks):
        for weight in block.parameters():
            weight.data *= (
                2  # of random weights the words are hardly heard; of larger ones 16 bits are too few
            )
    words = t5_tokenizer()
    config = UMT5Config(vocab_size=len(words), d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2)
    return AuraFlowPipeline(words, UMT5EncoderModel(config), vae(4), network, _flow(shift=1.73))


def chroma() -> Any:
    from diffusers import ChromaPipeline, ChromaTransformer2DModel

    network = ChromaTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(4, 4, 8), approximator_num_channels=8, approximator_hidden_dim=16,
        approximator_layers=1,
    )  # fmt: skip
    words = t5_tokenizer()
    return ChromaPipeline(
        _flow(shift=1.0), vae(4, scaling_factor=0.3611, shift_factor=0.1159), t5(words), words, network
    )


def cogview4() -> Any:
    from diffusers import CogView4Pipeline, CogView4Transformer2DModel
    from transformers import GlmConfig, GlmModel

    network = CogView4Transformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, text_embed_dim=16, time_embed_dim=16, condition_dim=8,
        pos_embed_max_size=32, sample_size=8, rope_axes_dim=(8, 8),
    )  # fmt: skip
    words = bytes_tokenizer(begins=True)
    config = GlmConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, pad_token_id=0,
    )  # fmt: skip
    scheduler = _flow(**{**DYNAMIC, "time_shift_type": "linear", "base_shift": 0.25, "max_shift": 0.75})
    return CogView4Pipeline(words, GlmModel(config), vae(4), network, scheduler)


def kandinsky3() -> Any:
    from diffusers import DDIMScheduler, Kandinsky3Pipeline, Kandinsky3UNet, VQModel

    network = Kandinsky3UNet(
        in_channels=4, time_embedding_dim=8, groups=2, attention_head_dim=4, layers_per_block=3,
        block_out_channels=(16, 32), cross_attention_dim=8, encoder_hid_dim=16,
    )  # fmt: skip
    for name, weight in network.named_parameters():  # made as zeros: a fresh network does not hear its time
        if "context_mlp" in name:
            torch.nn.init.normal_(weight, std=0.3)
    space = VQModel(
        block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, norm_num_groups=4, num_vq_embeddings=8,
        vq_embed_dim=4, layers_per_block=1,
    )  # fmt: skip
    scheduler: Any = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    words = t5_tokenizer()
    return Kandinsky3Pipeline(words, t5(words), network, scheduler, space)


def kandinsky5() -> Any:
    from diffusers import Kandinsky5T2IPipeline, Kandinsky5Transformer3DModel

    network = Kandinsky5Transformer3DModel(
        in_visual_dim=4, out_visual_dim=4, in_text_dim=16, in_text_dim2=16, time_dim=16, model_dim=32, ff_dim=32,
        num_text_blocks=1, num_visual_blocks=2, axes_dims=(4, 6, 6),
    )  # fmt: skip
    for name, weight in network.named_parameters():
        if "modulation" in name:
            torch.nn.init.normal_(weight, std=0.3)  # they begin at zero, and hear neither time nor words
    words, summary = bytes_tokenizer(), clip_tokenizer(77)
    return Kandinsky5T2IPipeline(
        network,
        vae(4, scaling_factor=0.3611, shift_factor=0.1159, levels=4),
        qwen_vl(words),
        words,
        clip(summary),
        summary,
        _flow(shift=3.0),
    )
