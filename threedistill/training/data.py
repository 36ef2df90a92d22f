"""The data of a run is its iterations: an index goes in, and everything random about the step derives from it."""

from __future__ import annotations

from torch.utils.data import DataLoader, Dataset

__all__ = ["Iterations"]


class Iterations(Dataset):
    """The indices ``start .. total - 1`` of a stage."""

    def __init__(self, start: int, total: int) -> None:
        self.start, self.total = start, total

    def __len__(self) -> int:
        return max(self.total - self.start, 0)

    def __getitem__(self, position: int) -> int:
        if not 0 <= position < len(self):
            raise IndexError(position)
        return self.start + position

    def loader(self) -> DataLoader:
        """One index at a time, in order, in this process."""
        return DataLoader(self, batch_size=None, shuffle=False, num_workers=0)
