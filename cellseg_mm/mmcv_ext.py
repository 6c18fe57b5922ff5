"""What mmcv's compiled module `mmcv._ext` does, from torchvision where it has the op, else in plain PyTorch.

`cellseg_mm.ops` loads this file under the name `mmcv._ext`; mmcv's own Python code calls it. Names, arguments and
outputs written in place are mmcv 2's. Half types are computed in fp32, on every device: torchvision's CPU ops take no
half types, and the results round once instead of at each step.
"""
# ruff: noqa: A001, A002, ARG001, N803 (mmcv's names)
import itertools
from functools import reduce

import numpy as np
import torch
import torch.nn.functional as F
import torchvision  # noqa: F401 (registers torch.ops.torchvision)

_tv = torch.ops.torchvision
_MAX_SAMPLES = 2 ** 22  # values gathered at once: with their indices, some 250 MB


def __getattr__(name):
    # mmcv asks for the name of every op it has when it is imported, so only the call may fail.
    if name.startswith('_'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    def uncovered(*args, **kwargs):
        raise NotImplementedError(
            f'mmcv op {name!r} is none of those that cellseg_mm provides: install mmcv with its compiled ops to use it '
            '(MMCV_WITH_OPS=1 pip install --no-deps --no-build-isolation --no-binary onedl-mmcv --force-reinstall '
            'onedl-mmcv, under a torch that its sources compile with)')
    return uncovered


def get_compiler_version():
    return 'n/a'


def get_compiling_cuda_version():
    return 'n/a'


def _common(*tensors):
    """The tensors in their common type, fp32 at the least."""
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)
    return [tensor.to(dtype) for tensor in tensors]


def nms(boxes, scores, iou_threshold, offset):
    boxes, scores = _common(boxes, scores)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    # mmcv compares in the boxes' precision: an IoU of exactly 0.1 in fp32 is above the double 0.1, not above its own.
    return _tv.nms(boxes, scores, torch.tensor(iou_threshold, dtype=boxes.dtype).item())


def softnms(boxes, scores, dets, iou_threshold, sigma, min_score, method, offset):
    """Bodla et al. 2017, https://arxiv.org/abs/1704.04503; `method` 0 naive, 1 linear, 2 gaussian. Fills `dets`."""
    index = torch.arange(len(boxes), dtype=torch.float32)[None]
    table = torch.cat([boxes.float().T, scores.float()[None], index]).numpy()
    rank, count = 0, len(boxes)
    while rank < count:
        best = rank + table[4, rank:count].argmax()
        table[:, [rank, best]] = table[:, [best, rank]]
        x1, y1, x2, y2 = table[:4, rank]
        rest = table[:, rank + 1:count]
        width = np.maximum(0, np.minimum(x2, rest[2]) - np.maximum(x1, rest[0]) + offset)
        height = np.maximum(0, np.minimum(y2, rest[3]) - np.maximum(y1, rest[1]) + offset)
        areas = (rest[2] - rest[0] + offset) * (rest[3] - rest[1] + offset)
        with np.errstate(invalid='ignore', divide='ignore'):
            iou = width * height / ((x2 - x1 + offset) * (y2 - y1 + offset) + areas - width * height)
        if method == 2:
            rest[4] *= np.exp(-iou ** 2 / sigma)
        else:
            rest[4] *= np.where(iou >= iou_threshold, 0 if method == 0 else 1 - iou, 1)
        # Later ties go by position, so the gaps of dropped boxes are filled as mmcv does: first gap with the last box.
        kept = ~(rest[4] < min_score)
        survivors = kept.sum()
        rest[:, :survivors][:, ~kept[:survivors]] = rest[:, survivors:][:, kept[survivors:]][:, ::-1]
        rank, count = rank + 1, rank + 1 + survivors
    dets[:count] = torch.from_numpy(table[:5, :count].T)
    return torch.from_numpy(table[5, :count]).long()


