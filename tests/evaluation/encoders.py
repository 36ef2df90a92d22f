"""Tiny CLIP, SigLIP, BLIP, open_clip and LLaVA folders with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from tests.priors.tiny import clip_tokenizer

TEXT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def save_clip(folder: Path, size: int = 24) -> Path:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(1)
    words = clip_tokenizer()
    config = CLIPConfig(
        projection_dim=12,
        text_config={**TEXT, "vocab_size": len(words), "max_position_embeddings": 16, "bos_token_id": 0,
                     "eos_token_id": 1},
        vision_config={**TEXT, "image_size": size, "patch_size": 8},
    )  # fmt: skip
    CLIPModel(config).save_pretrained(folder)
    words.save_pretrained(folder)
    CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    ).save_pretrained(folder)
    return folder


def save_siglip(folder: Path) -> Path:
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    torch.manual_seed(2)
    words = clip_tokenizer()
    config = SiglipConfig(
        text_config={**TEXT, "vocab_size": len(words), "max_position_embeddings": 16, "projection_size": 16},
        vision_config={**TEXT, "image_size": 24, "patch_size": 8},
    )
    SiglipModel(config).save_pretrained(folder)
    words.save_pretrained(folder)
    SiglipImageProcessor(size={"height": 24, "width": 24}).save_pretrained(folder)
    return folder


def save_blip(folder: Path) -> Path:
    from transformers import BlipConfig, BlipForImageTextRetrieval

    torch.manual_seed(3)
    words = clip_tokenizer()
    config = BlipConfig(
        image_text_hidden_size=8,
        text_config={**TEXT, "vocab_size": len(words), "max_position_embeddings": 16, "encoder_hidden_size": 16,
                     "bos_token_id": 0, "sep_token_id": 1, "pad_token_id": 1},
        vision_config={**TEXT, "image_size": 24, "patch_size": 8},
    )  # fmt: skip
    network = BlipForImageTextRetrieval(config)
    for parameter in network.parameters():  # its own first weights are 1e-10: it would not see the picture
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    network.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


class _Block(nn.Module):
    """A block as open_clip writes it, on torch's own attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class _Tower(nn.Module):
    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))


class OpenClip(nn.Module):
    """CLIP written from its paper with open_clip's names: the other side of the test of the conversion."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.visual = nn.Module()
        self.visual.conv1 = nn.Conv2d(3, 16, 8, 8, bias=False)
        self.visual.class_embedding = nn.Parameter(torch.randn(16))
        self.visual.positional_embedding = nn.Parameter(torch.randn(10, 16))
        self.visual.ln_pre, self.visual.ln_post = nn.LayerNorm(16), nn.LayerNorm(16)
        self.visual.transformer = _Tower(16, 2, 2)
        self.visual.proj = nn.Parameter(torch.randn(16, 12))
        self.token_embedding = nn.Embedding(words, 16)
        self.positional_embedding = nn.Parameter(torch.randn(16, 16))
        self.transformer = _Tower(16, 2, 2)
        self.ln_final = nn.LayerNorm(16)
        self.text_projection = nn.Parameter(torch.randn(16, 12))
        self.logit_scale = nn.Parameter(torch.tensor(2.6592))
        for parameter in self.parameters():
            if parameter.ndim == 1 and parameter.numel() > 1:
                nn.init.normal_(parameter, 0.5)

    def image(self, x: torch.Tensor) -> torch.Tensor:
        y = self.visual.conv1(x).flatten(2).transpose(1, 2)
        first = self.visual.class_embedding.expand(len(y), 1, -1)
        y = self.visual.ln_pre(torch.cat([first, y], 1) + self.visual.positional_embedding)
        for block in self.visual.transformer.resblocks:
            y = block(y, None)
        return self.visual.ln_post(y[:, 0]) @ self.visual.proj

    def text(self, tokens: torch.Tensor) -> torch.Tensor:
        length = tokens.shape[1]
        y = self.token_embedding(tokens) + self.positional_embedding[:length]
        mask = torch.full((length, length), float("-inf")).triu(1)
        for block in self.transformer.resblocks:
            y = block(y, mask)
        return self.ln_final(y)[torch.arange(len(y)), tokens.argmax(-1)] @ self.text_projection


def save_openclip(folder: Path) -> tuple[Path, OpenClip]:
    torch.manual_seed(4)
    words = openclip_tokenizer()
    network = OpenClip(len(words)).eval()
    folder.mkdir(parents=True)
    save_file(
        {k: v.contiguous() for k, v in network.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    text = {"context_length": 16, "vocab_size": len(words), "width": 16, "heads": 2, "layers": 2}
    vision = {"image_size": 24, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8}
    facts = {
        "model_cfg": {"embed_dim": 12, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic"},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(facts))
    words.save_pretrained(folder)
    return folder, network


def openclip_tokenizer():
    """As CLIP's own vocabulary, the two marks come last."""
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    entries = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={t: i for i, t in enumerate(entries)}, merges=[], model_max_length=16)


#: As the chat models have theirs, shorter.
CHAT = (
    "{% for m in messages %}USER: {% for c in m.content %}{% if c.type == 'image' %}<image> {% else %}{{ c.text }}"
    "{% endif %}{% endfor %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def save_llava(folder: Path) -> Path:
    """A model that sees and speaks: CLIP's eyes, a Llama of two layers, words of one letter and "yes" and "no"."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    torch.manual_seed(5)
    letters = [chr(c) for c in range(33, 127)]
    entries = ["<pad>", "<unk>", "<s>", "<image>", "yes", "Yes", "no", "No", *letters]
    inner = Tokenizer(models.WordPiece({t: i for i, t in enumerate(entries)}, unk_token="<unk>",
                                       continuing_subword_prefix=""))  # fmt: skip
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    words = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", bos_token="<s>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    config = LlavaConfig(
        vision_config={**TEXT, "model_type": "clip_vision_model", "image_size": 24, "patch_size": 8,
                       "projection_dim": 12},
        text_config={**TEXT, "model_type": "llama", "vocab_size": len(words), "max_position_embeddings": 512},
        image_token_index=3, image_seq_length=9, vision_feature_layer=-1,
    )  # fmt: skip
    network = LlavaForConditionalGeneration(config)
    for parameter in network.parameters():  # with weights this small it would hardly hear the question
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    network.save_pretrained(folder)
    eyes = CLIPImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    LlavaProcessor(
        eyes, words, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=CHAT,
    ).save_pretrained(folder)  # fmt: skip
    return folder
