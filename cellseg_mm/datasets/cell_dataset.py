"""Cells in COCO form, as `tools/prepare_data.py` writes them."""
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS

from cellseg_mm.errors import CellDataError
from cellseg_mm.structures.rle import encode_segmentation, measure, with_text_counts

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
    """Read an annotation file.

    Args:
        path (str | Path): A JSON file in COCO form.

    Returns:
        dict: With at least `images`, `annotations` and `categories`.

    Raises:
        CellDataError: If it is missing or not COCO JSON.
    """
    path = Path(path)
    remedy = f'run: python tools/prepare_data.py {path.parent.parent}'
    if not path.is_file():
        raise CellDataError(path, 'there are no annotations yet', remedy)
    try:
        data = json.loads(path.read_text())
    except ValueError as error:
        raise CellDataError(path, 'this is not JSON', remedy) from error
    lists = 'images', 'annotations', 'categories'
    if not isinstance(data, dict) or not all(_is_records(data.get(name)) for name in lists):
        raise CellDataError(path, 'this is not an annotation file in COCO form', remedy)
    return data


def cells_by_image(path, data):
    """The annotations of each image, once it is sure that all belong to one.

    Args:
        path (str | Path): The annotation file, for messages.
        data (dict): What `read_annotations` gives.

    Returns:
        dict[int, list[dict]]: Annotations by image id, for all images in the order of the file.

    Raises:
        CellDataError: If an image has no id, name or size, an id occurs twice, or an annotation is of no image.
    """
    for number, image in enumerate(data['images']):
        if not all(type(image.get(side)) is int and image[side] > 0 for side in ('height', 'width')) or not all(
                type(image.get(name)) is kind for name, kind in (('id', int), ('file_name', str))):
            raise CellDataError(path, f'images[{number}] lacks a usable id, file_name, height or width', REMEDY)
    cells = {image['id']: [] for image in data['images']}
    for what in ('images', 'annotations'):
        for repeated, count in Counter(repr(record.get('id')) for record in data[what]).most_common(1):
            if count > 1:
                raise CellDataError(path, f'{count} of its {what} have the id {repeated}', REMEDY)
    for cell in data['annotations']:
        if type(cell.get('image_id')) is not int or cell['image_id'] not in cells:
            raise CellDataError(path, f'annotation {cell.get("id")} is of image {cell.get("image_id")}, '
                                'which is not listed', REMEDY)
        cells[cell['image_id']].append(cell)
    return cells


def instances_of(path, image, cells, labels):
    """The annotations of one image as MMDetection's instances; each is checked, and none is left out.

    Boxes and areas follow from the masks. A box that the file states, which it need not, has to be that of the mask,
    but for a pixel of rounding: where it is not, nobody knows which of the two is wrong.

    Args:
        path (str | Path): The annotation file, for messages.
        image (dict): Its `file_name`, `height` and `width`.
        cells (list[dict]): N annotations, the segmentation as RLE of either form or as polygons.
        labels (dict[int, int]): The label of each category id.

    Returns:
        list[dict]: N times `bbox` ([x1, y1, x2, y2], whole pixels, tight), `bbox_label`, `mask` (RLE) and `ignore_flag`
            (1 for crowds and what is marked 'ignore').

    Raises:
        CellDataError: Names the first annotation that cannot be used.
    """
    size = image['height'], image['width']

    def refuse(cell, problem):
        raise CellDataError(path, f'annotation {cell.get("id")} of image {image["file_name"]}: {problem}', REMEDY)

    rles = []
    for cell in cells:
        rle = cell.get('segmentation')
        if not isinstance(rle, dict) or not {'size', 'counts'} <= rle.keys():
            try:
                rle = with_text_counts(encode_segmentation(rle, *size))
            except ValueError as error:
                refuse(cell, error)
        rles.append(rle)
    boxes, areas, broken = measure(rles, *size)
    instances = []
    for i, (cell, rle, box, area) in enumerate(zip(cells, rles, boxes.tolist(), areas.tolist(), strict=True)):
        category, stated = cell.get('category_id'), cell.get('bbox')
        if i in broken:
            refuse(cell, f'its RLE {broken[i]}')
        if not area:
            refuse(cell, 'its mask is empty')
        if type(category) is not int or category not in labels:
            refuse(cell, f'its category {category} is not listed')
        if stated is not None and not _is_about(stated, box):
            refuse(cell, f'its box {stated} is not that of its mask, {box}')
        x, y, w, h = box
        instances.append({'bbox': [x, y, x + w, y + h], 'bbox_label': labels[category], 'mask': rle,
                          'ignore_flag': int(bool(cell.get('iscrowd') or cell.get('ignore')))})
    return instances


def _is_about(stated, box):
    return isinstance(stated, list) and len(stated) == 4 and all(
        type(value) in (int, float) and abs(value - true) <= 1 for value, true in zip(stated, box, strict=True))


def _is_records(values):
    return isinstance(values, list) and all(isinstance(value, dict) for value in values)


@DATASETS.register_module()
class CellDataset(CocoDataset):
    """COCO data set whose classes must be those of the config, name by name and in order.

    Every annotation becomes an instance or is an error; see `instances_of`. Images without a cell are kept: they teach
    the model what is not one. `metainfo`, which goes into checkpoints, has the median pixel size of the images as `mpp`
    (micrometres per pixel), None where no image records it.

    Raises:
        CellDataError: If the annotation file is missing, its classes differ, there is no image in it, or an annotation
            cannot be used.
    """

    METAINFO = dict(classes=(), palette=[])  # noqa: RUF012 -- MMDetection's own form

    def __init__(self, *args, data_prefix=None, filter_cfg=None, **kwargs):
        super().__init__(*args, data_prefix=data_prefix or dict(img=''), filter_cfg=filter_cfg, **kwargs)

    def load_data_list(self):
        data = read_annotations(self.ann_file)
        check_classes(self.ann_file, data['categories'], self.metainfo['classes'])
        if not data['images']:
            raise CellDataError(self.ann_file, 'there is no image in it',
                                'add images, then run tools/prepare_data.py again')
        sizes = [image['mpp'] for image in data['images'] if image.get('mpp')]
        self._metainfo['mpp'] = float(np.median(sizes)) if sizes else None
        self.cat_ids = sorted(category['id'] for category in data['categories'])
        self.cat2label = {category: label for label, category in enumerate(self.cat_ids)}
        self.cat_img_map = defaultdict(list)
        cells, samples = cells_by_image(self.ann_file, data), []
        for image in data['images']:
            instances = instances_of(self.ann_file, image, cells[image['id']], self.cat2label)
            for cell in cells[image['id']]:
                self.cat_img_map[cell['category_id']].append(image['id'])
            sample = self.parse_data_info({'raw_img_info': {**image, 'img_id': image['id']}, 'raw_ann_info': []})
            samples.append({**sample, 'instances': instances})
        return samples
