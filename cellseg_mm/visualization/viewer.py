"""A viewer of cells for HTML pages: panes of one image that zoom and pan together, with switches."""
import base64
from dataclasses import dataclass, replace

import cv2
import numpy as np

from cellseg_mm.evaluation.confusion import judge
from cellseg_mm.evaluation.instances import Instances
from cellseg_mm.evaluation.matching import match_cells
from cellseg_mm.structures.compiled import compiled
from cellseg_mm.visualization.page import css_colours, fill

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
_QUALITY = 90
_LARGEST = 8192  # pixels a side; larger images are shown smaller, WebP and browsers hold little more
_THUMBNAIL = 96
_SHOWN = 6  # panes at first; a reader can switch on more


@dataclass(frozen=True)
class Pane:
    """N cells over an image.

    Attributes:
        title (str): Plain text, such as 'Prediction'.
        instances (Instances): N of them. Scores are shown unless all are 1.
        statuses (list[str]): N of 'found', 'confused', 'missed' and, where models differ, 'disputed' for true cells,
            'right', 'confused' and 'spurious' for predictions.
        partners (ndarray | None): int (N,), index of the cell in the first pane that each matches, -1 for none; None
            for the first pane itself.
    """

    title: str
    instances: Instances
    statuses: list
    partners: np.ndarray | None = None


@dataclass(frozen=True)
class ViewerImage:
    """An image, and the panes that show it.

    Attributes:
        title (str): Plain text; short, as it stands under a thumbnail.
        caption (str): Plain text of a line or two, shown with the image.
        bgr (ndarray): uint8 (H, W, 3).
        panes (list[Pane]): At least one; of the same size as the image.
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
        present = {status for pane in panes for status in pane.statuses}
        legends.append([(index, *status) for index, status in enumerate(_STATUSES) if status[0] in present])
    colours = css_colours(len(classes))
    return fill(
        'viewer.html',
        images=[(image.title, _data_uri(_thumbnail(image.bgr), 80), _data(image)) for image in images],
        panes=list(zip(images[0].panes, legends, strict=True)), shown=_SHOWN,
        classes=list(zip(classes, colours, strict=True)),
        settings={'classes': list(classes), 'colours': colours, 'alphabet': _ALPHABET.tobytes().decode(),
                  'statuses': [status[:2] for status in _STATUSES]})


def _data(image):
    height, width = image.bgr.shape[:2]
    factor = _LARGEST / max(height, width)
    bgr = image.bgr if factor >= 1 else cv2.resize(image.bgr, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return {'source': _data_uri(bgr, _QUALITY), 'caption': image.caption, 'width': width, 'height': height,
            'mpp': image.mpp, 'panes': [_cells(pane) for pane in image.panes]}


def _cells(pane):
    """Of each cell its class, status, score (None where all are 1), partner (-1 for none) and outline."""
    count = len(pane.instances)
    scores = pane.instances.scores.round(3).tolist()
    if all(score == 1 for score in scores):
        scores = [None] * count
    partners = [-1] * count if pane.partners is None else pane.partners.tolist()
    statuses = [_STATUS_INDEX[status] for status in pane.statuses]
    return list(zip(pane.instances.labels.tolist(), statuses, scores, partners, outlines(pane.instances.masks),
                    strict=True))


def _data_uri(bgr, quality):
    encoded = cv2.imencode('.webp', bgr, [cv2.IMWRITE_WEBP_QUALITY, quality])[1]
    return f'data:image/webp;base64,{base64.b64encode(encoded).decode()}'


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
    values, loops = _trace(masks.pixels, masks.boxes, masks.offsets)
    letters = _ALPHABET[values].tobytes().decode()
    ends = np.append(loops[:, 3], len(letters))[1:].tolist()
    found = [[] for _ in range(len(masks))]
    for (cell, x, y, start), end in zip(loops.tolist(), ends, strict=True):
        found[cell] += x, y, letters[start:end]
    return found


@compiled
def _trace(pixels, boxes, offsets):
    """Values of letters, uint8, and int64 (L, 4) of cell, x, y and first letter of each loop."""
    edges = 0
    for i in range(len(boxes)):
        _, _, w, h = boxes[i]
        edges += 2 * (w * h + w + h)
    letters, loops = np.empty(edges, np.uint8), np.empty((edges // 4, 4), np.int64)
    size = count = 0
    for i in range(len(boxes)):
        x, y, w, h = boxes[i]
        padded = np.zeros((h + 2, w + 2), np.uint8)
        padded[1:-1, 1:-1] = pixels[offsets[i]:offsets[i + 1]].reshape(h, w)
        seen = np.zeros((h + 2, w + 2), np.bool_)
        for top in range(1, h + 1):
            for left in range(1, w + 1):
                if not padded[top, left] or padded[top - 1, left] or seen[top, left]:
                    continue
                loops[count] = i, x + left - 1, y + top - 1, size
                count += 1
                row, column, direction, letter, place = top, left, 0, 0, 0
                while True:
                    if direction == 0:
                        seen[row, column] = True
                    column += (direction == 0) - (direction == 2)
                    row += (direction == 1) - (direction == 3)
                    # The pixels ahead, to the right and to the left of the way.
                    right = padded[row - (direction >= 2), column - (direction == 1 or direction == 2)]
                    ahead = padded[row - (direction == 0 or direction == 3), column - (direction >= 2)]
                    turn = 0 if right and not ahead else 2 if right else 1
                    direction = (direction + (0, 1, 3)[turn]) % 4
                    closed = row == top and column == left and direction == 0
                    letter |= (3 if closed else turn) << 2 * place
                    place += 1
                    if closed or place == 3:
                        letters[size] = letter
                        size += 1
                        letter = place = 0
                    if closed:
                        break
    return letters[:size], loops[:count]
