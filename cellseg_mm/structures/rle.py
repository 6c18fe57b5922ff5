"""COCO's run-length encoding (RLE) of masks, to and from local bitmaps; no canvas for an instance anywhere.

Runs go down the columns, of background and cell in turn. Counts are their lengths, written five bits a character, the
lowest first, bit 5 set where more follow, the last one's bit 4 being the sign; from the fourth number on, the
difference to the last but one (`rleToString` in cocodataset/cocoapi's maskApi.c).
"""
import numpy as np
from pycocotools import mask as coco_mask

from cellseg_mm.structures import bitmaps
from cellseg_mm.structures.compiled import compiled

# Of one number: 12 times 5 bits is what int64 has room for, whatever the image.
_MAX_CHARACTERS = 12
_UNDECODABLE, _WRONG_SUM = 1, 2


def measure(rles, height, width):
    """Box and area of each RLE, and what is wrong with it.

    Args:
        rles (list[dict]): N times `size` [H, W] and `counts`, as text, bytes or a list of run lengths.
        height (int): Rows of the image.
        width (int): Columns of the image.

    Returns:
        tuple[ndarray, ndarray, dict[int, str]]: tight boxes, int32 (N, 4) of x, y, width and height in pixels, zeros
            for an empty mask; areas in pixels, int64 (N,); and by the index of each RLE that is broken, which has zeros
            too, the problem: 'counts do not add up to 3 x 4 pixels'.
    """
    _, _, boxes, areas, problems = _parse(rles, height, width)
    return boxes, areas, problems


def decode(rles, height, width):
    """Bitmaps of RLEs.

    Args:
        rles (list[dict]): As for `measure`.
        height (int): Rows of the image.
        width (int): Columns of the image.

    Returns:
        tuple[ndarray, ndarray]: `pixels`, uint8 (P,) of 0 and 1, the bitmaps one after another, row by row; and
            `boxes`, int32 (N, 4), tight, of x, y, width and height in pixels, zeros for an empty mask.

    Raises:
        ValueError: If one is broken or of another size; the message names the first such by its index.
    """
    edges, stops, boxes, _, problems = _parse(rles, height, width)
    if problems:
        raise ValueError(f'RLE {min(problems)}: its {problems[min(problems)]}')
    return _fill(edges, stops, boxes, bitmaps.offsets_of(boxes), height), boxes


def encode(pixels, boxes, height, width):
    """RLEs of bitmaps, byte for byte what pycocotools makes of the whole masks.

    Args:
        pixels (ndarray): uint8 (P,), the N bitmaps one after another, row by row; what is not 0 is set.
        boxes (ndarray): int32 (N, 4) of x, y, width and height in pixels, inside the image; they need not be tight.
        height (int): Rows of the image.
        width (int): Columns of the image.

    Returns:
        list[dict]: N times {'size': [H, W], 'counts': bytes}.

    Raises:
        ValueError: If a box reaches outside the image, or pixels and boxes do not fit each other.
    """
    height, width = int(height), int(width)
    pixels, boxes = np.ascontiguousarray(pixels, np.uint8), np.ascontiguousarray(boxes, np.int32).reshape(-1, 4)
    if (boxes < 0).any() or (boxes[:, 2:] > (width, height) - boxes[:, :2].astype(np.int64)).any():
        raise ValueError(f'a box reaches outside the image of {height} x {width} pixels')
    offsets = bitmaps.offsets_of(boxes)
    if len(pixels) != offsets[-1]:
        raise ValueError(f'there are {len(pixels)} pixels for boxes of {offsets[-1]}')
    text, stops = _encode(pixels, boxes, offsets, height, width)
    text, stops = text.tobytes(), stops.tolist()
    return [{'size': [height, width], 'counts': text[start:stop]}
            for start, stop in zip([0, *stops], stops, strict=False)]


