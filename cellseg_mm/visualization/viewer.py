"""A viewer of cells for HTML pages: panes of one image that zoom and pan together, with switches.

Pictures larger than 8,192 pixels a side, or than 20 MB, are shown smaller: browsers, and people who wait for a page,
hold little more. Outlines are exact, whatever the picture's size, up to 16 MB, which is 380,000 cells of 19 pixels;
more are traced more coarsely, down to a pixel for each, so that none is left out. A page of 233,000 cells on
20,000 x 20,000 pixels is 35 MB and redraws in 0.1 to 0.4 s on 2 busy cores; one of 985,000 is 50 MB and takes 0.2 s.
"""
from dataclasses import dataclass, replace

import cv2
import numpy as np

from cellseg_mm.evaluation.confusion import judge
from cellseg_mm.evaluation.instances import Instances
from cellseg_mm.evaluation.matching import match_cells
from cellseg_mm.structures.cells import Cells
from cellseg_mm.structures.contours import trace
from cellseg_mm.visualization.overlay import shrink
from cellseg_mm.visualization.page import css_colours, data_uri, fill

# What can be said of a cell: its name, how its outline is drawn, and what it means.
_STATUSES = (
    ('found', 'solid', 'a true cell that a prediction of its class matches'),
    ('right', 'solid', 'a prediction that matches a true cell of its class'),
    ('missed', 'dashed', 'a true cell that no prediction matches'),
    ('spurious', 'dashed', 'a prediction that matches no true cell'),
    ('confused', 'dotted', 'matched by a cell of another class'),
    ('disputed', 'dotted', 'a true cell that not all models see alike'),
)
_STATUS_INDEX = {name: index for index, (name, _, _) in enumerate(_STATUSES)}
_ALPHABET = np.frombuffer(b'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_', np.uint8)
_TURNS = np.array([0, 1, 0, 2], np.uint8)  # by quarters to the right, of which none is a way back
_AT_ONCE = 4096  # cells
_QUALITY = 90
LARGEST = 8192  # pixels a side
_HEAVIEST = 20_000_000  # bytes of a picture
# WebP can overflow at 67 million pixels of tissue, and takes 10 to 50 times as long as JPEG.
_MOST_WEBP, _JPEG_QUALITY = 4096**2, 80
_MOST_OUTLINES, _OUTLINE = 16_000_000, 17  # bytes over one picture, and of an outline without its edges
_MOST_PLACES = 2**15 - 1  # the script keeps places on outlines as Int16
_THUMBNAIL = 96
_SHOWN = 6  # panes at first; a reader can switch on more


@dataclass(frozen=True)
class Pane:
    """N cells over an image.

    Attributes:
        title (str): Plain text, such as 'Prediction'.
        instances (Instances | Cells): N of them. Scores are shown unless all are 1.
        statuses (list[str] | None): N of 'found', 'confused', 'missed' and, where models differ, 'disputed' for true
            cells, 'right', 'confused' and 'spurious' for predictions; None in all panes of a viewer where there is
            nothing to compare with: its cells have numbers from 1 on, and readers choose the least score.
        partners (ndarray | None): int (N,), index of the cell in the first pane that each matches, -1 for none; None
            for the first pane itself.
    """

    title: str
    instances: Instances | Cells
    statuses: list | None = None
    partners: np.ndarray | None = None


@dataclass(frozen=True)
class ViewerImage:
    """An image, and the panes that show it.

    Attributes:
        title (str): Plain text; short, as it stands under a thumbnail.
        caption (str): Plain text of a line or two, shown with the image.
        bgr (ndarray): uint8 (h, w, 3), the image or a smaller version of it.
        panes (list[Pane]): At least one; their masks of the size of the image itself, (H, W).
        mpp (float | None): Micrometres per pixel.
    """

    title: str
    caption: str
    bgr: np.ndarray
    panes: list
    mpp: float | None = None


