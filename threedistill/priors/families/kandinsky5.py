"""Kandinsky 5."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from threedistill.errors import UsageError
from threedistill.prediction import NoiseLevel
from threedistill.priors.arrangement import by_length
from threedistill.priors.embedding_cache import Embedding
from threedistill.priors.families.family import Facts, Family, Said
from threedistill.priors.space import LatentSpace
from threedistill.types import Conditioning
from threedistill.values import Within

__all__ = ["Kandinsky5"]


class Kandinsky5(Family):
    """Qwen2.5-VL's last layer and CLIP's summary, a transformer over one frame of latents, rectified flow.

    ``x0`` is the VAE's mean times its scale: the VAE is FLUX.1's, whose shift the pipeline leaves out. The prompt
    stands behind an instruction whose first 40 tokens are not told. The network has no mask for words, so samples
    whose wordings differ in length are asked about one after the other. Source: arXiv 2511.14993.

    Arguments:
        text_length: tokens that are heard of the prompt and of what frames it behind the instruction.
    """

    option = "kandinsky5"
    pipelines = ("Kandinsky5T2IPipeline",)
    encoders = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))
    patch = 2

    def __init__(self, text_length: Annotated[int, Within(8, 1024)] = 512) -> None:
        self.text_length = text_length

    def native_size(self, facts: Facts) -> int:
        """128 latents; its configuration does not say so."""
        return 128 * facts.factor

    def check(self, facts: Facts) -> None:
        """Refuse a network that is shown a frame beside the noisy one."""
        told, given = facts.configs["transformer"]["in_visual_dim"], self.channels(facts)
        if facts.configs["transformer"].get("visual_cond") or told != given:
            raise UsageError(
                f"its transformer takes frames of {told} channels and its VAE gives {given}, or is shown another "
                "frame beside the noisy one; prior=kandinsky5 reads models that draw from a text"
            )

    def space(self, vae: Any, facts: Facts) -> LatentSpace:
        """Latents without the shift that the VAE's configuration names."""
        return LatentSpace(vae, facts.size, multiple=self.patch, shifted=False)

    def length(self, tokenizer: str, pipe: Any) -> int:
        """Qwen's part is limited by ``text_length`` less the end of the frame, CLIP's by its places."""
        if tokenizer == "tokenizer_2":
            return int(pipe.tokenizer_2.model_max_length)
        framed = pipe.tokenizer(pipe.prompt_template.format("")).input_ids
        return self.text_length - max(len(framed) - pipe.prompt_template_encode_start_idx, 0)

    def text_rows(self, facts: Facts) -> int:
        """At most."""
        return self.text_length

    @torch.no_grad()
    def encode(self, pipe: Any, said: Said, facts: Facts) -> Embedding:
        """``encoder_hidden_states`` (length, width), ``pooled_projections`` (width) and ``length`` ()."""
        device = pipe.text_encoder.device
        rows, _ = pipe._encode_prompt_qwen([said["tokenizer"]], device, self.text_length)
        summary = pipe._encode_prompt_clip([said["tokenizer_2"]], device)
        length = torch.tensor(rows.shape[1])
        return {"encoder_hidden_states": rows[0], "pooled_projections": summary[0], "length": length}

    def denoise(
        self, network: Any, x_t: Tensor, level: NoiseLevel, told: Conditioning, facts: Facts
    ) -> Tensor:
        """``eps - x0`` of one frame, channels last; where no length is told, all rows of the words count."""
        words = told["encoder_hidden_states"].to(x_t.dtype)
        keys = [name for name in ("length",) if name in told]

        def ask(rows: Tensor | slice) -> Tensor:
            noisy = x_t[rows].permute(0, 2, 3, 1)[:, None]
            length = int(told["length"][rows][0]) if keys else words.shape[1]
            places = [
                torch.arange(n, device=x_t.device) for n in (1, *(s // self.patch for s in x_t.shape[2:]))
            ]
            answer = network(
                hidden_states=noisy, encoder_hidden_states=words[rows, :length],
                pooled_projections=told["pooled_projections"][rows].to(x_t.dtype),
                timestep=level.index[rows].to(x_t.dtype), visual_rope_pos=places,
                text_rope_pos=torch.arange(length, device=x_t.device), return_dict=False,
            )  # fmt: skip
            return answer[:, 0].permute(0, 3, 1, 2)

        return by_length(ask, len(x_t), told, keys)
