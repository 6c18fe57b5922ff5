"""MMDetection's MaxIoUAssigner without its matrix of cells x anchors."""
import math

import numpy as np
import torch
from mmdet.models.task_modules import AssignResult, MaxIoUAssigner
from mmdet.models.task_modules.assigners.iou2d_calculator import BboxOverlaps2D
from mmdet.registry import TASK_UTILS
from mmdet.structures.bbox import get_box_tensor

from cellseg_mm.structures.compiled import compiled

_EPSILON = np.float32(1e-6)  # the least union of two boxes, as in mmdet.structures.bbox.bbox_overlaps
_LARGEST = 1e9  # pixels; the areas of larger boxes could overflow
_MAX_BINS = 64  # along each side of the image


@TASK_UTILS.register_module()
class LocalMaxIoUAssigner(MaxIoUAssigner):
    """A `MaxIoUAssigner` whose memory grows as cells + anchors, not cells x anchors.

    Takes the same arguments and gives the same `gt_inds`, `max_overlaps` and `labels`, to the last bit. A box only
    meets those that lie in its part of the image; all other IoUs are 0 and are never computed. The work is done on
    the CPU, also for tensors of other devices.

    What a sparse search cannot know goes to `MaxIoUAssigner`, matrix and all: boxes to ignore, `perm_repeat_gt_cfg`,
    an `iou_calculator` other than the default, a `min_pos_iou` below 0, boxes of another type than float32, and
    boxes with a coordinate that is NaN, infinite or above 1e9.
    """

    def assign(self, pred_instances, gt_instances, gt_instances_ignore=None, **kwargs):
        """Assign a cell, the background or nothing to each prior.

        Args:
            pred_instances (InstanceData): `priors`, (n, 4) boxes x1, y1, x2, y2.
            gt_instances (InstanceData): `bboxes`, (k, 4) boxes, and `labels`, int64 (k,).
            gt_instances_ignore (InstanceData, optional): `bboxes` to ignore.
            **kwargs: Unused, as by MaxIoUAssigner.

        Returns:
            AssignResult: `gt_inds` int64 (n,), -1 nothing, 0 background, i + 1 cell i; `max_overlaps` float32 (n,);
                `labels` int64 (n,), -1 without a cell.
        """
        priors, gts = (get_box_tensor(boxes).detach() for boxes in (pred_instances.priors, gt_instances.bboxes))
        ignores = self.ignore_iof_thr > 0 and gt_instances_ignore is not None and len(gt_instances_ignore.bboxes)
        if ignores or not self._is_plain() or not (_are_plain(priors) and _are_plain(gts)):
            return super().assign(pred_instances, gt_instances, gt_instances_ignore, **kwargs)
        least = self.min_pos_iou if self.match_low_quality else math.inf
        max_overlaps, nearest, low_quality = (
            torch.from_numpy(array).to(priors.device) for array in
            _match(_to_numpy(priors), _to_numpy(gts), np.float32(least), bool(self.gt_max_assign_all)))

        gt_inds = torch.full_like(nearest, -1)
        # As in MaxIoUAssigner, a threshold of any other type makes nothing background.
        if isinstance(self.neg_iou_thr, (float, tuple)):
            low, high = self.neg_iou_thr if isinstance(self.neg_iou_thr, tuple) else (0, self.neg_iou_thr)
            gt_inds[(max_overlaps >= low) & (max_overlaps < high)] = 0
        gt_inds = torch.where(max_overlaps >= self.pos_iou_thr, nearest + 1, gt_inds)
        gt_inds = torch.where(low_quality > 0, low_quality, gt_inds)
        labels = torch.full_like(gt_inds, -1)
        positive = gt_inds > 0
        labels[positive] = gt_instances.labels[gt_inds[positive] - 1]
        return AssignResult(len(gts), gt_inds, max_overlaps, labels)

    def _is_plain(self):
        calculator = self.iou_calculator
        return (type(calculator) is BboxOverlaps2D and calculator.dtype != 'fp16' and self.perm_repeat_gt_cfg is None
                and self.min_pos_iou >= 0)


def _are_plain(boxes):
    if boxes.dtype != torch.float32 or not len(boxes):
        return False
    low, high = boxes.aminmax()
    return bool((low >= -_LARGEST) & (high <= _LARGEST))


def _to_numpy(boxes):
    return np.ascontiguousarray(boxes[:, :4].cpu().numpy())


