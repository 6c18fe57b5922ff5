"""Finding the images and cells of a data set, in each of the layouts that data sets come in.

Every layout yields `Sample`s and the problems seen on the way. Nothing is decoded here but JSON.
"""
import os
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.io.files import read_json

IMAGE_SUFFIXES = ('.tif', '.tiff', '.png', '.jpg', '.jpeg', '.bmp')
TEST_LIST = 'test_image_name_to_ids.json'


@dataclass(frozen=True)
class Sample:
    """An image and where its cells are found.

    Attributes:
        key: What the user knows the image by: its folder's or file's name, without suffix.
        image: The image file.
        labels: Label map file of each class, by the class's name.
        annotations: COCO annotations with `category` in place of `category_id`, where a COCO file gives them.
        size: (height, width) that another file states, or None.
        id: Id that another file states, or None.
    """

    key: str
    image: Path
    labels: dict = field(default_factory=dict)
    annotations: tuple = ()
    size: tuple | None = None
    id: int | None = None


@dataclass
class Layout:
    """What was found: samples in sorted order, class names in order, problems (errors) and warnings (sentences)."""

    train: list = field(default_factory=list)
    test: list = field(default_factory=list)
    classes: list = field(default_factory=list)
    problems: list = field(default_factory=list)
    warnings: list = field(default_factory=list)

    def choose_classes(self, names):
        """Keep only these classes, in this order.

        Data may lack some of a model's classes, of which the audit warns; that none is there is a problem.

        Args:
            names (list[str]): Class names.
        """
        if repeated := [name for name, count in Counter(names).items() if count > 1]:
            raise UserError(f'--classes names {", ".join(repeated)} more than once: name each class once')
        if not set(names) & set(self.classes):
            there = ', '.join(self.classes) or 'none: there are no label maps'
            self.problems.append(CellDataError(
                f'--classes {",".join(names)}', 'no image has cells of these classes', f'choose among {there}'))
        for name in self.classes:
            if name not in names:
                count = sum(name in s.labels or any(a['category'] == name for a in s.annotations) for s in self.train)
                self.warnings.append(f'class {name}, left out since --classes does not name it: in {count} images')
        self.classes = list(names)


def find_course(root):
    """The course's layout: `train/<id>/image.tif` with `<class>.tif` label maps beside it.

    Args:
        root (Path): The folder that holds `train`.

    Returns:
        Layout: Classes are all label maps' names, in natural order.
    """
    layout = Layout()
    for folder in sorted(path for path in _visible(root / 'train') if path.is_dir()):
        files = {}
        for path in sorted(path for path in _visible(folder) if path.suffix.lower() in ('.tif', '.tiff')):
            if path.stem in files:
                layout.problems.append(CellDataError(
                    path, f'has the same name as {files[path.stem].name}', 'keep only one of the two'))
            files[path.stem] = path
        image = files.pop('image', None)
        if image is None:
            layout.problems.append(CellDataError(
                folder, 'has no image.tif', 'put the image there under this name, or remove the folder'))
        else:
            layout.train.append(Sample(folder.name, image, files))
    layout.classes = sorted({name for sample in layout.train for name in sample.labels}, key=natural)
    return layout


def find_pairs(images, labels, name):
    """A folder of images beside a folder of label maps of one class, under the same names but for the suffix.

    Args:
        images (Path): Folder of images.
        labels (Path): Folder of label maps.
        name (str): The class's name.

    Returns:
        Layout: The pairs.
    """
    layout = Layout(classes=[name])
    image_files, label_files = (_by_stem(folder, layout.problems) for folder in (images, labels))
    for stem in sorted(image_files.keys() | label_files.keys()):
        if stem not in label_files:
            layout.problems.append(CellDataError(
                image_files[stem], f'has no label map in {labels}',
                'add one of the same name (all 0 if the image has no cell), or remove the image'))
        elif stem not in image_files:
            layout.problems.append(CellDataError(
                label_files[stem], f'has no image in {images}', 'add one of the same name, or remove the label map'))
        else:
            layout.train.append(Sample(stem, image_files[stem], {name: label_files[stem]}))
    return layout


