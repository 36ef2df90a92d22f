"""Thin necks: parts that a faint stem holds to the object stay in one piece.

A stem one pixel wide (an antenna's, a stalk) absorbs only part of the light of a ray, so its density lies below the
level that makes the right silhouette elsewhere, and the level set falls apart there. Canny's remedy for edges serves
surfaces as well: what is strong seeds the object, and what is merely weak belongs to it where it joins strong parts.
Source of the idea: Canny 1986, hysteresis thresholding; the shortest faint path instead of all that is weak is ours.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["bridge"]

#: A part of fewer samples than this fraction of the largest one's is a floater, which nothing needs to hold.
_FLOATER = 0.003

#: How far above the threshold a bridge lies: a tube about one sample thick.
_MARGIN = 0.5


def bridge(
    volume: Float[Tensor, "X Y Z"], threshold: float, faint: float, reach: int
) -> Float[Tensor, "X Y Z"]:
    """The volume with the parts of ``{v > threshold}`` joined where a short faint neck holds them to the largest.

    Among the paths of face neighbours that leave the largest part, stay in ``{v > faint}`` and count what they lack,
    ``sum (threshold - v)``, the one that lacks least is raised to just above the threshold. Parts that only longer or
    fainter paths would reach, and floaters, are left as they are.

    Arguments:
        volume: potentials on a lattice.
        threshold: the surface's potential.
        faint: the least potential of a neck, below ``threshold``.
        reach: samples that a bridge may add at most.
    """
    from scipy import ndimage

    strong = volume.detach().cpu().numpy() > threshold
    label, count = ndimage.label(strong)
    if count < 2:
        return volume
    sizes = np.bincount(label.ravel())[1:]
    largest = int(sizes.argmax())
    parts = [k for k in np.flatnonzero(sizes >= _FLOATER * sizes[largest]) if k != largest]
    if not parts:
        return volume
    lacks = np.maximum(threshold - volume.detach().cpu().double().numpy(), 0.0)
    weak = volume.detach().cpu().numpy() > faint
    before = _shortest_paths(label, count, weak, lacks, largest)
    result = volume.clone()
    flat = result.view(-1)
    for part in parts:
        path = _back(before, part, count)
        if path is not None and len(path) <= reach:
            where = torch.as_tensor(path, device=volume.device)
            flat[where] = flat[where].clamp(min=threshold + _MARGIN)
    return result


def _shortest_paths(
    label: np.ndarray, count: int, weak: np.ndarray, lacks: np.ndarray, root: int
) -> np.ndarray:
    """Dijkstra's predecessors from one part; nodes are the parts, then all samples, of which the faint ones connect."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import dijkstra

    node = np.where(label > 0, label - 1, count + np.arange(label.size).reshape(label.shape))
    ends, costs = [], []
    for axis in range(3):
        one = [slice(None)] * 3
        other = [slice(None)] * 3
        one[axis], other[axis] = slice(None, -1), slice(1, None)
        a, b = tuple(one), tuple(other)
        joined = weak[a] & weak[b] & (node[a] != node[b])
        ends.append(np.stack([node[a][joined], node[b][joined]]))
        # Half of what either end lacks; a small step cost keeps paths short where nothing is lacking.
        costs.append((lacks[a][joined] + lacks[b][joined]) / 2 + 1e-3)
    (rows, columns), cost = np.concatenate(ends, 1), np.concatenate(costs)
    # Several faces join the same part and sample, all at the same cost: keep one, since a sparse matrix would add them.
    _, first = np.unique(np.stack([rows, columns]), axis=1, return_index=True)
    size = count + label.size
    graph = coo_array((cost[first], (rows[first], columns[first])), shape=(size, size)).tocsr()
    return dijkstra(graph, directed=False, indices=root, return_predecessors=True)[1]


def _back(before: np.ndarray, part: int, count: int) -> list[int] | None:
    """The samples on the way from the root to a part, other parts on it left out; None where there is no way."""
    path, node = [], int(before[part])
    if node < 0:
        return None
    while node >= 0:
        if node >= count:
            path.append(node - count)
        node = int(before[node])
    return path
