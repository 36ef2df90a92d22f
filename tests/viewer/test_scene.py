"""The viewer without a browser: cameras and splats in viser's words, and a budget that is kept."""

from __future__ import annotations

import math
import socket
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.reports.folders import ball, cloud
from threedistill.cameras import orbit, place
from threedistill.commands.generate import parse
from threedistill.errors import UsageError
from threedistill.viewer.budget import Budget
from threedistill.viewer.scene import frustum, glb_of, seen_from, splat_arrays
from threedistill.viewer.serving import PORT, served
from threedistill.viewer.still import assets_of


def test_a_browsers_camera_is_ours_and_back():
    angles = (torch.tensor([0.7, -2.0, 3.0]), torch.tensor([0.3, -0.4, 1.2]))
    ours = place(*angles, torch.tensor([2.0, 3.0, 1.5]), torch.full((3,), 0.8), 64, 96)
    for row in range(3):
        there = frustum(ours, row)
        assert there["aspect"] == 1.5
        back = seen_from(SimpleNamespace(**there), 64)
        torch.testing.assert_close(back.c2w[0], ours.c2w[row], atol=1e-6, rtol=0)
        for name in ("azimuth", "elevation", "distance", "fov_y"):
            torch.testing.assert_close(getattr(back, name)[0], getattr(ours, name)[row], atol=1e-5, rtol=0)
        assert (back.height, back.width) == (64, 96)


def test_a_camera_in_front_looks_along_minus_z_with_y_up():
    """viser's convention: the columns of its rotation are right, down and forward in the world."""
    there = frustum(orbit(1, elevation=0.0), 0)
    w, x, y, z = there["wxyz"]
    forward = np.array([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)])
    down = np.array([2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)])
    np.testing.assert_allclose(forward, [0, 0, -1], atol=1e-6)
    np.testing.assert_allclose(down, [0, -1, 0], atol=1e-6)


def test_splats_have_the_covariance_of_their_axes():
    splats = cloud(3)
    splats.log_scales[:] = torch.log(torch.tensor([0.3, 0.2, 0.1]))
    half = math.sqrt(0.5)
    splats.quaternions[:] = torch.tensor(
        [2 * half, 0, 0, 2 * half]
    )  # a quarter turn about z, not of unit length
    found = splat_arrays(splats)
    np.testing.assert_allclose(found["covariances"][0], np.diag([0.04, 0.09, 0.01]), atol=1e-6)
    np.testing.assert_allclose(found["rgbs"][0], [0.9, 0.1, 0.1], atol=1e-5)
    assert found["opacities"].shape == (3, 1) and found["centers"].shape == (3, 3)


def test_a_meshs_glb_is_read_by_others():
    import io

    import trimesh

    shape = trimesh.load(io.BytesIO(glb_of(ball())), file_type="glb", force="mesh")
    assert len(shape.faces) == len(ball().faces)
    np.testing.assert_allclose(shape.extents, [1, 1, 1], atol=0.02)


def test_a_budget_is_kept_and_large_jobs_wait():
    now = [0.0]
    budget = Budget(share=0.02, most=0.6, clock=lambda: now[0])

    def job(seconds: float):
        def work() -> None:
            now[0] += seconds

        return work

    assert not budget.affords("render"), "nothing is saved yet"
    done, steps = 0, 2000
    for _ in range(steps):
        now[0] += 0.1
        budget.accrue()
        if budget.affords("render"):
            budget.pay("render", job(0.3))
            done += 1
    assert budget.spent == pytest.approx(0.3 * done)
    assert budget.spent <= 0.02 * 0.1 * steps + 0.3
    assert done >= 0.9 * 0.02 * 0.1 * steps / 0.3, "what was saved is used"
    budget.wait()
    now[0] += 1000
    saved = budget.saved
    budget.wait()
    assert budget.saved == saved, "a run that waits saves nothing"
    now[0] += 1000
    budget.accrue()
    assert budget.saved <= 0.6
    budget.pay("huge", job(5.0))
    assert not budget.affords("render") and not budget.affords("huge")


def test_the_viewer_option_takes_a_port_and_never_the_prompt():
    assert parse(["--viewer", "a duck"]).viewer == PORT
    assert parse(["a duck", "--viewer"]).viewer == PORT
    assert parse(["a duck", "--viewer", "8123", "seed=1"]).viewer == 8123
    assert parse(["a duck", "--viewer=8123"]).viewer == 8123
    assert parse(["--viewer", "--", "a duck"]).prompt == "a duck"
    assert parse(["a duck"]).viewer is None
    with pytest.raises(UsageError, match="--viewer must lie between 1 and 65535"):
        parse(["a duck", "--viewer", "70000"])


def test_a_port_that_is_taken_is_said_and_nothing_else_is_used():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot listen at 127.0.0.1:{port}"), served(port):
            pass


def test_what_cannot_be_viewed_is_refused(tmp_path):
    with pytest.raises(UsageError, match="there is no such file or folder"):
        assets_of(tmp_path / "nowhere.glb")
    with pytest.raises(UsageError, match=str(tmp_path)):
        assets_of(tmp_path)
