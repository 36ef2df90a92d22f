"""Who is let in and where: names of this machine, the token, other pages, addresses that are not there."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest

from threedistill.app.doors import Doors, is_local


def request(
    doors: Doors, path: str, method: str = "GET", query: str = "", body: bytes = b"{}", **headers: str
):
    """Status, headers and body of a request's answer."""
    said: list[dict] = []

    async def send(message) -> None:
        said.append(message)

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    given = {"host": "localhost:7860", **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {
        "type": "http", "method": method, "path": path, "query_string": query.encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items()],
    }  # fmt: skip
    asyncio.run(doors(scope, receive, send))
    return said[0]["status"], dict(said[0]["headers"]), said[1]["body"]


async def inside(scope, receive, send) -> None:
    headers = [(b"content-type", b"text/plain"), (b"referrer-policy", b"unsafe-url")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"inside"})


LOCAL = Doors(inside, None, 1000, uploads=None)
SHARED = Doors(inside, "s3cret-token", 1000, uploads=Path("uploads"))


def test_names_of_this_machine():
    assert (
        is_local("localhost") and is_local("::1") and not is_local("0.0.0.0") and not is_local("example.org")
    )
    for host in ("localhost:7860", "127.0.0.1:7860", "[::1]:7860", "localhost"):
        assert request(LOCAL, "/", host=host)[0] == 200
    for host in ("example.org", "localhost.example.org:7860", "", "192.168.0.2:7860", "evil@example.org"):
        assert request(LOCAL, "/", host=host)[0] == 403


def test_without_the_token_nothing_is_there():
    for path in ("/", "/config", "/jobs/x/view", "/gradio_api/queue/join", "/nothing"):
        for query in (
            "",
            "token=",
            "token=wrong",
            "token=s3cret-tokens",
            "token=s3cret-toke",
            "Token=s3cret-token",
        ):
            status, _, body = request(SHARED, path, query=query, host="example.org:80")
            assert status == 403 and b"wants the token" in body and b"s3cret" not in body


def test_the_token_becomes_a_cookie():
    status, headers, _ = request(SHARED, "/", query="token=s3cret-token", host="example.org:81")
    assert status == 303 and headers[b"location"] == b"/"
    cookie = headers[b"set-cookie"].decode()
    assert cookie == "threedistill_81=s3cret-token; HttpOnly; SameSite=Lax; Path=/"
    kept = cookie.split(";")[0]
    assert request(SHARED, "/", cookie=f"a=b; {kept}", host="example.org:81")[0] == 200
    for wrong in ("threedistill_81=x", "threedistill_82=s3cret-token", "\xff\xfe", ";;;=", "threedistill_81"):
        assert request(SHARED, "/", cookie=wrong, host="example.org:81")[0] == 403


def test_other_pages_ask_for_nothing():
    for origin in ("http://example.org", "null", "http://localhost:7861", "https://localhost"):
        assert request(LOCAL, "/gradio_api/run/predict", "POST", origin=origin, content_length="2")[0] == 403
    assert (
        request(LOCAL, "/gradio_api/run/predict", "POST", origin="http://localhost:7860", content_length="2")[
            0
        ]
        == 200
    )


def test_sizes():
    assert request(LOCAL, "/gradio_api/run/predict", "POST", content_length="1001")[0] == 413
    for length in ("", "-1", "many"):
        assert request(LOCAL, "/gradio_api/run/predict", "POST", content_length=length)[0] == 411


@pytest.mark.parametrize("path", [
    "/gradio_api/file=/etc/passwd", "/file=/etc/passwd", "/gradio_api/proxy=http://example.org", "/gradio_api/upload",
    "/docs", "/openapi.json", "/gradio_api/info", "/gradio_api/call/add", "/monitoring", "/gradio_api/vibe-edit",
    "/jobs/../x", "/assets/../../x", "/static/..%2f", "/custom_component/x", "/gradio_api/mcp", "/login", "/jobs/\0",
])  # fmt: skip
def test_what_the_page_does_not_use_is_not_there(path):
    method = "POST" if path == "/gradio_api/upload" else "GET"
    status, headers, body = request(LOCAL, path, method, content_length="3")
    assert (status, body) == (404, b"there is nothing here\n")
    assert b"default-src 'self'" in headers[b"content-security-policy"]


def test_pictures_are_taken_where_a_teacher_sees_them():
    cookie = "threedistill_80=s3cret-token"
    found = request(
        SHARED, "/gradio_api/upload", "POST", cookie=cookie, host="example.org:80", content_length="3"
    )
    assert found[0] == 200


def test_a_request_names_only_files_that_were_sent_here(tmp_path):
    """However it is named: nested, as an address, through a link."""
    uploads, secret = tmp_path / "cache", tmp_path / "secret.txt"
    uploads.mkdir()
    secret.write_text("secret")
    (uploads / "sent.png").write_bytes(b"png")
    (uploads / "link.png").symlink_to(secret)
    doors = Doors(inside, None, 1000, uploads)

    def status(place: object, behind: Doors = doors) -> int:
        body = json.dumps({"data": ["a duck", [{"x": {"path": place}}]]})
        return request(behind, "/gradio_api/run/predict", "POST", body=body.encode(), content_length="9")[0]

    assert status(str(uploads / "sent.png")) == 200
    for place in (
        str(secret), f"file://{secret}", "../secret.txt", str(uploads / ".." / "secret.txt"), str(uploads / "link.png"),
        "http://example.org/x.png", "", None, 3, [str(uploads / "sent.png")], str(uploads), "\0", "/etc/hostname",
    ):  # fmt: skip
        assert status(place) == 400, place
    assert status(str(uploads / "sent.png"), LOCAL) == 400, "no pictures are taken here"
    for body in (b"not json", b"[" * 900, b"\xff"):
        assert request(doors, "/gradio_api/run/predict", "POST", body=body, content_length="9")[0] == 400


def test_every_answer_forbids_other_places():
    _, headers, _ = request(LOCAL, "/")
    policy = headers[b"content-security-policy"].decode()
    assert "http" not in policy and "*" not in policy and "default-src 'self'" in policy
    assert headers[b"referrer-policy"] == b"no-referrer" and headers[b"x-content-type-options"] == b"nosniff"


def test_there_are_no_sockets():
    said: list[dict] = []
    asyncio.run(LOCAL({"type": "websocket", "path": "/", "headers": []}, None, said.append))
    assert said == []


def test_whoever_reads_the_address_is_not_turned_away():
    """The address is printed before the page is served: a visitor waits, and is not refused."""
    from threedistill.app.serve import listening

    with listening("localhost", 0) as bound:
        socket.create_connection(bound.getsockname()[:2], timeout=10).close()
