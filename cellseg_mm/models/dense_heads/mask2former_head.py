"""Mask2Former's head for hundreds of cells."""
import torch
from mmcv.ops import point_sample
from mmdet.models import dense_heads
from mmdet.models.utils import get_uncertain_point_coords_with_randomness
from mmdet.registry import MODELS
from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData

from cellseg_mm.models.dense_heads.coarse_masks import true_masks
from cellseg_mm.structures.roi_crop import sample_points

_POINTS_OF_EACH, _POINTS_OF_ALL = 16, 8192  # around cells, to match by; at all of them each cell is compared


@MODELS.register_module()
class CellMask2FormerHead(dense_heads.Mask2FormerHead):
    """`Mask2FormerHead` that samples true masks without a canvas for any; predict with `CellMaskFormerFusionHead`.

    Only instances are learnt, no `gt_sem_seg`.

    MMDetection compares masks at random points of the whole image, of which a cell of a crowded one gets a few: masks
    then stay empty. Here a share of the points is drawn around true cells. In the losses, from the box of a mask's own
    cell, made six times as wide and high: from less, masks that cover other cells as well cost next to nothing. To
    match queries with cells, from around every cell, 16 of each where there are no more than 500 cells, since matches
    that change with the points drawn teach little.

    Args:
        *args: Of `Mask2FormerHead`.
        near_cells (float): That share, 0 to 1. With 0, losses are MMDetection's.
        **kwargs: Of `Mask2FormerHead`.
    """

    def __init__(self, *args, near_cells=0.5, **kwargs):
        super().__init__(*args, **kwargs)
        self.num_near_cells = round(near_cells * self.num_points)

    def preprocess_gt(self, batch_gt_instances, batch_gt_semantic_segs):  # noqa: ARG002 (MMDetection's signature)
        """The true `labels` and `masks`, as `LocalMasks`, of each image: list[InstanceData]."""
        return [InstanceData(labels=truth.labels, masks=true_masks(truth)) for truth in batch_gt_instances]

    def _loss_by_feat_single(self, cls_scores, mask_preds, batch_gt_instances, batch_img_metas):
        matches = [self._match(*image) for image in zip(cls_scores, mask_preds, batch_gt_instances, batch_img_metas,
                                                        strict=True)]
        labels = torch.full_like(cls_scores[..., 0], self.num_classes, dtype=torch.long)
        for row, (queries, owners), truth in zip(labels, matches, batch_gt_instances, strict=True):
            row[queries] = truth.labels[owners]
        labels = labels.flatten()
        loss_cls = self.loss_cls(cls_scores.flatten(0, 1), labels,
                                 avg_factor=cls_scores.new_tensor(self.class_weight)[labels].sum())

        masks = torch.cat([mask_pred[queries] for mask_pred, (queries, _) in zip(mask_preds, matches, strict=True)])
        counts = [len(queries) for queries, _ in matches]
        # MMDetection counts an image without a cell as if it had one, and in float16, in which the number of all points
        # is infinite, so that there is no loss of masks in mixed precision.
        total = torch.tensor([sum(max(count, 1) for count in counts)], dtype=torch.float32, device=cls_scores.device)
        total = reduce_mean(total).clamp(min=1)
        if not len(masks):
            return loss_cls, masks.sum(), masks.sum()
        with torch.no_grad():
            points = get_uncertain_point_coords_with_randomness(
                masks[:, None], None, self.num_points - self.num_near_cells, self.oversample_ratio,
                self.importance_sample_ratio)
            around = [near(truth.masks, owners.repeat_interleave(self.num_near_cells), times=6)
                      for truth, (_, owners) in zip(batch_gt_instances, matches, strict=True)]
            points = torch.cat([points, torch.cat(around).to(points).view(len(masks), -1, 2)], 1)
            targets = torch.cat([
                values_at(truth.masks, places, owners)
                for truth, places, (_, owners) in zip(batch_gt_instances, points.split(counts), matches, strict=True)])
        logits = point_sample(masks[:, None], points)[:, 0]
        loss_dice = self.loss_dice(logits, targets, avg_factor=total)
        loss_mask = self.loss_mask(logits.flatten(), targets.flatten(), avg_factor=total * self.num_points)
        return loss_cls, loss_mask, loss_dice

    def _match(self, scores, masks, truth, meta):
        """The queries of an image that learn a cell, int64 (K,), and their cells, by masks at random points."""
        points = torch.rand((1, self.num_points, 2), device=scores.device)
        owners = torch.arange(len(truth), device=scores.device)
        if len(truth) and self.num_near_cells:
            of_each = max(1, self.num_near_cells // len(truth), min(_POINTS_OF_EACH, _POINTS_OF_ALL // len(truth)))
            around = near(truth.masks, owners.repeat_interleave(of_each), times=2)
            points = torch.cat([points[:, self.num_near_cells:], around[None].to(points)], 1)
        matched = self.assigner.assign(
            InstanceData(scores=scores, masks=point_sample(masks[None], points)[0]),
            InstanceData(labels=truth.labels, masks=values_at(truth.masks, points.expand(len(truth), -1, -1), owners)),
            meta)
        queries, = (matched.gt_inds > 0).nonzero(as_tuple=True)
        return queries, matched.gt_inds[queries] - 1

    def predict(self, x, batch_data_samples):
        """The last layer's logits of classes, (B, Q, C + 1), and of masks, (B, Q, H, W) at their own stride."""
        scores, masks = self(x, batch_data_samples)
        return scores[-1], masks[-1]


def near(masks, owners, times):
    """Random places around instances.

    Args:
        masks (LocalMasks): N instances.
        owners (Tensor): int (K,), indices of them.
        times (float): How much wider and higher than its box the surroundings of an instance are.

    Returns:
        Tensor: float32 (K, 2) on the CPU, x and y from 0 to 1 over the canvas: uniform in that part of the owner's
            surroundings, about its box's centre, which lies on the canvas.
    """
    boxes, size = torch.from_numpy(masks.boxes)[owners.cpu()], torch.tensor([masks.width, masks.height])
    centers, reach = boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:] * times / 2
    low, high = (centers - reach).clamp(min=0), torch.minimum(centers + reach, size)
    return (low + (high - low) * torch.rand(len(boxes), 2)) / size


def values_at(masks, points, owners):
    """True masks at places.

    Args:
        masks (LocalMasks): N instances.
        points (Tensor): (K, M, 2), x and y from 0 to 1 over the canvas.
        owners (Tensor): int (K,), whose mask is looked at in each M places.

    Returns:
        Tensor: (K, M) from 0 to 1, of the dtype and on the device of `points`.
    """
    places = (points * points.new_tensor([masks.width, masks.height])).float().cpu().numpy()
    return torch.from_numpy(sample_points(masks.pixels, masks.boxes, places, owners.cpu().numpy())).to(points)
