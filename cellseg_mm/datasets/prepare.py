"""From files as they are to COCO annotations, split for training: everything is checked before anything is written."""
import csv
import json
import re
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, starmap

import numpy as np

from cellseg_mm.datasets import audit, layouts, splits
from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.io.files import atomic_path
from cellseg_mm.processes import in_processes

WARNINGS = 'warnings.txt'
OUR_FILES = re.compile(r'(train|val|test|fold\d+_(train|val))\.json|warnings\.txt|\.\w+\.\d+\.partial\.(json|txt)')
# What they begin with.
JSON_MARK, TEXT_MARK = '{"info": ', 'Warnings of tools/prepare_data.py; docs/your-data.md says what to do about each.\n'


class AuditError(UserError):
    """All that is wrong with a data set.

    Attributes:
        problems: The single errors, one line each.
    """

    def __init__(self, problems):
        super().__init__(f'{len(problems)} problems, the first: {problems[0]}')
        self.problems = problems


@dataclass
class Prepared:
    """What was written and what there is to say about it.

    Attributes:
        files: Paths of the annotation files, and of the list of all warnings where there are any.
        classes: Class names in order.
        tables: Summary, as rich tables.
        notes: Sentences on the split and the pixel size.
        warnings: Sentences on what may be wrong, which name the first places of each kind.
    """

    files: list
    classes: list
    tables: list
    notes: list
    warnings: list


def prepare(root, *, images=None, labels=None, coco=None, classes=None, groups=None, mpp=None, val_fraction=0.15,
            folds=5, seed=0, workers=None):
    """Audit a data set and write `root/annotations/{train,val,test,fold<k>_train,fold<k>_val}.json`.

    `warnings.txt` beside them names every place of every warning. Such files of an earlier run are replaced or removed.

    Args:
        root (Path): Holds `train` in the course's layout, and `test_release` if any; `annotations` goes there.
        images (Path | None): Folder of images, with `labels` or `coco` in place of `root/train`.
        labels (Path | None): Folder of label maps of one class.
        coco (Path | None): COCO JSON file.
        classes (list[str] | None): Classes to keep, in order; None for all that there are.
        groups (Path | None): CSV file of image and group; None to group by appearance.
        mpp (float | None): Micrometres per pixel of images that do not record it.
        val_fraction (float): Share of the images to validate on.
        folds (int): Folds of cross-validation; 0 for none.
        seed (int): The same seed gives the same files.
        workers (int | None): Processes; None for one a core.

    Returns:
        Prepared: The files and a summary.

    Raises:
        AuditError: Names all problems of all files; nothing has been written then.
        UserError: If the files are not where they should be, or in `annotations` but of others, or a worker died.
    """
    if not root.is_dir():
        raise UserError(f'{root}: there is no such folder; name the one that holds the data set')
    _check_ours(root / 'annotations')
    layout = _find(root, images, labels, coco, classes)
    keys = [sample.key for sample in layout.train]
    csv_groups = groups and _read_groups(groups, keys, [sample.key for sample in layout.test], layout.problems)
    samples = [(sample, layout.classes) for sample in layout.train] + [(sample, []) for sample in layout.test]
    reports = list(in_processes(_inspect, samples, workers, 'reading images'))
    if problems := layout.problems + [problem for report in reports for problem in report.problems]:
        raise AuditError(problems)
    train, test = reports[:len(layout.train)], reports[len(layout.train):]

    warnings, odd = layout.warnings, audit.warn(train, test, layout.classes)
    tallies = [Counter(cell['category'] for cell in report.cells) for report in train]
    counts = np.array([[tally[name] for name in layout.classes] for tally in tallies])
    if groups:
        names, how = [csv_groups[key] for key in keys], f'as {groups.name} groups the images'
    else:
        names = [f'look{group}' for group in splits.group_by_appearance([report.features for report in train])]
        how = 'by appearance, since no --groups were given'
    parts = _split(names, counts, val_fraction, folds, seed, warnings)
    covered = _check_classes(names, counts, layout.classes, parts, warnings)
    grouping = f'{len(set(names))} {"groups" if len(set(names)) > 1 else "group"}, {how}'
    info = {'classes': layout.classes, 'grouping': grouping, 'val_fraction': val_fraction, 'seed': seed}
    train_images = [_image(root, number, sample, report, mpp, group) for number, (sample, report, group) in enumerate(
        zip(layout.train, train, names, strict=True), 1)]
    cells = _cells(train, layout.classes)
    categories = [{'id': number, 'name': name} for number, name in enumerate(layout.classes, 1)]
    files = {f'{name}.json': {'info': {'split': name, **info}, 'images': _chosen(train_images, chosen),
                              'annotations': list(chain(*_chosen(cells, chosen))), 'categories': categories}
             for name, chosen in parts.items()}
    if test:
        test_images = [_image(root, sample.id, sample, report, mpp, (csv_groups or {}).get(sample.key))
                       for sample, report in zip(layout.test, test, strict=True)]
        files['test.json'] = {'info': {'split': 'test', **info}, 'annotations': [], 'categories': categories,
                              'images': test_images}
    if warnings or odd:
        files[WARNINGS] = '\n'.join([TEXT_MARK, *warnings, *(
            '\n    '.join([f'{kind}: {len(where)}', *where]) for kind, where in odd.items())]) + '\n'
    paths = _write(root / 'annotations', files)
    notes = [f'split: {grouping}; {covered} of {len(layout.classes)} classes are in both train and val',
             _pixel_sizes(reports, mpp)]
    tables = audit.summarise(train, parts['train'], parts['val'], test, layout.classes)
    return Prepared(paths, layout.classes, tables, notes, warnings + list(starmap(audit.sentence, odd.items())))


