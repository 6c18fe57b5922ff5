"""RTMDet-Ins' head for hundreds of cells."""
import math

import torch
import torch.nn.functional as F
from mmdet.models import dense_heads
from mmdet.registry import MODELS
from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData
from scipy import special

from cellseg_mm.models.chunks import chunked_sum, some
from cellseg_mm.models.dense_heads.coarse_masks import sampled, true_masks
from cellseg_mm.models.dense_heads.enlarged_masks import enlarged


class _Closed:
    """True masks that MMDetection's loss asks for canvases and gets back as they are."""

    def __init__(self, masks):
        self.masks = masks

    def __len__(self):
        return len(self.masks)

    def to_tensor(self, dtype, device):  # noqa: ARG002 (MMDetection's signature)
        return self.masks


@MODELS.register_module()
class CellRTMDetInsSepBNHead(dense_heads.RTMDetInsSepBNHead):
    """`RTMDetInsSepBNHead` that makes masks some at a time, and needs `LocalSoftLabelAssigner`.

    The loss is MMDetection's, which predicts a mask for each of the 13 or so points that learn a cell, except that no
    more than `max_masks_to_train` of an image's, drawn at random, are made. Predictions are the same, as `LocalMasks`.
    """

    def __init__(self, *args, max_masks_to_train=300, **kwargs):
        super().__init__(*args, **kwargs)
        self.max_masks_to_train = max_masks_to_train

    def loss_by_feat(self, cls_scores, bbox_preds, kernel_preds, mask_feat, batch_gt_instances, *args, **kwargs):
        """Losses `loss_cls`, `loss_bbox` and `loss_mask`, MMDetection's."""
        truth = [InstanceData(bboxes=instances.bboxes, labels=instances.labels, masks=_Closed(true_masks(instances)))
                 for instances in batch_gt_instances]
        return super().loss_by_feat(cls_scores, bbox_preds, kernel_preds, mask_feat, truth, *args, **kwargs)

    def loss_mask_by_feat(self, mask_feats, flatten_kernels, sampling_results_list, batch_gt_instances):
        """Loss of the masks, a number."""
        # All that makes masks takes part even where there is none, as distributed training demands.
        loss, count = mask_feats[:0].sum() + flatten_kernels[:0].sum(), 0
        for features, kernels, found, truth in zip(mask_feats, flatten_kernels, sampling_results_list,
                                                   batch_gt_instances, strict=True):
            if not len(found.pos_inds):
                continue
            drawn = some(len(found.pos_inds), self.max_masks_to_train)
            masks = sampled(truth.masks, self.mask_loss_stride)
            scale = truth.masks.width // self.mask_loss_stride // features.shape[-1]

            def mask_loss(kernels, priors, owners, features=features, masks=masks, scale=scale):
                logits = self._mask_predict_by_feat_single(features, kernels, priors)
                logits = F.interpolate(logits[None], scale_factor=scale, mode='bilinear')[0]
                targets = masks[owners].to_tensor(torch.bool, logits.device)
                return self.loss_mask(logits, targets, reduction_override='none').sum()

            place = drawn.to(features.device)
            loss = loss + chunked_sum(
                mask_loss, len(drawn), self._values(features), kernels[found.pos_inds[place]], found.pos_priors[place],
                found.pos_assigned_gt_inds[place].cpu())
            count += len(drawn)
        return loss / reduce_mean(mask_feats.new_tensor([count])).clamp_(min=1).item()

    def _values(self, features):
        return (self.num_prototypes + 2) * features[0].numel()

    def _bbox_mask_post_process(self, results, mask_feat, cfg, rescale=False, with_nms=True, img_meta=None):
        # MMDetection chooses among the boxes, and makes masks of one value, which are of no use.
        results = super()._bbox_mask_post_process(results, mask_feat[:, :1, :1], cfg, rescale, with_nms, img_meta)
        stride, coarse = self.prior_generator.strides[0][0], mask_feat.shape[-2:]
        size = [side * stride for side in coarse]
        if rescale:
            size = [math.ceil(side * (1 / factor))
                    for side, factor in zip(size, img_meta['scale_factor'][::-1], strict=True)]
        height, width = shape = img_meta['ori_shape'][:2] if rescale else size

        def make(part):
            return self._mask_predict_by_feat_single(mask_feat, results.kernels[part], results.priors[part])

        def enlarge(logits):
            logits = F.interpolate(logits[None], scale_factor=stride, mode='bilinear')
            if rescale:
                logits = F.interpolate(logits, size=size, mode='bilinear')[..., :height, :width]
            return logits[0].sigmoid() > cfg.mask_thr_binary

        step = [side / whole for side, whole in zip(coarse, size, strict=True)]
        results.masks = enlarged(make, len(results), self._values(mask_feat), enlarge, step, shape,
                                 special.logit(cfg.mask_thr_binary))
        del results.kernels, results.priors
        return results
