"""MMDetection's SOLOv2 head for hundreds of cells, on images of any size."""
from itertools import pairwise

import numpy as np
import torch
from mmdet.models import dense_heads
from mmdet.models.layers import mask_matrix_nms
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch.nn import functional

from cellseg_mm.models.chunks import chunked_sum, chunks, some
from cellseg_mm.models.dense_heads.coarse_masks import averaged, centres, true_masks
from cellseg_mm.models.dense_heads.enlarged_masks import enlarged
from cellseg_mm.structures.local_masks import LocalMasks


@MODELS.register_module()
class CellSOLOV2Head(dense_heads.SOLOV2Head):
    """`SOLOV2Head` that makes masks some at a time, and whose grid stays as fine on larger images.

    The same as MMDetection's, except that at most `max_masks_to_train` masks of an image are drawn for the loss, that
    predictions are `LocalMasks` with their boxes, and that an input larger than `window` is treated in windows.
    A grid of so many places belongs to inputs of one size, since masks are told from each other by where they lie
    between the edges of what the head sees.

    Args:
        max_masks_to_train (int): Masks of an image (or window) that the loss is taken of.
        window (int, optional): Pixels of the input, a multiple of 32: the largest that the head sees at once. Windows
            overlap, and each finds the cells of its middle.
        margin (int): Pixels, a multiple of 16, by which a window reaches beyond its middle: about the radius of the
            largest cell.
        **kwargs: Of `SOLOV2Head`.
    """

    def __init__(self, *args, max_masks_to_train=500, window=None, margin=64, **kwargs):
        super().__init__(*args, **kwargs)
        self.max_masks_to_train, self.window, self.margin = max_masks_to_train, window, margin

    def _starts(self, side):
        """Along a side of the input, the first pixels of windows, multiples of 32, and where their middles end."""
        if self.window is None or side <= self.window:
            return [0], [side]
        step = self.window - 2 * self.margin
        starts = [min(first, side - self.window) for first in range(0, side - self.window + step, step)]
        ends = [(first + self.window + second) / 2 for first, second in pairwise(starts)]
        return starts, [*ends, side]

    def _cut(self, levels):
        """Windows of features.

        Args:
            levels (list[Tensor]): (B, C, H, W) of each level.

        Returns:
            tuple: For each level (windows, C, h, w), those of the first image first; x, y, width and height of each
                window of one image, and the x1, y1, x2, y2 between which it finds cells, in pixels of the input.
        """
        height, width = (side * self.mask_stride for side in levels[0].shape[-2:])
        (tops, bottoms), (lefts, rights) = self._starts(height), self._starts(width)
        h, w = (side if self.window is None else min(side, self.window) for side in (height, width))
        places = [(left, top, w, h) for top in tops for left in lefts]
        cores = [(x1, y1, x2, y2) for y1, y2 in pairwise([0, *bottoms]) for x1, x2 in pairwise([0, *rights])]
        strides = [height // level.shape[-2] for level in levels]
        windows = [torch.stack([level[..., y // s:(y + h) // s, x // s:(x + w) // s] for x, y, w, h in places], 1)
                   .flatten(0, 1) for level, s in zip(levels, strides, strict=True)]
        return windows, places, cores

    def loss(self, x, batch_data_samples, positive_infos=None, **kwargs):
        """MMDetection's loss, of windows where the input is larger than one."""
        windows, places, _ = self._cut(x)
        if len(places) > 1:
            batch_data_samples = [_window_of(sample, place) for sample in batch_data_samples for place in places]
        return super().loss(windows, batch_data_samples, positive_infos=positive_infos, **kwargs)

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

    def predict(self, x, batch_data_samples, rescale=False, results_list=None, **kwargs):  # noqa: ARG002
        """Instances of each image: `scores`, `labels`, `bboxes` and `masks`, as `LocalMasks` of the image itself."""
        return [self._predict([level[[number]] for level in x], sample.metainfo)
                for number, sample in enumerate(batch_data_samples)]

    def _predict(self, levels, meta):
        cfg = self.test_cfg
        windows, places, cores = self._cut(levels)
        found = [self._candidates([level[[number]] for level in windows], place, core)
                 for number, (place, core) in enumerate(zip(places, cores, strict=True))]
        scores, labels, areas, kernels, owners = (torch.cat(part) for part in zip(
            *((*each[:4], torch.full_like(each[1], number)) for number, each in enumerate(found)), strict=True))
        best = scores.argsort(descending=True)[:cfg.nms_pre]
        features = [each[4] for each in found]
        shape = levels[0].shape[-2:]

        def masks(indices):
            """Probabilities, (K, h, w), of the whole input at the stride of masks."""
            canvas = kernels.new_zeros(len(indices), *shape)
            for number in owners[indices].unique().tolist():
                x, y, w, h = (side // self.mask_stride for side in places[number])
                chosen = owners[indices] == number
                canvas[chosen, y:y + h, x:x + w] = self._logits(
                    features[number], kernels[indices[chosen]]).sigmoid().to(canvas)
            return canvas

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

    def _candidates(self, levels, place, core):
        """What one window finds in its middle: scores, labels, areas and kernels (K, C), and its features of masks."""
        cfg = self.test_cfg
        all_kernels, all_scores, features = self(levels)
        scores, kernels, strides = [], [], []
        for level, kernel, grid, stride in zip(all_scores, all_kernels, self.num_grids, self.strides, strict=True):
            level = level.sigmoid()
            level = level * (functional.max_pool2d(level, 2, stride=1, padding=1)[:, :, :-1, :-1] == level)
            centres = (torch.arange(grid, device=level.device) + 0.5) / grid
            x, y = centres * place[2] + place[0], centres * place[3] + place[1]
            inside = ((y >= core[1]) & (y < core[3]))[:, None] & (x >= core[0]) & (x < core[2])
            scores.append((level[0] * inside).flatten(1).t())
            kernels.append(kernel[0].flatten(1).t())
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
        return scores[keep] * maskness[keep], labels[keep], areas[keep], kernels[keep], features


def _window_of(sample, place):
    """The true instances of a window, as a sample of its own."""
    x, y, w, h = place
    truth = sample.gt_instances
    masks = true_masks(truth).pad(sample.batch_input_shape).crop(np.array([x, y, x + w, y + h]))
    inside = masks.areas > 0
    window = DetDataSample(metainfo=dict(sample.metainfo, batch_input_shape=(h, w), img_shape=(h, w)))
    window.gt_instances = InstanceData(
        masks=masks[inside], labels=truth.labels[torch.from_numpy(inside).to(truth.labels.device)],
        bboxes=masks[inside].get_bboxes('hbox').tensor.to(truth.labels.device))
    return window


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
