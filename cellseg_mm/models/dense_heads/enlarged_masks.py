"""From coarse canvases to masks of the image, without enlarging a canvas for each mask."""
import numpy as np
import torch

from cellseg_mm.models.chunks import chunks
from cellseg_mm.structures.local_masks import LocalMasks

_SLACK = 0.01  # of values: interpolation may round one up to the threshold
_REACH = 3  # coarse pixels: interpolating twice, a pixel within 1.5 of a mask depends on no other further off


class _Sheets:
    """Coarse canvases that masks share, each at its own place and apart from the others.

    Bilinear interpolation asks no further than the next pixels, so what it makes of a mask there is, to the last bit,
    what it makes of the mask's own canvas.
    """

    def __init__(self):
        self.sheets, self.taken, self.numbers, self.boxes = [], [], [], []

    def add(self, canvas, box):
        """Copy what lies about a box, (x1, y1, x2, y2) in coarse pixels, onto the first sheet that is free there."""
        x1, y1, x2, y2 = box
        window = np.s_[max(y1 - _REACH, 0):y2 + _REACH, max(x1 - _REACH, 0):x2 + _REACH] if x2 else np.s_[:0, :0]
        number = next((number for number, taken in enumerate(self.taken) if not taken[window].any()), len(self.taken))
        if number == len(self.taken):
            self.sheets.append(torch.zeros_like(canvas))
            self.taken.append(np.zeros(canvas.shape, bool))
        self.sheets[number][window] = canvas[window]
        self.taken[number][window] = True
        self.numbers.append(number)
        self.boxes.append(box)

    def enlarged(self, enlarge, step, shape):
        if not self.sheets:
            return LocalMasks.empty(*shape)
        sheets = torch.stack(self.sheets)
        sheets = np.concatenate([enlarge(sheets[part]).cpu().numpy()
                                 for part in chunks(len(sheets), shape[0] * shape[1])])
        corners = np.array(self.boxes).reshape(-1, 2, 2)
        within = corners + np.where(corners[:, 1:] > 0, [[-_REACH / 2], [_REACH / 2]], 0)
        # Pixels whose centres lie within.
        corners = np.ceil(within / np.array(step[::-1]) - 0.5).clip(0, shape[::-1]).astype(int)
        pixels = [sheets[number, y1:y2, x1:x2].ravel()
                  for number, ((x1, y1), (x2, y2)) in zip(self.numbers, corners.tolist(), strict=True)]
        return LocalMasks(np.concatenate(pixels), np.hstack([corners[:, 0], corners[:, 1] - corners[:, 0]]), *shape)


def enlarged(make, count, values, enlarge, step, shape, threshold):
    """What `enlarge` makes of each coarse canvas, enlarging many at once where masks are small.

    Args:
        make (callable): Takes a slice of the instances and returns their coarse canvases, float (K, h, w).
        count (int): Number of instances, N.
        values (int): Numbers that one of them takes while `make` works on it.
        enlarge (callable): Takes canvases (K, h, w) and returns bool (K, H, W), by bilinear interpolation, once or
            twice, and a threshold.
        step (tuple[float, float]): How many rows and columns of a coarse canvas one of the masks spans.
        shape (tuple[int, int]): H and W.
        threshold (float): The value of coarse canvases above which masks are set.

    Returns:
        LocalMasks: N masks of (H, W), those of `enlarge(make(slice(None)))` to the last bit.
    """
    found, sheets = [LocalMasks.empty(*shape)], _Sheets()
    for part in chunks(count, values):
        canvases = make(part)
        for canvas, box in zip(canvases, _boxes(canvases > threshold - _SLACK), strict=True):
            # Large masks take a sheet each.
            if len(chunks(len(sheets.sheets), shape[0] * shape[1])) > 1:
                found.append(sheets.enlarged(enlarge, step, shape))
                sheets = _Sheets()
            sheets.add(canvas, box)
    return LocalMasks.cat([*found, sheets.enlarged(enlarge, step, shape)])


def _boxes(masks):
    """Tight boxes x1, y1, x2, y2 of masks, bool (K, h, w), of which x1 = x2 = 0 where a mask is empty: list[list]."""
    bounds = []
    for axis in (1, 2):
        line = masks.any(axis).cpu().numpy()
        some = line.any(1)
        bounds += [line.argmax(1), (line.shape[1] - line[:, ::-1].argmax(1)) * some]
    return np.stack([bounds[0], bounds[2], bounds[1], bounds[3]], 1).tolist()
