"""Stands in for ``threedistill``: leaves what ``generate`` and ``export`` leave, in no time.

The prompt says how it ends: ``slow`` waits to be stopped (or, as an orphan, a second longer), ``dead`` is killed the
first time, ``bad`` is refused, anything else is made at once.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

#: A picture of four pixels.
STRIP = "iVBORw0KGgoAAAANSUhEUgAAAAQAAAABCAIAAAB2XpiaAAAADUlEQVR42mM4YGAARwAfjQSBJwisCAAAAABJRU5ErkJggg=="


def option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


def record(run: Path, **facts: object) -> None:
    (run / "run.json").write_text(json.dumps({"stages": [20, 20], **facts}))


def generate() -> int:
    prompt, run = sys.stdin.read(), Path(option("--out"))
    if "bad" in prompt:
        print(json.dumps({"error": f"nobody knows {prompt}", "status": 2}))
        return 2
    again = (run / "run.json").exists()
    (run / "preview").mkdir(parents=True, exist_ok=True)
    lock = (run / ".lock").open("w")  # held until the end
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    parent = os.getppid()
    record(run, status="running", prompt=prompt, words=sys.argv[1:])
    rows = "".join(f"{stage},{step},0.5\n" for stage, step in ((0, 10), (0, 20), (1, 5)))
    (run / "metrics.csv").write_text(f"stage,iteration,t\n{rows}1,1")  # the last row is torn
    (run / "preview" / "000020.png").write_bytes(base64.b64decode(STRIP))
    (run / "preview" / "000020-x0.png").write_bytes(b"\x89PNG")
    if "dead" in prompt and not again:
        os.kill(os.getpid(), signal.SIGKILL)
    while "slow" in prompt and not (again and "once" in prompt):
        time.sleep(0.05)
        if os.getppid() != parent:
            time.sleep(1)
            break
    (run / "asset").mkdir(exist_ok=True)
    (run / "asset" / "model.glb").write_bytes(b"glTF" + prompt.encode())
    record(run, status="done", prompt=prompt, words=sys.argv[1:])
    print(json.dumps({"asset": str(run / "asset" / "model.glb"), "verdict": f"it is {prompt}"}))
    return 0


def export() -> int:
    name, out = option("--format"), Path(option("--out"))
    if name == "mp4":
        print(json.dumps({"error": "mp4 needs imageio-ffmpeg", "status": 2}))
        return 2
    for file in ("model.obj", "model.mtl") if name == "obj" else (f"model.{name}",):
        (out / file).write_text(f"{sys.argv[2]} as {name}")
    return 0


def stop(*_: object) -> None:
    print(json.dumps({"error": "interrupted", "status": 130}), flush=True)
    os._exit(130)


signal.signal(signal.SIGTERM, stop)
sys.exit({"generate": generate, "export": export}[sys.argv[1]]())
