"""Slow, obvious versions of mmcv's ops: loops over single pixels. What is differentiable is so by autograd."""
import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F


def iou(a, b, offset):
    """In fp32 throughout, since results may not flip at IoUs equal to the threshold."""
    a, b, offset = a.astype(np.float32), b.astype(np.float32), np.float32(offset)
    width = max(np.float32(0), min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(np.float32(0), min(a[3], b[3]) - max(a[1], b[1]) + offset)
    areas = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
    with np.errstate(invalid='ignore', divide='ignore'):
        return width * height / (areas[0] + areas[1] - width * height)


def nms(boxes, scores, iou_threshold, offset=0):
    """Indices kept: a box goes when a kept one of higher score, or equal score and earlier place, overlaps it."""
    keep = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if not any(iou(boxes[j], boxes[i], offset) > np.float32(iou_threshold) for j in keep):
            keep.append(i)
    return keep


def soft_nms(boxes, scores, iou_threshold, sigma, min_score, method, offset=0):
    """Indices and scores kept; the last box takes the place of one that is dropped, as mmcv has it."""
    left, keep = [[i, np.float32(score)] for i, score in enumerate(scores)], []
    while left:
        best = max(range(len(left)), key=lambda i: left[i][1])
        left[0], left[best] = left[best], left[0]
        keep.append(left.pop(0))
        i = 0
        while i < len(left):
            overlap = iou(boxes[keep[-1][0]], boxes[left[i][0]], offset)
            if method == 'gaussian':
                left[i][1] *= np.exp(-overlap ** 2 / np.float32(sigma))
            elif overlap >= np.float32(iou_threshold):
                left[i][1] *= 0 if method == 'naive' else 1 - overlap
            if left[i][1] < np.float32(min_score):
                last = left.pop()
                left[i:i + 1] = [last] if i < len(left) else []
            else:
                i += 1
    return [i for i, _ in keep], [score for _, score in keep]


def bilinear(plane, y, x):
    """The value of a plane (..., H, W) between its pixels, zero beyond them."""
    low_y, low_x = (math.floor(torch.as_tensor(at).item()) for at in (y, x))
    value = plane[..., 0, 0] * 0
    for row, column in itertools.product((low_y, low_y + 1), (low_x, low_x + 1)):
        if 0 <= row < plane.shape[-2] and 0 <= column < plane.shape[-1]:
            value = value + (1 - abs(y - row)) * (1 - abs(x - column)) * plane[..., row, column]
    return value


def roi_align(input, rois, size, spatial_scale, sampling_ratio, mode, aligned):  # noqa: A002
    (bins_y, bins_x), (height, width) = size, input.shape[2:]
    output = []
    for image, *roi in rois.tolist():
        x1, y1, x2, y2 = (at * spatial_scale - 0.5 * aligned for at in roi)
        roi_width, roi_height = (x2 - x1, y2 - y1) if aligned else (max(1, x2 - x1), max(1, y2 - y1))
        grid_y = sampling_ratio or math.ceil(roi_height / bins_y)
        grid_x = sampling_ratio or math.ceil(roi_width / bins_x)
        for bin_y, bin_x in itertools.product(range(bins_y), range(bins_x)):
            values = []
            for sample_y, sample_x in itertools.product(range(grid_y), range(grid_x)):
                y = y1 + (bin_y + (sample_y + 0.5) / grid_y) * roi_height / bins_y
                x = x1 + (bin_x + (sample_x + 0.5) / grid_x) * roi_width / bins_x
                inside = -1 <= y <= height and -1 <= x <= width
                y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
                values.append(bilinear(input[int(image)], y, x) * inside)
            values = torch.stack(values or [input.new_zeros(input.shape[1])])
            output.append(values.mean(0) if mode == 'avg' else values.max(0).values)
    return torch.stack(output).view(len(rois), bins_y, bins_x, -1).permute(0, 3, 1, 2)


def roi_pool(input, rois, size, spatial_scale):  # noqa: A002
    (bins_y, bins_x), (height, width) = size, input.shape[2:]
    output = []
    for image, x1, y1, x2, y2 in rois.tolist():
        x1, y1, x2, y2 = x1 * spatial_scale, y1 * spatial_scale, (x2 + 1) * spatial_scale, (y2 + 1) * spatial_scale
        step_y, step_x = (y2 - y1) / bins_y, (x2 - x1) / bins_x
        for bin_y, bin_x in itertools.product(range(bins_y), range(bins_x)):
            rows = slice(max(0, math.floor(y1 + bin_y * step_y)), min(height, math.ceil(y1 + (bin_y + 1) * step_y)))
            columns = slice(max(0, math.floor(x1 + bin_x * step_x)), min(width, math.ceil(x1 + (bin_x + 1) * step_x)))
            pixels = input[int(image), :, rows, columns].flatten(1)
            empty = step_y <= 0 or step_x <= 0 or pixels.numel() == 0
            output.append(input.new_zeros(input.shape[1]) if empty else pixels.max(1).values)
    return torch.stack(output).view(len(rois), bins_y, bins_x, -1).permute(0, 3, 1, 2)


def deform_conv2d(input, offset, weight, mask=None, bias=None, stride=1, padding=0, dilation=1,  # noqa: A002
                  groups=1, deform_groups=1):
    images, channels = input.shape[:2]
    outputs, _, kernel_y, kernel_x = weight.shape
    rows, columns = offset.shape[2:]
    taps = list(itertools.product(range(kernel_y), range(kernel_x)))
    # (image, deform group, tap, y or x, row, column)
    offset = offset.view(images, deform_groups, len(taps), 2, rows, columns)
    mask = offset.new_ones(images, deform_groups, len(taps), rows, columns) if mask is None else mask.view(
        images, deform_groups, len(taps), rows, columns)
    output = []
    for image, row, column in itertools.product(range(images), range(rows), range(columns)):
        patch = []
        for part, plane in enumerate(input[image].chunk(deform_groups)):
            for tap, (tap_y, tap_x) in enumerate(taps):
                y = row * stride - padding + tap_y * dilation + offset[image, part, tap, 0, row, column]
                x = column * stride - padding + tap_x * dilation + offset[image, part, tap, 1, row, column]
                patch.append(bilinear(plane, y, x) * mask[image, part, tap, row, column])
        patch = torch.stack(patch).view(deform_groups, len(taps), channels // deform_groups).transpose(1, 2)
        patch = patch.reshape(groups, -1)
        filters = weight.view(groups, outputs // groups, -1)
        output.append((filters * patch[:, None]).sum(-1).flatten())
    output = torch.stack(output).view(images, rows, columns, outputs).permute(0, 3, 1, 2)
    return output if bias is None else output + bias[:, None, None]


def sigmoid_focal_loss(logits, target, gamma, alpha, weight=None):
    """For each row and class; a target of the number of classes is background."""
    classes = logits.shape[1]
    truth = F.one_hot(target, classes + 1)[:, :classes].to(logits.dtype)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction='none')
    probability = logits.sigmoid()
    missing = truth * (1 - probability) + (1 - truth) * probability
    loss = (truth * alpha + (1 - truth) * (1 - alpha)) * missing ** gamma * cross_entropy
    return loss if weight is None else loss * torch.cat([weight, weight.new_ones(1)])[target][:, None]


def softmax_focal_loss(logits, target, gamma, alpha, weight=None):
    """For each row; zero where the target is negative."""
    log = logits.log_softmax(1)[torch.arange(len(target)), target.clamp(min=0)]
    loss = -alpha * (1 - log.exp()) ** gamma * log * (target >= 0)
    return loss if weight is None else loss * weight[target.clamp(min=0)]


def ms_deform_attn(value, shapes, locations, weights):
    images, queries, heads, _, points, _ = locations.shape
    output = []
    for image, query, head in itertools.product(range(images), range(queries), range(heads)):
        total, start = 0, 0
        for level, (height, width) in enumerate(shapes):
            plane = value[image, start:start + height * width, head].T.unflatten(1, (height, width))
            start += height * width
            for point in range(points):
                x, y = locations[image, query, head, level, point]
                total = total + weights[image, query, head, level, point] * bilinear(
                    plane, y * height - 0.5, x * width - 0.5)
        output.append(total)
    return torch.stack(output).view(images, queries, -1)
