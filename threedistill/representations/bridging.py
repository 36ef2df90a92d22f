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

#: How far above the threshold a bridge lies: a thin tube, 0.1 to 0.4 samples thick.
_MARGIN = 0.5


def bridge(
    volume: Float[Tensor, "X Y Z"], threshold: float, faint: float, reach: int
) -> Float[Tensor, "X Y Z"]:
    """The volume with the parts of ``{v > threshold}`` joined where a short faint neck holds them to the largest.

    Among the paths of face neighbours that leave the largest part, stay in ``{v > faint}`` and count what they lack,
    ``sum (threshold - v)``, the one that lacks least is raised to just above the threshold; it may lead through other
    parts. Parts that only longer or fainter necks would reach, and floaters, are left as they are.

    Arguments:
        volume: potentials on a lattice.
        threshold: the surface's potential.
        faint: the least potential of a neck, below ``threshold``.
        reach: samples that a neck between two parts may have at most, counted along the axes.
    """
    from scipy import ndimage

    values = volume.detach().cpu().double().numpy()
    label = np.zeros(values.shape, np.int32)
    count = int(ndimage.label(values > threshold, output=label))  # pyright: ignore[reportArgumentType]
    if count < 2:
        return volume
    sizes = np.bincount(label.ravel())[1:]
    largest = int(sizes.argmax())
    parts = [int(k) for k in np.flatnonzero(sizes >= _FLOATER * sizes[largest]) if k != largest]
    if not parts:
        return volume
    before, samples = _shortest_paths(label, count, values, threshold, faint, largest)
    result = volume.clone()
    flat = result.view(-1)
    for part in parts:
        necks = _back(before, part, samples, count)
        if necks and max(map(len, necks)) <= reach:
            where = torch.as_tensor([k for neck in necks for k in neck], device=volume.device)
            flat[where] = flat[where].clamp(min=threshold + _MARGIN)
    return result


def _shortest_paths(
    label: np.ndarray, count: int, values: np.ndarray, threshold: float, faint: float, root: int
) -> tuple[np.ndarray, np.ndarray]:
    """Dijkstra's predecessors from one part, and the lattice's indices of the faint samples.

    Nodes are the parts, then the faint samples outside of them.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import dijkstra

    shell = (values > faint) & (label == 0)
    samples = np.flatnonzero(shell)
    node = np.where(label > 0, label - 1, -1)
    node[shell] = count + np.arange(len(samples))
    lacks = np.maximum(threshold - values, 0.0)
    ends, costs = [], []
    for axis in range(3):
        one, other = [slice(None)] * 3, [slice(None)] * 3
        one[axis], other[axis] = slice(None, -1), slice(1, None)
        a, b = tuple(one), tuple(other)
        joined = (node[a] >= 0) & (node[b] >= 0) & (node[a] != node[b])
        ends.append(np.stack([node[a][joined], node[b][joined]]))
        # Half of what either end lacks; a small step cost keeps paths short where nothing is lacking.
        costs.append((lacks[a][joined] + lacks[b][joined]) / 2 + 1e-3)
    (rows, columns), cost = np.sort(np.concatenate(ends, 1), 0), np.concatenate(costs)
    # A sample may touch a part with several faces, all at the same cost; a sparse matrix would add them up.
    size = count + len(samples)
    _, first = np.unique(rows * size + columns, return_index=True)
    graph = coo_array((cost[first], (rows[first], columns[first])), shape=(size, size)).tocsr()
    return dijkstra(graph, directed=False, indices=root, return_predecessors=True)[1], samples


def _back(before: np.ndarray, part: int, samples: np.ndarray, count: int) -> list[list[int]]:
    """The necks on the way from the root to a part, as indices into the lattice; none where there is no way."""
    necks: list[list[int]] = []
    last, node = int(part), int(before[part])
    while node >= 0:
        if node >= count:
            if last < count:
                necks.append([])
            necks[-1].append(int(samples[node - count]))
        last, node = node, int(before[node])
    return necks
