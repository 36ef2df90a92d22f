"""Vector quantisation for compressed splats: 256 numbers for a column of values, a palette for rows of them.

No random numbers: both start from evenly spaced members of the sorted data.
"""

from __future__ import annotations

import numpy as np

__all__ = ["codebook", "palette"]

_LARGEST_PALETTE = 1 << 16
_CHUNK = 1 << 14


def codebook(values: np.ndarray, size: int = 256, rounds: int = 20) -> tuple[list[float], np.ndarray]:
    """``size`` numbers (ascending) that stand for all values, and which of them stands for each.

    Lloyd's algorithm in one dimension, from quantiles; few distinct values are kept exactly.

    Returns:
        the numbers and the index of the nearest one for each value, shaped like ``values``.
    """
    distinct, inverse, weight = np.unique(values, return_inverse=True, return_counts=True)
    if len(distinct) <= size:
        padded = np.concatenate([distinct, np.full(size - len(distinct), distinct[-1])])
        return padded.tolist(), inverse.reshape(values.shape)
    # Half of the entries start at quantiles, half evenly over the range: neither the many nor the far are lost.
    share = np.linspace(0, 1, size // 2)
    cumulative = np.cumsum(weight) / weight.sum()
    quantile = distinct[np.searchsorted(cumulative, share, side="left").clip(max=len(distinct) - 1)]
    centre = np.unique(np.concatenate([quantile, np.linspace(distinct[0], distinct[-1], size - size // 2)]))
    for _ in range(rounds):
        label = np.searchsorted((centre[1:] + centre[:-1]) / 2, distinct)
        total = np.bincount(label, weights=distinct * weight, minlength=len(centre))
        members = np.bincount(label, weights=weight, minlength=len(centre))
        centre = np.sort(np.where(members > 0, total / np.maximum(members, 1), centre))
    label = np.searchsorted((centre[1:] + centre[:-1]) / 2, distinct)
    centre = np.concatenate([centre, np.full(size - len(centre), centre[-1])])
    return centre.tolist(), label[inverse.reshape(values.shape)]


def palette(rows: np.ndarray, rounds: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Representative rows (at most 65536, about one for four rows) and the index of one for each row.

    k-means on two levels: 64 groups, then the rows of each group among themselves, so that the work grows with
    ``n (64 + k / 64)`` instead of ``n k``. Up to 1024 rows are kept as they are.
    """
    count = len(rows)
    if count <= 1024:
        return rows.copy(), np.arange(count)
    target = min(_LARGEST_PALETTE, max(1024, count // 4))
    group = _kmeans(rows, 64, rounds)[1]
    centres: list[np.ndarray] = []
    label, used = np.zeros(count, np.int64), 0
    for g in range(64):
        members = np.flatnonzero(group == g)
        if len(members) == 0:
            continue
        share = min(len(members), max(1, target * len(members) // count))
        found, local = _kmeans(rows[members], share, rounds)
        label[members] = used + local
        centres.append(found)
        used += len(found)
    return np.concatenate(centres), label


def _kmeans(rows: np.ndarray, k: int, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres and labels; starts from rows evenly spaced along the direction of largest variance."""
    spread = rows - rows.mean(0)
    axis = np.linalg.eigh(spread.T @ spread)[1][:, -1]
    axis = axis * np.sign(axis[np.abs(axis).argmax()])
    order = np.argsort(np.round(spread @ axis, 9), kind="stable")
    centre = rows[order[((np.arange(k) + 0.5) * len(rows) / k).astype(np.int64)]].copy()
    label = _nearest(rows, centre)
    for _ in range(rounds):
        members = np.bincount(label, minlength=k)
        total = np.stack([np.bincount(label, weights=column, minlength=k) for column in rows.T], 1)
        centre = np.where(members[:, None] > 0, total / np.maximum(members, 1)[:, None], centre)
        label = _nearest(rows, centre)
    return centre, label


def _nearest(rows: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """The index of the nearest centre, in chunks of bounded memory."""
    squares = (centre**2).sum(1)
    step = max(1, _CHUNK * 64 // max(len(centre), 64))
    parts = [rows[s : s + step] for s in range(0, len(rows), step)]
    return np.concatenate([(squares - 2 * part @ centre.T).argmin(1) for part in parts])
