"""Where weights are looked for, in which order, and how often the network is asked."""

from __future__ import annotations

from typing import Any

import pytest

from threedistill.errors import ThreedistillError
from threedistill.priors import fetching


class Hub:
    """Answers as ``from_pretrained`` does, of files in the cache and files on the network."""

    def __init__(self, cached: set[str | None], online: set[str | None]) -> None:
        self.cached, self.online, self.asked = cached, online, list[tuple[str, str | None]]()

    def __call__(
        self, place: str, variant: str | None = None, local_files_only: bool = False, **_: Any
    ) -> str:
        self.asked.append(("cache" if local_files_only else "network", variant))
        if variant in (self.cached if local_files_only else self.online):
            return f"{variant} of {place}"
        raise OSError(f"no file named {variant}.safetensors")


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """One entry per time that the hub is asked whether it is there; it is."""
    asked: list[bool] = []
    monkeypatch.setattr(fetching, "hub_reachable", lambda: asked.append(True) or True)
    return asked


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_what_the_cache_has_is_never_downloaded_in_another_variant(variant, reached):
    other = None if variant else "fp16"
    hub = Hub({other}, {None, "fp16"})
    assert fetching.either("some/model", None, hub, {}, variant) == f"{other} of some/model"
    assert hub.asked == [("cache", variant), ("cache", other)] and not reached


def test_the_network_is_asked_once_whether_it_is_there(reached):
    hub = Hub(set(), {"fp16"})
    assert fetching.either("some/model", None, hub, {}, None) == "fp16 of some/model"
    assert hub.asked == [("cache", None), ("cache", "fp16"), ("network", None), ("network", "fp16")]
    assert len(reached) == 1


def test_the_first_failure_is_told(reached, tmp_path):
    with pytest.raises(ThreedistillError, match=r"some/model: has no safetensors weights"):
        fetching.either("some/model", None, Hub(set(), set()), {}, None)
    hub = Hub(set(), set())
    with pytest.raises(ThreedistillError, match=rf"{tmp_path}: has no safetensors weights"):
        fetching.either(str(tmp_path), None, hub, {}, "fp16")
    assert hub.asked == [("network", "fp16"), ("network", None)] and len(reached) == 1  # a folder: no network


def test_without_a_network_only_the_cache_is_asked(monkeypatch):
    monkeypatch.setattr(fetching, "hub_reachable", lambda: False)
    hub = Hub(set(), {None})
    with pytest.raises(ThreedistillError, match="the hub cannot be reached"):
        fetching.either("some/model", None, hub, {}, None)
    assert {where for where, _ in hub.asked} == {"cache"}
