"""The page: a prompt and choices on the left; on the right how the job stands, its asset in 3D, and its files.

What the page knows of a visitor is a list of keys that the visitor's browser keeps; a reload brings it back.
"""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from threedistill.app.asked import GROUPS, Limits, Offer, ask
from threedistill.app.files import downloads
from threedistill.app.jobs import Jobs, View
from threedistill.errors import UsageError
from threedistill.exports.formats import named

__all__ = ["CSS", "page", "theme"]

#: Jobs that a browser remembers.
_REMEMBERED = 30
_EXAMPLES = ("a red mushroom", "a yellow duck", "a blue car with white wheels", "a small green cactus")
_MARKS = {"waiting": "○", "running": "◐", "done": "●", "stopped": "◌", "failed": "✕"}

CSS = """
.gradio-container {max-width: 1180px !important; margin-inline: auto !important}
#td-word:not(:has(p)), #td-buttons:not(:has(button)), #td-view:not(:has(iframe)), #td-files:not(:has(div div)) {
  display: none !important}
.td-head h1 {font-size: 1.5rem; font-weight: 650; letter-spacing: -.01em; margin: .2rem 0}
.td-head p {opacity: .7; margin: 0}
.td-card {border: 1px solid var(--border-color-primary); border-radius: 12px; padding: 16px;
  background: var(--block-background-fill)}
.td-card h2 {font-size: 1.05rem; margin: 0 0 2px; overflow-wrap: anywhere}
.td-soft {opacity: .7; font-size: .9rem; margin: 0 0 10px}
.td-bar {height: 8px; border-radius: 4px; background: var(--border-color-primary); overflow: hidden}
.td-bar i {display: block; height: 100%; background: var(--color-accent); transition: width .8s linear}
.td-card img {display: block; width: 100%; border-radius: 8px; margin-top: 12px; background: #fff}
.td-card img.td-turn {width: auto; max-width: 240px; margin-inline: auto}
.td-view {width: 100%; height: 400px; border: 1px solid var(--border-color-primary); border-radius: 12px}
.td-line {margin: 10px 0 0; overflow-wrap: anywhere}
.td-line.bad {color: var(--error-text-color, #b91c1c)}
.td-files a {display: inline-block; margin: 0 6px 6px 0; padding: 3px 10px; border-radius: 999px; text-decoration: none;
  border: 1px solid var(--border-color-primary); color: var(--body-text-color); font-size: .88rem}
.td-files a:hover, .td-files a:focus-visible {border-color: var(--color-accent)}
.td-files h3 {font-size: .85rem; opacity: .7; margin: 10px 0 6px; font-weight: 600}
.td-files code {overflow-wrap: anywhere; font-size: .82rem}
"""


def theme() -> Any:
    """The look; the reader's own fonts, so that nothing is fetched."""
    return gr.themes.Default(
        primary_hue="indigo",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )


