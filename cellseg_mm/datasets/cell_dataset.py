"""Cells in COCO form, as `tools/prepare_data.py` writes them."""
import math
from collections import Counter, defaultdict
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from mmdet.registry import DATASETS
from mmengine.dataset import force_full_init

from cellseg_mm.datasets.transforms.checks import check_size
from cellseg_mm.errors import CellDataError
from cellseg_mm.io.files import read_json
from cellseg_mm.structures.rle import encode_segmentation, measure, with_text_counts

with redirect_stdout(None):  # MMDetection prints there which package it lacks for data sets that are not read here
    from mmdet.datasets import CocoDataset

REMEDY = 'run tools/prepare_data.py again, or correct the entry'


def check_classes(path, categories, classes):
    """Hold the categories of an annotation file against the classes of the config.

    MMDetection answers a difference with an empty data set, or with classes exchanged, and says nothing.

    Args:
        path (str | Path): The annotation file, for the message.
        categories (list[dict]): Its `categories`.
        classes (Sequence[str]): The config's classes, in order.

    Raises:
        CellDataError: If names or order differ.
    """
    names = [category['name'] for category in sorted(categories, key=lambda category: category['id'])]
    if names != list(classes):
        raise CellDataError(
            path, f'its classes are {tuple(names)}, those of the config are {tuple(classes)}',
            f'set classes = {tuple(names)} in configs/_base_/cells.py, or prepare the data with '
            f'--classes {",".join(classes)}')


def read_annotations(path):
    """Read an annotation file, without a look at single images and cells; see `read_cells`.

    Args:
        path (str | Path): A JSON file in COCO form.

    Returns:
        dict: With at least `images`, `annotations` and `categories`; the latter have ids and names of their own.

    Raises:
        CellDataError: If it is missing or not COCO JSON.
    """
    path = Path(path)
    remedy = f'run: python tools/prepare_data.py {path.parent.parent}'
    if not path.is_file():
        raise CellDataError(path, 'there are no annotations yet', remedy)
    data = read_json(path, remedy)
    lists = 'images', 'annotations', 'categories'
    if not isinstance(data, dict) or not all(_is_records(data.get(name)) for name in lists):
        raise CellDataError(path, 'this is not an annotation file in COCO form', remedy)
    for number, category in enumerate(data['categories']):
        if type(category.get('id')) is not int or not isinstance(category.get('name'), str):
            raise CellDataError(path, f'categories[{number}] lacks a usable id or name', REMEDY)
    _check_ids(path, data, 'categories')
    return data


def read_cells(path):
    """Read an annotation file and check every annotation; none is left out.

    Boxes and areas follow from the masks. A box that the file states, which it need not, has to be that of the mask,
    but for a pixel of rounding: where it is not, nobody knows which of the two is wrong.

    Args:
        path (str | Path): A JSON file in COCO form, the segmentations as RLE of either form or as polygons.

    Returns:
        dict: As of `read_annotations`, with `annotations` image by image in the order of `images`. Each has `id`,
            `image_id`, `category_id`, `iscrowd` and `ignore` (0 or 1), `area` (pixels), `bbox` ([x, y, w, h], whole
            pixels, tight) and `segmentation` ({'size': [H, W], 'counts': str}).

    Raises:
        CellDataError: As `read_annotations`; if an image has no id, name or size, an id occurs twice, or an annotation
            is of no image. Names the first annotation that cannot be used.
    """
    data = read_annotations(path)
    cells = _cells_by_image(path, data)
    categories = {category['id'] for category in data['categories']}
    data['annotations'] = [cell for image in data['images']
                           for cell in _checked(path, image, cells[image['id']], categories)]
    return data


def _cells_by_image(path, data):
    for number, image in enumerate(data['images']):
        if not all(type(image.get(side)) is int and 0 < image[side] < 2**31 for side in ('height', 'width')) or not all(
                type(image.get(name)) is kind for name, kind in (('id', int), ('file_name', str))):
            raise CellDataError(path, f'images[{number}] lacks a usable id, file_name, height or width', REMEDY)
        mpp = image.get('mpp')
        if mpp is not None and not (type(mpp) in (int, float) and 0 < mpp < np.inf):
            raise CellDataError(path, f'images[{number}] has the pixel size (mpp) {mpp}', REMEDY)
    cells = {image['id']: [] for image in data['images']}
    for what in ('images', 'annotations'):
        _check_ids(path, data, what)
    for cell in data['annotations']:
        if type(cell.get('image_id')) is not int or cell['image_id'] not in cells:
            raise CellDataError(path, f'annotation {cell.get("id")} is of image {cell.get("image_id")}, '
                                'which is not listed', REMEDY)
        cells[cell['image_id']].append(cell)
    return cells


def _check_ids(path, data, what):
    for repeated, count in Counter(repr(record.get('id')) for record in data[what]).most_common(1):
        if count > 1:
            raise CellDataError(path, f'{count} of its {what} have the id {repeated}', REMEDY)


