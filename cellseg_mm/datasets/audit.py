"""Reading every file of a data set once: its cells, what is wrong with it, and what the whole looks like."""
import hashlib
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from rich import box
from rich.table import Table
from skimage.measure import label as connected_components

from cellseg_mm.datasets.annotations import describe
from cellseg_mm.datasets.splits import appearance_features
from cellseg_mm.errors import CellDataError
from cellseg_mm.io.image import read_image, read_label_map, read_pixel_size
from cellseg_mm.structures import bitmaps
from cellseg_mm.structures.compiled import compiled
from cellseg_mm.structures.rle import decode, encode, encode_segmentation, measure

SMALL_AREA = 4  # pixels
LARGE_AREA = 25  # times the median of the class: five times the usual diameter
QUANTILES = (0, 5, 50, 95, 100)  # percent
NAMED = 3  # places that a warning names on the console


@dataclass
class Report:
    """What one image holds.

    Attributes:
        key: The sample's key.
        size: (height, width) in pixels.
        mpp: Micrometres per pixel, or None where the file does not record it.
        digest: Equal for images of equal pixels.
        features: float64 (D,) of its appearance; None for a test image.
        cells: N COCO annotations, `category` (the class's name) in place of ids.
        touching: bool (N,), cells that have a cell of the same class among the eight neighbours of a pixel.
        disconnected: bool (N,), cells of two parts or more; parts that meet at a corner are one.
        overlapping: bool (N,), cells that share pixels with a cell of another class.
        problems: Why the image cannot be used.
        warnings: (kind, what) pairs that concern single cells.
    """

    key: str
    size: tuple = (0, 0)
    mpp: float | None = None
    digest: bytes = b''
    features: np.ndarray | None = None
    cells: list = field(default_factory=list)
    touching: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    disconnected: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    overlapping: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    problems: list = field(default_factory=list)
    warnings: list = field(default_factory=list)


def inspect(sample, classes):
    """Read all files of a sample.

    Args:
        sample (Sample): The image and where its cells are.
        classes (list[str]): The classes to look at; none for a test image.

    Returns:
        Report: With problems in place of an exception.
    """
    report = Report(sample.key)
    try:
        image = read_image(sample.image)
        report.mpp = read_pixel_size(sample.image)
        report.size = image.shape[:2]
        report.digest = hashlib.blake2b(repr(image.shape).encode() + image.tobytes(), digest_size=16).digest()
        if classes:
            report.features = appearance_features(image)
        if sample.size and sample.size != report.size:
            raise CellDataError(sample.image, f'is of {report.size[0]} x {report.size[1]} pixels but said to be of '
                                f'{sample.size[0]} x {sample.size[1]}', 'restore the image, or correct its entry')
    except CellDataError as error:
        report.problems.append(error)
    size = report.size if report.digest else None
    maps = []
    for name in classes:
        if name in sample.labels:
            try:
                labels = read_label_map(sample.labels[name], size)
            except CellDataError as error:
                report.problems.append(error)
                continue
            cells = bitmaps.label_map_bitmaps(labels)
            maps.append((name, bitmaps.paint(*cells, *labels.shape)[0], encode(*cells, *labels.shape), False))
        elif sample.annotations and size:
            rles = _encode_all(sample, name, report)
            labels, covered = bitmaps.paint(*decode(rles, *size), *size)
            maps.append((name, labels, rles, covered))
    if not report.problems:
        report.cells = [{'category': name, **cell} for name, _, rles, _ in maps for cell in describe(rles)]
        report.touching, report.disconnected, report.overlapping = relations(
            [(labels, len(rles), covered) for _, labels, rles, covered in maps], report.size)
    return report


def _encode_all(sample, name, report):
    encoded = []
    for annotation in sample.annotations:
        if annotation['category'] == name:
            where = f'{sample.image}: annotation {annotation["id"]}'
            try:
                rle = encode_segmentation(annotation['segmentation'], *report.size)
            except ValueError as error:
                report.problems.append(CellDataError(where, str(error), 'correct or remove the annotation'))
                continue
            encoded.append((where, rle))
    areas = measure([rle for _, rle in encoded], *report.size)[1]
    report.warnings += [('annotations without a pixel, left out', where)
                        for (where, _), area in zip(encoded, areas, strict=True) if not area]
    return [rle for (_, rle), area in zip(encoded, areas, strict=True) if area]


def relations(maps, size):
    """How the cells of an image lie to each other.

    Args:
        maps (list[tuple]): (labels, count, covered) of each class: int (H, W) with its cells 1..count, 0 is background;
            and bool (count,), or False, which of them share pixels with another of their class.
        size (tuple[int, int]): Height and width of the image.

    Returns:
        tuple[ndarray, ndarray, ndarray]: touching, disconnected and overlapping, as in `Report`: bool (N,), class after
            class.
    """
    owners = np.zeros(size, np.uint16)
    for labels, _, _ in maps:
        owners += labels > 0
    found = [(touching_cells(labels, count) | covered, disconnected_cells(labels, count) & ~np.asarray(covered),
              _members(labels[owners > 1], count)) for labels, count, covered in maps]
    return tuple(np.concatenate([np.zeros(0, bool), *values]) for values in zip(*found, strict=True)) or (
        np.zeros(0, bool), ) * 3


def touching_cells(labels, count):
    """Cells that have another among the eight neighbours of a pixel.

    Args:
        labels (ndarray): int (H, W), cells 1..count, 0 is background.
        count (int): How many cells there are.

    Returns:
        ndarray: bool (count,).
    """
    touching = np.zeros(count + 1, bool)
    _mark_touching(np.ascontiguousarray(labels, np.int32), touching)
    return touching[1:]


