"""The end of the embedded prior's transformer: a picture as a few flat colours, each in its place, and their shade.

    P = (1 + m_0 drawn + sum_k m_k c_k) (1 + h) - 1,      c_k = (D_k / v_k + S_k / u_k) / (1 / v_k + 1 / u_k),
    D_k = C_k + sum_p m_k(p) drawn(p) / a_k,  S_k = sum_p m_k(p) x_t(p) / (alpha a_k),  a_k = sum_p m_k(p),
    u_k = e_k + (sigma / alpha)^2 / a_k

with masks ``m`` (a softmax over the sketch and K slots at every pixel), a shade ``h`` of every pixel, and colours ``c``
in [-1, 1]. The sketch's place begins ``log(r^2 sigma^2 / alpha^2)`` above the others': it is all there is to say of
pure noise. A slot's colour is the mean of its posterior: what the words say of it (``D`` with variance ``v``: the mean
of the sketch where the slot is, and a correction ``C``), and the mean ``S`` of all noisy pixels that the slot claims
(with a variance of its own, ``e``: they are lit, and some are claimed wrongly). A thousand pixels tell a colour where
one tells nothing, and all of them get the same answer: a part of the world has one paint, and patches that each guess
their own colour draw blotches.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["SlotDecoder"]

#: Variances that a fresh network gives the colours that words name, and the mean of what a slot claims.
_SAID, _SEEN = 0.02, 0.003
#: The logarithm of the most by which either may become larger or smaller.
_RANGE = 8.0
#: The most by which the sketch's place begins above or below the others'.
_LEAD = 6.0


class SlotDecoder(nn.Module):
    """Features and noisy picture to ``P``.

    Arguments:
        fine: channels of the features, a quarter of the pixels.
        told: width of what is told.
        slots: K.
        floor: r, the ratio alpha / sigma at which the sketch begins level with a slot.
    """

    def __init__(self, fine: int, told: int, slots: int, floor: float):
        super().__init__()
        self.slots, self.floor = slots, floor
        self.masks = nn.Conv2d(fine, 16 * (slots + 1), 1)
        self.shade = nn.Conv2d(fine, 16, 1)
        self.colours = nn.Linear(told, 5 * slots)
        for part in (self.shade, self.colours):
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)  # type: ignore[arg-type]

    def forward(
        self,
        features: Float[Tensor, "B F h w"],
        told: Float[Tensor, "B T"],
        sample: Float[Tensor, "B 48 h w"],
        drawn: Float[Tensor, "B 48 h w"],
        snr: Float[Tensor, "B"],
    ) -> Float[Tensor, "B 48 h w"]:
        """The picture in [-1, 1], in float32. All pictures are folded, 4 x 4 pixels a cell of the features: nothing
        here asks where a pixel is.

        Arguments:
            features: what the network made of everything.
            told: words, camera and background; not the time, of which what is said of a colour knows nothing.
            sample: the noisy picture.
            drawn: the sketch over the told background.
            snr: (alpha / sigma)^2.
        """
        cells = features.contiguous().flatten(2)
        masks = _pointwise(self.masks, cells).unflatten(1, (self.slots + 1, 16)).flatten(2)
        lead = torch.log(self.floor**2 / snr.float()).clamp(-_LEAD, _LEAD).to(masks)
        lead = torch.cat([lead[:, None], lead.new_zeros(len(lead), self.slots)], 1)
        masks = (masks + lead[:, :, None]).softmax(1)
        mean, masks = masks.split((1, self.slots), 1)
        seen, drawn = (x.to(masks).unflatten(1, (3, 16)).flatten(2) for x in (sample, drawn))
        sums, means = (masks @ torch.cat([seen, drawn], 1).transpose(1, 2)).float().split(3, -1)
        areas = masks.sum(-1, keepdim=True, dtype=torch.float32)
        facts = self.colours(told).float().unflatten(-1, (self.slots, 5))
        said, spread = means / (areas + 1e-3) + facts[..., :3], facts[..., 3:].clamp(-_RANGE, _RANGE)
        snr = snr.float()[:, None, None]
        trust = torch.exp(-spread[..., :1]) / _SAID
        # Numerator and denominator of S / u and 1 / u times (alpha / sigma)^2 a: no area and no signal is divided by.
        worth = 1 + _SEEN * torch.exp(spread[..., 1:]) * snr * areas
        colours = (trust * said + (snr * (1 + snr)).sqrt() * sums / worth) / (trust + snr * areas / worth)
        flat = torch.addcmul(colours.to(masks).transpose(1, 2) @ masks, mean, drawn)
        shade = _pointwise(self.shade, cells).repeat(1, 3, 1).unflatten(1, (3, 16)).flatten(2)
        return ((1 + flat.float()) * (1 + shade.float()) - 1).view_as(sample)


def _pointwise(layer: nn.Conv2d, cells: Float[Tensor, "B F N"]) -> Float[Tensor, "B O N"]:
    """A 1 x 1 convolution as one matrix product for each picture."""
    assert layer.bias is not None
    weight = layer.weight.flatten(1).expand(len(cells), -1, -1)
    return torch.baddbmm(layer.bias[:, None], weight, cells)
