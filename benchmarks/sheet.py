"""One picture of several assets, reopened from their files, each from several sides.

python benchmarks/sheet.py --out runs/sheet.png --columns 2 runs/a-red-mushroom-s0 runs/a-blue-car-s0
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def sheet(path: Path, folders: Sequence[Path], views: int = 4, size: int = 96, columns: int = 3) -> None:
    """One picture of all assets, ``views`` views each, reopened from their files."""
    import torch
    import torch.nn.functional as F

    from threedistill.atomic import write_bytes
    from threedistill.exports.files import png_bytes
    from threedistill.exports.read import read_mesh
    from threedistill.toybox.evaluation.judging import look

    strips = []
    for folder in folders:
        pictures = look(read_mesh(folder / "asset" / "model.glb"), views=views, size=size)
        strips.append(F.pad(torch.cat(list(pictures), 1), (0, 0, 0, 12), value=1.0))
    strips += [torch.ones_like(strips[0])] * (-len(strips) % columns)
    rows = [torch.cat(strips[i : i + columns], 1) for i in range(0, len(strips), columns)]
    write_bytes(path, png_bytes(torch.cat(rows)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--columns", type=int, default=2)
    options = parser.parse_args()
    sheet(options.out, options.runs, options.views, options.size, options.columns)


if __name__ == "__main__":
    main()
