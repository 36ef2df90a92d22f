"""Textual inversions: words that somebody trained, as vectors in a token's place, taught to the text encoders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from threedistill.errors import UsageError
from threedistill.priors.fetching import file_digest, weight_files

__all__ = ["Taught", "heard", "read_words", "teach"]

#: The keys of files for two encoders, with the tokenizer and encoder that each is for.
ENCODERS = {"clip_l": ("tokenizer", "text_encoder"), "clip_g": ("tokenizer_2", "text_encoder_2")}


@dataclass(frozen=True)
class Taught:
    """A trained word.

    Attributes:
        file: where it is from.
        word: as it stands in a prompt.
        vectors: by the tokenizer and the encoder that they are for: (D) or (n, D), n tokens one after the other.
        digest: names the content of the file.
    """

    file: str
    word: str
    vectors: dict[tuple[str, str], Tensor]
    digest: str


def read_words(place: str) -> tuple[Taught, ...]:
    """The words of a safetensors file, or of all those in a folder.

    A file has one vector (or several) under the word itself, under ``emb_params``, or two under ``clip_l`` and
    ``clip_g``; where it does not say the word, that is the file's name.

    Raises:
        UsageError: nothing there, weights that can run code, or tensors of another kind.
    """
    return tuple(_read(file) for file in weight_files("textual_inversion", place))


def _read(file: Path) -> Taught:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise UsageError(f"textual_inversion={file} is not a safetensors file: {error}") from None
    name, first = next(iter(tensors.items()), ("", None))
    if set(tensors) == set(ENCODERS):
        word, vectors = file.stem, {ENCODERS[key]: tensor for key, tensor in tensors.items()}
    elif len(tensors) == 1 and first is not None and first.ndim in (1, 2):
        word, vectors = file.stem if name == "emb_params" else name, {ENCODERS["clip_l"]: first}
    else:
        raise UsageError(
            f"textual_inversion={file} is none: it holds {len(tensors)} tensors, of {name or 'nothing'}"
        )
    return Taught(str(file), word, vectors, file_digest(file))


def teach(pipe: Any, words: tuple[Taught, ...]) -> None:
    """Adds the words to a pipeline's tokenizers and text encoders.

    Raises:
        UsageError: a pipeline that takes none, or vectors of another encoder.
    """
    from diffusers.loaders import TextualInversionLoaderMixin

    for taught in words:
        if not isinstance(pipe, TextualInversionLoaderMixin):
            raise UsageError(f"textual_inversion={taught.file}: a {type(pipe).__name__} takes none")
        for (tokenizer, encoder), vectors in taught.vectors.items():
            network = getattr(pipe, encoder, None)
            width = None if network is None else network.get_input_embeddings().weight.shape[-1]
            if width != vectors.shape[-1]:
                raise UsageError(
                    f"textual_inversion={taught.file} is of another model: its vectors for the {encoder} have "
                    f"{vectors.shape[-1]} numbers, and this one's {width or 'is not there'}"
                )
            try:
                pipe.load_textual_inversion(
                    {taught.word: vectors},
                    taught.word,
                    tokenizer=getattr(pipe, tokenizer),
                    text_encoder=network,
                )
            except ValueError as error:
                raise UsageError(
                    f"textual_inversion={taught.file}: {' '.join(str(error).split())[:200]}"
                ) from None


def heard(pipe: Any, text: str, tokenizer: str) -> str:
    """The text as a tokenizer takes it: a word of several vectors as that many tokens."""
    convert = getattr(pipe, "maybe_convert_prompt", None)
    return text if convert is None else convert(text, getattr(pipe, tokenizer))