def compared(pair):
    """Ground truth and prediction as two panes, their cells matched at a mask IoU above 0.5.

    Args:
        pair (ImagePair): As `ImagePair.confident` gives it.

    Returns:
        list[Pane]: The true cells and the predictions, each cell as `judge` sees it.
    """
    truth, predicted = judge(pair)
    partners = np.full(len(pair.predicted), -1)
    i, j, _ = match_cells(pair)
    partners[j] = i
    return [Pane('Ground truth', pair.truth, truth), Pane('Prediction', pair.predicted, predicted, partners)]


def compared_models(pairs):
    """Ground truth and the predictions of each of several models as panes, their cells matched as in `compared`.

    Args:
        pairs (dict[str, ImagePair]): By name of the model one image, as `ImagePair.confident` gives it.

    Returns:
        list[Pane]: The true cells, as all models see them or 'disputed', then the predictions of each model.
    """
    sides = [compared(pair) for pair in pairs.values()]
    seen = [set(statuses) for statuses in zip(*(truth.statuses for truth, _ in sides), strict=True)]
    truth = replace(sides[0][0], statuses=[min(each) if len(each) == 1 else 'disputed' for each in seen])
    return [truth, *(replace(pane, title=name) for name, (_, pane) in zip(pairs, sides, strict=True))]


def viewer(images, classes):
    """HTML of a viewer that shows one image of several at a time, the same in each pane under other cells.

    It is complete in itself, styles and script included, and neither touches the page around it nor other viewers.
    Where there are more than two panes, a reader chooses which of them are shown beside the first.

    Args:
        images (list[ViewerImage]): At least one; all with as many panes as the first.
        classes (Sequence[str]): Names of the classes, plain text.

    Returns:
        Markup: HTML.
    """
    legends = []
    for panes in zip(*(image.panes for image in images), strict=True):
        present = {status for pane in panes for status in pane.statuses or ()}
        legends.append([(index, *status) for index, status in enumerate(_STATUSES) if status[0] in present])
    colours = css_colours(len(classes))
    return fill(
        'viewer.html',
        images=[(image.title, data_uri(_thumbnail(image.bgr), 'webp', 80), _data(image)) for image in images],
        panes=list(zip(images[0].panes, legends, strict=True)), shown=_SHOWN,
        compared=images[0].panes[0].statuses is not None, classes=list(zip(classes, colours, strict=True)),
        settings={'classes': list(classes), 'colours': colours, 'alphabet': _ALPHABET.tobytes().decode(),
                  'statuses': [status[:2] for status in _STATUSES]})


def _data(image):
    masks = image.panes[0].instances.masks
    height, width = masks.height, masks.width
    source, picture = _source(image.bgr)
    grid = _grid([pane.instances.masks for pane in image.panes])
    said = [image.caption]
    if picture != (height, width):
        said.append(f'Shown at {picture[1]:,} x {picture[0]:,} of {width:,} x {height:,} pixels.')
    if grid[1] < width:
        said.append(f'Outlines of so many cells are exact to {width / grid[1]:.1f} pixels.')
    return {'source': source, 'caption': ' '.join(filter(None, said)), 'width': width, 'height': height,
            'grid': grid[::-1], 'mpp': image.mpp, 'panes': [_cells(pane, grid) for pane in image.panes]}


def _source(bgr):
    """A picture as data URI, and the height and width of that."""
    factor = LARGEST / max(bgr.shape[:2])
    while True:
        if factor < 1:
            size = [max(round(side * factor), 1) for side in bgr.shape[1::-1]]
            bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
        height, width = bgr.shape[:2]
        large = height * width > _MOST_WEBP
        uri = data_uri(bgr, *(('jpeg', _JPEG_QUALITY) if large else ('webp', _QUALITY)))
        if not large or len(uri) * 3 / 4 <= _HEAVIEST:
            return uri, (height, width)
        factor = 0.95 * (_HEAVIEST * 4 / 3 / len(uri))**0.5


def _grid(parts):
    """Height and width to trace outlines at: the masks' own, or less where they would be too many bytes."""
    height, width = parts[0].height, parts[0].width
    factor = min(1, _MOST_PLACES / max(height, width))
    sides = np.concatenate([masks.boxes[:, 2:] for masks in parts])
    if len(sides):
        # An outline is numbers and brackets, and a third of a byte for each edge.
        edges = 3 * (_MOST_OUTLINES / len(sides) - _OUTLINE)
        factor = min(factor, max(edges / (2 * sides.sum(1).mean()), 1 / sides.mean()))
    return max(round(height * factor), 1), max(round(width * factor), 1)


