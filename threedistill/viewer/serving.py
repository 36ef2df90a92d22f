"""The server behind a viewer: where it listens, and one line for whatever keeps it from that."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import logging
import re
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

from threedistill.errors import UsageError

if TYPE_CHECKING:
    from viser import ViserServer

__all__ = ["LOCAL", "PORT", "check_served", "served"]

PORT = 8080
#: This machine only: whoever reaches the port can steer the run.
LOCAL = "127.0.0.1"
#: Pages of this machine, at any port: a tunnel may have another.
_OWN = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?")


@contextlib.contextmanager
def served(port: int = PORT, host: str = LOCAL) -> Iterator[ViserServer]:
    """A server whose world has +Y up; it ends with the block.

    Raises:
        UsageError: viser is not installed, or the port is taken.
    """
    check_served(port, host)
    import viser

    # Whoever knocks and goes again (a scan of ports, a browser's spare connection) would leave a traceback.
    logging.getLogger("websockets.server").setLevel(logging.CRITICAL)
    # The first is its banner; ours is one line on stderr.
    with contextlib.redirect_stdout(io.StringIO()), _own_pages_only(host):
        server = viser.ViserServer(host=host, port=port, verbose=False)
    try:
        server.scene.set_up_direction("+y")
        server.gui.configure_theme(
            control_width="large", show_logo=False, show_share_button=False, dark_mode=False
        )
        server.initial_camera.position = (1.0, 0.75, 2.6)
        server.initial_camera.look_at = (0.0, 0.0, 0.0)
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def _own_pages_only(host: str) -> Iterator[None]:
    """Servers that begin meanwhile refuse what a page elsewhere sends to this machine's own address.

    A browser lets any page open a socket to 127.0.0.1, and the library does not ask where one comes from; whoever
    comes through here could steer the run. A socket says where its page is from; what is no browser says nothing.
    """
    from websockets.asyncio import server

    if host != LOCAL:
        yield
        return
    whole = server.serve
    server.serve = functools.partial(whole, origins=[None, _OWN])  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        server.serve = whole  # type: ignore[misc]


def check_served(port: int, host: str = LOCAL) -> None:
    """Refuse what :func:`served` would refuse (UsageError), before anything else is done.

    The library would take the next port that is free; a command means the one that it names.
    """
    if importlib.util.find_spec("viser") is None:
        raise UsageError('the viewer needs viser: pip install "threedistill[viewer]"')
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UsageError(
                f"the viewer cannot listen at {host}:{port}: {reason}; name another port"
            ) from None
