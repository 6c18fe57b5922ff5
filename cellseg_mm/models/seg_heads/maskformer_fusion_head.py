"""From the queries of Mask2Former to instances, some masks at a time."""
import torch
import torch.nn.functional as F
from mmdet.models import seg_heads
from mmdet.registry import MODELS
from mmengine.structures import InstanceData

from cellseg_mm.models.chunks import chunks
from cellseg_mm.structures.local_masks import LocalMasks


@MODELS.register_module()
class CellMaskFormerFusionHead(seg_heads.MaskFormerFusionHead):
    """`MaskFormerFusionHead` for instances alone: MMDetection's, as `LocalMasks`; it enlarges the masks itself."""

    def predict(self, mask_cls_results, mask_pred_results, batch_data_samples, rescale=False, **kwargs):  # noqa: ARG002
        """Instances of each image.

        Args:
            mask_cls_results (Tensor): float (B, Q, C + 1), logits of the classes, the last one for no cell.
            mask_pred_results (Tensor): float (B, Q, H, W), logits of the masks, of the network's padded input.
            batch_data_samples (list[DetDataSample]): B samples.
            rescale (bool): Whether to give masks of the size of the image instead of the network's input.
            **kwargs: Not used.

        Returns:
            list[dict]: `ins_results`, InstanceData of `bboxes`, `labels`, `scores` and `masks`.
        """
        return [dict(ins_results=self._instances(logits, masks, sample.metainfo, rescale))
                for logits, masks, sample in zip(mask_cls_results, mask_pred_results, batch_data_samples, strict=True)]

    def _instances(self, logits, masks, meta, rescale):
        scores = logits.softmax(-1)[:, :-1].flatten()
        scores, places = scores.topk(min(self.test_cfg.max_per_image, len(scores)), sorted=False)
        # A query may stand for several instances, of different classes.
        queries, rows = (places // self.num_classes).unique(return_inverse=True)
        found, certainties = [], []
        area = max(shape[0] * shape[1] for shape in (meta['batch_input_shape'], meta['ori_shape']))
        for part in chunks(len(queries), area):
            enlarged = self._enlarge(masks[queries[part]], meta, rescale)
            inside = enlarged > 0
            certainties.append((enlarged.sigmoid() * inside).flatten(1).sum(1) / (inside.flatten(1).sum(1) + 1e-6))
            found.append(LocalMasks.from_bitmaps(inside))
        found = LocalMasks.cat(found)[rows]
        return InstanceData(bboxes=found.get_bboxes().tensor.to(logits.device), labels=places % self.num_classes,
                            scores=scores * torch.cat(certainties)[rows], masks=found)

    @staticmethod
    def _enlarge(masks, meta, rescale):
        height, width = meta['img_shape'][:2]
        masks = F.interpolate(masks[:, None], meta['batch_input_shape'], mode='bilinear')[..., :height, :width]
        return (F.interpolate(masks, meta['ori_shape'][:2], mode='bilinear') if rescale else masks)[:, 0]
