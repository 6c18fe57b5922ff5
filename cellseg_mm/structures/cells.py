"""Cells that were found in an image."""
from dataclasses import dataclass

import numpy as np

from cellseg_mm.structures.local_masks import LocalMasks


@dataclass(frozen=True)
class Cells:
    """N cells of one image.

    Attributes:
        masks (LocalMasks): N masks on a canvas of the image's size.
        labels (ndarray): int64 (N,), indices of classes.
        scores (ndarray): float32 (N,), in [0, 1].
    """

    masks: LocalMasks
    labels: np.ndarray
    scores: np.ndarray

    @classmethod
    def none(cls, height, width):
        """No cell in an image of (height, width)."""
        return cls(LocalMasks.empty(height, width), np.zeros(0, np.int64), np.zeros(0, np.float32))

    @classmethod
    def cat(cls, parts):
        """Concatenate a sequence of `Cells` of one image."""
        return cls(LocalMasks.cat([part.masks for part in parts]), np.concatenate([part.labels for part in parts]),
                   np.concatenate([part.scores for part in parts]))

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, chosen):
        """Those of an index array, int (M,) or bool (N,)."""
        return Cells(self.masks[chosen], self.labels[chosen], self.scores[chosen])
