"""MMDetection's SOLOv2 head for hundreds of cells."""
import numpy as np
import torch
from mmdet.models import dense_heads
from mmdet.models.layers import mask_matrix_nms
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from torch.nn import functional

from cellseg_mm.models.chunks import chunked_sum, chunks, some
from cellseg_mm.models.dense_heads.coarse_masks import averaged, centres, true_masks
from cellseg_mm.models.dense_heads.enlarged_masks import enlarged
from cellseg_mm.structures.local_masks import LocalMasks


@MODELS.register_module()
class CellSOLOV2Head(dense_heads.SOLOV2Head):
    """`SOLOV2Head` that makes masks some at a time.

    The same as MMDetection's, except that at most `max_masks_to_train` masks of an image are drawn for the loss, and
    that predictions are `LocalMasks` with their boxes.

    Args:
        max_masks_to_train (int): Masks of an image that the loss is taken of.
        **kwargs: Of `SOLOV2Head`.
    """

    def __init__(self, *args, max_masks_to_train=500, **kwargs):
        super().__init__(*args, **kwargs)
        self.max_masks_to_train = max_masks_to_train

    def _assign(self, truth, masks, size):
        """What the places of the grids have to find.

        Args:
            truth (InstanceData): N instances with `bboxes` and `labels`.
            masks (LocalMasks): Theirs.
            size (tuple[int, int]): Height and width of the input, in pixels.

        Returns:
            tuple: int64 labels of all places of all levels, `num_classes` where there is no cell; int64 (K,) places
                that have one, one after another level; int64 (K,) which one.
        """
        boxes, areas = truth.bboxes.float().cpu(), torch.from_numpy(masks.areas)
        sides = boxes[:, 2:] - boxes[:, :2]
        scales, reach = sides.prod(1).sqrt(), 0.5 * sides * self.pos_scale
        middle, size = centres(masks), torch.tensor(size[::-1])
        all_labels, places, owners, offset = [], [], [], 0
        for (low, high), grid in zip(self.scale_ranges, self.num_grids, strict=True):
            hit = torch.nonzero((scales >= low) & (scales <= high) & (areas > 0)).flatten()

            def place(points, grid=grid):
                return torch.div(points / size, 1 / grid, rounding_mode='trunc').long()

            centre = place(middle[hit])
            first = place(middle[hit] - reach[hit]).clamp(min=0).maximum(centre - 1)
            last = place(middle[hit] + reach[hit]).clamp(max=grid - 1).minimum(centre + 1)
            columns, rows = (first[:, None, axis] + torch.arange(3) for axis in (0, 1))
            inside = ((rows <= last[:, 1:])[:, :, None] & (columns <= last[:, :1])[:, None]).numpy()
            found = (rows[:, :, None] * grid + columns[:, None]).numpy()[inside]
            owner = hit.numpy().repeat(inside.sum((1, 2)))
            labels = np.full(grid * grid, self.num_classes)
            labels[found] = truth.labels.cpu().numpy()[owner]  # of cells in one place, the last
            all_labels.append(labels)
            places.append(found + offset)
            owners.append(owner)
            offset += grid * grid
        return tuple(torch.from_numpy(np.concatenate(part)) for part in (all_labels, places, owners))

    def loss_by_feat(self, mlvl_kernel_preds, mlvl_cls_preds, mask_feats, batch_gt_instances, **kwargs):  # noqa: ARG002
        """Losses of masks and classes: `loss_mask` and `loss_cls`, MMDetection's."""
        device, loss_mask, count, all_labels = mask_feats.device, mask_feats[:0].sum(), 0, []
        size = [side * self.mask_stride for side in mask_feats.shape[-2:]]
        kernels = torch.cat([level.flatten(2) for level in mlvl_kernel_preds], 2).transpose(1, 2)
        scores = torch.cat([level.flatten(2) for level in mlvl_cls_preds], 2).transpose(1, 2)
        for number, truth in enumerate(batch_gt_instances):
            masks = true_masks(truth)
            labels, places, owners = self._assign(truth, masks, size)
            all_labels.append(labels)
            count += len(places.unique())
            drawn = some(len(places), self.max_masks_to_train)
            if not len(drawn):
                loss_mask = loss_mask + kernels[number, :0].sum()
                continue
            coarse = averaged(masks, self.mask_stride, 2)

            def mask_loss(kernels, owners, coarse=coarse, features=mask_feats[[number]]):
                logits = self._logits(features, kernels)
                targets = coarse[owners].to_tensor(torch.uint8, device)
                return self.loss_mask(logits, targets, reduction_override='none').sum()

            values = mask_feats[0, 0].numel()
            loss = chunked_sum(mask_loss, len(drawn), values, kernels[number, places[drawn].to(device)], owners[drawn])
            loss_mask = loss_mask + loss * (len(places) / len(drawn))
        loss_cls = self.loss_cls(scores.flatten(0, 1), torch.cat(all_labels).to(device), avg_factor=count + 1)
        return dict(loss_mask=loss_mask / max(count, 1), loss_cls=loss_cls)

    def _logits(self, features, kernels):
        """Masks (K, h, w) of kernels (K, C) on features (1, C', h, w)."""
        side = self.dynamic_conv_size
        return functional.conv2d(features, kernels.view(len(kernels), -1, side, side))[0]

    def predict_by_feat(self, mlvl_kernel_preds, mlvl_cls_scores, mask_feats, batch_img_metas, **kwargs):  # noqa: ARG002
        """Instances of each image: `scores`, `labels`, `bboxes` and `masks`, as `LocalMasks` of the image itself."""
        kernels, scores = (zip(*levels, strict=True) for levels in (mlvl_kernel_preds, mlvl_cls_scores))
        return list(map(self._predict, kernels, scores, mask_feats[:, None], batch_img_metas))

    def _predict(self, all_kernels, all_scores, features, meta):
        cfg = self.test_cfg
        scores, labels, areas, kernels = self._candidates(all_kernels, all_scores, features)
        best = scores.argsort(descending=True)[:cfg.nms_pre]
        shape = features.shape[-2:]

        def masks(indices):
            """Probabilities, (K, h, w), at the stride of masks."""
            return self._logits(features, kernels[indices]).sigmoid()

        area = shape[0] * shape[1]
        coarse = LocalMasks.cat([LocalMasks.empty(*shape), *(
            LocalMasks.from_bitmaps(masks(best[part]) > cfg.mask_thr) for part in chunks(len(best), area))])
        scores, labels, _, kept = mask_matrix_nms(
            torch.from_numpy(_shared_pixels(coarse)).to(scores.device)[:, None], labels[best], scores[best],
            mask_area=areas[best], nms_pre=cfg.nms_pre, max_num=cfg.max_per_img, kernel=cfg.kernel, sigma=cfg.sigma,
            filter_thr=cfg.filter_thr)

        (height, width), original = meta['img_shape'][:2], meta['ori_shape'][:2]

        def enlarge(values):
            values = functional.interpolate(values[None], scale_factor=self.mask_stride, mode='bilinear')
            values = functional.interpolate(values[:, :, :height, :width], original, mode='bilinear')[0]
            return values > cfg.mask_thr

        step = [seen / side / self.mask_stride for seen, side in zip((height, width), original, strict=True)]
        predicted = enlarged(lambda part: masks(best[kept[part]]), len(kept), area, enlarge, step, original,
                             cfg.mask_thr)
        return InstanceData(scores=scores, labels=labels.long(), masks=predicted,
                            bboxes=predicted.get_bboxes('hbox').tensor.to(scores.device))

    def _candidates(self, all_kernels, all_scores, features):
        """What places find: scores, labels and areas, (K,), and kernels, (K, C)."""
        cfg = self.test_cfg
        scores, kernels, strides = [], [], []
        for level, kernel, grid, stride in zip(all_scores, all_kernels, self.num_grids, self.strides, strict=True):
            level = level.sigmoid()[None]
            level = level * (functional.max_pool2d(level, 2, stride=1, padding=1)[:, :, :-1, :-1] == level)
            scores.append(level[0].flatten(1).t())
            kernels.append(kernel.flatten(1).t())
            strides.append(torch.full((grid * grid, ), float(stride), device=level.device))
        scores, kernels, strides = torch.cat(scores), torch.cat(kernels), torch.cat(strides)
        places, labels = (scores > cfg.score_thr).nonzero(as_tuple=True)
        scores, kernels, strides = scores[places, labels].float(), kernels[places], strides[places]
        areas, maskness = torch.zeros_like(scores), torch.zeros_like(scores)
        for part in chunks(len(scores), features[0, 0].numel()):
            values = self._logits(features, kernels[part]).sigmoid()
            covered = values > cfg.mask_thr
            areas[part] = covered.sum((1, 2)).float()
            maskness[part] = (values * covered).sum((1, 2)).float() / areas[part]
        keep = areas > strides
        return scores[keep] * maskness[keep], labels[keep], areas[keep], kernels[keep]


def _shared_pixels(masks):
    """The pixels that two masks or more have in common, all that overlaps are counted by: bool (N, pixels)."""
    owners = np.arange(len(masks)).repeat(np.diff(masks.offsets))
    x, y, width, _ = masks.boxes[owners].T
    rows, columns = np.divmod(np.arange(len(owners)) - masks.offsets[owners], np.maximum(width, 1))
    flat, owners = ((y + rows) * masks.width + x + columns)[masks.pixels > 0], owners[masks.pixels > 0]
    shared, places, counts = np.unique(flat, return_inverse=True, return_counts=True)
    canvases = np.zeros((len(masks), len(shared)), bool)
    canvases[owners, places] = True
    return canvases[:, counts > 1]
