"""``threedistill app``: a page in a browser to type prompts into."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from threedistill.commands.arguments import Parser, is_setting, number, whole_number
from threedistill.errors import UsageError
from threedistill.messages import shown

__all__ = ["parser", "run"]

#: What the page offers; budgets for sweeps and benchmarks are not for visitors.
_PRESETS = ("draft", "standard", "high")

_EPILOG = """\
examples:
  threedistill app                                  http://localhost:7860, for this machine only
  threedistill app --host 0.0.0.0                   for the network; the address with its token is printed
  threedistill app --prior toybox,sd15 --running 2  two jobs at a time, two teachers to choose from
  threedistill app export.faces=4000                key=value words are settings of every run

Runs, uploads and the queue are kept in --share-dir; the same folder again goes on where the page was closed.
"""


def parser() -> Parser:
    """The options of ``app``."""
    p = Parser(
        "app", "[options] [key=value ...]", "A page in a browser to type prompts into (extra app).", _EPILOG
    )
    p.add_argument("--host", default="localhost", metavar="NAME", help="where to listen (default localhost)")
    p.add_argument(
        "--port",
        type=whole_number("--port", 0, 65535),
        default=7860,
        metavar="N",
        help="default 7860; 0 = a free one",
    )
    p.add_argument(
        "--share-dir", default="runs/app", metavar="DIR", help="where all is kept (default runs/app)"
    )
    p.add_argument(
        "--prior", default="", metavar="P,P", help="the teachers on offer (default: the embedded one)"
    )
    p.add_argument("--preset", default=",".join(_PRESETS), metavar="P,P", help="the presets on offer")
    p.add_argument(
        "--running",
        type=whole_number("--running", 1, 64),
        default=1,
        metavar="N",
        help="jobs at a time (default 1)",
    )
    p.add_argument(
        "--waiting",
        type=whole_number("--waiting", 1, 10000),
        default=20,
        metavar="N",
        help="jobs that may wait (20)",
    )
    p.add_argument(
        "--minutes",
        type=number("--minutes", 0.01, 1e5),
        default=60.0,
        metavar="M",
        help="of one job at most (60)",
    )
    p.add_argument(
        "--gigabytes", type=number("--gigabytes", 0.01, 1e6), default=20.0, metavar="GB",
        help="of the folder, before new jobs are refused (20)",
    )  # fmt: skip
    p.add_argument(
        "--prompt-length", type=whole_number("--prompt-length", 1, 10000), default=400, metavar="N",
        help="characters of a prompt (400)",
    )  # fmt: skip
    return p


def run(argv: Sequence[str]) -> int:
    """Serve the page until Ctrl-C."""
    options, words = parser().parse(argv)
    if wrong := [word for word in words if not is_setting(word)]:
        raise UsageError(
            f"app takes key=value words only, not {shown(wrong[0])}; prompts are typed into the page"
        )
    from threedistill.app.asked import Limits, offer
    from threedistill.app.doors import is_local
    from threedistill.app.jobs import Jobs
    from threedistill.app.serve import build, listening, require_gradio, serve

    limits = Limits(
        options.prompt_length, options.running, options.waiting, options.minutes, options.gigabytes
    )  # fmt: skip
    offered = offer(_names(options.preset), _names(options.prior))
    folder = Path(options.share_dir)
    require_gradio(folder / "cache")
    with listening(options.host, options.port) as bound:
        jobs = Jobs(folder, limits, ("trainer.preview_every=50", "trainer.log_every=5", *words))
        try:
            token = None if is_local(options.host) else secrets.token_urlsafe(24)
            application = build(jobs, offered, limits, token)
            query = f"/?token={token}" if token else ""
            print(f"http://{_written(options.host)}:{bound.getsockname()[1]}{query}", flush=True)
            print(
                "Ctrl-C closes the page; what runs is kept and goes on when it is opened again",
                file=sys.stderr,
            )
            serve(application, bound)
        finally:
            jobs.close()
    return 0


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _written(host: str) -> str:
    """A host as addresses have it."""
    return f"[{host}]" if ":" in host else host
