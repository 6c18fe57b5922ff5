"""Mask2Former and QueryInst: MMDetection's losses, gradients and predictions, without canvases."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_runs import batch, build, predict, tiny_scene

from cellseg_mm.models import chunks as chunking
from cellseg_mm.models.dense_heads.mask2former_head import near, values_at
from cellseg_mm.structures.local_masks import LocalMasks

# isort: split
from mmdet.registry import MODELS
from mmdet.structures.mask import BitmapMasks
from mmengine.config import ConfigDict

SIZE = 64, 96
QUERIES = 30


@pytest.fixture(scope='module')
def mask2former():
    """MMDetection's head and fusion head, and ours with the same weights."""
    config, model, _ = build('cell_mask2former_lite', max_dets=50, **{
        'model.panoptic_head.num_queries': QUERIES, 'model.panoptic_head.near_cells': 0.0,
        'model.train_cfg.num_points': 500})
    pairs = []
    for key, ours in (('panoptic_head', model.panoptic_head), ('panoptic_fusion_head', model.panoptic_fusion_head)):
        stock_settings = ConfigDict(config.model[key], type=config.model[key].type.removeprefix('Cell'),
                                    train_cfg=config.model.train_cfg, test_cfg=config.model.test_cfg)
        if key == 'panoptic_fusion_head':
            del stock_settings['train_cfg']
        stock_settings.pop('near_cells', None)
        stock = MODELS.build(stock_settings)
        stock.load_state_dict(ours.state_dict())
        pairs.append((stock, ours))
    return pairs


def features(count):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(count, channels, SIZE[0] // stride, SIZE[1] // stride, generator=generator)
            for channels, stride in zip((24, 40, 112, 320), (4, 8, 16, 32), strict=True)]


def samples(*cells, bitmaps=False):
    found = batch(*(tiny_scene(count, SIZE) for count in cells))['data_samples']
    for sample in found:
        sample.set_metainfo(dict(batch_input_shape=SIZE))
        if bitmaps:
            sample.gt_instances.masks = BitmapMasks(sample.gt_instances.masks.to_ndarray(), *SIZE)
    return found


@pytest.mark.parametrize('cells', [(6, 4), (3, 0), (0, 0)])
def test_mask2formers_losses_and_gradients_are_mmdetections(mask2former, cells):
    found = []
    for bitmaps, head in zip((True, False), mask2former[0], strict=True):
        head.zero_grad()
        torch.manual_seed(3)
        losses = head.loss(features(len(cells)), samples(*cells, bitmaps=bitmaps))
        sum(losses.values()).backward()
        found.append((losses, {name: value.grad for name, value in head.named_parameters()}))
    (expected, expected_gradients), (losses, gradients) = found
    torch.testing.assert_close(losses, expected)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-3, atol=1e-5)
    assert all(gradient is not None for gradient in gradients.values())


def test_mask2former_learns_masks_in_float16_too(mask2former, monkeypatch):
    _, head = mask2former[0]
    monkeypatch.setattr(head, 'num_points', 12544)  # of six cells, more than float16 can count
    losses = []
    for enabled in (False, True):
        torch.manual_seed(3)
        with torch.no_grad(), torch.autocast('cpu', torch.float16, enabled=enabled):
            losses.append(head.loss(features(1), samples(6)))
    assert losses[0]['loss_mask'] > 1
    torch.testing.assert_close(losses[1], losses[0], rtol=0.05, atol=0.01, check_dtype=False)


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(1, 6), st.sampled_from([2, 6]))
def test_points_near_cells_lie_evenly_in_their_enlarged_boxes_and_on_the_cells_too(seed, count, times):
    torch.manual_seed(seed)
    masks = tiny_scene(count, SIZE)[1]
    owners = torch.arange(count).repeat_interleave(4000)
    points = near(masks, owners, times)
    assert ((points >= 0) & (points <= 1)).all()
    places = points.view(count, 4000, 2) * torch.tensor(SIZE[::-1])
    for (x, y, w, h), around in zip(masks.boxes, places, strict=True):
        for start, side, end, along in ((x, w, SIZE[1], around[:, 0]), (y, h, SIZE[0], around[:, 1])):
            low = max(start - (times - 1) / 2 * side, 0)
            high = min(start + (times + 1) / 2 * side, end)
            assert ((along >= low - 1e-3) & (along <= high + 1e-3)).all()
            quarters = torch.histc(along, 4, low, high)
            assert quarters.min() > 800  # of 4,000, and 1,000 expected
    inside = values_at(masks, points.view(count, 4000, 2), torch.arange(count))
    assert (inside > 0.5).float().mean(1).min() > 0.05 * (2 / times)**2


