"""RTMDet's assigner for hundreds of cells and for masks that stay local."""
import torch
import torch.nn.functional as F
from mmdet.models.task_modules.assigners import AssignResult, DynamicSoftLabelAssigner
from mmdet.registry import TASK_UTILS

from cellseg_mm.models.chunks import chunks
from cellseg_mm.models.dense_heads.coarse_masks import centres, true_masks


@TASK_UTILS.register_module()
class LocalSoftLabelAssigner(DynamicSoftLabelAssigner):
    """`DynamicSoftLabelAssigner` that compares only some points at a time with all cells.

    MMDetection's compares all points with all cells and classes at once, several times over: gigabytes for an image of
    600 cells. The costs and what is assigned are the same; `max_overlaps` of points without a cell is 0.
    """

    def assign(self, pred_instances, gt_instances, gt_instances_ignore=None, **kwargs):  # noqa: ARG002
        """Assign cells to points.

        Args:
            pred_instances (InstanceData): `priors`, float (P, 4) of x, y and twice the stride; `bboxes`, float (P, 4),
                the boxes predicted there; `scores`, float (P, C), the logits.
            gt_instances (InstanceData): `bboxes`, float (N, 4); `labels`, int (N,); `masks`, of N instances.
            gt_instances_ignore: Not used, as in MMDetection's.
            **kwargs: Not used.

        Returns:
            AssignResult: For P points.
        """
        truth, labels, priors = gt_instances.bboxes, gt_instances.labels, pred_instances.priors
        count, points = len(gt_instances), priors[:, None, :2]
        inside = torch.cat([torch.zeros_like(priors[:0, 0], dtype=torch.bool)] + [
            ((points[part] > truth[:, :2]) & (points[part] < truth[:, 2:])).all(-1).any(1)
            for part in chunks(len(points), 2 * count)])
        result = AssignResult(count, priors.new_zeros(len(priors), dtype=torch.long), priors.new_zeros(len(priors)),
                              labels=priors.new_full((len(priors), ), -1, dtype=torch.long))
        if not inside.any():
            return result
        centers = centres(true_masks(gt_instances)).to(priors)
        near = pred_instances[inside]
        parts = [self._costs(near[part], truth, labels.long(), centers)
                 for part in chunks(len(near), count * near.scores.shape[1])]
        costs, ious = (torch.cat(part) for part in zip(*parts, strict=True))
        # It narrows `inside` to the points that have a cell.
        overlaps, owners = self.dynamic_k_matching(costs, ious, count, inside)
        result.gt_inds[inside] = owners + 1
        result.labels[inside] = labels[owners].long()
        result.max_overlaps[inside] = overlaps.to(result.max_overlaps)
        return result

    def _costs(self, predicted, truth, labels, centers):
        """Cost and IoU, float (P, N), of each point and cell: RTMDet's equation 2, https://arxiv.org/abs/2212.07784."""
        ious = self.iou_calculator(predicted.bboxes, truth)
        distances = (predicted.priors[:, None, :2] - centers).pow(2).sum(-1).sqrt() / predicted.priors[:, 2, None]
        soft = F.one_hot(labels, predicted.scores.shape[1]).float() * ious[..., None]
        scores = predicted.scores[:, None].expand_as(soft)
        classification = F.binary_cross_entropy_with_logits(scores, soft, reduction='none')
        classification = (classification * (soft - scores.sigmoid()).abs().pow(2)).sum(-1)
        regression = -torch.log(ious + 1e-7) * self.iou_weight
        return classification + regression + torch.pow(10, distances - self.soft_center_radius), ious