def roi_align_forward(input, rois, output, argmax_y, argmax_x, aligned_height, aligned_width, spatial_scale,
                      sampling_ratio, pool_mode, aligned):
    """He et al. 2017, https://arxiv.org/abs/1703.06870; `pool_mode` 0 maximum, 1 average.

    For the maximum, `argmax_y` and `argmax_x` receive the row and column of the sample within its bin's grid: half
    types hold these exactly, unlike the coordinates that mmcv writes.
    """
    input, rois = _common(input, rois)
    if pool_mode == 1:
        output.copy_(_tv.roi_align(input, rois, spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned))
        return
    size, (height, width) = (aligned_height, aligned_width), input.shape[2:]
    pixels = input.permute(0, 2, 3, 1).flatten(0, 2)
    bins = _roi_align_bins(rois, size, spatial_scale, sampling_ratio, aligned)
    for chunk in _roi_chunks(bins[2], output[:1].numel()):
        (rows, valid_rows), (columns, valid_columns) = _roi_align_samples(bins, chunk, size, (height, width))
        image = rois[chunk, 0].long()[:, None, None, None, None]
        values = 0
        for (y, weight_y), (x, weight_x) in itertools.product(rows, columns):
            pixel = (image * height + y[..., None, None]) * width + x[:, None, None]
            values = values + (weight_y[..., None, None] * weight_x[:, None, None])[..., None] * pixels[pixel]
        best, row, column, empty = _max_of_bins(values, valid_rows, valid_columns)
        output[chunk] = best.to(output.dtype)
        argmax_y[chunk] = row.masked_fill(empty, -1).to(argmax_y.dtype)
        argmax_x[chunk] = column.masked_fill(empty, -1).to(argmax_x.dtype)


def roi_align_backward(grad_output, rois, argmax_y, argmax_x, grad_input, aligned_height, aligned_width, spatial_scale,
                       sampling_ratio, pool_mode, aligned):
    grad_output, rois, argmax_y, argmax_x = _common(grad_output, rois, argmax_y, argmax_x)
    size = aligned_height, aligned_width
    if pool_mode == 1 and grad_output.device.type != 'cpu':
        grad_input.copy_(_tv._roi_align_backward(grad_output, rois, spatial_scale, *size, *grad_input.shape,
                                                 sampling_ratio, aligned))
        return
    bins = _roi_align_bins(rois, size, spatial_scale, sampling_ratio, aligned)
    if pool_mode == 1:
        grad_input.copy_(_roi_align_average_backward(grad_output, rois, bins, grad_input.shape))
    else:
        grad_input.copy_(_roi_align_max_backward(grad_output, rois, bins, (argmax_y, argmax_x), grad_input.shape))


def _roi_align_average_backward(grad_output, rois, bins, shape):
    """The transposed interpolation as one sparse matrix, which the CPU multiplies faster than torchvision loops.

    `benchmarks/roi_align_backward.py` measures by how much.
    """
    images, channels, height, width = shape
    size = grad_output.shape[2:]
    total = grad_output.new_zeros(images * height * width, channels)
    for chunk in _roi_chunks(bins[2], 4 * size.numel()):
        (y, weight_y), (x, weight_x) = (
            (torch.cat([pixel for pixel, _ in corners], -1),
             torch.cat([weight * valid for _, weight in corners], -1) / bins[2][chunk, axis, None, None].clamp(min=1))
            for axis, (corners, valid) in enumerate(_roi_align_samples(bins, chunk, size, (height, width))))
        image = rois[chunk, 0].long()[:, None, None, None, None]
        pixel = (image * height + y[:, :, None, :, None]) * width + x[:, None, :, None]
        weight = weight_y[:, :, None, :, None] * weight_x[:, None, :, None]
        number = torch.arange(len(chunk) * size.numel()).view(len(chunk), *size, 1, 1).expand_as(weight)
        used = weight != 0
        with torch.sparse.check_sparse_tensor_invariants(False):
            matrix = torch.sparse_coo_tensor(torch.stack([pixel[used], number[used]]), weight[used],
                                             (len(total), len(chunk) * size.numel()))
        total.addmm_(matrix, grad_output[chunk].permute(0, 2, 3, 1).flatten(0, 2))
    return total.view(images, height, width, channels).permute(0, 3, 1, 2)


def _roi_align_max_backward(grad_output, rois, bins, argmax, shape):
    _, channels, height, width = shape
    rows, columns = (
        _corners(_roi_align_coordinates(*(part[:, axis, None, None, None] for part in bins), number, sample), extent)
        for axis, (number, sample, extent) in enumerate([
            (torch.arange(grad_output.shape[2], device=rois.device)[:, None], argmax[0], height),
            (torch.arange(grad_output.shape[3], device=rois.device), argmax[1], width)]))
    channel = torch.arange(channels, device=rois.device)[:, None, None]
    plane = rois[:, 0].long()[:, None, None, None] * channels + channel
    grad_output = grad_output.where(argmax[0] >= 0, 0)
    total = grad_output.new_zeros(shape.numel())
    for (y, weight_y), (x, weight_x) in itertools.product(rows, columns):
        pixel = (plane * height + y) * width + x
        total.index_add_(0, pixel.flatten(), (grad_output * weight_y * weight_x).flatten())
    return total.view(shape)


