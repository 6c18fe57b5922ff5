"""What a prepared data set looks like: its cells as arrays, and statistics and cuttings of each image, read once."""
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from skimage.color import rgb2hed

from cellseg_mm.datasets import audit, splits
from cellseg_mm.datasets.layouts import natural
from cellseg_mm.datasets.prepare import TEXT_MARK, WARNINGS
from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.io.image import read_annotated_image
from cellseg_mm.structures import bitmaps
from cellseg_mm.structures.rle import decode

SPLITS = 'train', 'val', 'test'
TEST_GROUP = 'test images'  # in place of a group, which they seldom have
# Optical density, how far the colours of stained tissue are apart; greys differ by less.
COLOURED = 0.03
# Of 255, how bright the brightest colour of half of a picture of stained tissue is; in fluorescence, less is bright.
BRIGHT = 100
# Pixels; parts of images beyond are made smaller before they are kept, since a region drawn as a cell may be vast.
LARGEST_PART = 512


@dataclass(frozen=True)
class ImageEntry:
    """An image of a prepared data set.

    Attributes:
        path: The file.
        name: What the user knows it by: its folder's or file's name.
        size: (height, width) in pixels.
        mpp: Micrometres per pixel, or None.
        group: The name of its group.
        splits: Those of `SPLITS` that it is in; one, unless the only image is trained and validated on.
        annotated: Whether its cells are known; those of a test image seldom are.
    """

    path: Path
    name: str
    size: tuple
    mpp: float | None
    group: str
    splits: tuple
    annotated: bool

    @property
    def side(self):
        """Its splits in words."""
        return ' and '.join(self.splits)


@dataclass(frozen=True)
class Survey:
    """A prepared data set; its N cells are sorted by image and then by class, crowds are left out.

    Attributes:
        classes: Names, in order.
        grouping: How images were grouped, in words.
        images: The I images, each once.
        image: int64 (N,), index of each cell's image.
        label: int64 (N,), index of its class.
        box: int64 (N, 4), x, y, width and height in pixels.
        area: int64 (N,) in pixels.
        rles: N RLEs.
        notes: Warnings of data preparation on the whole.
        oddities: Its warnings on single places: their places by the kind.
    """

    classes: list
    grouping: str
    images: list
    image: np.ndarray
    label: np.ndarray
    box: np.ndarray
    area: np.ndarray
    rles: list
    notes: list
    oddities: dict

    def cells_of(self, index):
        """Indices of the cells of each class in an image: C ranges."""
        count = len(self.classes)
        return [range(start, stop) for start, stop in pairwise(self._bounds[index * count:(index + 1) * count + 1])]

    @cached_property
    def _bounds(self):
        return np.append(0, self.counts.cumsum()).tolist()

    @cached_property
    def counts(self):
        """Cells of each class in each image: int64 (I, C)."""
        counts = np.zeros((len(self.images), len(self.classes)), np.int64)
        np.add.at(counts, (self.image, self.label), 1)
        return counts

    @cached_property
    def sides(self):
        """For each split that has an image bool (I,), which images are in it."""
        sides = {split: np.array([split in entry.splits for entry in self.images]) for split in SPLITS}
        return {split: inside for split, inside in sides.items() if inside.any()}

    @cached_property
    def annotated(self):
        """Images whose cells are known: bool (I,)."""
        return np.array([entry.annotated for entry in self.images])

    @cached_property
    def groups(self):
        """Indices of images by the name of their group: the largest first, those of test images alone last."""
        members = defaultdict(list)
        for index, entry in enumerate(self.images):
            members[entry.group].append(index)
        return {name: members[name] for name in sorted(members, key=lambda name: (
            name == TEST_GROUP, all(self.images[index].splits == ('test', ) for index in members[name]),
            -len(members[name]), natural(name)))}


@dataclass(frozen=True)
class Cutting:
    """What to take from an image beside its statistics, and where its cells are.

    Attributes:
        path: The file.
        size: (height, width) it should have.
        classes: RLEs of the cells of each class.
        windows: (x, y, width, height) of parts to keep, inside the image.
        thumbnail: Side of the thumbnail to make, in pixels; 0 for none.
    """

    path: Path
    size: tuple
    classes: list
    windows: list
    thumbnail: int


@dataclass(frozen=True)
class Facts:
    """Statistics of an image.

    Attributes:
        features: float64 (D,), see `splits.appearance_features`.
        grey: Whether its three colours are equal.
        intensity: float64 (3,), mean red, green and blue, 0 to 255.
        density: float64 (3,), mean optical density of red, green and blue, of what is darker than glass.
        stain: float64 (2,), mean haematoxylin and eosin of the same; None where it does not look stained by them.
        touching: bool (N,); see `audit.Report`, as for the next two.
        disconnected: bool (N,).
        overlapping: bool (N,).
        thumbnail: uint8 (S, S, 3) BGR of the middle square, or None.
        parts: uint8 BGR of each window, made smaller if its longest side is above `LARGEST_PART`.
    """

    features: np.ndarray
    grey: bool
    intensity: np.ndarray
    density: np.ndarray
    stain: np.ndarray | None
    touching: np.ndarray
    disconnected: np.ndarray
    overlapping: np.ndarray
    thumbnail: np.ndarray | None
    parts: list