def encode_label_map(labels):
    """RLEs of the instances of a label map, in ascending order of their ids; see `bitmaps.label_map_bitmaps`."""
    return encode(*bitmaps.label_map_bitmaps(labels), *labels.shape)


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
        edges, stops, boxes, _, problems = _parse([segmentation], height, width)
        if problems:
            raise ValueError(f'its RLE {problems[0]}')
        pixels = _fill(edges, stops, boxes, bitmaps.offsets_of(boxes), height)
        return encode(pixels, boxes, height, width)[0]
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError('it has no segmentation')
    polygons = segmentation if isinstance(segmentation[0], list) else [segmentation]
    try:
        points = [np.array(polygon, np.float64) for polygon in polygons]
    except (TypeError, ValueError, OverflowError):
        points = []
    if not points or not all(p.ndim == 1 and p.size >= 6 and p.size % 2 == 0 and np.isfinite(p).all() for p in points):
        raise ValueError('a polygon is not a list [x, y, x, y, ...] of three points or more')
    # pycocotools walks along polygons pixel by pixel, without end where a point is far away.
    reach = max(height, width)
    if any(p.min() < -reach or p.max() > 2 * reach for p in points):
        raise ValueError('a polygon reaches far outside the image')
    return coco_mask.merge(coco_mask.frPyObjects([p.tolist() for p in points], height, width))


def with_text_counts(rle):
    """Return an RLE with its counts as text, as JSON needs them."""
    counts = rle['counts']
    return {'size': [int(side) for side in rle['size']],
            'counts': counts.decode('ascii') if isinstance(counts, bytes) else counts}


def _parse(rles, height, width):
    """What `_measure` gives, the problems in words."""
    size, texts, problems = [height, width], [], {}
    for i, rle in enumerate(rles):
        text = _text_of(rle['counts'], height * width)
        if rle['size'] not in (size, tuple(size)):
            problems[i] = f'size is {rle["size"]}, that of the image {size}'
        elif text is None:
            problems[i] = 'counts are neither text nor a list of whole numbers'
        texts.append(text or b'')
    stops = np.fromiter(map(len, texts), np.int64, len(texts)).cumsum()
    *parsed, status = _measure(np.frombuffer(b''.join(texts), np.uint8), stops, height, width)
    for i in np.flatnonzero(status).tolist():
        problems.setdefault(i, 'counts cannot be decoded' if status[i] == _UNDECODABLE else
                            f'counts do not add up to {height} x {width} pixels')
    return *parsed, problems


def _text_of(counts, pixels):
    """Counts of any kind as bytes, which are empty where a list does not add up; None if they are of no kind."""
    if isinstance(counts, bytes):
        return counts
    if isinstance(counts, str):
        # What is not ASCII becomes bytes above 127, which no count has.
        return counts.encode('utf-8', 'surrogatepass')
    if not isinstance(counts, list) or not all(isinstance(count, int) for count in counts):
        return None
    # Python's numbers, unlike those of the kernels, have no limit.
    if min(counts, default=0) < 0 or sum(counts) != pixels:
        return b''
    text, used = _write(np.empty(0, np.uint8), 0, np.cumsum(counts, dtype=np.int64))
    return text[:used].tobytes()


