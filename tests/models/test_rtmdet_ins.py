"""RTMDet-Ins: MMDetection's losses, gradients and predictions, from some masks at a time."""
import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_runs import batch, tiny_scene
from torch.utils._python_dispatch import TorchDispatchMode

import cellseg_mm.register  # noqa: F401
from cellseg_mm.models import chunks as chunking
from cellseg_mm.structures.local_masks import LocalMasks

# isort: split
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures.mask import BitmapMasks
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

SIZE = 96, 128
TEST_CFG = ConfigDict(nms_pre=50, min_bbox_size=0, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.6),
                      max_per_img=30, mask_thr_binary=0.5)
STRIDES = (4, 8)


def head(ours, strides=STRIDES, **options):
    """MMDetection's head or ours, of a few channels, with masks that are not all alike."""
    torch.manual_seed(0)
    built = MODELS.build(ConfigDict(
        type='CellRTMDetInsSepBNHead' if ours else 'RTMDetInsSepBNHead', num_classes=3, in_channels=8, feat_channels=8,
        stacked_convs=1, anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=list(strides)),
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        loss_mask=dict(type='DiceLoss', loss_weight=2.0, eps=5e-6, reduction='mean'),
        train_cfg=dict(assigner=dict(type=('Local' if ours else 'Dynamic') + 'SoftLabelAssigner', topk=13),
                       allowed_border=-1, pos_weight=-1), test_cfg=TEST_CFG, **options))
    built.init_weights()
    for convolution in (*built.rtm_kernel, built.mask_head.projection, *built.rtm_cls):
        torch.nn.init.normal_(convolution.weight, std=0.4)
    return built


