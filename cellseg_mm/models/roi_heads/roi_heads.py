"""MMDetection's RoI heads, for images without a cell and for those with a thousand."""
from mmdet.models import roi_heads
from mmdet.models.roi_heads import mask_heads
from mmdet.registry import MODELS
from mmengine.structures import InstanceData

from cellseg_mm.models.chunks import chunks

_VALUES = 2**17  # of each detection whose points are refined


@MODELS.register_module()
class CellPointRendRoIHead(roi_heads.PointRendRoIHead):
    """`PointRendRoIHead` that also takes images without cells, and refines the masks of some detections at a time."""

    def _get_fine_grained_point_feats(self, x, rois, rel_roi_points):
        if len(rois):
            return super()._get_fine_grained_point_feats(x, rois, rel_roi_points)
        channels = sum(feature.shape[1] for feature in x[:self.mask_roi_extractor.num_inputs])
        return x[0].new_zeros(0, channels, rel_roi_points.shape[1])

    def predict_mask(self, x, batch_img_metas, results_list, rescale=False):
        for results in results_list:  # which are changed in place: where they have a gradient, that fails
            results.bboxes = results.bboxes.detach()
        parts = [super(CellPointRendRoIHead, self).predict_mask(
            x, batch_img_metas, [results[part] for results in results_list], rescale)
            for part in chunks(max(map(len, results_list)), _VALUES) or [slice(0)]]
        return [InstanceData.cat(list(of_image)) for of_image in zip(*parts, strict=True)]


@MODELS.register_module()
class CellSCNetRoIHead(roi_heads.SCNetRoIHead):
    """`SCNetRoIHead` that adds the global context to all RoIs at once, where MMDetection waits for each image."""

    def _fuse_glbctx(self, roi_feats, glbctx_feat, rois):
        return roi_feats + glbctx_feat[rois[:, 0].long()]


@MODELS.register_module()
class CellFeatureRelayHead(mask_heads.FeatureRelayHead):
    """`FeatureRelayHead` that hands on nothing as (0, C, H, W) instead of None.

    So its parameters have gradients in batches without cells, too, which distributed training waits for.
    """

    def forward(self, x):
        sides = [self.roi_feat_size * self.scale_factor] * 2
        return super().forward(x) if len(x) else self.fc(x).view(0, self.out_conv_channels, *sides)
