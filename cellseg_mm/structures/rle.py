"""COCO's run-length encoding (RLE) of masks, to and from label maps and crops; no canvas for an instance anywhere."""
import numpy as np
from pycocotools import mask as coco_mask

# Of one number: 7 times 5 bits hold the pixels of any image.
_MAX_CHARACTERS = 7


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
    starts, lengths, values = runs(labels.ravel(order='F'))
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


def encode_mask(mask):
    """RLE of one mask; beyond one look at every pixel, the cost is that of its columns, not of the canvas.

    Args:
        mask (ndarray): (H, W) bool.

    Returns:
        dict: `size` [H, W] and `counts`, text.
    """
    height, width = mask.shape
    columns = np.flatnonzero(mask.any(0))
    first, last = (columns[0], columns[-1] + 1) if columns.size else (0, 0)
    # COCO's RLE runs down the columns, beginning with a run of zeros.
    pixels = np.zeros((last - first) * height + 2, bool)
    pixels[1:-1] = mask[:, first:last].T.ravel()
    edges = np.flatnonzero(pixels[1:] != pixels[:-1]) + first * height
    counts = np.diff(edges[edges < height * width], prepend=0, append=height * width)
    return with_text_counts(coco_mask.frPyObjects({'size': [height, width], 'counts': counts.tolist()}, height, width))


def decode_counts(counts):
    """Run lengths of compressed RLE counts, of background and cell in turn.

    Five bits a character, the lowest first, bit 5 set where more follow, the last one's bit 4 being the sign; from the
    fourth number on, the difference to the last but one (`rleToString` in cocodataset/cocoapi's maskApi.c).

    Args:
        counts (str | bytes): The counts of a COCO RLE.

    Returns:
        ndarray: int64 (R,). They may be negative or not add up where the counts are damaged.

    Raises:
        ValueError: If the counts are not of that form.
    """
    # What is not ASCII becomes bytes above 127, which no count has.
    text = counts.encode('utf-8', 'surrogatepass') if isinstance(counts, str) else counts
    bits = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not len(bits):
        return bits
    last = bits & 32 == 0
    first = np.flatnonzero(np.append(True, last[:-1]))
    sizes = np.diff(first, append=len(bits))
    if bits.min() < 0 or bits.max() > 63 or not last[-1] or sizes.max() > _MAX_CHARACTERS:
        raise ValueError('its RLE counts cannot be decoded')
    shift = 5 * (np.arange(len(bits)) - np.repeat(first, sizes))
    numbers = np.add.reduceat((bits & 31) << shift, first)
    numbers -= np.where(bits[last] & 16, 1 << shift[last] + 5, 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def crop_of_rle(rle):
    """Decode a COCO RLE within its own bounding box, at a cost that the image's size has no part in.

    Args:
        rle (dict): `size` [H, W] and `counts`, as text, bytes or a list of run lengths.

    Returns:
        tuple[int, int, ndarray]: x and y of the upper left pixel, and the bitmap, uint8 (h, w); an empty instance gives
            a bitmap of shape (0, 0).
    """
    counts = rle['counts']
    ends = np.cumsum(counts if isinstance(counts, list) else decode_counts(counts))
    starts, ends = ends[:-1:2], ends[1::2]
    starts, ends = starts[ends > starts], ends[ends > starts]
    if not len(starts):
        return 0, 0, np.zeros((0, 0), np.uint8)
    height = rle['size'][0]
    # Runs go down the columns; one that reaches over a column's end is cut there.
    columns_over = (ends - 1) // height - starts // height + 1
    nth = np.arange(columns_over.sum()) - np.repeat(np.cumsum(columns_over) - columns_over, columns_over)
    columns = np.repeat(starts // height, columns_over) + nth
    tops = np.maximum(np.repeat(starts, columns_over) - columns * height, 0)
    bottoms = np.minimum(np.repeat(ends, columns_over) - columns * height, height)
    x, y = columns[0], tops.min()
    edges = np.zeros((columns[-1] - x + 1, bottoms.max() - y + 1), np.int8)
    np.add.at(edges, (columns - x, tops - y), 1)
    np.add.at(edges, (columns - x, bottoms - y), -1)
    return int(x), int(y), np.cumsum(edges, axis=1, dtype=np.int8)[:, :-1].T.astype(np.uint8)


def with_text_counts(rle):
    """Return an RLE with its counts as text, as JSON needs them."""
    counts = rle['counts']
    return {'size': [int(side) for side in rle['size']],
            'counts': counts.decode('ascii') if isinstance(counts, bytes) else counts}


def _encode_rle(counts, size, height, width):
    if size != [height, width]:
        raise ValueError(f'its RLE is of size {size}, the image of [{height}, {width}]')
    if isinstance(counts, str | bytes):
        # pycocotools itself would read wrong counts past the end of its memory.
        counts = decode_counts(counts).tolist()
    elif not isinstance(counts, list) or not all(isinstance(count, int) for count in counts):
        raise ValueError('its RLE counts are neither text nor a list of whole numbers')
    if min(counts, default=0) < 0 or sum(counts) != height * width:
        raise ValueError(f'its RLE counts do not add up to {height} x {width} pixels')
    return coco_mask.frPyObjects([{'size': size, 'counts': counts}], height, width)[0]


def runs(flat):
    """Starts, lengths and values, each (R,), of the runs of equal values in a flat array."""
    if not flat.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), flat
    starts = np.append(0, np.flatnonzero(flat[1:] != flat[:-1]) + 1)
    return starts, np.diff(starts, append=flat.size), flat[starts]
