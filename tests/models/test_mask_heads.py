from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

import cellseg_mm.models.roi_heads.mask_heads  # noqa: F401 (registers the heads)
from cellseg_mm.structures.local_masks import LocalMasks

# isort: split
from mmdet.registry import MODELS
from mmdet.structures.mask import BitmapMasks

TEST_CFG = ConfigDict(mask_thr_binary=0.5)
META = dict(ori_shape=(70, 90, 3), scale_factor=(1.25, 1.5))
SMALL = dict(num_convs=2, in_channels=8, conv_out_channels=8, num_classes=3)
# MMDetection's heads, each of a few channels.
HEADS = {
    'FCNMaskHead': SMALL,
    'HTCMaskHead': SMALL,
    'SCNetMaskHead': SMALL,
    'CoarseMaskHead': dict(SMALL, num_fcs=1, fc_out_channels=8),
    'DynamicMaskHead': dict(SMALL, roi_feat_size=4, dynamic_conv_cfg=dict(
        type='DynamicConv', in_channels=8, feat_channels=4, out_channels=8, input_feat_shape=4, with_proj=False,
        act_cfg=dict(type='ReLU', inplace=True), norm_cfg=dict(type='LN'))),
}
OURS = dict(FCNMaskHead='CellMaskHead', **{name: f'Cell{name}' for name in HEADS if name != 'FCNMaskHead'})


def heads(name='FCNMaskHead', **options):
    """MMDetection's head and ours, of the same weights."""
    stock = MODELS.build(dict(HEADS[name], type=name, **options))
    stock.init_weights()
    ours = MODELS.build(dict(HEADS[name], type=OURS[name], **options))
    ours.load_state_dict(stock.state_dict())
    return stock, ours


def detections(count, device='cpu'):
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, generator=generator) * 80 - 3
    sizes = torch.rand(count, 2, generator=generator) * 30 + 5
    return InstanceData(bboxes=torch.cat([corners, corners + sizes], 1).to(device),
                        labels=torch.randint(0, 3, (count, ), generator=generator).to(device),
                        scores=torch.rand(count, generator=generator).to(device))


def some_logits(count, channels=3, dtype=torch.float32):
    return (torch.randn(count, channels, 28, 28, generator=torch.Generator().manual_seed(count)) * 4).to(dtype)


def predict(head, logits, device, threshold, **options):
    """For a batch of two images, the second one without detections."""
    batch = [part.to(device).clone() for part in (logits, logits[:0])]
    results = [detections(len(part), device) for part in batch]
    return head.predict_by_feat(batch, results, [META, META], ConfigDict(mask_thr_binary=threshold), **options)


def assert_predictions_are_stocks(stock, ours, logits, device='cpu', **options):
    """Only pixels may differ whose value lies within 1e-4 of the threshold."""
    found = predict(ours, logits, device, 0.5, **options)
    fewest, most = (predict(stock, logits, device, threshold, **options) for threshold in (0.5 + 1e-4, 0.5 - 1e-4))
    assert fewest[0].masks.any()
    assert torch.equal(found[0].bboxes, fewest[0].bboxes)
    assert isinstance(found[0].masks, LocalMasks)
    canvases = found[0].masks.to_ndarray().astype(bool)
    assert (canvases >= fewest[0].masks.cpu().numpy()).all()
    assert (canvases <= most[0].masks.cpu().numpy()).all()
    assert len(found[1].masks) == 0
    assert (found[1].masks.height, found[1].masks.width) == (found[0].masks.height, found[0].masks.width)


@pytest.mark.parametrize('name', HEADS)
def test_each_head_predicts_what_mmdetections_does(name):
    stock, ours = heads(name)
    features = torch.randn(20, 8, 4, 4, generator=torch.Generator().manual_seed(1)) * 5
    if name == 'CoarseMaskHead':
        features = torch.nn.functional.interpolate(features, (14, 14))
        torch.nn.init.normal_(stock.fc_logits.weight)
        ours.load_state_dict(stock.state_dict())
    inputs = (features, features.mean((2, 3))) if name == 'DynamicMaskHead' else (features, )
    with torch.no_grad():
        predictions = [head(*inputs) for head in (stock, ours)]
    predictions = [part[0] if isinstance(part, list) else part for part in predictions]
    assert torch.equal(*predictions)
    assert_predictions_are_stocks(stock, ours, predictions[0], rescale=True)


