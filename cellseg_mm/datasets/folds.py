"""The folds of cross-validation that tools/prepare_data.py has written."""
import hashlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from cellseg_mm.datasets.cell_dataset import check_classes, read_annotations
from cellseg_mm.errors import CellDataError

_FILE = re.compile(r'fold\d+_(train|val)\.json')
_USUAL = 5


@dataclass(frozen=True)
class Folds:
    """Folds that were found sound.

    Attributes:
        count (int): How many.
        groups (int): How many groups all images are of; with one alone, its images are on both sides of each fold.
        digests (dict[str, str]): SHA-256 of each fold's files, by name.
    """

    count: int
    groups: int
    digests: dict


def fold_file(fold, part):
    """The annotation file of a fold (0, 1, ...) and a part (`train` or `val`), relative to the data set's folder."""
    return f'annotations/fold{fold}_{part}.json'


def read_folds(root, classes, wanted=None):
    """Find the folds of a data set, and check all that would spoil a cross-validation.

    Args:
        root (str | Path): Folder of the data set.
        classes (Sequence[str]): The config's classes, in order.
        wanted (int, optional): How many folds there have to be; any number of two or more if not given.

    Returns:
        Folds: All images of train.json and val.json are in the validation part of one fold, in the training part of the
            others, and look-alike ones on one side.

    Raises:
        CellDataError: If there are no folds or another number of them, they are of other classes or not of the same
            preparation as train.json and val.json, an image is in two parts or none, or a group on both sides.
    """
    folder = Path(root, 'annotations')
    remedy = (f'run: python tools/prepare_data.py {shlex.quote(str(root))} --folds {wanted or _USUAL}, with its other '
              'options as before')
    found = {path.name for path in folder.glob('fold*.json') if _FILE.fullmatch(path.name)}
    count = (len(found) + 1) // 2
    if not found:
        raise CellDataError(folder, 'there are no folds in it', remedy)
    paths = [[Path(root, fold_file(fold, part)) for part in ('train', 'val')] for fold in range(count)]
    missing = [path.name for pair in paths for path in pair if path.name not in found]
    if count < 2 or missing:
        raise CellDataError(folder, f'its folds are incomplete: {", ".join(missing or ["fold1_val.json"])} is missing',
                            remedy)
    if wanted not in (None, count):
        raise CellDataError(folder, f'there are {count} folds in it, not {wanted}', remedy)
    groups = _check(folder, paths, classes, remedy)
    return Folds(count, groups, {path.name: _digest(path) for pair in paths for path in pair})


def _check(folder, paths, classes, remedy):
    """How many groups there are, if the folds are sound."""
    whole = [read_annotations(folder / name) for name in ('train.json', 'val.json')]
    check_classes(folder / 'train.json', whole[0]['categories'], classes)
    images, cells = (_by_id(whole, what) for what in ('images', 'annotations'))
    groups = {number: image.get('group') or f'image {number}' for number, image in images.items()}
    validated = {}
    for pair in paths:
        parts = [read_annotations(path) for path in pair]
        for path, part in zip(pair, parts, strict=True):
            if _preparation(part) != _preparation(whole[0]):
                raise CellDataError(path, 'it is not of the same preparation as train.json', remedy)
            known = _by_id([part], 'images').keys()
            if any(cell.get('image_id') not in known for cell in part['annotations']):
                raise CellDataError(path, 'it has cells of images that it does not list', remedy)
        for what, records in (('images', images), ('annotations', cells)):
            both = _by_id(parts, what)
            if both != records:
                raise CellDataError(pair[1], f'its {what}, with those of {pair[0].name}, are not those of train.json '
                                    'and val.json', remedy)
            if sum(len(part[what]) for part in parts) > len(both):
                raise CellDataError(pair[1], f'some of its {what} are in {pair[0].name} too', remedy)
        train, val = ({groups[number] for number in _by_id([part], 'images')} for part in parts)
        if shared := sorted(train & val) if len(set(groups.values())) > 1 else ():
            raise CellDataError(pair[1], f'the group {shared[0]} is in {pair[0].name} too, so that its scores would '
                                'flatter', remedy)
        for number in _by_id(parts[1:], 'images'):
            if (earlier := validated.setdefault(number, pair[1])) != pair[1]:
                raise CellDataError(pair[1], f'the image {images[number].get("file_name")} is in {earlier.name} too',
                                    remedy)
    if left := images.keys() - validated.keys():
        raise CellDataError(folder, f'the image {images[min(left)].get("file_name")} is in no fold_<k>_val.json',
                            remedy)
    return len(set(groups.values()))


def _by_id(parts, what):
    return {record.get('id'): record for part in parts for record in part[what]}


def _preparation(annotations):
    info = annotations.get('info')
    return annotations['categories'], {**info, 'split': ''} if isinstance(info, dict) else info


def _digest(path):
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()
