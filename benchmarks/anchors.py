"""What anchors and NMS leave of cells at the best: python benchmarks/anchors.py ROOT CONFIG...

For each config, of all cells of ROOT's annotations/train.json, at the size at which it validates: the share for which
an anchor of its grid reaches an IoU of 0.7, from which on MMDetection's region proposal network takes it for a cell; of
0.5; and of 0.3, below which not even the best of a cell's anchors teaches it. Then the share of cells that would be
lost, because their box overlaps that of another too much, at the IoUs of the two non-maximum suppressions.
"""
import argparse
from pathlib import Path

import numpy as np
import torch
from measure import register
from mmdet.registry import TASK_UTILS
from mmdet.structures.bbox import bbox_overlaps

from cellseg_mm import cli
from cellseg_mm.engine.config import load_config
from cellseg_mm.engine.config_checks.subject import Subject
from cellseg_mm.engine.preflight import check_data

IOUS = 0.7, 0.5, 0.3


def best_anchor(boxes, generator):
    """The IoU of each box, (N, 4) of x1, y1, x2 and y2, with the anchor of the grid that fits it best."""
    best, centres = torch.zeros(len(boxes), dtype=boxes.dtype), (boxes[:, :2] + boxes[:, 2:]) / 2
    for stride, anchors in zip(generator.strides, generator.base_anchors, strict=True):
        for anchor in anchors.to(boxes.dtype):
            steps = (centres - (anchor[:2] + anchor[2:]) / 2) / torch.tensor(stride)
            for x in (torch.floor, torch.ceil):
                for y in (torch.floor, torch.ceil):
                    shift = torch.stack([x(steps[:, 0]), y(steps[:, 1])], 1) * torch.tensor(stride)
                    best = best.maximum(bbox_overlaps(boxes, shift.tile(2) + anchor, is_aligned=True))
    return best


def most_alike(boxes):
    """The IoU of each box with the one of the same image that is most like it."""
    return bbox_overlaps(boxes, boxes).fill_diagonal_(0).amax(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('root', type=Path)
    parser.add_argument('configs', nargs='+', type=Path)
    args = parser.parse_args()
    register()
    print('| config | ' + ' | '.join(f'an anchor of IoU {iou}' for iou in IOUS) + ' | lost to NMS: proposals | cells |')
    print('|---' * (len(IOUS) + 3) + '|')
    for path in args.configs:
        config = load_config(path, {'data_root': str(args.root)})
        subject = Subject(config, check_data(config, ('train', )))
        generator = TASK_UTILS.build(dict(config.model.rpn_head.anchor_generator))
        cells = subject.cells
        corners = np.hstack([cells.box[:, :2], cells.box[:, :2] + cells.box[:, 2:]])
        boxes = torch.from_numpy(corners * np.tile(subject.factors[cells.image], 2))
        best = best_anchor(boxes, generator)
        alike = torch.cat([most_alike(boxes[cells.image == image]) for image in np.unique(cells.image)])
        limits = config.model.test_cfg.rpn.nms.iou_threshold, config.model.test_cfg.rcnn.nms.iou_threshold
        # Of two boxes that are alike one stays.
        figures = [*(f'{100 * (best >= iou).double().mean():.1f}%' for iou in IOUS),
                   *(f'{100 * (alike > limit).double().mean() / 2:.2f}%' for limit in limits)]
        print(f'| {path.stem} | {" | ".join(figures)} |', flush=True)


if __name__ == '__main__':
    cli.run(main)