@pytest.mark.parametrize('rescale', [False, True])
@pytest.mark.parametrize('class_agnostic', [False, True])
def test_masks_are_of_the_image_or_of_the_networks_input(rescale, class_agnostic):
    stock, ours = heads(class_agnostic=class_agnostic)
    assert_predictions_are_stocks(stock, ours, some_logits(30, 1 if class_agnostic else 3), rescale=rescale)
    found = ours.predict_by_feat([some_logits(2, 1 if class_agnostic else 3)], [detections(2)], [META], TEST_CFG,
                                 rescale=rescale)
    assert (found[0].masks.height, found[0].masks.width) == ((70, 90) if rescale else (105, 112))


@pytest.mark.parametrize('as_numpy', [False, True])
def test_merged_predictions_are_probabilities_already(as_numpy):
    stock, ours = heads()
    probabilities = some_logits(30).sigmoid()
    assert_predictions_are_stocks(stock, ours, probabilities, rescale=True, activate_map=True)
    if as_numpy:
        results = [head.predict_by_feat([probabilities.double().numpy()], [detections(30)], [META], TEST_CFG,
                                        activate_map=True)[0].masks for head in (stock, ours)]
        assert np.array_equal(results[1].to_ndarray(), results[0].numpy())


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_logits_of_half_precision_are_taken(dtype):
    assert_predictions_are_stocks(*heads(), some_logits(30, dtype=dtype), rescale=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU')
@pytest.mark.parametrize('rescale', [False, True])
def test_predictions_on_a_gpu_come_back_as_local_masks(rescale):
    assert_predictions_are_stocks(*heads(), some_logits(30), 'cuda', rescale=rescale)


@pytest.mark.parametrize('count', [0, 3])
@pytest.mark.parametrize('threshold', [-1, 0])
def test_thresholds_that_show_values_instead_of_masks_are_refused(threshold, count):
    with pytest.raises(ValueError, match=f'mask_thr_binary.* is {threshold};'):
        heads()[1].predict_by_feat([some_logits(count)], [detections(count)], [META],
                                   ConfigDict(mask_thr_binary=threshold))


def test_predictions_carry_no_gradient():
    logits = some_logits(3).requires_grad_()
    found = heads()[1].predict_by_feat([logits], [detections(3)], [META], TEST_CFG, rescale=True)
    assert len(found[0].masks) == 3


@pytest.fixture(scope='module')
def training():
    """Ground truth as BitmapMasks and as LocalMasks, and 40 sampled proposals for each of two images."""
    random = np.random.default_rng(0)
    stock, ours, sampled = [], [], []
    for _ in range(2):
        masks = np.zeros((9, 60, 80), np.uint8)
        corners = random.integers(0, 50, (9, 2))
        sizes = random.integers(5, 25, (9, 2))
        for mask, (x, y), (w, h) in zip(masks, corners, sizes, strict=True):
            mask[y:y + h, x:x + w] = random.random(mask[y:y + h, x:x + w].shape) < 0.8
        stock.append(InstanceData(masks=BitmapMasks(masks, 60, 80)))
        ours.append(InstanceData(masks=LocalMasks.from_bitmaps(masks)))
        inds = random.integers(0, 9, 40)
        boxes = np.hstack([corners, corners + sizes])[inds] + random.normal(0, 3, (40, 4))
        boxes = torch.from_numpy(boxes.clip(0, (80, 60, 80, 60)).astype(np.float32))
        sampled.append(SimpleNamespace(pos_priors=boxes, pos_bboxes=boxes, pos_assigned_gt_inds=torch.from_numpy(inds),
                                       pos_gt_labels=torch.from_numpy(inds % 3)))
    return stock, ours, sampled


@pytest.mark.parametrize('name', HEADS)
@pytest.mark.parametrize('soft', [False, True])
def test_losses_are_those_of_full_canvases(name, soft, training):
    *truths, sampled = training
    size = 8 if name == 'DynamicMaskHead' else 7 if name == 'CoarseMaskHead' else 28
    cfg = ConfigDict(mask_size=size, soft_mask_target=soft)
    logits = torch.randn(80, 3, size, size, generator=torch.Generator().manual_seed(0))
    losses, targets = [], []
    for head, truth in zip(heads(name), truths, strict=True):
        result = head.loss_and_target(logits, sampled, truth, cfg)
        losses.append(result['loss_mask']['loss_mask'])
        targets.append(result['mask_targets'])
    assert targets[0].any()
    assert torch.allclose(targets[0], targets[1], rtol=0, atol=1e-5)
    assert torch.allclose(*losses, rtol=1e-6)


def test_mask_scoring_learns_from_local_masks(training, monkeypatch):
    *truths, sampled = training
    stock, ours = (MODELS.build(dict(type=name, num_classes=3)) for name in ('MaskIoUHead', 'CellMaskIoUHead'))
    cfg = ConfigDict(mask_size=28, mask_thr_binary=0.5)
    targets = [heads()[0].get_targets(sampled, truth, cfg) for truth in truths]
    logits = some_logits(80, 1)[:, 0]
    expected = stock.get_targets(sampled, truths[0], logits, targets[0], cfg)
    assert (expected > 0).any()
    assert torch.equal(ours.get_targets(sampled, truths[0], logits, targets[0], cfg), expected)
    monkeypatch.delattr(LocalMasks, 'to_ndarray')
    assert torch.allclose(ours.get_targets(sampled, truths[1], logits, targets[1], cfg), expected, rtol=1e-5)


@settings(max_examples=30)
@given(corners=arrays(np.float32, (6, 4), elements=st.floats(-90, 59, width=32)))
def test_shares_of_instances_within_proposals_are_those_of_cropped_canvases(training, corners):
    (stock_truth, *_), (our_truth, *_), _ = training
    stock, ours = (MODELS.build(dict(type=name, num_classes=3, num_convs=2, fc_out_channels=8))
                   for name in ('MaskIoUHead', 'CellMaskIoUHead'))
    inds = torch.arange(6)
    boxes = torch.from_numpy(corners) + torch.tensor([0, 0, 70, 70])  # from within the image to beyond it
    assert torch.equal(ours._get_area_ratio(boxes, inds, our_truth.masks),
                       stock._get_area_ratio(boxes, inds, stock_truth.masks))


def test_mask_scores_stay_probabilities():
    head = MODELS.build(dict(type='CellMaskIoUHead', num_classes=3))
    ious = torch.tensor([[-0.5, 0.5, 0], [0, 0, 1.5], [0.25, 9, 9]])
    results = InstanceData(scores=torch.tensor([0.5, 0.6, 0.8]), labels=torch.tensor([0, 2, 0]))
    found, = head.predict_by_feat([ious], [results])
    assert found.scores.tolist() == pytest.approx([0, 0.6, 0.2])


def test_points_of_pointrend_learn_without_a_canvas(training, monkeypatch):
    *truths, sampled = training
    stock, ours = (MODELS.build(dict(type=name, num_classes=3)) for name in ('MaskPointHead', 'CellMaskPointHead'))
    rois = torch.cat([torch.cat([torch.full((40, 1), i), part.pos_priors], 1) for i, part in enumerate(sampled)])
    points = torch.rand(80, 50, 2, generator=torch.Generator().manual_seed(0))
    cfg = ConfigDict(num_points=50)
    expected = stock.get_targets(rois, points, sampled, truths[0], cfg)
    assert torch.allclose(ours.get_targets(rois, points, sampled, truths[0], cfg), expected, rtol=0, atol=1e-4)
    monkeypatch.delattr(LocalMasks, 'to_ndarray')
    assert torch.allclose(ours.get_targets(rois, points, sampled, truths[1], cfg), expected, rtol=0, atol=1e-4)
    none = [SimpleNamespace(pos_assigned_gt_inds=torch.zeros(0, dtype=torch.long))] * 2
    assert ours.get_targets(rois[:0], points[:0], none, truths[1], cfg).shape == (0, 50)


def test_no_points_give_a_loss_of_zero_and_a_gradient():
    head = MODELS.build(dict(type='CellMaskPointHead', num_classes=3, in_channels=4, fc_channels=4))
    none = [SimpleNamespace(pos_bboxes=torch.zeros(0, 4), pos_gt_labels=torch.zeros(0, dtype=torch.long),
                            pos_assigned_gt_inds=torch.zeros(0, dtype=torch.long))]
    points = head(torch.zeros(0, 4, 50), torch.zeros(0, 3, 50))
    loss = head.loss_and_target(points, torch.zeros(0, 50, 2), none, [InstanceData(masks=LocalMasks.empty(60, 80))],
                                ConfigDict(num_points=50))['loss_point']
    loss.backward()
    assert loss == 0
    assert all(parameter.grad is not None for parameter in head.parameters())
