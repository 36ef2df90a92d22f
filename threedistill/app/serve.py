"""The server: our own addresses for pictures and files, gradio's page behind them, and the doors in front."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from pathlib import Path
from typing import Any

from threedistill.app.asked import Limits, Offer
from threedistill.app.doors import Doors
from threedistill.app.files import Files
from threedistill.app.jobs import Jobs
from threedistill.errors import ThreedistillError, UsageError
from threedistill.viewing import viewer_file, viewer_page

__all__ = ["build", "listening", "require_gradio", "serve"]


def require_gradio(cache: Path) -> None:
    """Import gradio, told to keep its files in a folder and to report to nobody.

    Raises:
        UsageError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(cache.absolute())
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import gradio  # noqa: F401
    except ImportError:
        raise UsageError("threedistill app needs gradio: pip install 'threedistill[app]'") from None


def listening(host: str, port: int) -> socket.socket:
    """A socket that is bound and takes visitors, who wait until they are served; port 0 takes a free one.

    Raises:
        UsageError: the address cannot be had.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(128)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(
            f"--host {host} --port {port}: {reason}; choose another (--port 0 takes a free one)"
        ) from None
    return found


def build(jobs: Jobs, offered: Offer, limits: Limits, token: str | None) -> Any:
    """The whole as an ASGI application."""
    import gradio
    from fastapi import FastAPI, Request
    from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse, Response

    from threedistill.app.page import CSS, page, theme

    files = Files(jobs)
    inner = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    kept = {"cache-control": "private, max-age=86400"}

    @inner.exception_handler(ThreedistillError)
    def refused(_: Request, error: ThreedistillError) -> Response:
        return PlainTextResponse(f"{error}\n", 404 if isinstance(error, UsageError) else 409)

    @inner.get("/jobs/{key}/preview/{number}")
    def preview(key: str, number: int) -> Response:
        return FileResponse(files.preview(key, number), media_type="image/png", headers=kept)

    @inner.get("/viewer.js")
    def viewer() -> Response:
        return FileResponse(viewer_file(), media_type="text/javascript", headers=kept)

    @inner.get("/jobs/{key}/view")
    def view(key: str) -> Response:
        return HTMLResponse(viewer_page(f"/jobs/{files.known(key)}/files/glb", "/viewer.js"))

    @inner.get("/jobs/{key}/files/{name}")
    def asset(key: str, name: str) -> Response:
        path, called = files.asset(key, name)
        return FileResponse(path, media_type="application/octet-stream", filename=called)

    @inner.get("/jobs/{key}/run")
    def run(key: str) -> Response:
        path = files.run(key)
        return FileResponse(path, media_type="application/zip", filename=path.name)

    blocks = page(jobs, offered, limits)
    blocks.has_launched = True  # gradio's own look at what requests name, behind ours
    whole = gradio.mount_gradio_app(
        inner, blocks, "/", allowed_paths=[], show_error=False, ssr_mode=False, pwa=False,
        max_file_size=limits.picture, enable_monitoring=False, mcp_server=False, footer_links=[], theme=theme(),
        css=CSS,
    )  # fmt: skip
    return Doors(
        whole, token, limits.picture + 1_000_000, jobs.folder / "cache" if offered.pictured else None
    )


def serve(application: Any, bound: socket.socket) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # Pages that are still open are cut off then, each with a traceback.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            await super().shutdown(sockets)

    settings = uvicorn.Config(
        application, log_level="error", access_log=False, timeout_graceful_shutdown=2, ws="none"
    )
    with contextlib.suppress(KeyboardInterrupt):
        Server(settings).run(sockets=[bound])
