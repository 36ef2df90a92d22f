"""Who reaches the viewer's port: pages of this machine, programs, and no page elsewhere."""

from __future__ import annotations

import pytest

pytest.importorskip("viser")

import viser
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.viewer.ports import free_port
from threedistill.viewer.serving import served


def test_a_page_elsewhere_cannot_steer():
    """The handshake that the library's own page makes, from here and from there (RFC 6455, 4.1 and 10.2)."""
    port, own = free_port(), f"viser-v{viser.__version__}"
    with served(port):
        address = f"ws://127.0.0.1:{port}"
        for origin in (None, f"http://127.0.0.1:{port}", "http://localhost:9000", "http://[::1]:1"):
            with connect(address, origin=origin, subprotocols=[own], compression=None) as socket:  # type: ignore[arg-type]
                assert socket.recv(timeout=60)
        for origin in (
            "http://example.org",
            "https://localhost.example.org",
            "null",
            "http://localhost@example.org",
        ):
            with pytest.raises(InvalidStatus, match="403"):
                connect(address, origin=origin, subprotocols=[own])  # type: ignore[arg-type]