def features(count=2, strides=STRIDES, size=SIZE):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(count, 8, size[0] // stride, size[1] // stride, generator=generator) for stride in strides]


def samples(*cells, bitmaps=False, size=SIZE):
    found = batch(*(tiny_scene(count, size) for count in cells))['data_samples']
    for sample in found:
        sample.set_metainfo(dict(pad_shape=size))
        truth = sample.gt_instances
        truth.bboxes = truth.bboxes.tensor
        if bitmaps:
            truth.masks = BitmapMasks(truth.masks.to_ndarray(), *size)
    return found


def losses_and_gradients(head, cells, inputs, size=SIZE):
    inputs = [level.clone().requires_grad_() for level in inputs]
    losses = head.loss(inputs, samples(*cells, bitmaps=type(head).__name__ == 'RTMDetInsSepBNHead', size=size))
    flat = [*losses['loss_cls'], *losses['loss_bbox'], losses['loss_mask']]
    sum(flat).backward()
    return torch.stack(flat), [value.grad for value in (*inputs, *head.parameters())]


def assert_learns_as_mmdetections(cells, strides=STRIDES):
    inputs = features(len(cells), strides)
    expected, expected_gradients = losses_and_gradients(head(False, strides), cells, inputs)
    found, gradients = losses_and_gradients(head(True, strides, max_masks_to_train=10_000), cells, inputs)
    torch.testing.assert_close(found, expected)
    for gradient, value in zip(gradients, expected_gradients, strict=True):
        value = torch.zeros_like(gradient) if value is None and gradient is not None else value
        torch.testing.assert_close(gradient, value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('cells', [(12, 5), (6, 0), (0, 0)])
def test_losses_and_gradients_are_mmdetections(cells):
    assert_learns_as_mmdetections(cells)


def test_masks_of_stride_8_are_learnt_at_the_stride_of_the_loss():
    assert_learns_as_mmdetections((8, 3), (8, 16))


def test_losses_and_gradients_are_the_same_in_chunks(monkeypatch):
    monkeypatch.setattr(chunking, '_VALUES', 2**15)
    assert_learns_as_mmdetections((12, 5))


def test_no_more_masks_are_made_than_may_be_trained(monkeypatch):
    ours = head(True, max_masks_to_train=9)
    made, make = [], ours._mask_predict_by_feat_single
    monkeypatch.setattr(ours, '_mask_predict_by_feat_single',
                        lambda feature, kernels, priors: made.append(len(kernels)) or make(feature, kernels, priors))
    capped = ours.loss(features(), samples(12, 5))
    assert made == [9, 9]
    ours.max_masks_to_train = 10_000
    whole = ours.loss(features(), samples(12, 5))
    assert sum(made[2:]) > 40
    assert torch.stack(capped['loss_cls']).equal(torch.stack(whole['loss_cls']))
    assert abs(float(capped['loss_mask'] - whole['loss_mask'])) < 0.5 * float(whole['loss_mask'])


def test_all_parameters_take_part_where_there_is_no_cell():
    _, gradients = losses_and_gradients(head(True), (0, 0), features())
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


class _Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that is made."""

    values = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.values = max(self.values, tensor.numel())
        return result


def test_memory_does_not_grow_with_the_number_of_cells_times_the_image(monkeypatch):
    monkeypatch.setattr(chunking, '_VALUES', 2**15)
    cells, size, largest = 30, (192, 256), {}
    for ours in (False, True):
        with _Largest() as mode:
            losses_and_gradients(head(ours), (cells, ), features(1, size=size), size)
        largest[ours] = mode.values
    # Each point and cell once, or the kernels of all points.
    points = sum(size[0] // stride * size[1] // stride for stride in STRIDES)
    assert largest[True] <= max(cells * points, 169 * points)
    assert largest[False] > 5 * largest[True]


@pytest.mark.parametrize('rescale', [False, True])
@pytest.mark.parametrize('factor', [(1.0, 1.0), (0.8, 0.8), (2.0, 1.9)])
def test_predictions_are_mmdetections_bit_for_bit(monkeypatch, rescale, factor):
    monkeypatch.setattr(chunking, '_VALUES', 2**17)
    height, width = 90, 123  # of the input, before it is padded
    found = []
    for ours in (False, True):
        metas = [sample.metainfo for sample in samples(3, 3)]
        for meta in metas:
            meta.update(img_shape=(height, width), ori_shape=(round(height / factor[1]), round(width / factor[0])),
                        scale_factor=factor)
        built = head(ours).eval()
        with torch.no_grad():
            found.append(built.predict_by_feat(*built(features()), batch_img_metas=metas, rescale=rescale))
    for stock, ours in zip(*found, strict=True):
        assert len(ours) == 30
        assert isinstance(ours.masks, LocalMasks)
        assert set(ours.keys()) == {'bboxes', 'scores', 'labels', 'masks'}
        for key in ('bboxes', 'scores', 'labels'):
            assert torch.equal(stock[key], ours[key])
        assert ours.masks.areas.any()
        assert np.array_equal(stock.masks.numpy(), ours.masks.to_ndarray())


@pytest.mark.parametrize('rescale', [False, True])
def test_where_nothing_is_found_masks_have_the_size_of_the_image(rescale):
    built = head(True).eval()
    meta = dict(samples(0)[0].metainfo, ori_shape=(48, 64), scale_factor=(2.0, 2.0))
    with torch.no_grad():
        found, = built.predict_by_feat(*built(features(1)), batch_img_metas=[meta], rescale=rescale,
                                       cfg=ConfigDict(TEST_CFG, score_thr=2.0))
    assert len(found) == len(found.masks) == 0
    assert (found.masks.height, found.masks.width) == ((48, 64) if rescale else SIZE)


@settings(max_examples=40)
@given(st.integers(0, 30), st.integers(0, 10_000), st.sampled_from([2**24, 500]))
def test_cells_are_assigned_as_by_mmdetection(cells, seed, values):
    generator = torch.Generator().manual_seed(seed)
    priors = torch.cat([torch.cartesian_prod(torch.arange(0., 64, stride), torch.arange(0., 64, stride),
                                             torch.tensor([float(stride)])) for stride in STRIDES])
    priors = torch.cat([priors, priors[:, 2:]], 1)
    corners = torch.rand(cells, 2, generator=generator) * 50
    boxes = torch.cat([corners, corners + 2 + torch.rand(cells, 2, generator=generator) * 20], 1)
    reach = torch.rand(len(priors), 4, generator=generator) * 12
    predicted = InstanceData(priors=priors, scores=torch.randn(len(priors), 3, generator=generator),
                             bboxes=torch.cat([priors[:, :2] - reach[:, :2], priors[:, :2] + reach[:, 2:]], 1))
    canvases = torch.zeros(cells, 80, 80, dtype=torch.bool)
    for canvas, (left, top, right, bottom) in zip(canvases, boxes.round().int().tolist(), strict=True):
        canvas[top:bottom, left:right] = torch.rand(bottom - top, right - left, generator=generator) > 0.3
    truth = InstanceData(bboxes=boxes, labels=torch.randint(0, 3, (cells, ), generator=generator), masks=canvases)
    local = copy.copy(truth)
    local.masks = LocalMasks.from_bitmaps(canvases)
    expected = TASK_UTILS.build(dict(type='DynamicSoftLabelAssigner', topk=13)).assign(predicted, truth)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunking, '_VALUES', values)
        found = TASK_UTILS.build(dict(type='LocalSoftLabelAssigner', topk=13)).assign(predicted, local)
    assert torch.equal(found.gt_inds, expected.gt_inds)
    assert torch.equal(found.labels, expected.labels)
    positive = found.gt_inds > 0
    torch.testing.assert_close(found.max_overlaps[positive], expected.max_overlaps[positive])
