"""Cells in COCO form, as `tools/prepare_data.py` writes them."""
import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS

from cellseg_mm.errors import CellDataError


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
    if not isinstance(data, dict) or not {'images', 'annotations', 'categories'} <= data.keys():
        raise CellDataError(path, 'this is not an annotation file in COCO form', remedy)
    return data


@DATASETS.register_module()
class CellDataset(CocoDataset):
    """COCO data set whose classes must be those of the config, name by name and in order.

    Images without a cell are kept: they teach the model what is not one. `metainfo`, which goes into checkpoints, has
    the median pixel size of the images as `mpp` (micrometres per pixel), None where no image records it.

    Raises:
        CellDataError: If the annotation file is missing or its classes differ, or if there is no image in it.
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
        with redirect_stdout(StringIO()):  # pycocotools reports each index that it makes
            return super().load_data_list()