def _find(root, images, labels, coco, classes):
    if coco:
        if coco.resolve().parent == (root / 'annotations').resolve() and OUR_FILES.fullmatch(coco.name):
            raise UserError(f'{coco}: would be overwritten; move it to another folder')
        layout = layouts.find_coco(coco, images)
    elif images:
        if classes and len(classes) > 1:
            raise UserError('--classes: label maps beside a folder of images are of one class; name one')
        layout = layouts.find_pairs(images, labels, *(classes or ['cell']))
    else:
        layout = layouts.find_course(root)
    if classes:
        layout.choose_classes(classes)
    if not layout.train and not layout.problems:
        raise UserError(f'{images or coco or root / "train"}: there are no images; put them in train/<id>/image.tif '
                        'with <class>.tif beside them, or name folders by --images and --labels, or a file by --coco')
    if not layout.classes and not layout.problems:
        raise UserError(f'{coco or root / "train"}: there are no classes; put label maps beside the images')
    layout.test, problems = layouts.find_test(root)
    layout.problems += problems
    return layout


def _read_groups(path, train, test, problems):
    """Group of each image by its key; reports images that the file does not know and the other way round."""
    try:
        rows = [[value.strip() for value in row] for row in csv.reader(path.read_text('utf-8-sig').splitlines()) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        problems.append(CellDataError(path, f'cannot be read ({error})', 'name a CSV file with the columns id,group'))
        return {}
    if any(len(row) < 2 or not row[1] for row in rows):
        problems.append(CellDataError(path, 'has a row without two columns', 'separate id and group by a comma'))
        return {}
    rows = rows[0 if rows and rows[0][0] in {*train, *test} else 1:]
    groups = dict(row[:2] for row in rows)
    for what, keys, remedy in (
            ('names no group for', [key for key in train if key not in groups], 'add them'),
            ('knows images that are not there:', sorted(groups.keys() - {*train, *test}), 'remove or correct them'),
            ('names twice', [key for key, n in Counter(row[0] for row in rows).items() if n > 1], 'keep one row each')):
        if keys:
            problems.append(CellDataError(path, f'{what} {", ".join(keys)}', remedy))
    return groups


def _inspect(pair):
    return audit.inspect(*pair)


def _split(names, counts, val_fraction, folds, seed, warnings):
    """Masks of the images in each part: train, val, and fold<k>_train and fold<k>_val; each bool (N,)."""
    if len(names) == 1:
        warnings.append('there is one image: it is used for training and for validation alike, and its scores flatter')
        return {'train': np.array([True]), 'val': np.array([True])}
    groups = np.unique(names, return_inverse=True)[1]
    if groups.max() == 0:
        warnings.append('all images are of one group: they are split one by one, and scores may flatter')
        groups = np.arange(len(names))
    validation = splits.split_groups(groups, counts, val_fraction, seed)
    parts = {'train': ~validation, 'val': validation}
    possible = min(folds, groups.max() + 1)
    if possible < folds:
        warnings.append(f'{possible} folds instead of {folds}, since there are only {possible} groups')
    if possible:
        fold = splits.fold_groups(groups, counts, possible, seed)
        for k in range(possible):
            parts |= {f'fold{k}_train': fold != k, f'fold{k}_val': fold == k}
    return parts


def _check_classes(names, counts, classes, parts, warnings):
    """Count the classes that train and val both have, and warn of the others."""
    covered = 0
    for name, present in zip(classes, counts.T > 0, strict=True):
        lacking = [part for part in ('train', 'val') if not (present & parts[part]).any()]
        if not lacking:
            covered += 1
        elif present.any():
            one = len(set(np.array(names)[present])) == 1
            why = 'all of them are in one group' if one else 'no choice of groups has every class in both'
            warnings.append(f'{name}: none of its cells is in {lacking[0]}, since {why}')
    return covered


def _image(root, number, sample, report, mpp, group):
    path = sample.image.absolute()
    root = root.absolute()
    image = {'id': number, 'file_name': path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path),
             'height': report.size[0], 'width': report.size[1]}
    if group:
        image['group'] = group
    if report.mpp or mpp:
        image['mpp'] = report.mpp or mpp
    return image


