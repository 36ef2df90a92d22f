"""Atlases of xatlas end when their threads sleep, and never before."""

from __future__ import annotations

import os
import weakref

import pytest
import torch

from threedistill.exports.meshes import atlases, unwrap
from threedistill.types import Mesh


class Atlas:
    """Stands for one."""


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(atlases.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(atlases, "_resting", [])
    return now


def made():
    atlas = Atlas()
    gone = weakref.ref(atlas)
    with atlases.kept(atlas) as same:
        assert same is atlas
    return gone


def test_it_ends_after_it_has_rested(clock):
    first = made()
    clock[0] += atlases.REST / 2
    second = made()
    assert first() is not None
    clock[0] += atlases.REST * 0.6
    made()
    assert first() is None and second() is not None


def test_it_rests_from_the_end_of_its_work(clock):
    atlas = Atlas()
    gone = weakref.ref(atlas)
    with atlases.kept(atlas):
        clock[0] += 10 * atlases.REST
    del atlas
    made()
    assert gone() is not None


def test_after_a_failure_it_is_kept_too(clock):
    atlas = Atlas()
    gone = weakref.ref(atlas)
    with pytest.raises(KeyboardInterrupt), atlases.kept(atlas):
        raise KeyboardInterrupt
    del atlas
    assert gone() is not None


def test_a_forked_process_ends_none_of_its_parents(clock, monkeypatch):
    parents = made()
    own = os.getpid()
    clock[0] += 2 * atlases.REST
    monkeypatch.setattr(atlases.os, "getpid", lambda: own + 1)
    made()
    assert parents() is not None


def test_layouts_are_made_in_one(clock, monkeypatch):
    used = []
    inside = unwrap.kept
    monkeypatch.setattr(unwrap, "kept", lambda atlas: used.append(atlas) or inside(atlas))
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    assert unwrap.unwrap(Mesh(corners, faces), 64).method == "xatlas"
    assert used and [entry[2] for entry in atlases._resting] == used
