"""Who is let in, to which addresses, and with which headers: one ASGI middleware in front of everything.

Bound to this machine, the page answers to its own names only (a page elsewhere that had its name point here would be
refused). Bound elsewhere it wants a token, which the first address carries and a cookie keeps. Addresses that the page
does not use are not there, whatever gradio has behind them, and the browser is told to load nothing from elsewhere.

A request that names a file is let through only where the file is one that was sent here; this is not left to what is
behind the doors.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

__all__ = ["LOCAL", "Doors", "is_local"]

#: Names of this machine to itself.
LOCAL = ("localhost", "127.0.0.1", "::1")

_PLACES = (
    "/",
    "/config",
    "/theme.css",
    "/favicon.ico",
    "/viewer.js",
    "/gradio_api/startup-events",
    "/gradio_api/upload_progress",
)
_BELOW = (
    "/assets/", "/static/", "/svelte/", "/jobs/", "/gradio_api/run/", "/gradio_api/queue/", "/gradio_api/heartbeat/",
)  # fmt: skip
_UPLOAD = "/gradio_api/upload"

_HEADERS = (
    (b"content-security-policy", (
        b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
        b"img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
        b"object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
    )),
    (b"referrer-policy", b"no-referrer"), (b"x-content-type-options", b"nosniff"),
)  # fmt: skip

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


def is_local(host: str) -> bool:
    """Whether a name to bind to is this machine's own only."""
    return host in LOCAL


class Doors:
    """The middleware.

    Arguments:
        app: what is behind it.
        token: what is wanted of every visitor; None = nothing, of this machine's own.
        largest: bytes of a request.
        uploads: the folder that pictures which are sent come to; None = none are taken.
    """

    def __init__(self, app: App, token: str | None, largest: int, uploads: Path | None) -> None:
        self.app, self.token, self.largest, self.uploads = app, token, largest, uploads

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Let a request through, or answer it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page has no sockets
            return
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        refusal = self._refusal(scope, headers)
        if refusal is None and self._brings_token(scope):
            cookie = f"{self._cookie(headers)}={self.token}; HttpOnly; SameSite=Lax; Path=/"
            await _answer(send, 303, "", [(b"location", b"/"), (b"set-cookie", cookie.encode())])
        elif refusal is not None:
            await _answer(send, *refusal)
        elif scope["method"] in ("GET", "HEAD") or scope["path"] == _UPLOAD:
            await self.app(scope, receive, _adding(send))
        else:
            body = await _whole(receive)
            if self._is_ours(body):
                await self.app(scope, _again(body, receive), _adding(send))
            else:
                await _answer(send, 400, "that is nothing that this page sends")

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """Status and line of a request that is not let in."""
        host = headers.get("host", "")
        if self.token is None and urlsplit(f"//{host}").hostname not in LOCAL:
            return 403, "this page is for the machine it runs on; open it as localhost"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, "a page elsewhere asked for this"
        if self.token is not None and not (self._brings_token(scope) or self._shows_token(headers)):
            return (
                403,
                "this page wants the token that `threedistill app` printed: open the address with ?token=...",
            )
        path = scope["path"]
        allowed = path in _PLACES or path.startswith(_BELOW) or (self.uploads is not None and path == _UPLOAD)
        if not allowed or ".." in path or "\0" in path:
            return 404, "there is nothing here"
        if scope["method"] not in ("GET", "HEAD"):
            length = headers.get("content-length", "")
            if not re.fullmatch(r"[0-9]{1,15}", length):
                return 411, "say how long it is"
            if int(length) > self.largest:
                return 413, f"more than {self.largest} bytes are not taken here"
        return None

    def _is_ours(self, body: bytes) -> bool:
        """Whether a request is JSON that names no file but those that were sent here."""
        try:
            waiting = [json.loads(body or b"null")]
        except (ValueError, RecursionError):
            return False
        while waiting:
            node = waiting.pop()
            waiting += node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
            if isinstance(node, dict) and "path" in node and not self._was_sent(node["path"]):
                return False
        return True

    def _was_sent(self, path: object) -> bool:
        """Whether this is a file below the folder of what was sent."""
        if self.uploads is None or not isinstance(path, str) or "\0" in path:
            return False
        found = Path(path).resolve()
        return found.is_file() and self.uploads.resolve() in found.parents

    def _brings_token(self, scope: Scope) -> bool:
        """Whether the address carries the token."""
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        return self._is_token(given)

    def _shows_token(self, headers: dict[str, str]) -> bool:
        """Whether a cookie holds the token."""
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(self._cookie(headers))
        except CookieError:
            return False
        return found is not None and self._is_token(found.value)

    def _is_token(self, given: str) -> bool:
        return self.token is not None and hmac.compare_digest(given.encode(), self.token.encode())

    def _cookie(self, headers: dict[str, str]) -> str:
        """The cookie's name; cookies do not know ports, so the name does."""
        port = headers.get("host", "").rpartition(":")[2]
        return f"threedistill_{port if port.isdigit() else 'page'}"


async def _whole(receive: Callable[[], Awaitable[Any]]) -> bytes:
    """The body of a request; its length was looked at before."""
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _again(body: bytes, receive: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    """The same request once more, for those behind."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Any:
        return waiting.pop() if waiting else await receive()

    return next_message


def _adding(send: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    async def with_headers(message: Any) -> None:
        if message["type"] == "http.response.start":
            own = {name for name, _ in _HEADERS}
            kept = [(name, value) for name, value in message["headers"] if name.lower() not in own]
            message = {**message, "headers": [*kept, *_HEADERS]}
        await send(message)

    return with_headers


async def _answer(send: Any, status: int, line: str, more: list[tuple[bytes, bytes]] | None = None) -> None:
    """One line of plain text."""
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *(more or []), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{line}\n".encode() if line else b""})
