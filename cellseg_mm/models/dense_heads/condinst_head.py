"""MMDetection's CondInst heads for hundreds of cells."""
import torch
from mmdet.models import dense_heads
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from scipy import special

from cellseg_mm.models.chunks import chunked_sum, chunks, some
from cellseg_mm.models.dense_heads.coarse_masks import centres, sampled, true_masks
from cellseg_mm.models.dense_heads.enlarged_masks import enlarged
from cellseg_mm.models.dense_heads.positive_infos import ForgetsPositives


class _Centres:
    """Stands in for N true masks where their centres of mass are all that counts: 2 x 2 weights have the same."""

    height = width = 2

    def __init__(self, masks):
        self.centres = centres(masks).double()

    def __len__(self):
        return len(self.centres)

    def to_tensor(self, dtype, device):  # noqa: ARG002 (that of masks)
        x, y = self.centres.T
        return torch.stack([1 - x - y, x, y, torch.zeros_like(x)], 1).reshape(-1, 2, 2).to(device)


@MODELS.register_module()
class CellCondInstBboxHead(ForgetsPositives, dense_heads.CondInstBboxHead):
    """`CondInstBboxHead` that takes centres of cells without canvases, and assigns cells to some points at a time.

    In evaluation mode it has the losses of training, too.
    """

    def loss_by_feat(self, cls_scores, bbox_preds, *args, **kwargs):
        """Losses `loss_cls`, `loss_bbox` and `loss_centerness`, MMDetection's."""
        if self.norm_on_bbox and not self.training:  # then boxes come in pixels, and are learnt in strides
            bbox_preds = [boxes / stride for boxes, stride in zip(bbox_preds, self.strides, strict=True)]
        return super().loss_by_feat(cls_scores, bbox_preds, *args, **kwargs)

    def _get_targets_single(self, gt_instances, points, regress_ranges, num_points_per_lvl):
        gt_instances = InstanceData(bboxes=gt_instances.bboxes, labels=gt_instances.labels,
                                    masks=_Centres(true_masks(gt_instances)))
        # Each pair of a point and a box takes four numbers.
        parts = chunks(len(points), 4 * len(gt_instances))
        if len(parts) == 1:
            return super()._get_targets_single(gt_instances, points, regress_ranges, num_points_per_lvl)
        levels = torch.arange(len(num_points_per_lvl)).repeat_interleave(torch.tensor(num_points_per_lvl))
        labels, boxes, places, owners = [], [], [], []
        for part in parts:
            counts = levels[part].bincount(minlength=len(num_points_per_lvl)).tolist()
            found = super()._get_targets_single(gt_instances, points[part], regress_ranges[part], counts)
            for target, value in zip((labels, boxes, places, owners), found, strict=True):
                target.append(value)
            places[-1] = places[-1] + part.start
        return torch.cat(labels), torch.cat(boxes), torch.cat(places), torch.cat(owners)


@MODELS.register_module()
class CellCondInstMaskHead(dense_heads.CondInstMaskHead):
    """`CondInstMaskHead` that makes masks only where they are used, and some at a time.

    The same as MMDetection's, except that `max_masks_to_train` masks of an image are drawn before they are predicted,
    and that predictions are `LocalMasks`. `topk_masks_per_img` is not there.
    """

    def __init__(self, *args, max_masks_to_train=300, **kwargs):
        super().__init__(*args, max_masks_to_train=max_masks_to_train, **kwargs)

    def forward(self, x, positive_infos):  # noqa: ARG002 (MMDetection's signature)
        """The features that masks are made of.

        Returns:
            tuple[Tensor]: One, (B, C, H, W).
        """
        return (self.mask_feature_head(x), )

    def _make(self, features, instances):
        """Mask logits (K, H, W) of K instances, at the stride of the output."""
        return self.forward_single(features, instances)[0]

    def _values(self, features):
        return (self.in_channels + 2) * features[0].numel()

    def loss_by_feat(self, mask_feats, batch_gt_instances, batch_img_metas, positive_infos, **kwargs):  # noqa: ARG002
        """Loss of the masks: `loss_mask`, MMDetection's."""
        loss, count = mask_feats[:0].sum(), 0
        for features, truth, positives in zip(mask_feats, batch_gt_instances, positive_infos, strict=True):
            if not len(positives.param_preds):
                loss = loss + positives.param_preds.sum()
                continue
            masks = sampled(true_masks(truth), self.mask_out_stride)
            drawn = some(len(positives.param_preds), self.max_masks_to_train)
            owners = positives.pos_assigned_gt_inds[drawn].cpu()

            def mask_loss(drawn, owners, features=features, positives=positives, masks=masks):
                logits = self._make(features, positives[drawn.to(features.device)])
                targets = masks[owners].to_tensor(torch.float32, logits.device)
                return self.loss_mask(logits, targets, reduction_override='none').sum()

            loss = loss + chunked_sum(mask_loss, len(drawn), self._values(features), drawn, owners)
            count += len(drawn)
        return dict(loss_mask=loss / max(count, 1))

    def predict_by_feat(self, mask_feats, results_list, batch_img_metas, rescale=True, **kwargs):  # noqa: ARG002
        """Add `masks`, as `LocalMasks`, to the results; their boxes are scaled in place as MMDetection does."""
        for features, results, meta in zip(mask_feats, results_list, batch_img_metas, strict=True):
            shape = meta['ori_shape' if rescale else 'img_shape'][:2]

            def make(part, features=features, results=results):
                return self._make(features, results[part])

            def enlarge(logits, boxes=results.bboxes[:0], meta=meta):
                return self._predict_by_feat_single(logits, boxes, meta, rescale)

            step = [seen / side / self.mask_out_stride for seen, side in zip(meta['img_shape'], shape, strict=False)]
            results.masks = enlarged(make, len(results), self._values(features), enlarge, step, shape,
                                     special.logit(self.test_cfg.mask_thr))
            if rescale:
                results.bboxes /= results.bboxes.new_tensor(meta['scale_factor']).repeat(2)
        return results_list