def _checked(path, image, cells, categories):
    """The annotations of one image, as `read_cells` gives them."""
    size = image['height'], image['width']

    def refuse(cell, problem):
        raise CellDataError(path, f'annotation {cell.get("id")} of image {image["file_name"]}: {problem}', REMEDY)

    rles = []
    for cell in cells:
        rle = cell.get('segmentation')
        # Most are compressed RLEs, which are checked all at once.
        if not isinstance(rle, dict) or 'size' not in rle or not isinstance(rle.get('counts'), str):
            try:
                rle = with_text_counts(encode_segmentation(rle, *size))
            except ValueError as error:
                refuse(cell, error)
        rles.append(rle)
    boxes, areas, broken = measure(rles, *size)
    checked = []
    for i, (cell, rle, box, area) in enumerate(zip(cells, rles, boxes.tolist(), areas.tolist(), strict=True)):
        category, stated = cell.get('category_id'), cell.get('bbox')
        if i in broken:
            refuse(cell, f'its RLE {broken[i]}')
        if not area:
            refuse(cell, 'its mask is empty')
        if type(category) is not int or category not in categories:
            refuse(cell, f'its category {category} is not listed')
        if stated is not None and not _is_about(stated, box):
            refuse(cell, f'its box {stated} is not that of its mask, {box}')
        checked.append({'id': cell.get('id'), 'image_id': image['id'], 'category_id': category,
                        **{name: int(bool(cell.get(name))) for name in ('iscrowd', 'ignore')},
                        'area': area, 'bbox': box, 'segmentation': with_text_counts(rle)})
    return checked


def _is_about(stated, box):
    return isinstance(stated, list) and len(stated) == 4 and all(
        type(value) in (int, float) and abs(value - true) <= 1 for value, true in zip(stated, box, strict=True))


def _is_records(values):
    return isinstance(values, list) and all(isinstance(value, dict) for value in values)


@DATASETS.register_module()
class CellDataset(CocoDataset):
    """COCO data set whose classes must be those of the config, name by name and in order.

    Every annotation becomes an instance or is an error; see `read_cells`. Crowds, and what is marked 'ignore', have the
    `ignore_flag` 1. Images without a cell are kept: they teach the model what is not one. `metainfo`, which goes into
    checkpoints, has the median pixel size of the images as `mpp`, micrometres per pixel, or None where none records it,
    and their median height and width in pixels as `image_size`.

    Args:
        crop_size (tuple[int, int], optional): (width, height), in pixels, of what the pipeline cuts out of an image. An
            epoch then has each image as often as such crops cover it, so that a cell is seen as often in a large image
            as in a small one. By default it has each image once.

    Raises:
        UserError: If `crop_size` is none.
        CellDataError: If the annotation file is missing, its classes differ, there is no image in it, or an annotation
            cannot be used.
    """

    METAINFO = dict(classes=(), palette=[])  # noqa: RUF012 -- MMDetection's own form

    def __init__(self, *args, data_prefix=None, filter_cfg=None, crop_size=None, **kwargs):
        if crop_size is not None:
            check_size(type(self).__name__, crop_size)
        self.crop_size = crop_size
        super().__init__(*args, data_prefix=data_prefix or dict(img=''), filter_cfg=filter_cfg, **kwargs)

    def full_init(self):
        if not self._fully_initialized:
            super().full_init()
            self._repeat()

    def get_subset_(self, indices):
        super().get_subset_(indices)
        self._repeat()

    def get_subset(self, indices):
        subset = super().get_subset(indices)
        subset._repeat()
        return subset

    def _repeat(self):
        images = len(self.data_address) if self.serialize_data else len(self.data_list)
        self._places = np.arange(images)
        if self.crop_size:
            width, height = self.crop_size
            infos = (super(CellDataset, self).get_data_info(image) for image in range(images))
            self._places = np.repeat(self._places, [
                math.ceil(info['width'] / width) * math.ceil(info['height'] / height) for info in infos])

    @property
    @force_full_init
    def places(self):
        """Which image is at each place of an epoch: int64 (len(self),), counted from 0."""
        return self._places

    @force_full_init
    def get_data_info(self, idx):
        return {**super().get_data_info(int(self._places[idx])), 'sample_idx': idx % len(self)}

    @force_full_init
    def __len__(self):
        return len(self._places)

    def load_data_list(self):
        data = read_cells(self.ann_file)
        check_classes(self.ann_file, data['categories'], self.metainfo['classes'])
        if not data['images']:
            raise CellDataError(self.ann_file, 'there is no image in it',
                                'add images, then run tools/prepare_data.py again')
        sizes = [image['mpp'] for image in data['images'] if image.get('mpp')]
        self._metainfo['mpp'] = float(np.median(sizes)) if sizes else None
        self._metainfo['image_size'] = [
            float(np.median([image[side] for image in data['images']])) for side in ('height', 'width')]
        self.cat_ids = sorted(category['id'] for category in data['categories'])
        self.cat2label = {category: label for label, category in enumerate(self.cat_ids)}
        self.cat_img_map = defaultdict(list)
        instances = defaultdict(list)
        for cell in data['annotations']:
            x, y, w, h = cell['bbox']
            self.cat_img_map[cell['category_id']].append(cell['image_id'])
            instances[cell['image_id']].append({
                'bbox': [x, y, x + w, y + h], 'bbox_label': self.cat2label[cell['category_id']],
                'mask': cell['segmentation'], 'ignore_flag': cell['iscrowd'] or cell['ignore']})
        samples = []
        for image in data['images']:
            sample = self.parse_data_info({'raw_img_info': {**image, 'img_id': image['id']}, 'raw_ann_info': []})
            samples.append({**sample, 'instances': instances[image['id']]})
        return samples
