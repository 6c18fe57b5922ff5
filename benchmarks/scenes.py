"""Scenes for the benchmarks: dense cells of the sizes and shapes of real H&E, drawn or taken from true masks."""
import os
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from cellseg_mm.structures.local_masks import LocalMasks
from cellseg_mm.structures.rle import encode_label_map, with_text_counts

CLASSES = 4
TISSUE, NUCLEUS = np.array([210, 180, 228]), np.array([150, 85, 118])  # BGR


def scene(cells, side, seed=0):
    """Draw touching, irregular cells whose longest side is 23 px in the median and 63 px at the 99th percentile.

    Args:
        cells (int): How many to draw.
        side (int): Height and width of the image in pixels.
        seed (int): The same seed gives the same scene.

    Returns:
        tuple: uint8 (side, side, 3) BGR image, and int32 (side, side) label map of 0 and 1 to `cells`.
    """
    rng = np.random.default_rng(seed)
    # Quantiles rather than samples, for few cells are to have the same sizes as many.
    quantiles = np.sort(rng.normal(size=20 * cells))[10::20]
    shapes = [_cell(rng, 10 + 13.5 * np.exp(0.6 * quantile)) for quantile in quantiles[::-1]]
    # A border around the image takes what reaches over its edge.
    margin = max(map(len, shapes))
    labels = np.zeros((side + 2 * margin,) * 2, np.int32)
    centres = np.zeros((0, 2), int)
    for number, shape in enumerate(shapes, 1):
        half = len(shape) // 2
        places = rng.integers(0, side, (60, 2))
        if number > 1:
            beside = rng.random(60) < 0.5
            angle, away = rng.uniform(0, 2 * np.pi, 60), half + rng.uniform(5, 12, 60)
            steps = np.stack([np.sin(angle), np.cos(angle)], 1) * away[:, None]
            near = np.rint(centres[rng.integers(len(centres), size=60)] + steps).astype(int)
            places = np.where(beside[:, None], near.clip(0, side - 1), places)
        best = 0
        for row, col in places + margin - half:
            window = labels[row:row + len(shape), col:col + len(shape)]
            free = np.count_nonzero(shape & (window == 0))
            if free > best:
                best, place = free, (row, col)
                if free > 0.93 * np.count_nonzero(shape):
                    break
        window = labels[place[0]:place[0] + len(shape), place[1]:place[1] + len(shape)]
        window[shape & (window == 0)] = number
        centres = np.vstack([centres, np.array(place) - margin + half])
    labels = np.ascontiguousarray(labels[margin:-margin, margin:-margin])
    missing = np.setdiff1d(np.arange(1, cells + 1), labels)
    if len(missing):
        raise ValueError(f'{len(missing)} of {cells} cells find no place in {side} x {side} pixels')
    brightness = rng.normal(1, 0.15, cells + 1)[..., None]
    colours = np.where(np.arange(cells + 1)[:, None] > 0, NUCLEUS * brightness, TISSUE)
    return _photograph(rng, colours[labels]), labels


def _cell(rng, longest):
    """Mask of a wobbly ellipse, bool (S, S), in a square of odd side that its centre is the centre of."""
    half = int(longest)
    rows, cols = np.mgrid[-half:half + 1, -half:half + 1]
    angle = np.arctan2(rows, cols) - rng.uniform(0, 2 * np.pi)
    across = rng.uniform(0.6, 1)
    radius = across / np.hypot(across * np.cos(angle), np.sin(angle))
    for wave in (2, 3, 4, 5):
        radius *= 1 + 0.12 / wave * rng.normal() * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    return np.hypot(rows, cols) < radius * longest / 2


def true_annotations():
    """Path of true masks without images, in the folder of real data CELLSEG_REAL_DATA; None where it is not set."""
    root = os.environ.get('CELLSEG_REAL_DATA')
    return Path(root, 'hw3/val_annotations.json') if root else None


def true_scene(ground_truth, image_id):
    """Draw an image of true size whose cells are the true ones.

    Args:
        ground_truth (dict): In COCO form, with RLE masks.
        image_id (int): One of its images.

    Returns:
        tuple: uint8 (H, W, 3) BGR image; list of N RLEs, counts as text; int64 (N,) labels from 0 on.
    """
    info = next(image for image in ground_truth['images'] if image['id'] == image_id)
    annotations = [cell for cell in ground_truth['annotations'] if cell['image_id'] == image_id]
    order = sorted(category['id'] for category in ground_truth['categories'])
    rng = np.random.default_rng(image_id)
    image = np.tile(TISSUE.astype(float), (info['height'], info['width'], 1))
    for x, y, bitmap in crops_of([cell['segmentation'] for cell in annotations]):
        image[y:y + bitmap.shape[0], x:x + bitmap.shape[1]][bitmap > 0] = NUCLEUS * rng.normal(1, 0.15)
    return (_photograph(rng, image), [with_text_counts(cell['segmentation']) for cell in annotations],
            np.array([order.index(cell['category_id']) for cell in annotations], np.int64))


def _photograph(rng, image):
    """Float (H, W, 3) to uint8 with the noise of a camera."""
    noise = rng.normal(0, 6, image.shape[:2])[..., None]
    return np.rint(image + noise).clip(0, 255).astype(np.uint8)


def crops_of(rles):
    """Each mask as (x, y, bitmap), uint8 (h, w) from its upper left pixel on."""
    return LocalMasks.from_rles(rles, *rles[0]['size']).crops() if rles else []


def rles_of(labels):
    """RLEs, counts as text, of a label map's cells in the order of their ids."""
    return [with_text_counts(rle) for rle in encode_label_map(labels)]


def dataset_item(image, rles, classes=None):
    """What MMDetection's pipelines get from a COCO data set, with the image loaded already.

    Args:
        image (ndarray): uint8 (H, W, 3) BGR.
        rles (list[dict]): N masks, counts as text.
        classes (ndarray, optional): int (N,) labels from 0 on; by turns of `CLASSES` where None.

    Returns:
        dict: As `CocoDataset` gives it after `LoadImageFromFile`.
    """
    classes = np.arange(len(rles)) % CLASSES if classes is None else classes
    boxes = xyxy_boxes(rles)
    return dict(
        img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2], height=image.shape[0], width=image.shape[1],
        img_id=0, img_path='',
        instances=[dict(bbox=box.tolist(), bbox_label=int(label), mask=rle, ignore_flag=0)
                   for box, label, rle in zip(boxes, classes, rles, strict=True)])


def batch(cells, side, is_stock=False):
    """A scene as the data loader gives it, at full resolution; with `BitmapMasks` for stock MMDetection."""
    import torch
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData
    image, label_map = scene(cells, side)
    masks = LocalMasks.from_label_map(label_map)
    boxes = masks.get_bboxes(HorizontalBoxes)
    if is_stock:
        masks = BitmapMasks(masks.to_ndarray(), side, side)
    sample = DetDataSample(metainfo=dict(
        img_id=0, img_shape=(side, side), ori_shape=(side, side), scale_factor=(1.0, 1.0)))
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.arange(cells) % CLASSES, masks=masks)
    return dict(inputs=[torch.from_numpy(image).permute(2, 0, 1)], data_samples=[sample])


def xyxy_boxes(rles):
    """Bounding boxes, float64 (N, 4), of RLEs with counts as text."""
    boxes = coco_mask.toBbox([{**rle, 'counts': rle['counts'].encode()} for rle in rles]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes
