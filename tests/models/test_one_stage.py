"""SOLOv2, CondInst and YOLACT give what MMDetection's give, in a fraction of the memory."""
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmcv import imrescale
from mmengine.config import ConfigDict
from torch.utils._python_dispatch import TorchDispatchMode

import cellseg_mm.register  # noqa: F401
from cellseg_mm.datasets.synthetic import make_cells_image
from cellseg_mm.models import chunks as chunks_module
from cellseg_mm.models.chunks import chunked_sum, chunks, some
from cellseg_mm.models.dense_heads.coarse_masks import averaged, centres, sampled
from cellseg_mm.structures.local_masks import LocalMasks

from mmdet.models.utils.misc import center_of_mass  # isort: skip (after cellseg_mm)
from mmdet.registry import MODELS, TASK_UTILS  # isort: skip (after cellseg_mm)
from mmdet.structures import DetDataSample  # isort: skip (after cellseg_mm)
from mmdet.structures.mask import BitmapMasks  # isort: skip (after cellseg_mm)
from mmdet.utils import register_all_modules  # isort: skip (after cellseg_mm)
from mmengine.structures import InstanceData  # isort: skip (after cellseg_mm)

NORM = dict(type='GN', num_groups=4)
SOLO_TEST = dict(nms_pre=200, score_thr=0.1, mask_thr=0.5, filter_thr=0.05, kernel='gaussian', sigma=2.0,
                 max_per_img=100)
HEADS = {  # the strides of the features, and the heads
    'solov2': ([4, 8], dict(
        mask_head=dict(
            type='SOLOV2Head', num_classes=3, in_channels=16, feat_channels=16, stacked_convs=1, strides=[2, 4],
            scale_ranges=((1, 24), (16, 256)), num_grids=[16, 8], norm_cfg=NORM, test_cfg=SOLO_TEST,
            loss_mask=dict(type='DiceLoss', use_sigmoid=True, loss_weight=3.0),
            mask_feature_head=dict(feat_channels=16, start_level=0, end_level=1, out_channels=16, mask_stride=4,
                                   norm_cfg=NORM)))),
    'condinst': ([8, 16], dict(
        bbox_head=dict(
            type='CondInstBboxHead', num_params=169, num_classes=3, in_channels=16, feat_channels=16, stacked_convs=1,
            strides=[8, 16], regress_ranges=((-1, 24), (24, 1e8)), norm_on_bbox=True, centerness_on_reg=True,
            center_sampling=True, conv_bias=True, norm_cfg=NORM, loss_bbox=dict(type='GIoULoss'),
            test_cfg=dict(nms_pre=200, min_bbox_size=0, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.6),
                          max_per_img=60)),
        mask_head=dict(
            type='CondInstMaskHead', max_masks_to_train=300, test_cfg=dict(mask_thr=0.5),
            mask_feature_head=dict(in_channels=16, feat_channels=16, start_level=0, end_level=1, out_channels=8,
                                   mask_stride=8, num_stacked_convs=1, norm_cfg=NORM),
            loss_mask=dict(type='DiceLoss', use_sigmoid=True, eps=5e-6)))),
    'yolact': ([8, 16], dict(
        bbox_head=dict(
            type='YOLACTHead', num_classes=3, in_channels=16, feat_channels=16, num_protos=8,
            anchor_generator=dict(type='AnchorGenerator', octave_base_scale=3, scales_per_octave=1,
                                  ratios=[0.5, 1.0, 2.0], strides=[8, 16]),
            train_cfg=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0.,
                                         ignore_iof_thr=-1, gt_max_assign_all=False),
                           sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1, neg_pos_ratio=3),
            test_cfg=dict(nms_pre=200, score_thr=0.05, iou_thr=0.5, top_k=100, max_per_img=60)),
        mask_head=dict(
            type='YOLACTProtonet', num_classes=3, in_channels=16, num_protos=8, proto_channels=(16, None, 8),
            proto_kernel_sizes=(3, -2, 1), include_last_relu=False, max_masks_to_train=300, loss_mask_weight=6.125,
            test_cfg=dict(mask_thr=0.5, mask_thr_binary=0.5)))),
}
NAMES = list(HEADS)


@pytest.fixture(autouse=True, scope='module')
def _registered():
    register_all_modules()