def page(jobs: Jobs, offered: Offer, limits: Limits) -> gr.Blocks:
    """The page over a queue."""
    with gr.Blocks(title="threedistill", analytics_enabled=False, delete_cache=(3600, 86400)) as blocks:
        mine = gr.BrowserState([], storage_key="threedistill-jobs", secret="threedistill")
        seen = gr.State("")
        gr.HTML(
            "<div class='td-head'><h1>threedistill</h1><p>A prompt goes in, a textured 3D asset comes out.</p></div>"
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                prompt = gr.Textbox(
                    label="Prompt", placeholder=_EXAMPLES[0], lines=2, max_lines=6, max_length=limits.prompt,
                    autofocus=True, elem_id="td-prompt",
                )  # fmt: skip
                gr.Examples(
                    [[text] for text in _EXAMPLES], [prompt], label="For example", api_visibility="private"
                )
                fields = {"preset": _choice("Preset", offered, "preset", radio=True)}
                seed = gr.Number(
                    label="Seed: another number, another try",
                    value=0,
                    precision=0,
                    minimum=0,
                    elem_id="td-seed",
                )
                with gr.Accordion("More", open=False):
                    fields["representation"] = _choice(
                        "Representation: what is optimised", offered, "representation"
                    )
                    fields["guidance"] = _choice(
                        "Rule: how the teacher's opinion becomes a gradient", offered, "guidance"
                    )
                    fields["prior"] = _choice("Teacher", offered, "prior")
                    picture = gr.File(
                        label=f"A picture of it ({', '.join(sorted(offered.pictured))})", type="binary",
                        file_types=["image"], visible=bool(offered.pictured),
                    )  # fmt: skip
                make = gr.Button("Make it", variant="primary", elem_id="td-make")
                word = gr.HTML(elem_id="td-word")
                current = gr.Radio([], label="Your jobs", visible=False, elem_id="td-jobs")
            with gr.Column(scale=3, min_width=360):
                card = gr.HTML(_nothing(), elem_id="td-status")
                with gr.Row(elem_id="td-buttons"):
                    stop = gr.Button("Stop", visible=False, elem_id="td-stop")
                    again = gr.Button("Continue", visible=False, elem_id="td-continue")
                view = gr.HTML(elem_id="td-view")
                files = gr.HTML(elem_id="td-files")

        def listed(keys: list[str], chosen: str | None) -> Any:
            views = [found for key in keys if (found := jobs.look(key))]
            choices = [
                (f"{_MARKS[v.job.state]} {v.job.prompt[:60]}, seed {v.job.seed}", v.job.key) for v in views
            ]
            known = [key for _, key in choices]
            return gr.Radio(
                choices, value=chosen if chosen in known else next(iter(known), None), visible=len(known) > 0
            )

        def add(keys: Any, prompt: Any, seed: Any, picture: Any, *chosen: Any) -> Any:
            keys = _keys(keys)
            try:
                asked = ask(offered, limits, prompt, seed, picture, **dict(zip(GROUPS, chosen, strict=True)))
                job = jobs.add(asked)
            except UsageError as error:
                return keys, gr.skip(), f"<p class='td-line bad'>{html.escape(str(error))}</p>"
            keys = [job.key, *keys][:_REMEMBERED]
            return keys, listed(keys, job.key), ""

        def restore(keys: Any, request: gr.Request) -> Any:
            """The jobs of this browser, and the one that the address names."""
            linked = request.query_params.get("job")
            keys = _keys(keys)
            if isinstance(linked, str) and linked not in keys and jobs.look(linked):
                keys = [linked, *keys][:_REMEMBERED]
            return keys, listed(keys, linked)

        def refresh(keys: Any, chosen: Any, seen: str) -> Any:
            found = jobs.look(chosen)
            if found is None:
                hidden = gr.update(visible=False)
                return _nothing(), hidden, hidden, "", "", "", gr.skip()
            job = found.job
            now = f"{job.key} {job.state}"
            if now == seen:
                view, files, jobs_of = gr.skip(), gr.skip(), gr.skip()
            else:
                view, files, jobs_of = _view(found), _files(found), listed(_keys(keys), job.key)
            return (
                _card(found), gr.update(visible=job.state in ("waiting", "running")),
                gr.update(visible=found.resumable), view, files, now, jobs_of,
            )  # fmt: skip

        def go_on(key: Any) -> str:
            try:
                jobs.resume(key)
            except UsageError as error:
                return f"<p class='td-line bad'>{html.escape(str(error))}</p>"
            return ""

        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
        drawn = {
            "fn": refresh,
            "inputs": [mine, current, seen],
            "outputs": [card, stop, again, view, files, seen, current],
        }
        inputs = [mine, prompt, seed, picture, *(fields[group] for group in GROUPS)]
        gr.on([make.click, prompt.submit], add, inputs, [mine, current, word], **quiet)
        stop.click(jobs.stop, [current], None, **quiet)
        again.click(go_on, [current], [word], **quiet)
        current.change(**drawn, **quiet)
        gr.Timer(1.0).tick(**drawn, **quiet)
        blocks.load(restore, [mine], [mine, current], **quiet)
    return blocks


def _keys(value: Any) -> list[str]:
    """What a browser remembers, as far as it is a list of keys."""
    return [key for key in value if isinstance(key, str)][:_REMEMBERED] if isinstance(value, list) else []


def _choice(label: str, offered: Offer, group: str, radio: bool = False) -> Any:
    names = list(offered.choices[group])
    kind = gr.Radio if radio else gr.Dropdown
    return kind(names, value=names[0], label=label, visible=len(names) > 1, elem_id=f"td-{group}")


def _view(view: View) -> str:
    """The finished asset, to be turned by hand."""
    if view.job.state != "done" or not view.asset:
        return ""
    return f"<iframe class='td-view' title='the asset in 3D' src='/jobs/{view.job.key}/view'></iframe>"


def _nothing() -> str:
    return (
        "<div class='td-card'><h2>Nothing is being made</h2><p class='td-soft'>Describe one object on the left. A "
        "draft takes about a minute of two CPU cores, and the page may be closed meanwhile.</p></div>"
    )


def _card(view: View) -> str:
    """How a job stands; everything that comes from a visitor or a child is escaped."""
    job = view.job
    facts = ", ".join(
        [*(f"{job.choices[group]}" for group in GROUPS if group in job.choices), f"seed {job.seed}"]
    )
    words = {
        "waiting": "next in the queue" if not view.position else f"{view.position} before it in the queue",
        "running": "starting" if not view.done else f"step {view.done} of {view.total}",
        "done": f"finished in {_time(view.seconds)}", "stopped": "stopped", "failed": "not finished",
    }[job.state]  # fmt: skip
    if view.left is not None:
        words += f", about {_time(view.left)} left"
    parts = [f"<h2>{html.escape(job.prompt)}</h2><p class='td-soft'>{html.escape(facts)} · {words}</p>"]
    if job.state == "running":
        share = 100 * view.done / view.total if view.total else 0
        filled = f"<i style='width:{share:.1f}%'></i>"
        parts.append(f"<div class='td-bar' role='progressbar' aria-valuenow='{share:.0f}'>{filled}</div>")
    if job.line:
        bad = " bad" if job.state == "failed" else ""
        parts.append(f"<p class='td-line{bad}'>{html.escape(job.line)}</p>")
    if job.verdict:
        parts.append(f"<p class='td-line'>{html.escape(job.verdict)}</p>")
    if view.preview is not None and not (job.state == "done" and view.asset):
        parts.append(f"<img alt='views on the way' src='/jobs/{job.key}/preview/{view.preview}'>")
    return f"<div class='td-card' data-state='{job.state}'>{''.join(parts)}</div>"


def _files(view: View) -> str:
    """Links to the asset in every format, and how the run goes on elsewhere."""
    job, kinds = view.job, {"mesh": "Mesh", "splats": "Splats", "film": "Pictures and film"}
    parts = []
    if job.state == "done" and view.asset:
        for kind, title in kinds.items():
            links = [
                f"<a href='/jobs/{job.key}/files/{name}' target='_blank' title='{html.escape(named(name).about)}'>"
                f"{html.escape(name)}</a>"
                for name in downloads() if named(name).kind == kind
            ]  # fmt: skip
            parts.append(f"<h3>{title}</h3>{''.join(links)}")
    if job.state != "waiting":
        command = f"threedistill resume {view.run}"
        zipped = (
            "" if job.state == "running" else f"<a href='/jobs/{job.key}/run' target='_blank'>as a zip</a>"
        )
        link = f"<a href='/?job={job.key}'>a link to it</a>"
        parts.append(f"<h3>The run</h3>{link}{zipped} <code>{html.escape(command)}</code>")
    return f"<div class='td-card td-files'>{''.join(parts)}</div>" if parts else ""


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
