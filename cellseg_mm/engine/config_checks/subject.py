"""What is checked: a config, the model that it describes, and the cells of its data."""
import math
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope

from cellseg_mm.datasets.cell_dataset import read_cells
from cellseg_mm.datasets.transforms.affine import RandomCellAffine
from cellseg_mm.datasets.transforms.copy_paste import CellCopyPaste
from cellseg_mm.datasets.wrappers import pipeline_steps
from cellseg_mm.engine.config import SETTINGS, dataset_config
from cellseg_mm.models.anchor_coverage import resize_factors
from cellseg_mm.structures.tiling import Tiling

_GRID = 8  # pixels
_RESIZING = 'Resize', 'Mosaic', 'MixUp', 'Expand', 'Affine'  # parts of names


@dataclass(frozen=True)
class Cells:
    """N cells of I images, those of the training first, then those of the validation; crowds are left out.

    Attributes:
        box: float64 (N, 4), x, y, width and height in pixels.
        image: int64 (N,), index of each cell's image.
        image_sizes: I pairs (height, width) in pixels.
        training: bool (I,), whether an image is one to train on.
    """

    box: np.ndarray
    image: np.ndarray
    image_sizes: list
    training: np.ndarray

    @cached_property
    def counts(self):
        """Cells in each image: int64 (I,)."""
        return np.bincount(self.image, minlength=len(self.image_sizes))

    @property
    def fullest(self):
        """How many cells the fullest image has."""
        return int(self.counts.max(initial=0))


class Subject:
    """A config from `load_config` and what follows from it, each made when it is first asked for.

    Args:
        config (Config): It is not changed.
        annotations (dict[str, dict], optional): Of `train` and `val`, as `check_data` returns them.
    """

    def __init__(self, config, annotations=None):
        self.config, self._annotations = config, annotations

    @property
    def model(self):
        """The model, on the meta device wherever that can be: nn.Module, or None where it cannot be built."""
        return self._built[0]

    @property
    def build_error(self):
        """Why the model cannot be built: Exception or None."""
        return self._built[1]

    @cached_property
    def _built(self):
        init_default_scope('mmdet')
        error = None
        for device in ('meta', 'cpu'):  # some models compute with numbers when they are made
            try:
                with torch.device(device):
                    return MODELS.build(deepcopy(self.config.model)).train(), None
            except Exception as caught:  # of any part
                error = caught
        return None, error

    @cached_property
    def cells(self):
        """`Cells`, or None where there are no annotations."""
        if not self._annotations:
            return None
        parts = [_read(Path(self.config.data_root, dataset_config(self.config, split).ann_file), data)
                 for split, data in self._annotations.items()]
        starts = np.cumsum([0, *(len(sizes) for sizes, _, _ in parts)])
        return Cells(
            np.concatenate([box for _, box, _ in parts]),
            np.concatenate([image + start for (_, _, image), start in zip(parts, starts, strict=False)]),
            [size for sizes, _, _ in parts for size in sizes],
            np.repeat([split == 'train' for split in self._annotations], np.diff(starts)))

    @cached_property
    def factors(self):
        """By how much each image is resized where it is predicted: float64 (I, 2), horizontally and vertically."""
        found = resize_factors(pipeline_of(self.config, 'val'), self.cells.image_sizes)
        return np.array([found[size] for size in self.cells.image_sizes]).reshape(-1, 2)

    @cached_property
    def seen_sizes(self):
        """Width and height of each cell as the model sees it: float64 (N, 2) in pixels of its input."""
        return self.cells.box[:, 2:] * self.factors[self.cells.image]

    @cached_property
    def fullest_view(self):
        """How many cells what the model sees at once has where it has most: an image, or a tile."""
        cells, tiles = self.cells, self.config.model.get('tiles')
        if not tiles:
            return cells.fullest
        centres, most = (cells.box[:, :2] + cells.box[:, 2:] / 2) * self.factors[cells.image], 0
        for number in np.flatnonzero(cells.counts):
            inside = centres[cells.image == number]
            height, width = np.round(cells.image_sizes[number] * self.factors[number, ::-1]).astype(int)
            for x, y, w, h in Tiling(height, width, tiles['size'], tiles['overlap']).tiles:
                shown = ((inside >= (x, y)) & (inside < (x + w, y + h))).all(1)
                most = max(most, int(shown.sum()))
        return most

    @cached_property
    def fullest_crop(self):
        """How many cells a step of the training can have in one image, of all or of what the pipeline cuts from it.

        The sides of windows are rounded up to a grid of 8 px, and one more.
        """
        pipeline = pipeline_of(self.config, 'train')
        pasted = sum(step.get('max_cells', CellCopyPaste().max_cells) for step in pipeline
                     if step.get('type') == 'CellCopyPaste')
        cells, window, most = self.cells, crop_size(pipeline), 0
        if window is None:
            return cells.fullest + pasted
        centres = ((cells.box[:, :2] + cells.box[:, 2:] / 2) / _GRID).astype(int)
        width, height = (math.ceil(side / _GRID) + 1 for side in window)
        for number in np.flatnonzero(cells.counts):
            columns, rows = centres[cells.image == number].T
            # How many are above and to the left of each place, with room for a whole window.
            counts = np.zeros((rows.max() + height + 1, columns.max() + width + 1), int)
            np.add.at(counts, (rows + 1, columns + 1), 1)
            counts = np.pad(counts.cumsum(0).cumsum(1), ((0, height), (0, width)), 'edge')
            strips = counts[height:] - counts[:-height]
            most = max(most, int((strips[:, width:] - strips[:, :-width]).max()))
        return most + pasted

    @cached_property
    def views(self):
        """What the model sees at once where it predicts, whole images or tiles, these side by side, without overlap.

        Returns:
            tuple[ndarray, ndarray]: int64 (N,), the view of each cell; float64 (N, 2), x and y of its centre in that,
                from 0 to 1.
        """
        cells, tiles = self.cells, self.config.model.get('tiles')
        factors = self.factors[cells.image]
        centres = (cells.box[:, :2] + cells.box[:, 2:] / 2) * factors
        if not tiles:
            return cells.image, centres / (np.array(cells.image_sizes).reshape(-1, 2)[cells.image, ::-1] * factors)
        tile, place = np.divmod(centres, tiles['size'])
        return np.unique(
            np.column_stack([cells.image, tile]), axis=0, return_inverse=True)[1].ravel(), place / tiles['size']


