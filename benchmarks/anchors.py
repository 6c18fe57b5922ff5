"""What anchors and NMS leave of cells at the best: python benchmarks/anchors.py ROOT CONFIG...

For each config, of all cells of ROOT's annotations/train.json, at the size at which it validates: the share for which
an anchor of its grid reaches an IoU of 0.7, from which on MMDetection's region proposal network takes it for a cell; of
0.5; and of 0.3, below which not even the best of a cell's anchors teaches it. Then the share of cells that would be
lost, because their box overlaps that of another too much, at the IoUs of the two non-maximum suppressions.
"""
import argparse
import json
from pathlib import Path

import numpy as np
from measure import register
from mmdet.registry import TASK_UTILS

from cellseg_mm import cli
from cellseg_mm.engine.config import load_config
from cellseg_mm.models.anchor_coverage import resize_factors

IOUS = 0.7, 0.5, 0.3


def read_boxes(root):
    """The size of each training image, (height, width), and its boxes, float (N, 4) of x, y, width and height."""
    data = json.loads((root / 'annotations/train.json').read_text(encoding='utf-8'))
    boxes = {image['id']: [] for image in data['images']}
    for cell in data['annotations']:
        boxes[cell['image_id']].append(cell['bbox'])
    return [((image['height'], image['width']), np.reshape(boxes[image['id']], (-1, 4)).astype(float))
            for image in data['images']]


def overlap(one, other):
    """IoU of boxes x1, y1, x2, y2 in the last axis."""
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    shared = np.clip(sides, 0, None).prod(-1)
    return shared / ((one[..., 2:] - one[..., :2]).prod(-1) + (other[..., 2:] - other[..., :2]).prod(-1) - shared)


def best_anchor(boxes, generator):
    """The IoU of each box, (N, 4) of x1, y1, x2 and y2, with the anchor of the grid that fits it best."""
    best, centres = np.zeros(len(boxes)), (boxes[:, :2] + boxes[:, 2:]) / 2
    for stride, anchors in zip(generator.strides, generator.base_anchors, strict=True):
        for anchor in anchors.numpy():
            middle = (anchor[:2] + anchor[2:]) / 2
            steps = (centres - middle) / stride
            for x in (np.floor, np.ceil):
                for y in (np.floor, np.ceil):
                    shift = np.column_stack([x(steps[:, 0]), y(steps[:, 1])]) * stride
                    best = np.maximum(best, overlap(boxes, np.tile(shift, 2) + anchor))
    return best


def most_alike(boxes):
    """The IoU of each box with the one of the same image that is most like it."""
    ious = overlap(boxes[:, None], boxes)
    np.fill_diagonal(ious, 0)
    return ious.max(1, initial=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('root', type=Path)
    parser.add_argument('configs', nargs='+', type=Path)
    args = parser.parse_args()
    register()
    images = read_boxes(args.root)
    print('| config | ' + ' | '.join(f'an anchor of IoU {iou}' for iou in IOUS) + ' | lost to NMS: proposals | cells |')
    print('|---' * (len(IOUS) + 3) + '|')
    for path in args.configs:
        config = load_config(path, {'data_root': str(args.root)})
        generator = TASK_UTILS.build(dict(config.model.rpn_head.anchor_generator))
        factors = resize_factors(config.val_dataloader.dataset.pipeline, [size for size, _ in images])
        best, alike = [], []
        for size, found in images:
            boxes = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], 1) * np.tile(factors[size], 2)
            best.append(best_anchor(boxes, generator))
            alike.append(most_alike(boxes))
        best, alike = np.concatenate(best), np.concatenate(alike)
        limits = config.model.test_cfg.rpn.nms.iou_threshold, config.model.test_cfg.rcnn.nms.iou_threshold
        # Of two boxes that are alike one stays.
        figures = [*((best >= iou).mean() for iou in IOUS), *((alike > limit).mean() / 2 for limit in limits)]
        print(f'| {path.stem} | ' + ' | '.join(f'{100 * figure:.2g}%' for figure in figures) + ' |', flush=True)


if __name__ == '__main__':
    cli.run(main)