@compiled
def _measure(text, text_stops, height, width):
    """Where each run of each RLE ends, int64 (R,), and the last of each RLE in that, boxes, areas and problems."""
    size = len(text_stops)
    edges, stops = np.empty(len(text), np.int64), np.empty(size, np.int64)
    boxes, areas, status = np.zeros((size, 4), np.int32), np.zeros(size, np.int64), np.zeros(size, np.uint8)
    pixels = height * width
    begin = used = 0
    for i in range(size):
        first = used
        end = last = last_but_one = number = shift = area = 0
        left, right, top, bottom = width, 0, height, 0
        problem = 0
        for k in range(begin, text_stops[i]):
            bits = np.int64(text[k]) - 48
            if bits < 0 or bits > 63 or shift == 5 * _MAX_CHARACTERS:
                problem = _UNDECODABLE
                break
            number |= (bits & 31) << shift
            shift += 5
            if bits & 32:
                continue
            if bits & 16:
                number -= 1 << shift
            length = number + last_but_one if used - first > 2 else number
            last_but_one, last = last, length
            number = shift = 0
            start, end = end, end + length
            if length < 0 or end > pixels:
                problem = _WRONG_SUM
                break
            edges[used] = end
            used += 1
            if (used - first) % 2 or not length:
                continue
            area += length
            column, last_column = start // height, (end - 1) // height
            left, right = min(left, column), last_column
            if column == last_column:
                top, bottom = min(top, start - column * height), max(bottom, end - column * height)
            else:
                top, bottom = 0, height
        begin = text_stops[i]
        if not problem and shift:
            problem = _UNDECODABLE
        if not problem and end != pixels:
            problem = _WRONG_SUM
        status[i] = problem
        if area and not problem:
            areas[i] = area
            boxes[i] = left, top, right + 1 - left, bottom - top
        stops[i] = used
    return edges, stops, boxes, areas, status


@compiled
def _fill(edges, stops, boxes, offsets, height):
    """The bitmaps that runs make up."""
    pixels = np.zeros(offsets[-1], np.uint8)
    begin = 0
    for i in range(len(boxes)):
        x, y, width, _ = boxes[i]
        for k in range(begin + 1, stops[i], 2):
            place, end = edges[k - 1], edges[k]
            while place < end:
                column = place // height
                foot = min(end, (column + 1) * height)
                target = offsets[i] + (place - column * height - y) * width + column - x
                for _ in range(foot - place):
                    pixels[target] = 1
                    target += width
                place = foot
        begin = stops[i]
    return pixels


@compiled
def _encode(pixels, boxes, offsets, height, width):
    """The counts of all bitmaps in one text, uint8 (C,), and where those of each end, int64 (N,)."""
    text, stops = np.empty(0, np.uint8), np.empty(len(boxes), np.int64)
    longest = 0
    for i in range(len(boxes)):
        longest = max(longest, offsets[i + 1] - offsets[i] + boxes[i, 2])
    edges = np.empty(longest + 1, np.int64)
    used = 0
    for i in range(len(boxes)):
        x, y, box_width, box_height = boxes[i]
        count = 0
        for column in range(box_width):
            place = (x + column) * height + y
            source = offsets[i] + column
            inside = False
            for row in range(box_height):
                if (pixels[source] != 0) != inside:
                    inside = not inside
                    count = _turn(edges, count, place + row)
                source += box_width
            if inside:
                count = _turn(edges, count, place + box_height)
        if not count or edges[count - 1] != height * width:
            edges[count] = height * width
            count += 1
        text, used = _write(text, used, edges[:count])
        stops[i] = used
    return text[:used], stops


@compiled
def _turn(edges, count, place):
    """Append an edge; one at the foot of a column and one at the head of the next are none."""
    if count and edges[count - 1] == place:
        return count - 1
    edges[count] = place
    return count + 1


@compiled
def _write(text, used, edges):
    """Append the counts between edges to the first `used` characters of a text; returns the text and its length."""
    needed = used + len(edges) * _MAX_CHARACTERS
    if needed > len(text):
        longer = np.empty(2 * needed, np.uint8)
        longer[:used] = text[:used]
        text = longer
    start = last = last_but_one = 0
    for k in range(len(edges)):
        length = edges[k] - start
        number = length - last_but_one if k > 2 else length
        start, last_but_one, last = edges[k], last, length
        while True:
            bits = number & 31
            number >>= 5
            if number == (-1 if bits & 16 else 0):
                break
            text[used] = bits + 80
            used += 1
        text[used] = bits + 48
        used += 1
    return text, used
