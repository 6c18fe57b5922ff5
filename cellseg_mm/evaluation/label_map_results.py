"""Cells that another program found, from the label maps it wrote."""
import re
import sys
from collections import defaultdict
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from cellseg_mm.datasets.layouts import IMAGE_SUFFIXES
from cellseg_mm.errors import CellDataError
from cellseg_mm.evaluation.instances import results_of
from cellseg_mm.io.image import read_label_map
from cellseg_mm.progress import track
from cellseg_mm.structures.local_masks import LocalMasks

# What Cellpose and scripts for QuPath add to the name of the image.
_MARK = re.compile(r'(_cp_masks|[-_]label(s|led|ed)?)$', re.IGNORECASE)
# JPEG changes numbers: a JPEG file is the image beside its label map, as QuPath's TileExporter writes both.
_SUFFIXES = tuple(suffix for suffix in IMAGE_SUFFIXES if not suffix.startswith('.jp'))


def read_label_maps(folder, ground_truth):
    """Read the label maps of any other program as predictions for the images of a ground truth.

    They are found by name, at any depth of the folder:

    - `<image>.tif`, as users of StarDist and QuPath write them, `<image>_cp_masks.png` (Cellpose), or with '-labels',
      '_label' and the like at its end (QuPath). Where files are marked so, those that are not are left out: they are
      images, flows and outlines.
    - `<image>/<class>.tif` or `<class>/<image>.tif`, with the classes of the ground truth. Where files are named by
      class, those that are not are left out too.

    An image named `<id>/image.tif` goes by `<id>`. Names may have folders before them, which tell images of the same
    name apart. Each number of a file is one cell, also where it is in several parts. Files that fit no image are left
    out, which a line on stderr says: a data set may have been segmented as a whole and be compared on one split. An
    image without a file is an error, since all these programs write one where they find nothing, and taking it for
    empty would let half a run pass for a bad model. By class, one file for the image, or its folder, is enough.

    Args:
        folder (str | Path): Holds TIFF, PNG or BMP files; see `read_label_map` for what they may hold.
        ground_truth (dict): COCO form, as `cellseg_mm.datasets.cell_dataset.read_cells` gives it.

    Returns:
        tuple[list[dict], bool]: COCO results as of `results_of`, image by image, the score 1.0; and whether they have
            classes. Without, which is where files do not name one of several, all have the first category's id.

    Raises:
        CellDataError: If the folder does not exist, an image has no file, two files are for one image (and class), or a
            file is no label map of its image's size.
    """
    folder, images = Path(folder), sorted(ground_truth['images'], key=itemgetter('id'))
    if not folder.is_dir():
        raise CellDataError(folder, 'there is no such folder', 'name the one that holds the label maps')
    categories = {category['name']: category['id']
                  for category in sorted(ground_truth['categories'], key=itemgetter('id'))}
    files = _match(folder, images, categories.keys())
    first = next(iter(categories.values()))
    results, most = [], 0
    for image in track(images, 'reading label maps', len(images)):
        for name, path in sorted(files[image['id']].items(), key=lambda item: str(item[0])):
            masks = LocalMasks.from_label_map(read_label_map(path, (image['height'], image['width'])))
            results += results_of(image['id'], masks, [categories.get(name, first)] * len(masks), [1.0] * len(masks))
            most = max(most, len(masks))
    if most == 1 and len(ground_truth['annotations']) > len(images):
        _note(folder, 'no file has more than one number; if they are masks, of 0 and 255, save a number for each cell')
    return results, len(categories) == 1 or any(name for found in files.values() for name in found)


class _Candidate(NamedTuple):
    """A file: the image and the class that its name fits, and how many parts of its path say so."""

    path: Path
    image: int | None
    category: str | None
    parts: int
    marked: bool