def heads(name, spread=None, mask_options=(), **cell_options):
    """MMDetection's heads, with random weights of a spread, and ours of the same weights.

    `mask_options` are of both mask heads, `cell_options` of ours.
    """
    torch.manual_seed(0)
    pair = [{}, {}]
    for key, config in HEADS[name][1].items():
        config = ConfigDict(config, **dict(mask_options if key == 'mask_head' else ()))
        stock, ours = config.copy(), ConfigDict(config, type=f'Cell{config.type}')
        if key == 'mask_head':
            ours.update(cell_options)
        for group, each in zip(pair, (stock, ours), strict=True):
            group[key] = MODELS.build(each)
        pair[0][key].init_weights()
        if spread:
            for parameter in pair[0][key].parameters():
                torch.nn.init.normal_(parameter, std=spread)
        pair[1][key].load_state_dict(pair[0][key].state_dict())
    return pair


def scene(cells=30, height=128, width=160, seed=0):
    """Masks and labels of cells."""
    counts = {f'class{number}': cells // 3 for number in (1, 2, 3)} if cells else {}
    _, maps = make_cells_image(np.random.default_rng(seed), height, width, counts)
    masks = LocalMasks.cat([LocalMasks.empty(height, width), *map(LocalMasks.from_label_map, maps.values())])
    return masks, torch.arange(len(masks)) % 3


def samples(*scenes, local=True, factor=1):
    made = []
    for masks, labels in scenes:
        height, width = masks.height, masks.width
        sample = DetDataSample(metainfo=dict(
            img_shape=(height, width), ori_shape=(height // factor, width // factor), scale_factor=(factor, factor),
            batch_input_shape=(height, width), pad_shape=(height, width), img_id=0))
        sample.gt_instances = InstanceData(
            bboxes=masks.get_bboxes('hbox').tensor, labels=labels,
            masks=masks if local else BitmapMasks(masks.to_ndarray(), height, width))
        made.append(sample)
    return made


def features(name, count, height=128, width=160, gain=1):
    generator = torch.Generator().manual_seed(1)
    return [(gain * torch.randn(count, 16, height // stride, width // stride, generator=generator)).requires_grad_()
            for stride in HEADS[name][0]]


def losses_of(group, x, data):
    losses, positives = {}, None
    if 'bbox_head' in group:
        losses |= group['bbox_head'].loss(x, data)
        positives = group['bbox_head'].get_positive_infos()
    losses |= group['mask_head'].loss(x, data, positive_infos=positives)
    return {key: sum(value) if isinstance(value, list) else value for key, value in losses.items()}


def step(group, x, data):
    """Losses and gradients of heads and features."""
    torch.manual_seed(0)
    losses = losses_of(group, x, data)
    sum(losses.values()).sum().backward()
    gradients = {f'{key}.{name}': value.grad for key, head in group.items() for name, value in head.named_parameters()}
    return losses, gradients | {f'level {number}': level.grad for number, level in enumerate(x)}


def assert_steps_agree(stock, ours):
    assert stock[0].keys() == ours[0].keys()
    for key, value in stock[0].items():
        assert value > 0, key
        assert torch.allclose(value, ours[0][key], rtol=1e-5), key
    for key, gradient in stock[1].items():
        assert gradient.abs().max() > 0, key
        assert (gradient - ours[1][key]).abs().max() <= 2e-5 * gradient.abs().max() + 1e-9, key


@pytest.mark.parametrize('in_parts', [False, True])
@pytest.mark.parametrize('name', NAMES)
def test_losses_and_gradients_are_those_of_stock(name, in_parts, monkeypatch):
    if in_parts:
        monkeypatch.setattr(chunks_module, '_VALUES', 20_000)
    scenes = scene(), scene(15, seed=1)
    stock, ours = heads(name)
    assert_steps_agree(step(stock, features(name, 2), samples(*scenes, local=False)),
                       step(ours, features(name, 2), samples(*scenes)))


@pytest.mark.parametrize('name', NAMES)
def test_validation_losses_in_evaluation_mode_are_those_of_training(name):
    _, ours = heads(name)
    x, data = features(name, 2), samples(scene(), scene(15, seed=1))
    training = losses_of(ours, x, data)
    for head in ours.values():
        head.eval()
    torch.testing.assert_close(losses_of(ours, x, data), training)


@pytest.mark.parametrize('name', ['solov2', 'condinst'])
def test_an_image_without_cells_beside_one_with_changes_nothing_of_stocks_losses(name):
    scenes = scene(), scene(0)
    stock, ours = heads(name)
    assert_steps_agree(step(stock, features(name, 2), samples(*scenes, local=False)),
                       step(ours, features(name, 2), samples(*scenes)))


@pytest.mark.parametrize('name', ['condinst', 'yolact'])
def test_where_a_cap_bites_the_masks_that_stock_draws_are_drawn(name):
    scenes = scene(), scene(15, seed=1)
    stock, ours = heads(name, mask_options={'max_masks_to_train': 7})
    assert_steps_agree(step(stock, features(name, 2), samples(*scenes, local=False)),
                       step(ours, features(name, 2), samples(*scenes)))


def test_the_loss_of_solov2s_drawn_masks_is_that_of_all_on_average():
    _, ours = heads('solov2', max_masks_to_train=8)
    x, data = features('solov2', 1), samples(scene())
    drawn = [float(losses_of(ours, x, data)['loss_mask']) for _ in range(50)]
    ours['mask_head'].max_masks_to_train = 1000
    expected = float(losses_of(ours, x, data)['loss_mask'])
    assert np.std(drawn) > 0
    assert np.mean(drawn) == pytest.approx(expected, abs=4 * np.std(drawn) / 50**0.5)


@pytest.mark.parametrize('name', NAMES)
def test_no_cells_at_all_can_be_trained_on(name):
    _, ours = heads(name)
    losses, gradients = step(ours, features(name, 2), samples(scene(0), scene(0)))
    assert all(torch.isfinite(value) for value in losses.values())
    assert losses['loss_mask'] == 0
    # With several processes, each has to have a gradient for all.
    assert not [key for key, value in gradients.items() if value is None]
    assert all(value.isfinite().all() for value in gradients.values())


def test_an_image_without_cells_weighs_no_more_than_one_with_in_yolact():
    stock, ours = heads('yolact')
    without, some_cells = samples(scene(0)), samples(scene())
    x = features('yolact', 1)
    assert losses_of(stock, x, samples(scene(0), local=False))['loss_cls'] > 1000
    assert losses_of(ours, x, without)['loss_cls'] < 2 * losses_of(ours, x, some_cells)['loss_cls']


def predicted(group, x, data, rescale=True):
    with torch.no_grad():
        results = None
        for head in group.values():
            head.eval()
        if 'bbox_head' in group:
            results = group['bbox_head'].predict(x, data, rescale=False)
        return group['mask_head'].predict(x, data, rescale=rescale, results_list=results)


@pytest.mark.parametrize('in_parts', [False, True])
@pytest.mark.parametrize('name', NAMES)
def test_predictions_are_those_of_stock(name, in_parts, monkeypatch):
    if in_parts:
        monkeypatch.setattr(chunks_module, '_VALUES', 100_000)
    stock, ours = heads(name, spread=0.3)
    data = samples(scene(), factor=2)
    expected, = predicted(stock, features(name, 1), data)
    found, = predicted(ours, features(name, 1), data)
    assert len(expected) > 20
    assert len({tuple(mask.flatten().tolist()) for mask in expected.masks}) > 10
    assert torch.allclose(found.scores, expected.scores, rtol=1e-5)
    assert torch.equal(found.labels, expected.labels)
    assert isinstance(found.masks, LocalMasks)
    assert np.array_equal(found.masks.to_ndarray(), expected.masks.numpy())
    if name == 'solov2':  # MMDetection leaves the boxes empty
        assert torch.equal(found.bboxes, found.masks.get_bboxes('hbox').tensor)
    else:
        assert torch.allclose(found.bboxes, expected.bboxes, rtol=1e-5)


@pytest.mark.parametrize('rescale', [True, False])
@pytest.mark.parametrize('name', ['condinst', 'yolact'])
def test_masks_are_of_the_image_or_of_the_networks_input(name, rescale):
    _, ours = heads(name, spread=0.3)
    found, = predicted(ours, features(name, 1), samples(scene(), factor=2), rescale)
    assert len(found) > 20
    assert (found.masks.height, found.masks.width) == ((64, 80) if rescale else (128, 160))


@pytest.mark.parametrize('name', NAMES)
def test_an_image_in_which_nothing_is_found_has_no_masks_of_its_size(name):
    _, ours = heads(name)
    for head in ours.values():
        head.test_cfg.score_thr = 2.0
    found = predicted(ours, features(name, 2), samples(scene(), scene(), factor=2))
    for instances in found:
        assert len(instances.scores) == len(instances.bboxes) == len(instances.masks) == 0
        assert instances.labels.dtype == torch.int64
        assert (instances.masks.height, instances.masks.width) == (64, 80)


def test_yolacts_masks_keep_their_place_in_padded_inputs():
    _, ours = heads('yolact')
    meta = dict(img_shape=(96, 96), ori_shape=(96, 96), scale_factor=(1, 1), batch_input_shape=(128, 128))
    prototypes = torch.full((1, 32, 32, 1), -9.0)
    prototypes[:, :, :12] = 9
    results = InstanceData(bboxes=torch.tensor([[0.0, 0, 96, 96]]), scores=torch.ones(1), labels=torch.zeros(1),
                           coeffs=torch.ones(1, 1))
    found, = ours['mask_head'].predict_by_feat(prototypes, None, [results], [meta])
    assert found.masks.boxes.tolist() == [[0, 0, 48, 96]]


class LargestTensor(TorchDispatchMode):
    """How many values the largest tensor has that is made."""

    values = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **kwargs or {})
        for each in made if isinstance(made, tuple | list) else [made]:
            if isinstance(each, torch.Tensor):
                self.values = max(self.values, each.numel())
        return made


@pytest.mark.parametrize('name', NAMES)
def test_no_tensor_grows_with_cells_times_pixels(name, monkeypatch):
    limit = 2**20
    monkeypatch.setattr(chunks_module, '_VALUES', limit // 4)
    crowd = scene(120, 320, 320)
    x = features(name, 1, 320, 320)
    stock, ours = heads(name, spread=0.3)
    if name == 'yolact':
        ours['bbox_head'].assigner = TASK_UTILS.build(dict(
            ours['bbox_head'].train_cfg.assigner, type='LocalMaxIoUAssigner'))
    with LargestTensor() as largest:
        step(ours, x, samples(crowd))
    assert largest.values <= limit
    with LargestTensor() as largest:
        found, = predicted(ours, x, samples(crowd))
    assert len(found) > 50
    # Whether two masks are one is asked of all at once, at the stride of masks.
    assert largest.values <= max(limit, 200 * 80 * 80 if name == 'solov2' else 0)
    for use in (losses_of, predicted):
        with LargestTensor() as largest:
            use(stock, x, samples(crowd, local=False))
        assert largest.values > 4 * limit


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 4, 8]))
def test_coarse_masks_are_those_of_canvases(seed, stride):
    random = np.random.default_rng(seed)
    canvases = np.zeros((5, 8 * stride, 6 * stride), np.uint8)
    for canvas in canvases[1:]:
        x, y = random.integers(0, 5 * stride, 2)
        canvas[y:y + random.integers(1, 20), x:x + random.integers(1, 20)] = random.random() < 0.9
        canvas[random.random(canvas.shape) < 0.3] = 0
    masks = LocalMasks.from_bitmaps(canvases)
    opencv = [imrescale(canvas, 1 / stride) for canvas in canvases]
    assert np.array_equal(averaged(masks, stride, 2).to_ndarray(), opencv)
    smooth = torch.nn.functional.interpolate(torch.from_numpy(canvases)[None].float(), (8, 6), mode='bilinear')[0]
    assert np.array_equal(averaged(masks, stride, 3).to_ndarray(), (smooth > 0.5).numpy())
    assert np.array_equal(sampled(masks, stride).to_ndarray(), canvases[:, stride // 2::stride, stride // 2::stride])
    expected = torch.stack([torch.stack(center_of_mass(torch.from_numpy(canvas))[::-1]) for canvas in canvases])
    assert torch.equal(centres(masks), expected)


def test_sums_in_parts_are_sums_of_all_with_the_same_gradients(monkeypatch):
    values = torch.arange(10.0, requires_grad=True)
    whole = chunked_sum(lambda part: (part**2).sum(), 10, 1, values)
    expected, = torch.autograd.grad(whole, values)
    monkeypatch.setattr(chunks_module, '_VALUES', 3)
    assert [(part.start, part.stop) for part in chunks(10, 1)] == [(0, 3), (3, 6), (6, 9), (9, 10)]
    assert len(chunks(10, 100)) == 10
    assert chunks(0, 100) == []
    total = chunked_sum(lambda part: (part**2).sum(), 10, 1, values)
    assert total == whole
    assert torch.equal(torch.autograd.grad(total, values)[0], expected)


def test_some_are_all_or_as_many_as_are_allowed_each_once():
    assert some(5, 5).tolist() == some(5, -1).tolist() == [0, 1, 2, 3, 4]
    torch.manual_seed(0)
    drawn = [some(100, 10) for _ in range(100)]
    assert all(len(set(each.tolist())) == 10 for each in drawn)
    assert len(torch.cat(drawn).unique()) > 95
