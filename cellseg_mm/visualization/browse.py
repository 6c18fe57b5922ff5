"""Pictures of what the training pipeline yields, image and ground truth as the model gets them."""
import re
from collections import Counter
from copy import deepcopy
from pathlib import Path

import cv2
import numpy as np
from mmengine.runner import set_random_seed

from cellseg_mm.datasets.wrappers import build_dataset, nested
from cellseg_mm.errors import UserError
from cellseg_mm.io.image import write_image
from cellseg_mm.progress import track
from cellseg_mm.structures.local_masks import as_local_masks
from cellseg_mm.visualization.overlay import (
    class_colours,
    count_of,
    draw_boxes,
    draw_instances,
    enlarge,
    readable_scale,
    side_by_side,
)

_BOX = 0.45


def browse(config, out_dir, split='train', count=8):
    """Write a PNG for each of some images, spread over the data set: what the model is fed, and its ground truth.

    Args:
        config (Config): As `load_config` returns it.
        out_dir (str | Path): Where to write; files are named after the image's place in the data set, and its own name.
        split (str): 'train', or 'val' for the validation images, sent through the training pipeline too.
        count (int): How many images, at most; those that the pipeline drops are left out.

    Returns:
        list[Path]: The files written. The same call draws the same augmentations.

    Raises:
        UserError: If the data set is empty, or the pipeline drops all of these images.
        CellDataError: If its files cannot be used.
    """
    set_random_seed(0)
    dataset = build_dataset(_dataset_config(config, split), split)
    classes = dataset.metainfo['classes']
    chosen = np.unique(np.linspace(0, len(dataset) - 1, count).round().astype(int)).tolist()
    paths = []
    for index in track(chosen, 'drawing overlays', len(chosen)):
        item = dataset[index]
        shown = item['data_samples'].metainfo.get('img_path')
        if shown not in (None, dataset.get_data_info(index)['img_path']):
            continue  # another one, drawn at random, as in training: the pipeline dropped the one that was asked for
        source = Path(shown or 'image')
        name = re.sub(r'[^\w.-]+', '_', f'{source.parent.name}_{source.stem}')
        paths.append(Path(out_dir, f'{split}_{index:04d}_{name}.png'))
        write_image(paths[-1], picture(item['inputs'], item['data_samples'].gt_instances, classes))
    if not paths:
        raise UserError('the training pipeline drops every image that was to be shown; ask for more of them, or look '
                        'at its steps that return None, such as RandomCrop(allow_negative_crop=False)')
    return paths


def _dataset_config(config, split):
    *wrappers, (_, dataset) = nested(config.train_dataloader.dataset)
    if split == 'val':  # whose own pipeline augments nothing; it takes every image
        _, images = nested(config.val_dataloader.dataset)[-1]
        dataset = dict(images, pipeline=dataset.get('pipeline', []), test_mode=False, filter_cfg=None)
    for _, wrapper in reversed(wrappers):
        # What repeats every image shows nothing new, and rare classes are repeated in training alone.
        if 'pipeline' in wrapper or (split == 'train' and 'times' not in wrapper):
            dataset = dict(wrapper, dataset=dataset)
    return deepcopy(dataset)


def picture(inputs, instances, classes):
    """Draw an image beside the same with its ground truth: outlines, boxes lightly, counts of each class.

    Args:
        inputs (torch.Tensor): (3, H, W) BGR, as PackDetInputs packs it.
        instances (InstanceData): `labels`, `bboxes` and, unless the pipeline loads none, `masks`.
        classes (Sequence[str]): Names of the classes.

    Returns:
        numpy.ndarray: uint8 BGR.
    """
    image = np.ascontiguousarray(inputs.numpy().transpose(1, 2, 0).clip(0, 255).astype(np.uint8))
    labels, colours = instances.labels.tolist(), class_colours(len(classes))
    boxes = getattr(instances.bboxes, 'tensor', instances.bboxes).numpy()
    scale = readable_scale(image.shape)
    drawn = enlarge(image, scale)
    if 'masks' in instances:
        masks = as_local_masks(instances.masks, *image.shape[:2])
        drawn = draw_instances(image, masks.crops(), labels, colours, scale)
    drawn = cv2.addWeighted(draw_boxes(drawn, boxes, labels, colours, scale), _BOX, drawn, 1 - _BOX, 0)
    counts = Counter(labels)
    return side_by_side(
        [(f'Fed to the model: {image.shape[1]} x {image.shape[0]}', enlarge(image, scale)),
         (f'Ground truth: {count_of(len(labels), "cell")}', drawn)],
        [(f'{name}: {counts[label]:,}', colours[label]) for label, name in enumerate(classes)])