def crop_size(pipeline):
    """(width, height) of what a pipeline cuts from images, in their pixels, or None where that is not plain."""
    sizes, smallest = [], 1.0  # how small pixels of the image have become at the least
    for step in pipeline:
        name = str(step.get('type'))
        if name == 'RandomApply':
            smallest *= min([1.0, *(_least_factor(inner) for inner in listed(step.get('transforms')))])
            continue
        smallest *= _least_factor(step)
        if any(word in name for word in _RESIZING) and name != 'RandomCellAffine':
            break  # pixels are others from here on
        if step.get('crop_size') and step.get('crop_type', 'absolute') == 'absolute':
            sizes.append((np.array(step['crop_size']) + 2 * step.get('margin', 0)) / smallest)
    return np.min(sizes, axis=0) if sizes else None


def _least_factor(step):
    """By how much a transform that is followed makes pixels smaller at the least."""
    if step.get('type') != 'RandomCellAffine':
        return 1.0
    least = step.get('scale_range', RandomCellAffine().scale_range)[0]
    return least if step.get('prob', 1) == 1 else min(least, 1.0)


def _read(path, data):
    """Sizes of the images, boxes of the cells and the image of each."""
    try:
        return _arrays(data)
    except (KeyError, TypeError, ValueError):  # masks without boxes, or an entry to be named
        return _arrays(read_cells(path))


def _arrays(data):
    places = {image['id']: number for number, image in enumerate(data['images'])}
    cells = [cell for cell in data['annotations'] if not cell.get('iscrowd') and not cell.get('ignore')]
    return ([(int(image['height']), int(image['width'])) for image in data['images']],
            np.array([cell['bbox'] for cell in cells], np.float64).reshape(len(cells), 4),
            np.array([places[cell['image_id']] for cell in cells], np.int64))


def pipeline_of(config, split):
    """The transforms of a split in order, those of wrappers such as `MultiImageMixDataset` last.

    Args:
        config (Config): A config.
        split (str): `train`, `val` or `test`.

    Returns:
        list[dict]: Their configs.
    """
    return [step for _, step in pipeline_steps(config[f'{split}_dataloader'].dataset)]


def parts_of(config):
    """Yield the dotted key and each dictionary of what a run reads; its variables may repeat parts of that.

    Args:
        config (Config): A config.
    """
    for setting in SETTINGS:
        yield from dicts(config.get(setting), setting)


def listed(value):
    """Settings that may be one or a list of several, or None, as a list."""
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


def dicts(node, place):
    """Yield the dotted key and each dictionary in a part of a config, at any depth.

    Args:
        node (dict | list): The part.
        place (str): Its dotted key.
    """
    if isinstance(node, dict):
        yield place, node
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, child in children:
        yield from dicts(child, f'{place}[{key}]' if isinstance(key, int) else f'{place}.{key}')