@compiled
def _bins(low, high, origin, width, count):
    """The bins along one axis that a box touches, as first and last + 1."""
    first = min(max(int((low - origin) / width), 0), count - 1)
    last = min(max(int((high - origin) / width), 0), count - 1)
    return first, last + 1


@compiled
def _iou(a, b):
    """IoU of two boxes, in the same float32 operations as mmdet.structures.bbox.bbox_overlaps."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return np.float32(0)
    overlap = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / max(union, _EPSILON)


@compiled
def _grid(gts):
    """Sort cells into a grid of bins over all of them: about as many bins as cells, none smaller than the mean cell.

    Returns:
        tuple: x and y of its corner; width and height of a bin; bins along a side; members, the cells of one bin after
            another, row by row; starts, so that members[starts[i]:starts[i + 1]] lie in bin i.
    """
    count = min(math.ceil(math.sqrt(len(gts))), _MAX_BINS)
    left, top = gts[:, 0].min(), gts[:, 1].min()
    width = max((gts[:, 2].max() - left) / count, (gts[:, 2] - gts[:, 0]).mean(), 1.0)
    height = max((gts[:, 3].max() - top) / count, (gts[:, 3] - gts[:, 1]).mean(), 1.0)
    members = np.zeros(0, np.int32)
    starts = np.zeros(count * count + 2, np.int64)
    for fill in range(2):
        for gt in range(len(gts)):
            first, end = _bins(gts[gt, 0], gts[gt, 2], left, width, count)
            for row in range(*_bins(gts[gt, 1], gts[gt, 3], top, height, count)):
                for index in range(row * count + first, row * count + end):
                    if fill:
                        members[starts[index + 1]] = gt
                        starts[index + 1] += 1
                    else:
                        starts[index + 2] += 1
        if not fill:
            starts = starts.cumsum()
            members = np.zeros(starts[-1], np.int32)
    return left, top, width, height, count, members, starts


@compiled
def _match(priors, gts, min_pos_iou, assign_all):
    """Find the best cell of each prior, and the best priors of each cell.

    Args:
        priors (ndarray): float32 (n, 4), C-contiguous, n > 0.
        gts (ndarray): float32 (k, 4), C-contiguous, k > 0.
        min_pos_iou (float32): A cell whose best IoU is lower has no low-quality match.
        assign_all (bool): All priors of a cell's best IoU are its low-quality matches, else the first.

    Returns:
        tuple[ndarray]: float32 (n,) the best IoU of each prior; int64 (n,) the first cell that has it; int64 (n,) 1 +
            the last cell of which the prior is a low-quality match, 0 if there is none.
    """
    left, top, width, height, count, members, starts = _grid(gts)
    best, nearest = np.zeros(len(priors), np.float32), np.zeros(len(priors), np.int64)
    gt_best, gt_nearest = np.zeros(len(gts), np.float32), np.zeros(len(gts), np.int64)
    low_quality = np.zeros(len(priors), np.int64)
    # The second round finds ties for a cell's best IoU, among the few priors that come into question.
    for ties in range(2 if assign_all and min_pos_iou < np.inf else 1):
        for prior in range(len(priors)):
            if ties and best[prior] < min_pos_iou:
                continue
            box = priors[prior]
            first, end = _bins(box[0], box[2], left, width, count)
            for row in range(*_bins(box[1], box[3], top, height, count)):
                for index in range(starts[row * count + first], starts[row * count + end]):
                    gt = members[index]  # once for each bin that it shares with the prior
                    iou = _iou(gts[gt], box)
                    if ties:
                        if iou == gt_best[gt] and iou >= min_pos_iou:
                            low_quality[prior] = max(low_quality[prior], gt + 1)
                        continue
                    if iou > best[prior] or (iou == best[prior] and gt < nearest[prior]):
                        best[prior], nearest[prior] = iou, gt
                    if iou > gt_best[gt]:
                        gt_best[gt], gt_nearest[gt] = iou, prior
    untouched = 0  # 1 + the last cell that no prior touches: for it all are equally good
    for gt in range(len(gts)):
        if gt_best[gt] >= min_pos_iou:
            if not assign_all:
                low_quality[gt_nearest[gt]] = gt + 1
            elif gt_best[gt] == 0:
                untouched = gt + 1
    return best, nearest, np.maximum(low_quality, untouched)
