"""A multilayer perceptron with one multiplication at a time."""

from __future__ import annotations


def apply(rows, weights):
    """Lists of outputs, one per row of inputs."""
    result = []
    for values in rows:
        for index, matrix in enumerate(weights):
            sums = [sum(w * v for w, v in zip(line, values)) for line in matrix]
            values = sums if index == len(weights) - 1 else [max(s, 0.0) for s in sums]
        result.append(values)
    return result
