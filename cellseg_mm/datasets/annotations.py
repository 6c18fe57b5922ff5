"""Label maps of cells from and to what COCO annotations hold; the cost grows with pixels alone."""
import numpy as np

from cellseg_mm.structures.bitmaps import runs
from cellseg_mm.structures.compiled import compiled
from cellseg_mm.structures.rle import decode, measure, with_text_counts


def compact_label_map(labels):
    """Number the instances of a label map from 1 on, in the order of their ids.

    Args:
        labels (ndarray): int (H, W), 0 is background; ids may have gaps and be of any size.

    Returns:
        tuple[ndarray, ndarray]: the ids, (N,) of the type of `labels`, ascending; and int32 (H, W), 0 for background
            and i + 1 for the pixels of the i-th id.
    """
    _, lengths, values = runs(labels.ravel())
    ids, inverse = np.unique(np.append(values, 0), return_inverse=True)
    first = np.searchsorted(ids, 0)
    number = np.arange(1, len(ids) + 1, dtype=np.int32)
    number[first:] -= 1
    number[first] = 0
    return np.delete(ids, first), np.repeat(number[inverse[:-1]], lengths).reshape(labels.shape)


def paint(rles, height, width):
    """Label map of RLE masks, of which later ones cover earlier ones, and which masks overlap.

    Args:
        rles (list[dict]): N masks, {'size': [H, W], 'counts': bytes}.
        height (int): Rows of the image.
        width (int): Columns of the image.

    Returns:
        tuple[ndarray, ndarray]: int32 (H, W), i + 1 for the pixels of mask i; and bool (N,), whether mask i shares
            pixels with another.
    """
    labels, overlapping = np.zeros((height, width), np.int32), np.zeros(len(rles) + 1, bool)
    _paint(*decode(rles, height, width), labels, overlapping)
    return labels, overlapping[1:]


@compiled
def _paint(pixels, boxes, labels, overlapping):
    source = 0
    for i in range(len(boxes)):
        x, y, width, height = boxes[i]
        for row in range(y, y + height):
            for column in range(x, x + width):
                if pixels[source]:
                    covered = labels[row, column]
                    if covered:
                        overlapping[covered] = overlapping[i + 1] = True
                    labels[row, column] = i + 1
                source += 1


def describe(rles):
    """The fields of COCO annotations that follow from their masks.

    Args:
        rles (list[dict]): N sound masks of one size, {'size': [H, W], 'counts': bytes}.

    Returns:
        list[dict]: N times iscrowd (0), area (float, pixels), bbox ([x, y, w, h], float, pixels) and segmentation
            ({'size', 'counts': str}).
    """
    if not rles:
        return []
    boxes, areas, _ = measure(rles, *rles[0]['size'])
    return [{'iscrowd': 0, 'area': area, 'bbox': box, 'segmentation': with_text_counts(rle)}
            for rle, area, box in zip(rles, areas.astype(float).tolist(), boxes.astype(float).tolist(), strict=True)]
