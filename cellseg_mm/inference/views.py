"""Views of an image for test-time augmentation, and the way back from each."""
from typing import NamedTuple

import numpy as np

from cellseg_mm.errors import UserError
from cellseg_mm.structures.cells import Cells


class View(NamedTuple):
    """An image mirrored left to right, then turned, then scaled.

    Attributes:
        flip (bool): Whether it is mirrored.
        turns (int): Quarter turns, counter-clockwise.
        scale (float): Factor of its size for the network.
    """

    flip: bool = False
    turns: int = 0
    scale: float = 1.0

    def of(self, image):
        """The image, (H, W, ...), as this view shows it, unscaled."""
        # Copied even where it is contiguous: strides along sides of one pixel may be negative, which torch refuses.
        return np.rot90(image[:, ::-1] if self.flip else image, self.turns).copy()

    def undo(self, cells):
        """Cells found in `of(image)`, at its unscaled size, as those of the image."""
        masks = cells.masks.rot90(-self.turns)
        return Cells(masks.flip('horizontal') if self.flip else masks, cells.labels, cells.scores)


VIEWS = {
    'flips': (View(), View(flip=True), View(flip=True, turns=2), View(turns=2)),
    'turns': tuple(View(flip, turns) for flip in (False, True) for turns in range(4)),
    'scales': (View(), View(scale=0.8), View(scale=1.25)),
}


def views_of(names):
    """The views of one or several sets of `VIEWS`, combined.

    Args:
        names (Sequence[str]): Such as ('turns', 'scales'); none gives the image as it is.

    Returns:
        list[View]: Each combination once.

    Raises:
        UserError: If a name is not one of `VIEWS`.
    """
    views = [View()]
    for name in names:
        if name not in VIEWS:
            raise UserError(f'there are no views of the name {name}; there are {", ".join(VIEWS)}')
        views = [View(a.flip ^ b.flip, a.turns + b.turns if not b.flip else b.turns - a.turns, a.scale * b.scale)
                 for a in views for b in VIEWS[name]]
    return list(dict.fromkeys(view._replace(turns=view.turns % 4) for view in views))