@compiled
def _mark_touching(labels, touching):
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            cell = labels[y, x]
            if not cell:
                continue
            # The other four neighbours have this pixel among theirs.
            for row, column in ((y, x + 1), (y + 1, x - 1), (y + 1, x), (y + 1, x + 1)):
                if row < height and 0 <= column < width:
                    other = labels[row, column]
                    if other and other != cell:
                        touching[cell] = touching[other] = True


def disconnected_cells(labels, count):
    """Cells of two parts or more; parts that meet at a corner are one.

    Args:
        labels (ndarray): int (H, W), cells 1..count, 0 is background.
        count (int): How many cells there are.

    Returns:
        ndarray: bool (count,).
    """
    parts, number = connected_components(labels, background=0, return_num=True, connectivity=2)
    owner = np.zeros(number + 1, np.int64)
    _set_owners(parts.ravel(), labels.ravel(), owner)
    return np.bincount(owner[1:], minlength=count + 1)[1:] > 1


@compiled
def _set_owners(parts, labels, owner):
    for part, label in zip(parts, labels):  # noqa: B905 (numba knows no strict)
        if part:
            owner[part] = label


def _members(values, count):
    members = np.zeros(count + 1, bool)
    members[values] = True
    return members[1:]


def warn(train, test, classes):
    """What is odd but may be as meant.

    Args:
        train (list[Report]): Images with cells.
        test (list[Report]): Images without.
        classes (list[str]): Class names.

    Returns:
        dict[str, list[str]]: The images, cells or classes concerned, by the kind of oddity.
    """
    found = defaultdict(list)
    medians = {name: np.median(areas) for name, areas in _by_class(train, lambda cell: cell['area']).items()}
    for report in train:
        if not report.cells:
            found['images without a cell'].append(report.key)
        for cell in report.cells:
            where = f'{report.key} {cell["category"]} at x {cell["bbox"][0]:.0f}, y {cell["bbox"][1]:.0f}'
            if cell['area'] < SMALL_AREA:
                found[f'cells under {SMALL_AREA} px'].append(where)
            elif cell['area'] > LARGE_AREA * medians[cell['category']]:
                found[f'suspiciously large cells, over {LARGE_AREA} times the median area of their class'].append(where)
        for kind, where in report.warnings:
            found[kind].append(where)
    found['classes without a cell'] = [name for name in classes if name not in medians]
    alike = defaultdict(list)
    for report in (*train, *test):
        alike[report.digest].append(report.key)
    found['images that are equal, pixel for pixel'] = [' = '.join(keys) for keys in alike.values() if len(keys) > 1]
    return {kind: where for kind, where in found.items() if where}


def sentence(kind, where):
    """A warning in one line, which names the first of many places."""
    more = ', ...; all in warnings.txt' if len(where) > NAMED else ''
    return f'{kind}: {len(where)} ({", ".join(where[:NAMED])}{more})'


def _by_class(reports, value):
    values = defaultdict(list)
    for report in reports:
        for cell in report.cells:
            values[cell['category']].append(value(cell))
    return values


def summarise(reports, train, validation, test, classes):
    """Tables of what a data set holds.

    Args:
        reports (list[Report]): The N images with cells.
        train (ndarray): bool (N,), which of them are for training.
        validation (ndarray): bool (N,), which of them are for validation.
        test (list[Report]): Test images.
        classes (list[str]): Class names.

    Returns:
        list[rich.table.Table]: Cells of each class; and quantiles of sizes.
    """
    counts = _table('cells', 'train', 'val', 'all', 'touching', 'in parts', 'overlapping')
    cells = [(cell['category'], *facts) for report, *sides in zip(reports, train, validation, strict=True)
             for cell, *facts in zip(report.cells, *(np.full(len(report.cells), side) for side in sides),
                                     report.touching, report.disconnected, report.overlapping, strict=True)]
    for title, names in (*((name, [name]) for name in classes), ('all classes', classes)):
        facts = np.array([facts for name, *facts in cells if name in names], int).reshape(-1, 5)
        in_train, in_val, touching, disconnected, overlapping = facts.sum(0)
        counts.add_row(title, str(in_train), str(in_val), str(len(facts)),
                       f'{100 * touching / max(1, len(facts)):.1f}%', str(disconnected), str(overlapping))
    counts.add_row('images', str(np.sum(train)), str(np.sum(validation)), str(len(reports)))
    counts.add_row('test images', '', '', str(len(test)))
    counts.caption = ('touching: one of the eight neighbours of a pixel is a cell of the same class; in parts: not '
                      'connected, which is kept as it is; overlapping: shares pixels with a cell of another class')

    quantiles = _table('', *({0: 'least', 50: 'median', 100: 'most'}.get(q, f'{q}%') for q in QUANTILES))
    cells = [cell for report in reports for cell in report.cells]
    for name, values in (
            ('longest side of a cell, px', [max(cell['bbox'][2:]) for cell in cells]),
            ('area of a cell, px', [cell['area'] for cell in cells]),
            ('cells in an image', [len(report.cells) for report in reports]),
            ('cells in 100 x 100 px', [1e4 * len(report.cells) / np.prod(report.size) for report in reports]),
            ('longest side of an image, px', [max(report.size) for report in (*reports, *test)])):
        if values:
            quantiles.add_row(name, *(f'{value:.3g}' if value < 100 else f'{value:.0f}'
                                      for value in np.percentile(values, QUANTILES)))
    return [counts, quantiles]


def _table(first, *others):
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption_justify='left')
    table.add_column(first, overflow='fold')
    for name in others:
        table.add_column(name, justify='right')
    return table
