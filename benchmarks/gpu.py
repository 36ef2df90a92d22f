"""What an owner of a GPU is asked to run (``benchmarks/gpu.sh``): every part in a process and a time of its own.

A part that fails or takes too long is written down as such, and the others still run. ``gpu.json`` and ``gpu.md`` name
the hardware and the versions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: Seconds that a part may take: 120 + 4 x 85 = 460 of the eight minutes.
TESTS, STEPS = 120, 85
_LIBRARIES = ("torch", "triton", "nerfacc", "gsplat", "tinycudann", "diffusers")


@dataclass(frozen=True)
class Part:
    """A command, and the seconds after which it is killed."""

    name: str
    command: tuple[str, ...]
    seconds: float


def parts(given: argparse.Namespace) -> list[Part]:
    """All parts of a run on a device."""
    found = [Part("tests", ("-m", "pytest", "-q", "-m", "gpu", "-n", "0", "tests/ops"), TESTS)]
    sizes = (64,) if given.tiny else (64, 512)
    for size in sizes:
        for rule in ("sds", "vsd"):
            command = [
                "benchmarks/gpu_step.py",
                "--rule",
                rule,
                "--resolution",
                str(size),
                "--device",
                given.device,
            ]
            command += ["--tiny", "--seconds", "0"] if given.tiny else ["--views", "4" if size == 64 else "1"]
            found.append(Part(f"{rule} {size}", tuple(command), STEPS))
    return found


def run(part: Part) -> dict[str, Any]:
    """Run a part: its JSON lines, its last lines where it failed, and how it ended."""
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, *part.command], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = child.communicate(timeout=part.seconds)
        ended = "done" if child.returncode == 0 else f"exit status {child.returncode}"
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        output, _ = child.communicate()
        ended = f"stopped after {part.seconds:.0f} s"
    lines = output.splitlines()
    rows = [json.loads(line) for line in lines if line.startswith('{"representation"')]
    facts: dict[str, Any] = {"ended": ended, "seconds": time.perf_counter() - start, "rows": rows}
    if part.name == "tests" or ended != "done":
        facts["last_lines"] = lines[-8:]
    return facts


def hardware(device: str) -> dict[str, Any]:
    """What it ran on."""
    import torch

    found: dict[str, Any] = {
        "device": platform.processor() or platform.machine(),
        "python": platform.python_version(),
    }
    if device == "cuda":
        facts = torch.cuda.get_device_properties(0)
        found |= {"device": facts.name, "memory_gib": facts.total_memory / 2**30, "cuda": torch.version.cuda}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    facts = result["hardware"]
    versions = ", ".join(f"{k} {facts[k] or 'missing'}" for k in _LIBRARIES)
    lines = [f"{facts['device']}; Python {facts['python']}, {versions}.", ""]
    lines += ["| part | representation | ms a step | peak GiB | the host waits |", "|---|---|---|---|---|"]
    for name, part in result["parts"].items():
        if not part["rows"]:
            last = part.get("last_lines") or [""]
            lines.append(
                f"| {name} | | {part['ended']} in {part['seconds']:.0f} s: {last[-1].strip('= ')} | | |"
            )
        for row in part["rows"]:
            if "failed" in row:
                lines.append(f"| {name} | {row['representation']} | {row['failed']} | | |")
            else:
                waits = row.get("waits", "")
                lines.append(
                    f"| {name} | {row['representation']} | {row['ms']:.1f} | {row['peak_gib']:.2f} | {waits} |"
                )
        if part["rows"] and part["ended"] != "done":
            lines.append(f"| {name} | | {part['ended']} | | |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("."), help="where gpu.json and gpu.md go")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="the embedded prior at 64 pixels, one step each")
    given = parser.parse_args(argv)
    if given.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            print(
                "benchmarks/gpu.sh: torch sees no CUDA device (threedistill doctor says why); "
                "--device cpu --tiny rehearses the same path",
                file=sys.stderr,
            )
            return 2
    result: dict[str, Any] = {"hardware": hardware(given.device), "parts": {}}
    given.out.mkdir(parents=True, exist_ok=True)
    for part in parts(given):
        print(f"{part.name} (at most {part.seconds:.0f} s) ...", flush=True)
        result["parts"][part.name] = run(part)
        # After every part: whatever happens next, this stays.
        (given.out / "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
        (given.out / "gpu.md").write_text(table(result))
    print(table(result))
    return 0 if all(part["ended"] == "done" for part in result["parts"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
