"""A vision-language model as a scorer: a tiny one against its own forward pass, and one whose answers are known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.evaluation.encoders import save_clip, save_llava
from threedistill.config.metrics import Asked, metrics_for, scorer_for
from threedistill.errors import ThreedistillError, UsageError
from threedistill.evaluation.janus import AZIMUTHS
from threedistill.evaluation.metrics.metric import Sight


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llava(tmp_path_factory.mktemp("models") / "llava")


def noise(count: int, size: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(count, size, size, 3, generator=generator) * 255).round() / 255


def test_it_is_the_log_odds_of_the_first_word_of_the_answer(llava: Path):
    """Each pair by itself, without padding, through the library's own template; many at once give the same."""
    from PIL import Image
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    texts = ["a duck", "a long green car with white wheels"]
    scorer = scorer_for("vlm", {"vlm": str(llava)})
    found = scorer(noise(3), texts)
    model = LlavaForConditionalGeneration.from_pretrained(llava).eval()
    processor = AutoProcessor.from_pretrained(llava)
    entries = processor.tokenizer.get_vocab()
    for row, picture in enumerate(noise(3)):
        for column, text in enumerate(texts):
            line = f'USER: <image> Does this picture show "{text}"? Answer yes or no. ASSISTANT:'
            image = Image.fromarray((picture * 255).round().byte().numpy())
            with torch.no_grad():
                p = model(**processor(images=image, text=line, return_tensors="pt")).logits[0, -1].softmax(-1)
            yes, no = p[entries["yes"]] + p[entries["Yes"]], p[entries["no"]] + p[entries["No"]]
            assert float(found[row, column]) == pytest.approx(float((yes / no).log()), abs=1e-4)
    assert found.std() > 1e-3, "it hears the question and sees the picture"
    assert scorer.version.startswith("llava@") and scorer.reads and not scorer.differentiable


class Ring(Sight):
    """Pictures that are as bright as their place on the ring says."""

    def pictures(self, size: int) -> torch.Tensor:
        place = torch.arange(AZIMUTHS) / AZIMUTHS
        return place[:, None, None, None].expand(-1, size, size, 3)


class Known:
    """In place of the network: reads the question, looks how bright the picture is, and answers what is true."""

    dtype = torch.float32

    def __init__(self, scorer: Any, faces: tuple[int, ...]) -> None:
        self.words, self.faces, self.asked = scorer._processor.tokenizer, faces, []
        self.pictures = scorer._processor.image_processor
        self.yes, self.no = scorer._answers

    def __call__(self, input_ids: torch.Tensor, pixel_values: torch.Tensor, **_: Any) -> SimpleNamespace:
        mean, std = self.pictures.image_mean[0], self.pictures.image_std[0]
        logits = torch.zeros(*input_ids.shape, len(self.words))
        for row, tokens in enumerate(input_ids):
            # The tokens are letters, so what is read has no spaces of its own.
            question = self.words.decode(tokens, skip_special_tokens=True).replace(" ", "")
            azimuth = 360 * float(pixel_values[row, 0].mean() * std + mean)
            away = min(abs((azimuth - face + 180) % 360 - 180) for face in self.faces)
            view = "front" if away < 55 else "back" if away > 125 else "side"
            self.asked.append(question)
            logits[row, -1, self.yes if f"{view}view" in question else self.no] = 6.0
        return SimpleNamespace(logits=logits)


@pytest.mark.parametrize(("faces", "share"), [((0,), 0.0), ((0, 180), 0.5)], ids=["one face", "two"])
def test_a_second_face_raises_the_janus_figure(llava: Path, faces: tuple[int, ...], share: float):
    janus = metrics_for(Asked(("janus:vlm",), {"vlm": str(llava)}))["janus:vlm"]
    known = Known(janus.scorer, faces)  # type: ignore[attr-defined]
    janus.scorer.__dict__["_network"] = known  # type: ignore[attr-defined]
    found = janus.measure(Ring("a duck", Path()))
    assert len(known.asked) == 3 * AZIMUTHS
    assert known.asked[0] == 'USER:Doesthispictureshow"aduck,frontview"?Answeryesorno.ASSISTANT:'
    assert found["fronts"] == len(faces)
    assert found["value"] >= share if share else found["value"] == 0
    if len(faces) == 1:
        assert abs(found["yaw"]) <= 15


def test_what_cannot_be_asked_is_one_line(llava: Path, tmp_path: Path):
    clip = str(save_clip(tmp_path / "clip"))
    with pytest.raises(UsageError, match=r"a clip model; this scorer takes those that go on after a picture"):
        scorer_for("vlm", {"vlm": clip})
    with pytest.raises(ThreedistillError, match="cannot be asked"):
        scorer_for("vlm", {"vlm": str(llava)})(noise(1), ["a duck <image>"])
