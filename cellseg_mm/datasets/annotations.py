"""COCO annotations of cells from label maps and from COCO files of other programs; the cost grows with pixels alone."""
import numpy as np
from pycocotools import mask as coco_mask


def compact_label_map(labels):
    """Number the instances of a label map from 1 on, in the order of their ids.

    Args:
        labels (ndarray): int (H, W), 0 is background; ids may have gaps and be of any size.

    Returns:
        tuple[ndarray, ndarray]: the ids, (N,) of the type of `labels`, ascending; and int32 (H, W), 0 for background
            and i + 1 for the pixels of the i-th id.
    """
    _, lengths, values = _runs(labels.ravel())
    ids, inverse = np.unique(np.append(values, 0), return_inverse=True)
    first = np.searchsorted(ids, 0)
    number = np.arange(1, len(ids) + 1, dtype=np.int32)
    number[first:] -= 1
    number[first] = 0
    return np.delete(ids, first), np.repeat(number[inverse[:-1]], lengths).reshape(labels.shape)


def encode_label_map(labels):
    """COCO RLE of each instance of a label map, without a canvas for any of them.

    The runs of all instances are found in one pass over the map, column by column as COCO counts.

    Args:
        labels (ndarray): int (H, W), 0 is background.

    Returns:
        list[dict]: {'size': [H, W], 'counts': bytes}, one for each id in ascending order; equal to
            `pycocotools.mask.encode(labels == id)`.
    """
    height, width = labels.shape
    starts, lengths, values = _runs(labels.ravel(order='F'))
    order = np.argsort(values, kind='stable')
    order = order[values[order] != 0]
    if not len(order):
        return []
    edges = np.stack([starts[order], starts[order] + lengths[order]], axis=1)
    first = np.append(0, np.flatnonzero(np.diff(values[order])) + 1)
    stop = np.append(first[1:], len(order))
    # The counts of all instances in one array: background and cell in turn, then what is left of the image.
    counts = np.diff(edges.ravel(), prepend=0)
    counts[2 * first] = edges[first, 0]
    counts = np.insert(counts, 2 * stop, labels.size - edges[stop - 1, 1])
    parts = np.split(counts, (2 * stop + np.arange(1, len(stop) + 1))[:-1])
    return coco_mask.frPyObjects(
        [{'size': [height, width], 'counts': part if part[-1] else part[:-1]} for part in parts], height, width)


def encode_segmentation(segmentation, height, width):
    """COCO RLE of one segmentation as COCO files hold it: polygons, uncompressed RLE or compressed RLE.

    Args:
        segmentation (list | dict): [[x, y, x, y, ...], ...] or {'size': [H, W], 'counts': list | str}.
        height (int): Rows of the image.
        width (int): Columns of the image.

    Returns:
        dict: {'size': [H, W], 'counts': bytes}.

    Raises:
        ValueError: If it is none of these, or of another size than the image; the message says what is wrong.
    """
    if isinstance(segmentation, dict) and {'size', 'counts'} <= segmentation.keys():
        return _encode_rle(segmentation['counts'], segmentation['size'], height, width)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError('it has no segmentation')
    polygons = segmentation if isinstance(segmentation[0], list) else [segmentation]
    try:
        points = [np.array(polygon, np.float64) for polygon in polygons]
    except (TypeError, ValueError):
        points = []
    if not points or not all(p.ndim == 1 and p.size >= 6 and p.size % 2 == 0 and np.isfinite(p).all() for p in points):
        raise ValueError('a polygon is not a list [x, y, x, y, ...] of three points or more')
    # pycocotools walks along polygons pixel by pixel, without end where a point is far away.
    reach = max(height, width)
    if any(p.min() < -reach or p.max() > 2 * reach for p in points):
        raise ValueError('a polygon reaches far outside the image')
    return coco_mask.merge(coco_mask.frPyObjects([p.tolist() for p in points], height, width))


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


def decode_counts(counts):
    """Run lengths of compressed RLE counts, of background and mask in turn.

    Five bits a character, the lowest first, bit 5 set where more follow, the last one's bit 4 being the sign; from the
    third on, the difference to the count before the last (`rleToString` in cocodataset/cocoapi's maskApi.c).

    Args:
        counts (bytes): The counts of a COCO RLE.

    Returns:
        list[int]: The lengths.

    Raises:
        ValueError: If the counts break off in the middle of a number.
    """
    lengths, value, shift = [], 0, 0
    for char in counts:
        bits = char - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError('its RLE counts break off')
    return lengths


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
             'segmentation': {'size': list(rle['size']), 'counts': rle['counts'].decode()}}
            for rle, box in zip(rles, coco_mask.toBbox(rles), strict=True)]


def _encode_rle(counts, size, height, width):
    if size != [height, width]:
        raise ValueError(f'its RLE is of size {size}, the image of [{height}, {width}]')
    if isinstance(counts, str | bytes):
        # pycocotools itself would read wrong counts past the end of its memory.
        counts = decode_counts(counts.encode() if isinstance(counts, str) else counts)
    elif not isinstance(counts, list) or not all(isinstance(count, int) for count in counts):
        raise ValueError('its RLE counts are neither text nor a list of whole numbers')
    if min(counts, default=0) < 0 or sum(counts) != height * width:
        raise ValueError(f'its RLE counts do not add up to {height} x {width} pixels')
    return coco_mask.frPyObjects([{'size': size, 'counts': counts}], height, width)[0]


def _runs(flat):
    """Starts, lengths and values, each (R,), of the runs of equal values in a flat array."""
    if not flat.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), flat
    starts = np.append(0, np.flatnonzero(flat[1:] != flat[:-1]) + 1)
    return starts, np.diff(starts, append=flat.size), flat[starts]
