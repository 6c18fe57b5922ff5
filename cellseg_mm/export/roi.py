"""ImageJ ROIs, one a cell in a zip file, as ImageJ's ROI Manager opens it.

A ROI runs along the edges of its cell's pixels, so that the pixels ImageJ finds within it are the cell's. A cell in one
piece without holes is a traced ROI of whole numbers; others, and those beyond where such numbers end, are composites.
"""
import re
import zipfile
from itertools import pairwise

import numpy as np
from roifile import ROI_TYPE, ImagejRoi

from cellseg_mm.io.files import atomic_path
from cellseg_mm.structures.contours import trace

_AT_ONCE = 4096
# Whole numbers have 16 bits, of which ImageJ keeps some for negative ones.
_MOST = 60_535
# Java's PathIterator, which composites are written as.
_MOVE, _LINE, _CLOSE = 0, 1, 4
_NOT_IN_FILE_NAMES = re.compile(r'[\\/:*?"<>|\x00-\x1f]')


def write_rois(path, cells, classes, colors):
    """Write cells for ImageJ, one at a time, and the file whole or not at all.

    Args:
        path (str | Path): Where to; ImageJ wants the suffix '.zip'.
        cells (Cells): N cells of one image, none of them empty. Names of ROIs are their number and class, such as
            '000001 tumour'.
        classes (Sequence[str]): The name of each label.
        colors (Sequence[tuple[int]]): Its red, green and blue, 0 to 255, which ROIs are outlined in.
    """
    strokes = [bytes([255, *color]) for color in colors]
    names = [_NOT_IN_FILE_NAMES.sub('_', name) for name in classes]
    digits = max(6, len(str(len(cells))))
    with atomic_path(path) as partial, zipfile.ZipFile(partial, 'w', zipfile.ZIP_DEFLATED) as archive:
        for first in range(0, len(cells), _AT_ONCE):
            part = cells[np.arange(len(cells))[first:first + _AT_ONCE]]
            for number, (label, box, loops) in enumerate(
                    zip(part.labels.tolist(), part.masks.boxes, _loops(part.masks), strict=True), first + 1):
                roi = _roi(box, loops)
                roi.name, roi.stroke_color = f'{number:0{digits}} {classes[label]}', strokes[label]
                # Without the time of writing: the same cells give the same bytes.
                member = zipfile.ZipInfo(f'{number:0{digits}} {names[label]}.roi')
                member.external_attr = 0o644 << 16
                archive.writestr(member, roi.tobytes(), zipfile.ZIP_DEFLATED)


def _loops(masks):
    """The corners of the loops around each mask, int32 (V, 2), the last of a loop being its first again."""
    corners, loops = trace(masks.pixels, masks.boxes, masks.offsets)
    corners = np.split(corners, np.cumsum(loops[:-1, 1]))
    stops = np.searchsorted(loops[:, 0], np.arange(len(masks) + 1)).tolist()
    return [corners[start:stop] for start, stop in pairwise(stops)]


def _roi(box, loops):
    left, top, width, height = box.tolist()
    roi = ImagejRoi(left=left, top=top, right=left + width, bottom=top + height)
    if len(loops) == 1 and max(roi.right, roi.bottom) <= _MOST:
        roi.roitype = ROI_TYPE.TRACED
        roi.integer_coordinates = loops[0][:-1] - box[:2]
        roi.n_coordinates = len(roi.integer_coordinates)
        return roi
    roi.roitype = ROI_TYPE.RECT
    roi.multi_coordinates = np.concatenate([_path(loop) for loop in loops])
    roi.shape_roi_size = len(roi.multi_coordinates)
    return roi


def _path(loop):
    steps = np.empty((len(loop) - 1, 3), np.float32)
    steps[:, 0], steps[:, 1:] = _LINE, loop[:-1]
    steps[0, 0] = _MOVE
    return np.append(steps.ravel(), np.float32(_CLOSE))
