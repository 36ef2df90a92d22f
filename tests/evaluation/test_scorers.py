"""Scorers against their libraries' own forward passes, with tiny random weights and no network."""

import json
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.evaluation.encoders import save_blip, save_clip, save_openclip, save_siglip
from threedistill.config.metrics import scorer_for
from threedistill.errors import ThreedistillError, UsageError
from threedistill.evaluation.scorers.folders import ModelFolder, prepared
from threedistill.evaluation.scorers.heads import linear_head

TEXTS = ["a red duck", "a blue car"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    found = {"clip": save_clip(place / "clip"), "siglip": save_siglip(place / "siglip")}
    return found | {"reward": save_blip(place / "blip")}


def pictures(size: int = 24) -> torch.Tensor:
    torch.manual_seed(0)
    return (torch.rand(3, size, size, 3) * 255).round() / 255


def as_pil(x: torch.Tensor) -> list[Image.Image]:
    return [Image.fromarray((one * 255).round().byte().numpy()) for one in x]


def test_clip_is_the_cosine_that_transformers_computes(folders):
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    model = CLIPModel.from_pretrained(folders["clip"]).eval()
    seen = CLIPImageProcessor.from_pretrained(folders["clip"])(as_pil(pictures()), return_tensors="pt")
    said = AutoTokenizer.from_pretrained(folders["clip"])(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = model(**seen, **said).logits_per_image
    scorer = scorer_for("clip", {"clip": str(folders["clip"])})
    mine = scorer(pictures(), TEXTS)
    scale = float(model.logit_scale.detach().exp())
    assert torch.allclose(mine, 100 * theirs / scale, atol=1e-3)
    assert torch.allclose(mine * scorer.logit_scale, theirs, atol=1e-4)
    wanted = scorer_for("preference", {"preference": str(folders["clip"])})
    assert torch.allclose(wanted(pictures(), TEXTS), theirs, atol=1e-4) and wanted.logit_scale == 1
    assert scorer.size == 24 and scorer.version.startswith("clip@") and scorer.differentiable


def test_pictures_of_another_size_are_prepared_as_the_library_does(folders):
    """PIL rounds to bytes after resizing and clips; the means differ by less than one byte."""
    from transformers import CLIPImageProcessor

    theirs = CLIPImageProcessor.from_pretrained(folders["clip"])(as_pil(pictures(60)), return_tensors="pt")
    mine = prepared(pictures(60), ModelFolder(folders["clip"]).preparation(24))
    assert (mine - theirs["pixel_values"]).abs().max() < 1.2 / 255 / 0.26


def test_siglip_is_the_logit_that_transformers_computes(folders, tmp_path):
    from transformers import AutoTokenizer, SiglipImageProcessor, SiglipModel

    place = str(folders["siglip"])
    model = SiglipModel.from_pretrained(place).eval()
    seen = SiglipImageProcessor.from_pretrained(place)(as_pil(pictures()), return_tensors="pt")
    words = AutoTokenizer.from_pretrained(place)
    ids = words(TEXTS, padding="max_length", max_length=16, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        theirs = model(input_ids=ids, pixel_values=seen["pixel_values"]).logits_per_image
    logits = scorer_for("preference", {"preference": place})(pictures(), TEXTS)
    assert torch.allclose(logits, theirs, atol=1e-4)
    cosine = (theirs - model.logit_bias) / model.logit_scale.exp()
    assert torch.allclose(scorer_for("siglip", {"siglip": place})(pictures(), TEXTS), 100 * cosine, atol=1e-3)


def test_an_open_clip_folder_is_the_same_network(tmp_path):
    """Against CLIP written out on torch's own attention, with open_clip's names."""
    folder, network = save_openclip(tmp_path / "open")
    scorer = scorer_for("clip", {"clip": str(folder)})
    x = prepared(pictures(), ModelFolder(folder).preparation(24))
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    assert torch.allclose(x.permute(0, 2, 3, 1), (pictures() - mean) / std, atol=1e-6)
    with torch.no_grad():
        seen = network.image(x)
        tokens = scorer._words(TEXTS, padding=True, return_tensors="pt")["input_ids"]
        said = torch.cat([network.text(row[: int(row.argmax()) + 1][None]) for row in tokens])
    assert torch.allclose(scorer.features(pictures()), seen, atol=1e-4)
    cosine = torch.cosine_similarity(seen[:, None], said[None], dim=-1)
    assert torch.allclose(scorer(pictures(), TEXTS), 100 * cosine, atol=1e-3)


def test_open_clip_towers_of_another_kind_are_refused(tmp_path):
    folder, _ = save_openclip(tmp_path / "open")
    facts = json.loads((folder / "open_clip_config.json").read_text())
    facts["model_cfg"]["vision_cfg"] = {"timm_model_name": "resnet50", "image_size": 24}
    (folder / "open_clip_config.json").write_text(json.dumps(facts))
    with pytest.raises(UsageError, match="timm_model_name"):
        scorer_for("clip", {"clip": str(folder)})


def test_blip_answers_as_transformers_and_a_head_is_imagerewards(folders, tmp_path):
    from transformers import AutoTokenizer, BlipForImageTextRetrieval

    place = folders["reward"]
    model = BlipForImageTextRetrieval.from_pretrained(place).eval()
    x = prepared(pictures(), ModelFolder(place).preparation(24))
    words = AutoTokenizer.from_pretrained(place)
    plain = scorer_for("reward", {"reward": str(place)})(pictures(), TEXTS)
    for column, text in enumerate(TEXTS):
        said = words([text] * 3, return_tensors="pt")
        with torch.no_grad():
            out = model(said["input_ids"], x, attention_mask=said["attention_mask"])
        theirs = out.itm_score
        assert torch.allclose(plain[:, column], theirs[:, 1] - theirs[:, 0], atol=1e-4)
    torch.manual_seed(5)
    first, second = torch.nn.Linear(16, 4), torch.nn.Linear(4, 1)
    head = {"mlp.layers.0.weight": first.weight, "mlp.layers.0.bias": first.bias,
            "mlp.layers.2.weight": second.weight, "mlp.layers.2.bias": second.bias}  # fmt: skip
    save_file({k: v.detach().clone() for k, v in head.items()}, place / "reward.safetensors")
    liked = scorer_for("reward", {"reward": str(place)})(pictures(), TEXTS)
    with torch.no_grad():
        said = words([TEXTS[1]] * 3, return_tensors="pt")
        state = model(said["input_ids"], x, attention_mask=said["attention_mask"]).question_embeds[:, 0]
        wanted = (second(first(state))[:, 0] - 0.16717362830052426) / 1.0333394966054072
    assert torch.allclose(liked[:, 1], wanted, atol=1e-4)
    (place / "reward.safetensors").unlink()


def test_the_aesthetic_head_reads_unit_features_and_no_text(folders):
    place = folders["clip"]
    torch.manual_seed(6)
    head = torch.nn.Linear(12, 1)
    save_file({"weight": head.weight.detach(), "bias": head.bias.detach()}, place / "aesthetic.safetensors")
    scorer = scorer_for("aesthetic", {"aesthetic": str(place)})
    found = scorer(pictures(), TEXTS)
    unit = torch.nn.functional.normalize(scorer.features(pictures()), dim=-1)
    assert torch.allclose(found[:, 0], head(unit)[:, 0].detach(), atol=1e-5)
    assert torch.equal(found[:, 0], found[:, 1]) and not scorer.reads
    (place / "aesthetic.safetensors").unlink()
    with pytest.raises(UsageError, match=r"aesthetic\.safetensors: there is no such file"):
        scorer_for("aesthetic", {"aesthetic": str(place)})
    save_file({"weight": torch.zeros(1, 5), "bias": torch.zeros(1)}, place / "odd.safetensors")
    with pytest.raises(ThreedistillError, match="does not take 12 features"):
        linear_head(place / "odd.safetensors", 12)
    (place / "odd.safetensors").unlink()


@pytest.mark.parametrize(
    ("name", "step"), [("clip", 0.1), ("siglip", 0.1), ("reward", 0.1), ("toybox", 0.01)]
)
def test_gradients_are_those_of_finite_differences(folders, name, step):
    scorer = scorer_for(name, {name: str(folders[name])} if name in folders else {})
    x, text = 0.25 + 0.5 * pictures(scorer.size)[:1], TEXTS[:1]
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(scorer(leaf, text).sum(), leaf)
    way = gradient / gradient.norm()  # along it, where a wrong gradient would show most
    with torch.no_grad():
        slope = float((scorer(x + step * way, text) - scorer(x - step * way, text)) / (2 * step))
    assert slope > 0 and float(gradient.norm()) == pytest.approx(slope, rel=0.05)


def test_what_is_no_model_is_refused_in_one_line(folders, tmp_path):
    with pytest.raises(UsageError, match="clip needs its model's folder: --model clip=DIR"):
        scorer_for("clip")
    with pytest.raises(UsageError, match="no such folder"):
        scorer_for("clip", {"clip": str(tmp_path / "nowhere")})
    with pytest.raises(UsageError, match=r"no config\.json in it"):
        scorer_for("clip", {"clip": str(tmp_path)})
    with pytest.raises(UsageError, match="a blip model; this scorer takes clip"):
        scorer_for("clip", {"clip": str(folders["reward"])})
    with pytest.raises(UsageError, match="did you mean siglip"):
        scorer_for("siglipp")
    (tmp_path / "config.json").write_text((folders["clip"] / "config.json").read_text())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ThreedistillError, match="cannot be loaded"):
        scorer_for("clip", {"clip": str(tmp_path)})(pictures(), TEXTS)


def test_scorers_are_listed_without_loading_torch(tmp_path):
    code = (
        "import sys\nfrom threedistill.cli import main\n"
        "assert main(['list', 'scorers']) == 0 and main(['list', 'metrics']) == 0\n"
        "assert 'torch' not in sys.modules"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert "clip" in said.stdout and "rprecision" in said.stdout and "toybox" in said.stdout
