"""How the toy world's words become tokens."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from threedistill.toybox.grammar import words

__all__ = ["MAX_WORDS", "build_tokenizer"]

MAX_WORDS = 20


def build_tokenizer(length: int = MAX_WORDS) -> PreTrainedTokenizerFast:
    """The word-level tokenizer of the Toybox grammar: lower case, punctuation dropped, ``length`` tokens."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    special = ["<pad>", "<start>", "<end>", "<unknown>"]
    vocabulary = {word: i for i, word in enumerate((*special, *words()))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    tokenizer.normalizer = normalizers.Sequence(  # type: ignore[assignment]
        [normalizers.Lowercase(), normalizers.Replace(Regex("[^a-z0-9 ]"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<start>", eos_token="<end>", unk_token="<unknown>", pad_token="<pad>",
        model_max_length=length, padding_side="right",
    )  # fmt: skip