def _cells(pane, grid):
    """Columns of N cells: classes, scores (None where all are 1), areas in pixels, outlines at the size of `grid`."""
    masks, scores = pane.instances.masks, pane.instances.scores.astype(float).round(3).tolist()
    return {'labels': pane.instances.labels.tolist(), 'scores': None if all(score == 1 for score in scores) else scores,
            'statuses': pane.statuses and [_STATUS_INDEX[status] for status in pane.statuses],
            'partners': None if pane.partners is None else pane.partners.tolist(), 'areas': masks.areas.tolist(),
            'outlines': outlines(shrink(masks, *grid))}


def _thumbnail(bgr):
    scale = _THUMBNAIL / min(bgr.shape[:2])
    side = min(bgr.shape[:2])
    top, left = (bgr.shape[0] - side) // 2, (bgr.shape[1] - side) // 2
    return cv2.resize(bgr[top:top + side, left:left + side], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def outlines(masks):
    """The exact outlines of masks along the edges of their pixels, in about a third of a byte for a pixel's edge.

    A closed loop starts at the corner (x, y) of pixels to the right, and goes on by one pixel's edge at a time, the
    mask always to its right; so outer loops run clockwise and those around holes the other way, and filled by either
    rule, nonzero or even-odd, the loops of a mask are its pixels. Before each further edge it goes straight on (0),
    turns right (1) or left (2); 3 says that the loop is closed. A letter holds three of these, the first in its lowest
    two bits; letters are numbered as in the URL-safe alphabet of base64.

    Args:
        masks (LocalMasks): N masks.

    Returns:
        list[list]: N outlines: x, y and letters of one loop after another, as int, int, str, int, int, str...
    """
    found = []
    for first in range(0, len(masks), _AT_ONCE):
        found += _outlines(masks[np.arange(len(masks))[first:first + _AT_ONCE]])
    return found


def _outlines(masks):
    corners, loops = trace(masks.pixels, masks.boxes, masks.offsets)
    found = [[] for _ in range(len(masks))]
    if not len(loops):
        return found
    # Edges between corners, of which there are as many, since the last corner of a loop is its first again.
    counts = loops[:, 1] - 1
    starts, loop = np.cumsum(counts) - counts, np.repeat(np.arange(len(loops)), counts)
    is_edge = np.ones(len(corners) - 1, bool)
    is_edge[np.cumsum(loops[:-1, 1]) - 1] = False
    steps = np.diff(corners, axis=0)[is_edge]
    lengths = np.abs(steps).sum(1)
    directions = np.where(steps[:, 0], 1 - np.sign(steps[:, 0]), 2 - np.sign(steps[:, 1]))
    # Loops may be begun anywhere: at an edge to the right.
    to_right = np.flatnonzero(directions == 0)
    begin = to_right[np.searchsorted(loop[to_right], np.arange(len(loops)))]
    x, y = corners[:-1][is_edge][begin].T
    place = np.arange(len(loop)) - starts[loop]
    turned = starts[loop] + (place + (begin - starts)[loop]) % counts[loop]
    lengths, directions = lengths[turned], directions[turned]
    turns = _TURNS[(directions[starts[loop] + (place + 1) % counts[loop]] - directions) % 4]
    turns[starts + counts - 1] = 3

    ends = np.cumsum(lengths)
    totals = np.add.reduceat(lengths, starts)
    letters = -(-totals // 3)
    stops = np.cumsum(letters)
    values = np.zeros((stops[-1], 3), np.uint8)
    values.ravel()[(3 * (stops - letters) - np.cumsum(totals) + totals)[loop] + ends - 1] = turns
    text = _ALPHABET[values @ np.array([1, 4, 16], np.uint8)].tobytes().decode()
    for cell, left, top, stop, count in zip(loops[:, 0].tolist(), x.tolist(), y.tolist(), stops.tolist(),
                                            letters.tolist(), strict=True):
        found[cell] += left, top, text[stop - count:stop]
    return found
