"""The end of the embedded prior's transformer: colours as posteriors of what is said and of all that is seen."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from threedistill.toybox.slots import SlotDecoder

FINE, TOLD, SLOTS, FLOOR = 8, 6, 2, 0.1


def decoder(logits: list[float], said: float, seen: float) -> SlotDecoder:
    """One whose masks are the same everywhere: ``logits`` of the sketch and of the slots; variances of all slots."""
    found = SlotDecoder(FINE, TOLD, SLOTS, FLOOR)
    with torch.no_grad():
        found.masks.weight.zero_()
        found.masks.bias.copy_(torch.tensor(logits).repeat_interleave(16))
        facts = found.colours.bias.view(SLOTS, 5)
        facts[:, 3], facts[:, 4] = math.log(said / 0.02), math.log(seen / 0.003)
    return found


def ask(found: SlotDecoder, picture: torch.Tensor, drawn: torch.Tensor, snr: float) -> torch.Tensor:
    """The answer for a noisy picture (1, 3, 16, 16)."""
    with torch.no_grad():
        folded = found(
            torch.zeros(1, FINE, 4, 4),
            torch.zeros(1, TOLD),
            F.pixel_unshuffle(picture, 4),
            F.pixel_unshuffle(drawn, 4),
            torch.tensor([snr]),
        )
        return F.pixel_shuffle(folded, 4)


def noisy(colour: torch.Tensor, snr: float) -> torch.Tensor:
    """A picture of one colour on the variance-preserving path at ``(alpha / sigma)^2 = snr``."""
    noise = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return math.sqrt(snr / (1 + snr)) * colour.view(1, 3, 1, 1) + math.sqrt(1 / (1 + snr)) * noise


@pytest.mark.parametrize("snr", [0.01, 0.3, 20.0])
def test_a_colour_is_the_posterior_mean_of_words_and_pixels(snr):
    # All pixels belong to the first slot: a normal prior around the sketch's mean, and a normal observation of the
    # pixels' mean, whose variance is the slot's own and that of the noise over 256 pixels.
    colour, drawn = torch.tensor([0.5, -0.3, 0.1]), 2 * torch.rand(1, 3, 16, 16) - 1
    said, seen = 0.05, 0.01
    found = ask(decoder([-99.0, 40.0, -40.0], said, seen), picture := noisy(colour, snr), drawn, snr)
    mean = picture.mean((2, 3)) / math.sqrt(snr / (1 + snr))
    variance = seen + 1 / snr / 256
    wanted = (drawn.mean((2, 3)) / said + mean / variance) / (1 / said + 1 / variance)
    torch.testing.assert_close(found, wanted[:, :, None, None].expand_as(found), rtol=1e-4, atol=2e-5)


def test_all_pixels_together_tell_a_colour_that_one_does_not():
    colour = torch.tensor([0.5, -0.3, 0.1])
    found = ask(
        decoder([-99.0, 40.0, -40.0], 1e3, 1e-6), noisy(colour, 0.25), torch.zeros(1, 3, 16, 16), 0.25
    )
    assert (
        found - colour.view(1, 3, 1, 1)
    ).abs().max() < 0.3  # sigma / alpha / 16 = 0.125; of one pixel it is 2
    assert found.flatten(2).std(-1).max() < 1e-5


def test_of_pure_noise_a_fresh_network_says_the_sketch():
    drawn = 2 * torch.rand(1, 3, 16, 16) - 1
    found = ask(SlotDecoder(FINE, TOLD, SLOTS, FLOOR), torch.randn(1, 3, 16, 16), drawn, 1e-8)
    assert (found - drawn).abs().max() < 0.05
    # ... and gives it up where the picture can be seen.
    found = ask(SlotDecoder(FINE, TOLD, SLOTS, FLOOR), torch.zeros(1, 3, 16, 16), drawn, 100.0)
    assert found.abs().max() < 0.05


def test_two_slots_keep_their_colours_apart():
    halves = torch.full((1, 3, 16, 16), -0.8)
    halves[..., 8:] = 0.6
    found = SlotDecoder(FINE, TOLD, SLOTS, FLOOR)
    with torch.no_grad():
        found.masks.weight.zero_()
        found.masks.bias.copy_(torch.tensor([-99.0, 0.0, 0.0]).repeat_interleave(16))
        found.masks.weight[16:32, 0] = 40.0
        features = torch.zeros(1, FINE, 4, 4)
        features[0, 0, :, :2], features[0, 0, :, 2:] = 1, -1
        folded = F.pixel_unshuffle(halves, 4)
        answer = F.pixel_shuffle(
            found(features, torch.zeros(1, TOLD), folded, folded, torch.tensor([4.0])), 4
        )
    # alpha is below 1: what is seen is smaller than what is said, and divided by alpha.
    alpha = math.sqrt(4 / 5)
    u = 0.003 + 1 / 4 / 128
    wanted = halves * (1 / 0.02 + 1 / alpha / u) / (1 / 0.02 + 1 / u)
    torch.testing.assert_close(answer, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("said, seen", [(1e-90, 1e30), (1e30, 1e-90), (1e-90, 1e-90), (1e30, 1e30)])
@pytest.mark.parametrize("snr", [1e-8, 1.0, 1e8])
def test_variances_beyond_all_sense_leave_an_answer_and_its_gradient(said, seen, snr):
    """Of words that seldom meet a network may say anything; one such row must not end a training."""
    found = decoder([0.0, 0.0, 0.0], 1.0, 1.0)
    facts = found.colours.bias.view(SLOTS, 5)
    with torch.no_grad():
        facts[:, 3], facts[:, 4] = math.log(said), math.log(seen)
    picture = torch.ones(1, 48, 4, 4)
    answer = found(
        torch.zeros(1, FINE, 4, 4),
        torch.zeros(1, TOLD),
        picture,
        torch.zeros_like(picture),
        torch.tensor([snr]),
    )
    answer.square().sum().backward()
    assert bool(torch.isfinite(answer).all())
    assert found.colours.bias.grad is not None and bool(torch.isfinite(found.colours.bias.grad).all())