def test_more_cells_than_queries_are_learnt_in_part(mask2former):
    _, head = mask2former[0]
    scene = samples(6)[0]
    truth = scene.gt_instances
    scene.gt_instances = type(truth).cat([truth[[0]] for _ in range(QUERIES + 5)])
    losses = head.loss(features(1), [scene])
    assert all(torch.isfinite(value) for value in losses.values())


@pytest.mark.parametrize('rescale', [False, True])
def test_mask2formers_predictions_are_mmdetections(mask2former, monkeypatch, rescale):
    monkeypatch.setattr(chunking, '_VALUES', 2**15)
    found = []
    for head, fusion in zip(*mask2former, strict=True):
        scenes = samples(3, 3)
        for scene in scenes:
            scene.set_metainfo(dict(img_shape=(60, 90), ori_shape=(40, 60)))
        with torch.no_grad():
            found.append(fusion.predict(*head.predict(features(2), scenes), scenes, rescale=rescale))
    for stock, ours in zip(*found, strict=True):
        stock, ours = stock['ins_results'], ours['ins_results']
        assert len(ours) == 50
        assert isinstance(ours.masks, LocalMasks)
        assert (ours.masks.height, ours.masks.width) == ((40, 60) if rescale else (60, 90))
        assert ours.masks.areas.any()
        assert np.array_equal(stock.masks.numpy(), ours.masks.to_ndarray())
        assert torch.equal(stock.labels, ours.labels)
        assert torch.equal(stock.bboxes, ours.bboxes)
        torch.testing.assert_close(stock.scores, ours.scores)


def test_mask2former_finds_no_more_than_its_queries_and_classes_allow():
    _, model, _ = build('cell_mask2former_lite', max_dets=1000, **{'model.panoptic_head.num_queries': 3})
    found, = predict(model, batch(tiny_scene(3, SIZE)))
    assert len(found) == 3 * 4


@pytest.fixture(scope='module')
def queryinst():
    return build('cell_queryinst_lite', **{'model.rpn_head.num_proposals': 20, 'model.tiles': None})[1]


def losses_of(model, *scenes, bitmaps=False):
    data = model.data_preprocessor(batch(*scenes), training=True)
    for sample in data['data_samples'] if bitmaps else []:
        masks = sample.gt_instances.masks
        sample.gt_instances.masks = BitmapMasks(masks.to_ndarray(), masks.height, masks.width)
    return model.train().loss(data['inputs'], data['data_samples'])


def test_queryinst_keeps_its_best_cells(queryinst, monkeypatch):
    found = {}
    for limit in (20, 100, 5):
        monkeypatch.setattr(queryinst.roi_head, 'max_per_img', limit)
        found[limit], = predict(queryinst, batch(tiny_scene(3, SIZE)))
        assert len(found[limit]) == len(found[limit].masks) == min(limit, 20)
        assert (found[limit].scores.diff() <= 0).all()
        assert torch.equal(found[limit].scores, found[20].scores[:limit])


def test_queryinst_learns_local_masks_as_it_learns_canvases(queryinst):
    found = [losses_of(queryinst, tiny_scene(6, SIZE), tiny_scene(0, SIZE), bitmaps=each) for each in (False, True)]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize('name', ['queryinst', 'mask2former'])
def test_all_parameters_take_part_where_there_is_no_cell(name, request):
    if name == 'queryinst':
        model = request.getfixturevalue(name)
        losses = losses_of(model, tiny_scene(0, SIZE))
    else:
        (_, model), _ = request.getfixturevalue(name)
        losses = model.loss(features(1), samples(0))
    model.zero_grad()
    sum(value.sum() for key, value in losses.items() if 'loss' in key).backward()
    gradients = {key: value.grad for key, value in model.named_parameters() if value.requires_grad}
    assert not [key for key, value in gradients.items() if value is None]
    assert all(value.isfinite().all() for value in gradients.values())


def test_proposals_begin_as_a_grid_that_covers_the_image():
    head = MODELS.build(dict(type='GridProposals', num_proposals=30, proposal_feature_channel=8))
    head.init_weights()
    proposals, = head.predict([torch.zeros(1, 8, 4, 4)], samples(0))
    left, top, right, bottom = proposals.bboxes.detach().T[..., None]
    x, y = torch.arange(0.5, SIZE[1]), torch.arange(0.5, SIZE[0])[:, None, None]
    inside = ((left < x) & (x < right))[None] & ((top[None] < y) & (y < bottom[None]))
    assert inside.any(1).all()
    assert len(proposals.bboxes.unique(dim=0)) == 30