def find_coco(path, images=None):
    """A COCO JSON file of another program.

    Crowd regions are left out. Categories keep the order of their ids.

    Args:
        path (Path): The JSON file.
        images (Path | None): Folder that its file names start from; None for the JSON file's own.

    Returns:
        Layout: Classes are the categories' names.

    Raises:
        CellDataError: If it is not a COCO file at all.
    """
    data = read_json(path, 'name a JSON file in COCO form')
    lists = ('images', 'annotations', 'categories')
    if not isinstance(data, dict) or not all(_is_records(data.get(name)) for name in lists):
        raise CellDataError(path, f'is not COCO: it lacks the lists {", ".join(lists)}',
                            "export COCO's instance segmentation format")
    layout, folder = Layout(), images or path.parent
    fields = {'images': ('id', 'file_name'), 'annotations': ('image_id', 'category_id'), 'categories': ('id', 'name')}
    records = {name: [record for number, record in enumerate(data[name])
                      if _has_fields(record, fields[name], f'{path}: {name}[{number}]', layout.problems)]
               for name in lists}
    _report_repeats(path, 'image id', (r['id'] for r in records['images']), layout.problems)
    _report_repeats(path, 'file_name', (r['file_name'] for r in records['images']), layout.problems)
    _report_repeats(path, 'category id', (r['id'] for r in records['categories']), layout.problems)
    _report_repeats(path, 'category name', (r['name'] for r in records['categories']), layout.problems)
    names = {r['id']: r['name'] for r in sorted(records['categories'], key=lambda r: r['id'])}
    layout.classes = list(names.values())

    cells, crowds, known = defaultdict(list), 0, {r['id'] for r in records['images']}
    for annotation in records['annotations']:
        where = f'{path}: annotation {annotation.get("id", "without id")}'
        if annotation['image_id'] not in known:
            layout.problems.append(CellDataError(
                where, f'belongs to image {annotation["image_id"]}, which is not listed', 'list its image'))
        elif annotation['category_id'] not in names:
            layout.problems.append(CellDataError(
                where, f'is of category {annotation["category_id"]}, which is not listed', 'list its category'))
        elif annotation.get('iscrowd'):
            crowds += 1
        else:
            cells[annotation['image_id']].append({'id': annotation.get('id', 'without id'),
                                                  'segmentation': annotation.get('segmentation'),
                                                  'category': names[annotation['category_id']]})
    if crowds:
        layout.warnings.append(f'crowd regions, left out since they are not single cells: {crowds}')
    for record in sorted(records['images'], key=lambda r: r['file_name']):
        name = Path(record['file_name'].replace('\\', '/'))
        # os.path.isfile, unlike Path.is_file, takes names of any length for missing files.
        image = next((path for path in (folder / name, folder / name.name) if os.path.isfile(path)), None)  # noqa: PTH113
        if image is None:
            layout.problems.append(CellDataError(
                folder / name, f'is listed in {path} but does not exist',
                'name the folder that holds the images by --images'))
            continue
        size = tuple(record[name] for name in ('height', 'width') if record.get(name) is not None)
        layout.train.append(Sample(name.with_suffix('').as_posix(), image, {}, tuple(cells[record['id']]),
                                   size if len(size) == 2 else None))
    _report_repeats(path, 'image', (sample.image for sample in layout.train), layout.problems)
    return layout


def find_test(root):
    """The test images in `test_release`, with the ids that the list beside it gives them.

    Args:
        root (Path): The folder that holds `test_release`.

    Returns:
        tuple[list[Sample], list[CellDataError]]: Samples in the order of their ids, and problems; none of either where
            there is no test split.
    """
    folder, listing, problems = root / 'test_release', root / TEST_LIST, []
    files = {path.name: path for path in sorted(_visible(folder)) if path.suffix.lower() in IMAGE_SUFFIXES}
    if not listing.exists():
        return [Sample(path.stem, path, id=number) for number, path in enumerate(files.values(), 1)], problems
    try:
        records = read_json(listing, 'write the file again')
    except CellDataError as error:
        return [], [error]
    if not _is_records(records):
        return [], [CellDataError(listing, 'is not a list of images', 'restore the original file')]
    records = [record for number, record in enumerate(records)
               if _has_fields(record, ('id', 'file_name'), f'{listing}: entry {number}', problems)]
    _report_repeats(listing, 'id', (r['id'] for r in records), problems)
    _report_repeats(listing, 'file_name', (r['file_name'] for r in records), problems)
    problems += [CellDataError(files[name], f'is not listed in {TEST_LIST}', 'remove it, or list it')
                 for name in sorted(files.keys() - {r['file_name'] for r in records})]
    samples = []
    for record in sorted(records, key=lambda r: r['id']):
        path = files.get(record['file_name'])
        if path is None:
            problems.append(CellDataError(
                folder / record['file_name'], f'is listed in {TEST_LIST} but missing', 'restore the file'))
            continue
        size = (record['height'], record['width']) if {'height', 'width'} <= record.keys() else None
        samples.append(Sample(path.stem, path, size=size, id=record['id']))
    return samples, problems


def _visible(folder):
    """Entries of a folder but hidden ones, such as the ._image.tif that macOS leaves; none where there is no folder."""
    return [path for path in folder.iterdir() if not path.name.startswith('.')] if folder.is_dir() else []


def natural(name):
    """Sorting key that puts class2 before class10."""
    return [(int(part), '') if part.isdecimal() else (-1, part) for part in re.split(r'(\d+)', name)], name


def _by_stem(folder, problems):
    if not folder.is_dir():
        raise UserError(f'{folder}: there is no such folder; name the folder that holds the files')
    files = {}
    for path in sorted(path for path in _visible(folder) if path.suffix.lower() in IMAGE_SUFFIXES):
        if path.stem in files:
            problems.append(CellDataError(path, f'has the same name as {files[path.stem].name}',
                                          'keep only one of the two, or rename one'))
        files[path.stem] = path
    return files


def _is_records(data):
    return isinstance(data, list) and all(isinstance(record, dict) for record in data)


def _has_fields(record, names, where, problems):
    """Whether ids are whole numbers and names are text; reports what is not."""
    wrong = [name for name in names
             if type(record.get(name)) is not (str if name.endswith('name') else int) or record[name] == '']
    if wrong:
        problems.append(CellDataError(where, f'lacks a usable {" and ".join(wrong)}', 'correct the entry'))
    return not wrong


def _report_repeats(path, what, values, problems):
    problems += [CellDataError(path, f'{what} {value} occurs {count} times', 'give each its own')
                 for value, count in Counter(values).items() if count > 1]
