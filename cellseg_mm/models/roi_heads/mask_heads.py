"""MMDetection's mask heads, with masks that stay local: `LocalMasks` out of predictions and into losses."""
import numpy as np
import torch
from mmcv.ops.point_sample import rel_roi_point_to_abs_img_point
from mmdet.models.roi_heads import mask_heads
from mmdet.registry import MODELS

from cellseg_mm.structures import bitmaps
from cellseg_mm.structures.local_masks import LocalMasks, as_local_masks
from cellseg_mm.structures.paste import paste
from cellseg_mm.structures.roi_crop import sample_points


class _PredictsLocalMasks:
    """Lets a mask head predict what MMDetection's does, as `LocalMasks` on the CPU, whatever the device.

    `mask_thr_binary` has to lie in (0, 1], else it is a ValueError. Without `rescale` all masks are of the size of the
    network's input, where MMDetection gives those of no detection the size of the image.
    """

    def predict_by_feat(self, mask_preds, results_list, batch_img_metas, rcnn_test_cfg, rescale=False,
                        activate_map=False):
        for predictions, results, meta in zip(mask_preds, results_list, batch_img_metas, strict=True):
            results.masks = self._predict_by_feat_single(predictions, results.bboxes, results.labels, meta,
                                                         rcnn_test_cfg, rescale, activate_map)
        return results_list

    def _predict_by_feat_single(self, mask_preds, bboxes, labels, img_meta, rcnn_test_cfg, rescale=False,
                                activate_map=False):
        height, width = img_meta['ori_shape'][:2]
        scale = bboxes.new_tensor(img_meta['scale_factor'])
        if rescale:
            bboxes /= scale.repeat(2)  # In place, which is how the boxes of the results get their scale.
        else:
            width, height = (int(np.round(side * factor)) for side, factor in zip((width, height), scale.tolist(),
                                                                                  strict=True))
        mask_preds = torch.as_tensor(mask_preds, device=bboxes.device)
        # Each detection's own class first: the others need neither the sigmoid nor the way to the CPU.
        channels = torch.zeros_like(labels) if self.class_agnostic else labels
        probabilities = mask_preds[torch.arange(len(labels), device=labels.device), channels].detach()
        if not activate_map:
            probabilities = probabilities.sigmoid()
        pasted = paste(probabilities.float().cpu().numpy(), bboxes.detach().float().cpu().numpy(), height, width,
                       rcnn_test_cfg.mask_thr_binary)
        return LocalMasks(*pasted, height, width)


@MODELS.register_module()
class CellMaskHead(_PredictsLocalMasks, mask_heads.FCNMaskHead):
    """Mask R-CNN's, also for Cascade, Mask Scoring and others: `FCNMaskHead` that predicts `LocalMasks`."""


@MODELS.register_module()
class CellHTCMaskHead(_PredictsLocalMasks, mask_heads.HTCMaskHead):
    """HTC's and DetectoRS's: `HTCMaskHead` that predicts `LocalMasks`."""


@MODELS.register_module()
class CellSCNetMaskHead(_PredictsLocalMasks, mask_heads.SCNetMaskHead):
    """SCNet's: `SCNetMaskHead` that predicts `LocalMasks`, and starts from undecided ones.

    The weights that MMDetection starts its last layer with grow as classes get fewer, and residual layers hand on the
    full scale of their input: with four classes, the loss would start at 10 instead of 0.7.
    """

    def init_weights(self):
        super().init_weights()
        torch.nn.init.normal_(self.conv_logits.weight, std=0.001)


@MODELS.register_module()
class CellCoarseMaskHead(_PredictsLocalMasks, mask_heads.CoarseMaskHead):
    """PointRend's: `CoarseMaskHead` that predicts `LocalMasks`; its point head is `CellMaskPointHead`."""


@MODELS.register_module()
class CellDynamicMaskHead(_PredictsLocalMasks, mask_heads.DynamicMaskHead):
    """QueryInst's: `DynamicMaskHead` that predicts `LocalMasks`."""


@MODELS.register_module()
class CellMaskPointHead(mask_heads.MaskPointHead):
    """PointRend's: `MaskPointHead` that samples its targets without a canvas for each instance."""

    def _get_targets_single(self, rois, rel_roi_points, pos_assigned_gt_inds, gt_instances, cfg):  # noqa: ARG002
        masks = gt_instances.masks
        masks = as_local_masks(masks, masks.height, masks.width)
        points = rel_roi_point_to_abs_img_point(rois, rel_roi_points)
        targets = sample_points(masks.pixels, masks.boxes, points.detach().float().cpu().numpy(),
                                pos_assigned_gt_inds.cpu().numpy())
        return torch.from_numpy(targets).to(rois)

    def loss_and_target(self, point_pred, *args, **kwargs):
        """MMDetection's, which is NaN where no cell was sampled: there zero, with a gradient for every parameter."""
        result = super().loss_and_target(point_pred, *args, **kwargs)
        return result if len(point_pred) else dict(result, loss_point=point_pred.sum())


@MODELS.register_module()
class CellMaskIoUHead(mask_heads.MaskIoUHead):
    """Mask Scoring's: `MaskIoUHead` that measures all instances at once.

    The IoUs that it predicts are kept between 0 and 1, as those that it learns from are, so that scores are, too.
    """

    def _get_area_ratio(self, pos_proposals, pos_assigned_gt_inds, gt_masks):
        masks = as_local_masks(gt_masks, gt_masks.height, gt_masks.width)[pos_assigned_gt_inds]
        # As MMDetection crops: the proposal's whole pixels, one at the least.
        corners = pos_proposals.detach().cpu().numpy().astype(np.int32).reshape(-1, 2, 2)
        low, high = corners.clip(0, (masks.width, masks.height)).swapaxes(0, 1)
        start = np.maximum(low, masks.boxes[:, :2])
        stop = np.minimum(np.maximum(high, low + 1), masks.boxes[:, :2] + masks.boxes[:, 2:])
        windows = np.hstack([start, np.maximum(stop - start, 0)]).astype(np.int32)
        offsets = bitmaps.offsets_of(windows)
        within = bitmaps.areas_of(bitmaps.cut(masks.pixels, masks.boxes, masks.offsets, windows, offsets), offsets)
        return torch.from_numpy(within / (masks.areas + 1e-7)).to(pos_proposals)

    def predict_by_feat(self, mask_iou_preds, results_list):
        return super().predict_by_feat([ious.clamp(0, 1) for ious in mask_iou_preds], results_list)
