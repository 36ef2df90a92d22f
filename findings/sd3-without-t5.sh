#!/usr/bin/env bash
# diffusers 0.42.1 saves a Stable Diffusion 3 pipeline without T5 and cannot load what it saved.
#
# The pipeline takes text_encoder_3=None, tokenizer_3=None (its rows are then zeros) and draws. save_pretrained writes
# [null, null] for both into model_index.json, and from_pretrained of that folder fails: T5 is not among the class's
# optional components, so it has to be told again that there is none.
#
# Valid input, no code of ours: a pipeline of random weights, a folder of its own. Run in an environment with
# diffusers 0.42.1, transformers and torch (CPU). Fails if the behaviour changes. Seen 2026-11 on Linux x86_64, Python
# 3.11, transformers 5.24:
#     saved:  text_encoder_3 [None, None]
#     loaded: ValueError: ... expected [..., 'text_encoder_3', ..., 'tokenizer_3', ...], but only {...} were passed
#     loaded with text_encoder_3=None, tokenizer_3=None: StableDiffusion3Pipeline
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" - "$work" <<'PYTHON'
import json
import sys

import diffusers
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

print("diffusers", diffusers.__version__)
folder = sys.argv[1]
words = CLIPTokenizer(vocab={"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "a": 3}, merges=[])


def encoder() -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(
        CLIPTextConfig(vocab_size=4, hidden_size=16, intermediate_size=16, num_hidden_layers=1, projection_dim=16,
                       num_attention_heads=2, bos_token_id=0, eos_token_id=1, pad_token_id=1)
    )


pipeline = StableDiffusion3Pipeline(
    transformer=SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32,
    ),
    scheduler=FlowMatchEulerDiscreteScheduler(), vae=AutoencoderKL(latent_channels=4, block_out_channels=(32,)),
    text_encoder=encoder(), tokenizer=words, text_encoder_2=encoder(), tokenizer_2=words,
    text_encoder_3=None, tokenizer_3=None,
)
pipeline.save_pretrained(folder)
print("saved:  text_encoder_3", json.load(open(f"{folder}/model_index.json"))["text_encoder_3"])
try:
    StableDiffusion3Pipeline.from_pretrained(folder)
except ValueError as error:
    print("loaded: ValueError:", error)
    assert "text_encoder_3" in str(error) and "but only" in str(error), "changed: read the note above again"
else:
    raise SystemExit("changed: it loads what it saved; read the note above again")
again = StableDiffusion3Pipeline.from_pretrained(folder, text_encoder_3=None, tokenizer_3=None)
print("loaded with text_encoder_3=None, tokenizer_3=None:", type(again).__name__)
PYTHON
