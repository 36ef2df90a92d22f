"""The page in a browser and over the wire: prompts typed, progress seen, files taken, and no way to other files."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trimesh

from tests.app.test_jobs import CHILD, until
from threedistill.app.asked import Asked, Limits, Offer, offer
from threedistill.app.jobs import Jobs

pytestmark = pytest.mark.browser

#: As little of a run as can be, with previews.
TINY = (
    "budget.iterations=3", "budget.views=2", "budget.resolution=32", "budget.grid=24", "export.faces=200",
    "export.texture_size=0", "export.turntable_frames=0", "trainer.preview_every=1", "trainer.log_every=1",
)  # fmt: skip


@contextlib.contextmanager
def served(folder: Path, offered: Offer, settings=(), command=None, token=None) -> Iterator[tuple[Jobs, int]]:
    """The page on a free port, in a thread."""
    import uvicorn

    from threedistill.app.serve import build, listening, require_gradio

    require_gradio(folder / "cache")
    limits = Limits(prompt=60)
    jobs = Jobs(folder, limits, settings, *([command] if command else []))
    bound = listening("localhost", 0)
    application = build(jobs, offered, limits, token)
    server = uvicorn.Server(
        uvicorn.Config(application, log_level="error", ws="none", timeout_graceful_shutdown=2)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        yield jobs, bound.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        bound.close()
        jobs.close()


@contextlib.contextmanager
def visited(chromium: Any, port: int) -> Iterator[tuple[Any, list[str]]]:
    """A visitor's window, and what went wrong in it: errors, and requests to anywhere else."""
    context = chromium.new_context(viewport={"width": 1180, "height": 1000})
    context.set_default_timeout(120_000)
    window, wrong = context.new_page(), []
    window.on("pageerror", lambda error: wrong.append(str(error)))
    window.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    here = f"http://localhost:{port}/"
    window.on("request", lambda r: r.url.startswith((here, "data:", "blob:")) or wrong.append(r.url))
    window.goto(here)
    window.wait_for_selector("#td-prompt textarea")
    yield window, wrong
    context.close()


def says(window: Any, text: str, seconds: float = 120) -> None:
    """Wait until the card says it."""
    wanted = "text => document.querySelector('#td-status')?.innerText.includes(text)"
    window.wait_for_function(wanted, arg=text, timeout=1000 * seconds)


def make(window: Any, prompt: str) -> None:
    window.fill("#td-prompt textarea", prompt)
    window.click("#td-make")


def test_a_prompt_becomes_an_asset(chromium, tmp_path):
    """The whole way, with a real run: typed, seen on its way, in 3D, downloaded, found again after a reload."""
    pictures = os.environ.get("THREEDISTILL_PICTURES")
    with (
        served(tmp_path, offer(["bench"], ["oracle"]), TINY) as (_, port),
        visited(chromium, port) as (window, wrong),
    ):
        make(window, "a red ball")
        says(window, "of 3")
        says(window, "finished in")
        with window.expect_download() as loading:
            window.click("#td-files >> text='glb'")
        loaded = Path(loading.value.path()).read_bytes()
        assert loaded[:4] == b"glTF"
        found = trimesh.load(io.BytesIO(loaded), file_type="glb", force="mesh")
        assert isinstance(found, trimesh.Trimesh) and 4 < len(found.faces) <= 200
        drawn = window.frame_locator("#td-view iframe").locator("model-viewer")
        drawn.wait_for()
        window.wait_for_function(
            "document.querySelector('#td-view iframe').contentDocument.querySelector('model-viewer').loaded",
            timeout=60_000,
        )
        window.reload()
        says(window, "finished in", 30)
        assert "a red ball" in window.inner_text("#td-status") and window.is_visible("#td-view iframe")
        assert not wrong, wrong
        if pictures:
            window.screenshot(path=f"{pictures}/app.png", full_page=True)


def test_a_job_is_stopped_and_goes_on_and_a_killed_one_is_said(chromium, tmp_path):
    with (
        served(tmp_path, offer(["draft"]), (), CHILD) as (_, port),
        visited(chromium, port) as (window, wrong),
    ):
        make(window, "a slow duck once")
        says(window, "step 25 of 40")
        window.wait_for_selector("#td-status img")
        make(window, "a dead <b>duck</b>")
        says(window, "next in the queue")
        window.click("#td-jobs >> text=a slow duck once")
        says(window, "step 25 of 40")
        window.click("#td-stop")
        says(window, "stopped here; what is done is kept")
        window.click("#td-jobs >> text=<b>duck</b>")
        says(window, "its process was ended by signal 9")
        assert "a dead <b>duck</b>" in window.inner_text("#td-status h2"), "a prompt is text, not a page"
        window.click("#td-continue")
        says(window, "it is a dead <b>duck</b>")
        make(window, "   ")
        window.wait_for_function(
            "document.querySelector('#td-word').innerText.includes('the prompt is empty')"
        )
        wrong = [line for line in wrong if "GLTFLoader" not in line]  # the stand-in's asset is none
        assert not wrong, wrong


