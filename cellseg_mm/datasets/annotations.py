"""Label maps of cells from and to what COCO annotations hold; the cost grows with pixels alone."""
import numpy as np
from pycocotools import mask as coco_mask

from cellseg_mm.structures.rle import decode_counts, runs, with_text_counts


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
    canvas = np.zeros(height * width, np.int32)
    overlapping = np.zeros(len(rles) + 1, bool)
    for number, rle in enumerate(rles, 1):
        edges = np.cumsum(decode_counts(rle['counts']))
        for start, stop in zip(edges[0::2], edges[1::2], strict=False):
            covered = canvas[start:stop]
            if covered.any():
                overlapping[covered] = overlapping[number] = True
            covered[:] = number
    overlapping[0] = False
    return canvas.reshape(height, width, order='F'), overlapping[1:]


def describe(rles):
    """The fields of COCO annotations that follow from their masks.

    Args:
        rles (list[dict]): N masks, {'size': [H, W], 'counts': bytes}.

    Returns:
        list[dict]: N times iscrowd (0), area (float, pixels), bbox ([x, y, w, h], float, pixels) and segmentation
            ({'size', 'counts': str}).
    """
    if not rles:
        return []
    # One area at a time: pycocotools 2.0 fails on lists of more than 255 masks under NumPy 2.
    return [{'iscrowd': 0, 'area': float(coco_mask.area(rle)), 'bbox': box.tolist(),
             'segmentation': with_text_counts(rle)}
            for rle, box in zip(rles, coco_mask.toBbox(rles), strict=True)]
