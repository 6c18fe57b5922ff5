"""Part of the data report that shows cells as they are labelled: a sheet of outlined cuttings for each class."""
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from markupsafe import Markup

from cellseg_mm.structures.local_masks import LocalMasks
from cellseg_mm.visualization import page
from cellseg_mm.visualization.overlay import class_colours, draw_instances
from cellseg_mm.visualization.page import Section, join, paragraph, picture, swatch

TILE = 96  # pixels of a cell's picture, as in data_report.css
_SCALES = 6, 4, 3, 2, 1.5, 1
_ROOM = 1.35  # sides of the row's median cell that a picture shows
_SAMPLED, _EXTREME, _PICTURES = 48, 12, 1500  # cells of a class over all sizes, at either end; pictures in all


@dataclass(frozen=True)
class Row:
    """Some cells of a class to show.

    Attributes:
        title: What they have in common.
        cells: Their indices.
        scale: By which to enlarge them, all alike, so that their sizes compare; one too large for its picture is shown
            smaller.
    """

    title: str
    cells: list
    scale: float


def choose_cells(survey):
    """Choose cells of each class: its smallest and largest, and some over all sizes, from all over the data.

    Args:
        survey (Survey): The data set.

    Returns:
        list[list[Row]]: Of each class; none for one without a cell.
    """
    limit = int(np.clip(_PICTURES // len(survey.classes), 8, _SAMPLED + 2 * _EXTREME))
    extreme = limit * _EXTREME // (_SAMPLED + 2 * _EXTREME)
    sheets = []
    for label in range(len(survey.classes)):
        cells = np.flatnonzero(survey.label == label)
        cells = cells[np.argsort(survey.area[cells], kind='stable')]
        rows = {'All, by size': cells.tolist()}
        if len(cells) > limit:
            rows = {'Smallest': cells[:extreme].tolist(),
                    'Over all sizes and groups': _sample(survey, cells, limit - 2 * extreme),
                    'Largest': cells[-extreme:].tolist()}
        sheets.append([Row(title, own, _scale(survey, own)) for title, own in rows.items() if own])
    return sheets


def _scale(survey, cells):
    usual = _ROOM * np.median(survey.box[cells, 2:].max(1))
    return next((scale for scale in _SCALES if TILE / scale >= usual), 1)


def _sample(survey, cells, count):
    """Of each of `count` stretches of sizes the cell whose group, and then image, was taken least, near its middle."""
    taken, chosen = Counter(), []
    for start, stop in pairwise(np.linspace(0, len(cells), count + 1).astype(int).tolist()):

        def cost(place, middle=(start + stop) // 2):
            image = int(survey.image[cells[place]])
            return taken[survey.images[image].group], taken[image], abs(place - middle)

        cell = int(cells[min(range(start, stop), key=cost)])
        image = int(survey.image[cell])
        taken.update([survey.images[image].group, image])
        chosen.append(cell)
    return chosen


def window_of(survey, cell, scale):
    """The part of its image that shows a cell.

    Args:
        survey (Survey): The data set.
        cell (int): The cell.
        scale (float): By which to enlarge it; a cell too large for that gets a window of its own size.

    Returns:
        tuple[int, int, int, int]: x, y, width and height in pixels, inside the image.
    """
    x, y, w, h = survey.box[cell].tolist()
    height, width = survey.images[survey.image[cell]].size
    side = max(int(TILE / scale), int(np.ceil(1.2 * max(w, h))))
    left, top = (max(0, min(start + size // 2 - side // 2, whole - side))
                 for start, size, whole in ((x, w, width), (y, h, height)))
    return left, top, min(side, width), min(side, height)


def draw_cell(survey, cell, scale, part):
    """A cell with its outline.

    Args:
        survey (Survey): The data set.
        cell (int): The cell.
        scale (float): By which to enlarge it, where a picture has room for that.
        part (numpy.ndarray): uint8 (h, w, 3) BGR, what its window shows, at any scale if it is larger than a picture.

    Returns:
        numpy.ndarray: uint8 BGR of at most `TILE` pixels a side.
    """
    (x, y, bitmap), = LocalMasks.from_rles([survey.rles[cell]], *survey.images[survey.image[cell]].size).crops()
    left, top, width, height = window_of(survey, cell, scale)
    x, y, factor = x - left, y - top, min(scale, TILE / max(width, height))
    label, colours = [int(survey.label[cell])], class_colours(len(survey.classes))
    if factor in (1, 2, 3, 4, 6):
        # By whole numbers, outlines come out smooth.
        return draw_instances(part, [(x, y, bitmap)], label, colours, int(factor))
    mask = np.zeros((height, width), np.uint8)
    mask[y:y + bitmap.shape[0], x:x + bitmap.shape[1]] = bitmap
    size = max(1, round(width * factor)), max(1, round(height * factor))
    part = cv2.resize(part, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    return draw_instances(part, [(0, 0, cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST))], label, colours)


def sheets_section(survey, sheets, pictures):
    """Cells of each class.

    Args:
        survey (Survey): The data set.
        sheets (list[list[Row]]): Of each class.
        pictures (dict[tuple[int, int], numpy.ndarray]): uint8 BGR, by cell and scale.

    Returns:
        Section: Of the page.
    """
    parts = []
    for name, colour, rows in zip(survey.classes, page.css_colours(len(sheets)), sheets, strict=True):
        parts.append(Markup('<h3>{}</h3>').format(swatch(colour, name)))
        if not rows:
            parts.append(paragraph('There is no cell of this class.'))
        for row in rows:
            enlarged = f', {row.scale} times enlarged' if row.scale > 1 else ''
            places = {cell: _place(survey, cell) for cell in row.cells}
            shown = Markup('').join(Markup('<span title="{}">{}</span>').format(
                place, picture(pictures[cell, row.scale], place, 88)) for cell, place in places.items())
            parts.append(Markup('<p class="note">{}{}</p><div class="cells">{}</div>').format(
                row.title, enlarged, shown))
    return Section('Contact sheets', join(*parts), 'Cells cut out of their images, outlined as they are labelled: a '
                   'look here finds wrong classes and slips of the pen. Point at a cell to see where it is from. A '
                   'cell too large for the scale of its row is shown smaller.')


def _place(survey, cell):
    entry = survey.images[survey.image[cell]]
    x, y, w, h = survey.box[cell].tolist()
    return f'{entry.name} at x {x}, y {y}: {w} x {h} px, {survey.area[cell]:,} px²; {entry.group}, {entry.side}'
