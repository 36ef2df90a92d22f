"""A GLB in a page of its own that turns under the hand, drawn by <model-viewer> as it ships, without a network."""

from __future__ import annotations

import base64
import gzip
import html
from pathlib import Path

from threedistill.resources import assets_dir

__all__ = ["alone", "data_url", "viewer_file", "viewer_page"]

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>asset</title>
<style>html, body, model-viewer {{margin: 0; width: 100%; height: 100%; background: #fff}}</style>
{script}
<model-viewer src="{asset}" alt="the asset" camera-controls auto-rotate shadow-intensity="0.6" exposure="1"
  interaction-prompt="none" touch-action="pan-y"></model-viewer></html>
"""
#: What is packed is unpacked by the browser, and imported as the module that it is.
_UNPACK = """<script type="module">
const packed = Uint8Array.from(atob("{packed}"), c => c.charCodeAt(0));
const plain = new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip")));
await import(URL.createObjectURL(new Blob([await plain.text()], {{type: "text/javascript"}})));
</script>"""


def data_url(data: bytes, kind: str) -> str:
    """Bytes as an address of their own; ``kind`` is their media type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def viewer_file() -> Path:
    """The viewer, a JavaScript module."""
    return assets_dir() / "report" / "vendor" / "model-viewer.js"


def viewer_page(asset: str, script: str) -> str:
    """The page for an asset and a viewer at these addresses."""
    tag = f'<script type="module" src="{html.escape(script)}"></script>'
    return _PAGE.format(script=tag, asset=html.escape(asset))


def alone(glb: bytes) -> str:
    """The page with everything inside: the viewer, 0.4 MB of it, and the asset."""
    packed = base64.b64encode(gzip.compress(viewer_file().read_bytes(), mtime=0)).decode()
    return _PAGE.format(script=_UNPACK.format(packed=packed), asset=data_url(glb, "model/gltf-binary"))