def read_survey(root):
    """Read the annotations that data preparation wrote.

    Args:
        root (str | Path): The folder that holds `annotations`.

    Returns:
        Survey: All images, those of test too.

    Raises:
        UserError: If there is no such folder.
        CellDataError: If it is not prepared, or the files do not fit each other.
    """
    # MMDetection, which the data set class needs, takes seconds to import; worker processes do without.
    from cellseg_mm.datasets.cell_dataset import check_classes, read_cells
    root = Path(root)
    if not root.is_dir():
        raise UserError(f'{root}: there is no such folder; name the one that holds the data set')
    classes, grouping, entries, cells = None, '', {}, []
    for split in SPLITS:
        path = root / 'annotations' / f'{split}.json'
        if split == 'test' and not path.exists():
            continue
        data = read_cells(path)
        categories = sorted(data['categories'], key=lambda category: category['id'])
        if classes is None:
            classes = [category['name'] for category in categories]
            grouping = str((data.get('info') or {}).get('grouping', ''))
        check_classes(path, categories, classes)
        labels = {category['id']: label for label, category in enumerate(categories)}
        of_image = defaultdict(list)
        for cell in data['annotations']:
            if not cell['iscrowd'] and not cell['ignore']:
                of_image[cell['image_id']].append((labels[cell['category_id']], cell))
        for image in data['images']:
            file = Path(root, image['file_name'])
            seen = entries.get(file)
            if seen is None:
                own = sorted(of_image[image['id']], key=lambda pair: pair[0])
                cells += [(len(entries), label, cell) for label, cell in own]
            entries[file] = ImageEntry(
                file, file.parent.name if file.stem == 'image' else file.stem, (image['height'], image['width']),
                image.get('mpp'), str(image.get('group') or (TEST_GROUP if split == 'test' else 'no group')),
                (*(seen.splits if seen else ()), split),
                split != 'test' or bool(data['annotations']))
    if not any('test' not in entry.splits for entry in entries.values()):
        raise CellDataError(root / 'annotations/train.json', 'there is no image in it',
                            'add images, then run tools/prepare_data.py again')
    image, label = (np.array([cell[i] for cell in cells], np.int64) for i in (0, 1))
    box = np.array([cell['bbox'] for _, _, cell in cells], np.int64).reshape(-1, 4)
    area = np.array([cell['area'] for _, _, cell in cells], np.int64)
    return Survey(classes, grouping, list(entries.values()), image, label, box, area,
                  [cell['segmentation'] for _, _, cell in cells], *read_warnings(root / 'annotations' / WARNINGS))


def read_warnings(path):
    """What data preparation warned of.

    Args:
        path (Path): Its `warnings.txt`, which may be missing.

    Returns:
        tuple[list[str], dict[str, list[str]]]: Sentences on the whole; and places by the kind of oddity.
    """
    notes, oddities, last = [], {}, ''
    if not path.is_file():
        return notes, oddities
    for line in path.read_text(encoding='utf-8', errors='replace').removeprefix(TEXT_MARK).splitlines():
        if line.startswith('    '):
            # A line with a place shows that the one above named a kind, with how many places there are.
            if notes and notes[-1] == last:
                notes.pop()
            oddities.setdefault(last.rpartition(':')[0], []).append(line.strip())
        elif line:
            notes.append(line)
            last = line
    return notes, oddities


def read_facts(cutting):
    """Read an image and make its statistics.

    Args:
        cutting (Cutting): The image, its cells and what to keep.

    Returns:
        Facts: Statistics and cuttings.

    Raises:
        CellDataError: If it cannot be read, or is not of the size that its annotations are for.
    """
    image = read_annotated_image(cutting.path, cutting.size)
    maps = []
    for rles in cutting.classes:
        labels, covered = bitmaps.paint(*decode(rles, *cutting.size), *cutting.size)
        maps.append((labels, len(rles), covered))
    step = max(1, int(np.ceil(np.sqrt(image.shape[0] * image.shape[1] / splits.SAMPLED_PIXELS))))
    sample = image[::step, ::step, ::-1].reshape(-1, 3)
    thumbnail = None
    if cutting.thumbnail:
        side = min(image.shape[:2])
        top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
        thumbnail = cv2.resize(image[top:top + side, left:left + side], (cutting.thumbnail, ) * 2,
                               interpolation=cv2.INTER_AREA if side > cutting.thumbnail else cv2.INTER_NEAREST)
    return Facts(splits.appearance_features(image), bool((sample == sample[:, :1]).all()), sample.mean(0),
                 *stain(sample), *audit.relations(maps, cutting.size), thumbnail,
                 [_shrink(image[y:y + h, x:x + w]) for x, y, w, h in cutting.windows])


def _shrink(part):
    factor = LARGEST_PART / max(part.shape[:2])
    if factor >= 1:
        return part.copy()
    height, width = (max(1, int(side * factor)) for side in part.shape[:2])
    return cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)


def stain(pixels):
    """Mean optical density of pixels, and how much of each dye of H&E they hold.

    Only what is darker than glass counts, or everything where nothing is. Optical density and its unmixing as in
    Ruifrok & Johnston 2001, the dyes' vectors as scikit-image's `rgb2hed` has them.

    Args:
        pixels (ndarray): uint8 (M, 3), RGB.

    Returns:
        tuple[ndarray, ndarray | None]: Of red, green and blue, float64 (3,); and of haematoxylin and eosin, float64
            (2,), or None where the picture is dark, or green, which both dyes absorb most, is not the most absorbed.
    """
    bright = np.median(pixels.max(1)) > BRIGHT
    density = -np.log10((pixels + 1.0) / 256)
    tissue = density.mean(1) > splits.GLASS
    if tissue.any():
        pixels, density = pixels[tissue], density[tissue]
    red, green, blue = mean = density.mean(0)
    if not bright or green - min(red, blue) < COLOURED or green <= max(red, blue):
        return mean, None
    return mean, rgb2hed(pixels[None])[0, :, :2].mean(0)
