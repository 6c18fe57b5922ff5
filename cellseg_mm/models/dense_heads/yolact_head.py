"""MMDetection's YOLACT heads for hundreds of cells."""
import torch
from mmdet.models import dense_heads
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from torch.nn import functional

from cellseg_mm.models.chunks import chunked_sum, some
from cellseg_mm.models.dense_heads.coarse_masks import averaged, true_masks
from cellseg_mm.models.dense_heads.enlarged_masks import enlarged
from cellseg_mm.models.dense_heads.positive_infos import ForgetsPositives


@MODELS.register_module()
class CellYOLACTHead(ForgetsPositives, dense_heads.YOLACTHead):
    """`YOLACTHead` for batches of images of several sizes, and of images without cells.

    MMDetection's adds up the loss of every single anchor of an image without cells. Here the `neg_pos_ratio` hardest
    count, as many as for an image with one match. Anchors on the padding of smaller images are learnt from, as places
    without a cell: MMDetection leaves them out, and has nowhere to put the different numbers that are left.
    """

    def get_anchors(self, featmap_sizes, batch_img_metas, device='cuda'):
        batch_img_metas = [dict(meta, pad_shape=meta['batch_input_shape']) for meta in batch_img_metas]
        return super().get_anchors(featmap_sizes, batch_img_metas, device)

    def OHEMloss_by_feat_single(self, cls_score, bbox_pred, anchors, labels, label_weights, *args,  # noqa: N802
                                avg_factor):
        if not (labels < self.num_classes).any():
            losses = self.loss_cls(cls_score.detach(), labels, label_weights)
            hardest = losses.topk(min(self.train_cfg['neg_pos_ratio'], len(losses))).indices
            label_weights = torch.zeros_like(label_weights).index_copy(0, hardest, label_weights[hardest])
        return super().OHEMloss_by_feat_single(cls_score, bbox_pred, anchors, labels, label_weights, *args,
                                               avg_factor=avg_factor)


@MODELS.register_module()
class CellYOLACTProtonet(dense_heads.YOLACTProtonet):
    """`YOLACTProtonet` that makes masks only where they are used, and some at a time.

    The same as MMDetection's, except that `max_masks_to_train` masks of an image are drawn before they are predicted,
    that predictions are `LocalMasks`, and that of a padded input only the image counts: MMDetection's, made for
    inputs of 550 x 550 pixels, stretches masks over the padding.
    """

    def forward(self, x, positive_infos):  # noqa: ARG002 (MMDetection's signature)
        """Prototypes, (B, H, W, P), and a semantic segmentation, (B, classes, H', W'), or None without its branch."""
        # MMDetection leaves it out in evaluation mode, in which the validation loss is taken, too.
        segmentation = self.segm_branch(x[0]) if self.with_seg_branch else None
        return self.protonet(x[0]).permute(0, 2, 3, 1).contiguous(), segmentation

    def _make(self, prototypes, coefficients, boxes, input_shape):
        """Masks (K, H, W) from 0 to 1, each cut to its box, (K, 4) in pixels of the input."""
        # Cross entropy of probabilities is not to be had in half precision.
        with torch.autocast(prototypes.device.type, enabled=False):
            masks = torch.sigmoid(prototypes.float() @ coefficients.float().t())
            return self.crop_mask_preds([masks], [dict(img_shape=input_shape)], [InstanceData(bboxes=boxes)])[0]

    def loss_by_feat(self, prototypes, segm_preds, batch_gt_instances, batch_img_metas, positive_infos,
                     **kwargs):  # noqa: ARG002
        """Losses of the masks and the segmentation, of each image: `loss_mask` and `loss_segm`, MMDetection's."""
        loss_mask, loss_segm, count = [], [], 0
        for number, (truth, meta, positives) in enumerate(
                zip(batch_gt_instances, batch_img_metas, positive_infos, strict=True)):
            shape = meta['batch_input_shape']
            truth_masks = true_masks(truth)
            if segm_preds is not None:
                loss_segm.append(self._segmentation_loss(segm_preds[number], truth_masks, truth.labels, shape)
                                 / len(segm_preds))
            drawn = some(len(positives.coeffs), self.max_masks_to_train).to(prototypes.device)
            count += len(drawn)
            if not len(drawn):
                loss_mask.append(prototypes[number, :0].sum() + positives.coeffs.sum())
                continue
            owners = positives.pos_assigned_gt_inds[drawn]
            masks = averaged(truth_masks, shape[0] // prototypes.shape[1], 3)

            def mask_loss(coefficients, boxes, owners, masks=masks, features=prototypes[number], shape=shape):
                predicted = self._make(features, coefficients, boxes, shape).clamp(0, 1)
                targets = masks[owners].to_tensor(torch.float32, predicted.device)
                with torch.autocast(predicted.device.type, enabled=False):
                    loss = functional.binary_cross_entropy(predicted, targets, reduction='none') * self.loss_mask_weight
                width, height = (boxes[:, 2] - boxes[:, 0]) / shape[1], (boxes[:, 3] - boxes[:, 1]) / shape[0]
                return (loss.mean((1, 2)) / width / height).sum()

            loss_mask.append(chunked_sum(mask_loss, len(drawn), prototypes[number, ..., 0].numel(),
                                         positives.coeffs[drawn], positives.bboxes[drawn], owners))
        losses = dict(loss_mask=[loss / max(count, 1) for loss in loss_mask])
        return losses | dict(loss_segm=loss_segm) if loss_segm else losses

    def _segmentation_loss(self, predicted, masks, labels, input_shape):
        if not len(masks):
            return predicted.sum() * 0
        masks, targets = averaged(masks, input_shape[0] // predicted.shape[1], 3), torch.zeros_like(predicted)
        for label in labels.unique().tolist():
            covered = masks[(labels == label).cpu()].to_label_map() > 0
            # MMDetection's order of channels, made for labels from 1 on.
            targets[label - 1] = torch.from_numpy(covered).to(targets)
        return self.loss_segm(predicted, targets, avg_factor=targets[0].numel())

    def predict_by_feat(self, prototypes, segm_preds, results_list, batch_img_metas, rescale=True,  # noqa: ARG002
                        **kwargs):  # noqa: ARG002
        """Add `masks`, as `LocalMasks`, to the results; their boxes are scaled in place as MMDetection does."""
        for features, results, meta in zip(prototypes, results_list, batch_img_metas, strict=True):
            shape = meta['ori_shape' if rescale else 'img_shape'][:2]
            seen, padded = meta['img_shape'][:2], meta['batch_input_shape']

            def make(part, features=features, results=results, padded=padded):
                return self._make(features, results.coeffs[part], results.bboxes[part], padded)

            def enlarge(masks, boxes=results.bboxes[:0], meta=meta, seen=seen, padded=padded):
                if tuple(seen) != tuple(padded):
                    masks = functional.interpolate(masks[None], padded, mode='bilinear')[0, :, :seen[0], :seen[1]]
                return self._predict_by_feat_single(masks, boxes, meta, rescale)

            step = [seen[axis] / shape[axis] * features.shape[axis] / padded[axis] for axis in (0, 1)]
            results.masks = enlarged(make, len(results), features[..., 0].numel(), enlarge, step, shape,
                                     self.test_cfg.mask_thr)
            if rescale:
                results.bboxes /= results.bboxes.new_tensor(meta['scale_factor']).repeat(2)
        return results_list