def _roi_align_bins(rois, size, spatial_scale, sampling_ratio, aligned):
    """Each RoI's start, size of bin (both in pixels of the feature map) and samples in a bin, all (K, 2) in y, x."""
    corners = rois[:, 1:].unflatten(1, (2, 2)).flip(-1) * spatial_scale - (0.5 if aligned else 0)
    start, end = corners.unbind(1)
    extent = end - start if aligned else (end - start).clamp(min=1)
    step = extent / extent.new_tensor(size)
    return start, step, torch.full_like(step, sampling_ratio) if sampling_ratio > 0 else step.ceil().clamp(min=0)


def _roi_align_samples(bins, chunk, size, extents):
    """For rows, then columns: the samples' two pixels with weights, and which samples exist, (K, bins, samples)."""
    for axis, (count, extent) in enumerate(zip(size, extents, strict=True)):
        start, step, grid = (part[chunk, axis, None, None] for part in bins)
        sample = torch.arange(max(1, int(grid.max())), device=grid.device)
        at = _roi_align_coordinates(start, step, grid, torch.arange(count, device=grid.device)[:, None], sample)
        yield _corners(at, extent), (sample < grid).expand_as(at)


def _roi_align_coordinates(start, step, grid, number, sample):
    """Where sample number `sample` of bin number `number` lies along one axis."""
    return start + number * step + (sample + 0.5) * step / grid.clamp(min=1)


def _corners(at, extent):
    """The two pixels that coordinates lie between, each with its weight: zero more than a pixel outside the image."""
    inside = (at >= -1) & (at <= extent)
    at = at.clamp(0, extent - 1)
    low = at.floor()
    weight = at - low
    # Outside, the upper pixel's weight is zero already.
    return (low.long(), (1 - weight) * inside), ((low.long() + 1).clamp(max=extent - 1), weight)