def test_another_browser_sees_nothing_of_it(chromium, tmp_path):
    with served(tmp_path, offer(["draft"]), (), CHILD) as (jobs, port):
        key = jobs.add(Asked("a red duck", 0, {"preset": "draft"})).key
        until(jobs, key, lambda view: view.job.state == "done")
        with visited(chromium, port) as (window, _):
            time.sleep(2)
            assert "a red duck" not in window.content()
            window.goto(f"http://localhost:{port}/?job={key}")
            says(window, "it is a red duck")


SECRET = "nobody may read this"


def tries(key: str, secret: Path, name: str) -> list[str]:
    """Addresses that would reach a file beside the page's folder, if any did."""
    absolute = str(secret)
    up = ["../" * n + "secret.txt" for n in (1, 3, 8)]
    coded = [one.replace("/", "%2f") for one in up] + [one.replace("..", "%2e%2e") for one in up]
    doubled = [one.replace("/", "%252f") for one in up] + [one.replace("../", "....//") for one in up]
    ways = [
        absolute,
        f"/{absolute}",
        f"file://{absolute}",
        absolute.replace("/", "\\"),
        *up,
        *coded,
        *doubled,
    ]
    places = (
        f"/jobs/{key}/files/", f"/jobs/{key}/preview/", "/jobs/", "/assets/", "/static/", "/gradio_api/file=",
    )  # fmt: skip
    found = [place + way for place in places for way in ways]
    found += [
        f"/jobs/{key}/../{name}/run.json",
        f"/jobs/{name}/files/glb",
        f"/jobs/{key}/files/glb/../../../run.json",
    ]
    return found


def ask(port: int, path: str, body: bytes | None = None, kind: str = "application/json") -> tuple[int, bytes]:
    """A request whose address is sent as it is."""
    connection = http.client.HTTPConnection("localhost", port, timeout=30)
    connection.putrequest("POST" if body is not None else "GET", path, skip_accept_encoding=True)
    if body is not None:
        connection.putheader("content-type", kind)
        connection.putheader("content-length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def test_no_way_from_a_browser_to_other_files(tmp_path):
    """More than a hundred addresses, and a name that leads elsewhere."""
    secret = tmp_path / "secret.txt"
    secret.write_text(SECRET)
    offered = Offer({**offer(["draft"]).choices}, frozenset({"toybox"}))  # the field for pictures is there
    with served(tmp_path / "share", offered, (), CHILD) as (jobs, port):
        job = jobs.add(Asked("a red duck", 0, {"preset": "draft"}))
        view = until(jobs, job.key, lambda view: view.job.state == "done")
        assert ask(port, f"/jobs/{job.key}/files/glb")[0] == 200
        addresses = tries(job.key, secret, job.name)
        assert len(addresses) > 100
        for address in addresses:
            status, body = ask(port, address)
            assert status >= 400 and SECRET.encode() not in body and b"glTF" not in body, address
            assert str(tmp_path).encode() not in body or str(tmp_path) in address, (
                f"{address} tells where it is"
            )

        assert not list((tmp_path / "share" / "pictures").iterdir())
        assert list((tmp_path / "share" / "runs").iterdir()) == [view.run]

        bound = b"--x\r\ncontent-disposition: form-data; name=files; filename=../../../up.png\r\n\r\nup\r\n--x--\r\n"
        status, body = ask(port, "/gradio_api/upload", bound, "multipart/form-data; boundary=x")
        assert status == 200 and not (tmp_path / "up.png").exists()
        for place in json.loads(body):
            assert (tmp_path / "share" / "cache") in Path(place).resolve().parents


def test_elsewhere_a_token_is_wanted(tmp_path):
    with served(tmp_path, offer(["draft"]), (), CHILD, token="t0ken") as (_, port):
        assert ask(port, "/")[0] == 403 and ask(port, "/?token=t0ken")[0] == 303
        assert ask(port, "/config")[0] == 403