def _cells(reports, classes):
    """For each image a list of its annotations, with ids that run on over all images."""
    category_ids = {name: number for number, name in enumerate(classes, 1)}
    number, cells = 0, []
    for image_id, report in enumerate(reports, 1):
        cells.append([])
        for cell in report.cells:
            number += 1
            cells[-1].append({'id': number, 'image_id': image_id, 'category_id': category_ids[cell['category']],
                              **{name: value for name, value in cell.items() if name != 'category'}})
    return cells


def _chosen(items, chosen):
    return [item for item, take in zip(items, chosen, strict=True) if take]


def _check_ours(folder):
    """Refuse to overwrite or remove what is not of this program."""
    if folder.exists() and not folder.is_dir():
        raise CellDataError(folder, 'is a file, where annotations are to go', 'move it elsewhere')
    for path in sorted(folder.iterdir() if folder.exists() else []):
        if OUR_FILES.fullmatch(path.name) and not _is_ours(path):
            raise CellDataError(path, 'not written by this program, and would be overwritten', 'move it elsewhere')


def _is_ours(path):
    """Whether a file has a mark of this program: `info.grouping` first in JSON, or our first line of warnings."""
    if path.name.startswith('.'):
        # A killed run left it, perhaps empty.
        return True
    try:
        with path.open(encoding='utf-8', errors='replace') as file:
            # Annotations may be hundreds of megabytes, of which the mark is within the first.
            head = file.read(2**20)
        if path.name == WARNINGS:
            return head.startswith(TEXT_MARK)
        return head.startswith(JSON_MARK) and 'grouping' in json.JSONDecoder().raw_decode(head, len(JSON_MARK))[0]
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def _write(folder, files):
    """Write text, and all else as JSON, to files by name; remove what an earlier run left beside. Returns their paths.

    All are written before the first takes its name, so that a full disk leaves the files of the earlier run.
    """
    with ExitStack() as stack:
        for name, data in files.items():
            text = data if isinstance(data, str) else json.dumps(data)
            stack.enter_context(atomic_path(folder / name)).write_text(text, encoding='utf-8')
    for path in folder.iterdir():
        if path.name not in files and OUR_FILES.fullmatch(path.name) and _is_ours(path):
            path.unlink()
    return [folder / name for name in files]


def _pixel_sizes(reports, mpp):
    known = sum(report.mpp is not None for report in reports)
    sentence = f'pixel size: recorded in {known} of {len(reports)} images'
    if known < len(reports):
        sentence += f'; {mpp:g} micrometres in the others (--mpp)' if mpp else '; give it by --mpp if you know it'
    return sentence