def _roi_chunks(samples, values_per_sample):
    """Split RoIs into index tensors of like (K, 2) numbers of samples a bin, few enough for the memory they take."""
    samples = samples.prod(1)
    if len(samples) == 0:
        return ()
    most = max(1, int(samples.max())) * max(1, values_per_sample)
    return samples.argsort().split(max(1, _MAX_SAMPLES // most))


def _max_of_bins(values, valid_rows, valid_columns):
    """The greatest of each bin's valid values, with its row and column, the first in reading order where several are.

    Args:
        values: Samples of shape (K, bin rows, rows, bin columns, columns, C).
        valid_rows: Boolean (K, bin rows, rows).
        valid_columns: Boolean (K, bin columns, columns).

    Returns:
        tuple: Values (zero in bins without a sample), rows, columns and whether the bin is empty, all of shape
        (K, C, bin rows, bin columns).
    """
    valid = valid_rows[..., None, None] & valid_columns[:, None, None]
    values = values.masked_fill(~valid[..., None], -torch.inf).permute(0, 5, 1, 3, 2, 4)
    best, at = values.flatten(-2).max(-1)
    empty = best == -torch.inf
    return best.masked_fill(empty, 0), at // values.shape[-1], at % values.shape[-1], empty


def roi_pool_forward(input, rois, output, argmax, pooled_height, pooled_width, spatial_scale):
    """Girshick 2015, https://arxiv.org/abs/1504.08083. Unlike torchvision, mmcv does not round RoIs to pixels."""
    input, rois = _common(input, rois)
    height, width = input.shape[2:]
    pixels = input.permute(0, 2, 3, 1).flatten(0, 2)
    start = rois[:, [2, 1]] * spatial_scale
    extent = (rois[:, [4, 3]] + 1) * spatial_scale - start
    malformed = (extent <= 0).any(1)[:, None]
    lows, highs = [], []
    for axis, (count, limit) in enumerate([(pooled_height, height), (pooled_width, width)]):
        bins = torch.arange(count, device=input.device)
        step = extent[:, axis, None] / count
        lows.append((bins * step + start[:, axis, None]).floor().clamp(0, limit).long())
        highs.append(((bins + 1) * step + start[:, axis, None]).ceil().clamp(0, limit).long().masked_fill(malformed, 0))
    spans = torch.stack([(high - low).amax(1).clamp(min=1) for low, high in zip(lows, highs, strict=True)], 1)
    for chunk in _roi_chunks(spans, output[:1].numel()):
        rows, columns = (low[chunk, :, None] + torch.arange(int(spans[chunk, axis].max()), device=input.device)
                         for axis, low in enumerate(lows))
        valid_rows, valid_columns = rows < highs[0][chunk, :, None], columns < highs[1][chunk, :, None]
        image = rois[chunk, 0].long()[:, None, None, None, None]
        pixel = ((image * height + rows.clamp(max=height - 1)[..., None, None]) * width
                 + columns.clamp(max=width - 1)[:, None, None])
        best, row, column, empty = _max_of_bins(pixels[pixel], valid_rows, valid_columns)
        output[chunk] = best.to(output.dtype)
        at = (row + lows[0][chunk, None, :, None]) * width + column + lows[1][chunk, None, None]
        argmax[chunk] = at.masked_fill(empty, -1).to(argmax.dtype)


def roi_pool_backward(grad_output, rois, argmax, grad_input, pooled_height, pooled_width, spatial_scale):
    grad_output, rois = _common(grad_output, rois)
    grad_input.copy_(_tv._roi_pool_backward(grad_output, rois, argmax, spatial_scale, pooled_height, pooled_width,
                                            *grad_input.shape))


def deform_conv_forward(input, weight, offset, output, columns, ones, kW, kH, dW, dH, padW, padH,
                        dilationW, dilationH, group, deformable_group, im2col_step):
    """Dai et al. 2017, https://arxiv.org/abs/1703.06211."""
    tensors = _common(input, weight, offset, *_no_mask_no_bias(input, weight))
    output.copy_(_tv.deform_conv2d(*tensors, dH, dW, padH, padW, dilationH, dilationW, group, deformable_group, False))


def deform_conv_backward_input(input, offset, gradOutput, gradInput, gradOffset, weight, columns, kW, kH,
                               dW, dH, padW, padH, dilationW, dilationH, group, deformable_group, im2col_step):
    tensors = _common(gradOutput, input, weight, offset, *_no_mask_no_bias(input, weight))
    grads = _tv._deform_conv2d_backward(*tensors, dH, dW, padH, padW, dilationH, dilationW, group, deformable_group,
                                        False)
    gradInput.copy_(grads[0])
    gradOffset.copy_(grads[2])


def deform_conv_backward_parameters(input, offset, gradOutput, gradWeight, columns, ones, kW, kH, dW, dH,
                                    padW, padH, dilationW, dilationH, group, deformable_group, scale,
                                    im2col_step):
    tensors = _common(gradOutput, input, gradWeight, offset, *_no_mask_no_bias(input, gradWeight))
    grads = _tv._deform_conv2d_backward(*tensors, dH, dW, padH, padW, dilationH, dilationW, group, deformable_group,
                                        False)
    gradWeight.add_(grads[1], alpha=scale)


def modulated_deform_conv_forward(input, weight, bias, ones, offset, mask, output, columns, kernel_h, kernel_w,
                                  stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group,
                                  with_bias):
    """Zhu et al. 2019, https://arxiv.org/abs/1811.11168."""
    bias = bias if with_bias else weight.new_zeros(len(weight))
    output.copy_(_tv.deform_conv2d(*_common(input, weight, offset, mask, bias), stride_h, stride_w, pad_h, pad_w,
                                   dilation_h, dilation_w, group, deformable_group, True))


def modulated_deform_conv_backward(input, weight, bias, ones, offset, mask, columns, grad_input, grad_weight,
                                   grad_bias, grad_offset, grad_mask, grad_output, kernel_h, kernel_w,
                                   stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group,
                                   with_bias):
    bias = bias if with_bias else weight.new_zeros(len(weight))
    grads = _tv._deform_conv2d_backward(*_common(grad_output, input, weight, offset, mask, bias), stride_h, stride_w,
                                        pad_h, pad_w, dilation_h, dilation_w, group, deformable_group, True)
    outputs = [grad_input, grad_weight, grad_offset, grad_mask] + [grad_bias] * with_bias
    for output, grad in zip(outputs, grads, strict=False):
        output.copy_(grad)


def _no_mask_no_bias(input, weight):
    """What torchvision's operators take where there is neither."""
    return input.new_zeros(len(input), 1), weight.new_zeros(len(weight))


def sigmoid_focal_loss_forward(input, target, weight, output, gamma, alpha):
    """Lin et al. 2017, https://arxiv.org/abs/1708.02002, for each of the logits (N, C); target C is background."""
    _, z, scale = _sigmoid_focal_terms(input, target, weight, alpha)
    output.copy_(-scale * (-z).sigmoid() ** gamma * F.logsigmoid(z))


def sigmoid_focal_loss_backward(input, target, weight, grad_input, gamma, alpha):
    sign, z, scale = _sigmoid_focal_terms(input, target, weight, alpha)
    missing = (-z).sigmoid()
    grad_input.copy_(sign * scale * missing ** gamma * (gamma * z.sigmoid() * F.logsigmoid(z) - missing))


def _sigmoid_focal_terms(input, target, weight, alpha):
    """For each element its sign (1 for the target, -1 for all others), logit of being right and weight."""
    logits, = _common(input)
    classes = logits.shape[1]
    positive = target[:, None] == torch.arange(classes, device=logits.device)
    sign = positive.to(logits.dtype) * 2 - 1
    scale = torch.where(positive, alpha, 1 - alpha).to(logits.dtype)
    if weight.numel():
        # The weights are those of the target's class: the background has none.
        known = (target >= 0) & (target < classes)
        scale = scale * weight.to(logits.dtype)[target.clamp(0, classes - 1)].where(known, 1)[:, None]
    return sign, sign * logits, scale


def softmax_focal_loss_forward(input, target, weight, output, gamma, alpha):
    """The focal loss of each row of `input`, the softmax (N, C); zero where the target is negative."""
    right, missing, scale = _softmax_focal_terms(input, target, weight, alpha)
    output.copy_(-scale * missing ** gamma * right.log())


def softmax_focal_loss_backward(input, target, weight, buff, grad_input, gamma, alpha):
    """The gradient with regard to the logits; `buff` (N,) receives the factor shared by a row."""
    right, missing, scale = _softmax_focal_terms(input, target, weight, alpha)
    shared = scale * (gamma * missing ** (gamma - 1) * right * right.log() - missing ** gamma)
    classes = torch.arange(input.shape[1], device=input.device)
    buff.copy_(shared)
    grad_input.copy_(shared[:, None] * ((target[:, None] == classes).to(shared.dtype) - input))


def _softmax_focal_terms(softmax, target, weight, alpha):
    """For each row its target's probability, what that lacks to one, both kept above zero, and its weight."""
    softmax, = _common(softmax)
    label = target.clamp(min=0)
    right = softmax.gather(1, label[:, None])[:, 0]
    scale = alpha * (target >= 0).to(softmax.dtype)
    if weight.numel():
        scale = scale * weight.to(softmax.dtype)[label]
    tiny = torch.finfo(torch.float32).tiny
    return right.clamp(min=tiny), (1 - right).clamp(min=tiny), scale


def ms_deform_attn_forward(value, value_spatial_shapes, value_level_start_index, sampling_locations, attention_weights,
                           im2col_step):
    """Zhu et al. 2021, https://arxiv.org/abs/2010.04159, by mmcv's own function for the CPU."""
    tensors = _common(value, sampling_locations, attention_weights)
    return _attend(value_spatial_shapes, *tensors).to(value.dtype)


def ms_deform_attn_backward(value, value_spatial_shapes, value_level_start_index, sampling_locations, attention_weights,
                            grad_output, grad_value, grad_sampling_loc, grad_attn_weight, im2col_step):
    tensors = [tensor.detach().requires_grad_() for tensor in _common(value, sampling_locations, attention_weights)]
    with torch.enable_grad():
        output = _attend(value_spatial_shapes, *tensors)
    grads = torch.autograd.grad(output, tensors, grad_output.to(output.dtype))
    for target, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads, strict=True):
        target.copy_(grad)


def _attend(value_spatial_shapes, value, sampling_locations, attention_weights):
    # Not at the top: mmcv.ops is only being imported when it imports this module.
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch
    return multi_scale_deformable_attn_pytorch(value, value_spatial_shapes.tolist(), sampling_locations,
                                               attention_weights)
