"""Families of diffusers models: what differs between them, one short class each; the contract is in ``family.py``.

To add one, derive from :class:`Family`, name it in a file of ``configs/prior/``, and hold it against its pipeline as
``tests/priors/test_families.py`` does.
"""

from threedistill.priors.families.controlnet import SDXLControlNet, StableDiffusionControlNet
from threedistill.priors.families.deepfloyd import DeepFloyd
from threedistill.priors.families.family import Facts, Family, Picture, Said
from threedistill.priors.families.flux import FLUX
from threedistill.priors.families.flux2 import FLUX2
from threedistill.priors.families.imagedream import ImageDream
from threedistill.priors.families.inpainting import StableDiffusionInpainting
from threedistill.priors.families.ip_adapter import SDXLIPAdapter, StableDiffusionIPAdapter
from threedistill.priors.families.kandinsky5 import Kandinsky5
from threedistill.priors.families.mvdream import MVDream
from threedistill.priors.families.pixart import PixArt
from threedistill.priors.families.recorded import Recorded
from threedistill.priors.families.sana import Sana
from threedistill.priors.families.sd3 import SD3
from threedistill.priors.families.sdxl import SDXL
from threedistill.priors.families.stable_diffusion import StableDiffusion
from threedistill.priors.families.zero123 import Zero123

__all__ = [
    "FAMILIES", "FLUX", "FLUX2", "SD3", "SDXL", "DeepFloyd", "Facts", "Family", "ImageDream", "Kandinsky5", "MVDream",
    "Picture", "PixArt", "Recorded", "SDXLControlNet", "SDXLIPAdapter", "Said", "Sana", "StableDiffusion",
    "StableDiffusionControlNet", "StableDiffusionIPAdapter", "StableDiffusionInpainting", "Zero123",
]  # fmt: skip

#: Those that ship.
FAMILIES: tuple[type[Family], ...] = (
    StableDiffusion, SDXL, SD3, FLUX, FLUX2, PixArt, Sana, DeepFloyd, Kandinsky5, StableDiffusionControlNet,
    SDXLControlNet, StableDiffusionInpainting, StableDiffusionIPAdapter, SDXLIPAdapter, MVDream, ImageDream, Zero123,
    Recorded,
)  # fmt: skip