def _match(folder, images, classes):
    """The files of each image, by its id: by class (None where files do not name it) the path."""
    names = defaultdict(set)
    for image in images:
        parts = _without_image(_parts(image['file_name'].replace('\\', '/')))
        for start in range(len(parts)):
            names[parts[start:]].add(image['id'])
    entries = [path for path in sorted(folder.rglob('*'))
               if not any(part.startswith('.') for part in path.relative_to(folder).parts)]
    found = [_candidate(path, _parts(path.relative_to(folder)), names, classes) for path in entries
             if path.suffix.lower() in _SUFFIXES and path.is_file()]
    if not found:
        raise CellDataError(folder, 'there is no label map in it', 'write them as TIFF or PNG files')
    if any(one.marked and one.image is not None for one in found):
        found = [one for one in found if one.marked]
    by_class = any(one.category for one in found)
    files, left_out = {image['id']: {} for image in images}, []
    best = defaultdict(int)
    for one in found:
        if by_class == bool(one.category):
            best[one.image] = max(best[one.image], one.parts)
    file_names = {image['id']: image['file_name'] for image in images}
    for one in found:
        if one.image is None or one.parts < best[one.image] or by_class != bool(one.category):
            # Of our own layout, the image itself.
            if not by_class or _stem(one.path.name) != 'image':
                left_out.append(one.path)
        elif (other := files[one.image].setdefault(one.category, one.path)) is not one.path:
            of_class = f' and class {one.category}' if one.category else ''
            raise CellDataError(one.path, f'is a second label map, beside {other.relative_to(folder)}, for image '
                                f'{file_names[one.image]}{of_class}', 'keep only one of the two')
    # A class without cells has no file; the folder of an image without any says that it was not forgotten.
    seen = {_fit(path.relative_to(folder).parts, names)[0] for path in entries if by_class and path.is_dir()}
    missing = [file_names[number] for number, of_image in files.items() if not of_image and number not in seen]
    strays = left_out and (f'files that fit no image{" and class" if by_class else ""}: {len(left_out)}, such as '
                           f'{left_out[0].relative_to(folder)}')
    if missing:
        raise CellDataError(
            folder, f'has no label map for {len(missing)} of {len(images)} images, such as {missing[0]}'
            f'{f" ({strays})" if strays else ""}',
            'name each as its image, and write one of zeros where there is no cell')
    if strays:
        _note(folder, f'left out, {strays}')
    return files


def _candidate(path, parts, names, classes):
    """What a file can be, the most parts of its path being used: plain or marked, with a class or without."""
    best = _Candidate(path, None, None, 0, bool(_MARK.search(parts[-1])))
    # A plain name comes first: an image may itself be called '..._labels'.
    for marked in (False, True):
        if marked:
            parts = *parts[:-1], _stem(_MARK.sub('', parts[-1]))
        for place in (None, *(i for i, part in enumerate(parts) if part in classes)):
            rest = parts if place is None else parts[:place] + parts[place + 1:]
            image, used = _fit(rest, names)
            used += place is not None
            if image is not None and used > best.parts:
                best = _Candidate(path, image, None if place is None else parts[place], used, marked)
        if best.image is not None:
            break
    return best


def _fit(parts, names):
    """The only image whose name ends as these parts do, by the longest such end: its id, None if there is none."""
    parts = _without_image(parts)
    for start in range(len(parts)):
        if len(ids := names.get(parts[start:], ())) == 1:
            return next(iter(ids)), len(parts) - start
    return None, 0


def _parts(path):
    *folders, name = Path(path).parts
    return *folders, _stem(name)


def _stem(name):
    """A file's name without suffixes of images, of which QuPath may keep the image's own: `a.tif-labels.ome.tif`."""
    while (suffix := Path(name).suffix).lower() in (*IMAGE_SUFFIXES, '.ome'):
        name = name.removesuffix(suffix)
    return name


def _without_image(parts):
    return parts[:-1] if len(parts) > 1 and parts[-1] == 'image' else parts


def _note(folder, text):
    print(f'{folder}: {text}', file=sys.stderr)
