"""The two-stage models: what their configs keep of MMDetection's, and that their heads do what MMDetection's do."""
import numpy as np
import pytest
import torch
from conftest import REPOSITORY

import cellseg_mm.register  # noqa: F401
from cellseg_mm.engine.config import load_config
from cellseg_mm.evaluation.submission import MAX_PARAMETERS
from cellseg_mm.models import chunks as chunking
from cellseg_mm.models.roi_heads import roi_heads
from cellseg_mm.structures.local_masks import LocalMasks

from mmdet.registry import MODELS  # isort: skip (after cellseg_mm)
from mmdet.structures import DetDataSample  # isort: skip (after cellseg_mm)
from mmdet.structures.mask import BitmapMasks  # isort: skip (after cellseg_mm)
from mmengine import Config  # isort: skip (after cellseg_mm)
from mmengine.structures import InstanceData  # isort: skip (after cellseg_mm)

CASCADES = ['cell_cascade', 'cell_htc', 'cell_scnet']
FULL = ['cell_maskrcnn_r101', 'cell_maskrcnn_x101', 'cell_maskrcnn_dcn', 'cell_msrcnn', 'cell_pointrend', *CASCADES]
HEADS = ['cell_maskrcnn', 'cell_msrcnn', 'cell_pointrend', *CASCADES]
LITE = [f'{name}_lite' for name in HEADS]
# The files of MMDetection that configure the same model.
STOCK = dict(
    cell_maskrcnn_r101='mask_rcnn/mask-rcnn_r101_fpn_1x_coco',
    cell_maskrcnn_x101='mask_rcnn/mask-rcnn_x101-32x4d_fpn_1x_coco',
    cell_maskrcnn_dcn='dcnv2/mask-rcnn_r50-mdconv-c3-c5_fpn_1x_coco',
    cell_msrcnn='ms_rcnn/ms-rcnn_r50_fpn_1x_coco',
    cell_pointrend='point_rend/point-rend_r50-caffe_fpn_ms-1x_coco',
    cell_cascade='cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco',
    cell_htc='htc/htc-without-semantic_r50_fpn_1x_coco',
    cell_scnet='scnet/scnet_r50_fpn_1x_coco')
HEIGHT, WIDTH = 128, 160


def config_of(name, **options):
    return load_config(REPOSITORY / f'configs/{name}.py', options)


def stock_model(name):
    return Config.fromstring(f"_base_ = 'mmdet::{STOCK[name]}.py'", '.py').model


def stock_type(name):
    return 'FCNMaskHead' if name == 'CellMaskHead' else name.removeprefix('Cell').removeprefix('Local')


def as_stock(node):
    """The same config with MMDetection's own class for each of ours."""
    if isinstance(node, dict):
        return {key: stock_type(value) if key == 'type' else as_stock(value) for key, value in node.items()}
    return [as_stock(item) for item in node] if isinstance(node, (list, tuple)) else node


def flat(node, prefix=''):
    if isinstance(node, (list, tuple)) and any(isinstance(item, dict) for item in node):
        node = {str(number): item for number, item in enumerate(node)}
    if not isinstance(node, dict):
        return {prefix: list(node) if isinstance(node, tuple) else node}
    return {key: value for name, item in node.items() for key, value in flat(item, f'{prefix}.{name}').items()}


@pytest.mark.parametrize('name', FULL)
def test_a_model_differs_from_mmdetections_only_where_cells_ask_for_it(name):
    ours, stock = (flat(as_stock(model)) for model in (config_of(name).model, stock_model(name)))
    different = {key for key in ours if key in stock and ours[key] != stock[key]}
    allowed = ('num_classes', '.rpn_head.anchor_generator.scales', '.loss_bbox.type', '.loss_bbox.beta',
               '.nms_pre', '.max_per_img')
    own = dict(
        cell_msrcnn=('.train_cfg.rcnn.mask_thr_binary', ), cell_htc=('.test_cfg.rcnn.score_thr', ),
        cell_scnet=('.test_cfg.rcnn.score_thr', ),
        cell_pointrend=('.test_cfg.rcnn.subdivision_steps', '.mean', '.std', '.bgr_to_rgb', '.requires_grad', '.style',
                        '.checkpoint'))
    assert not {key for key in different if not key.endswith(allowed + own.get(name, ()))}
    assert not {key for key in set(ours) - set(stock) if not key.endswith(('.match_low_quality', '.pad_mask'))}


@pytest.mark.parametrize('name', [*CASCADES, *(f'{name}_lite' for name in CASCADES)])
def test_each_stage_of_a_cascade_is_stricter_than_the_one_before(name):
    model = config_of(name).model
    assert [head.bbox_coder.target_stds for head in model.roi_head.bbox_head] == [
        [0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067]]
    for key in ('pos_iou_thr', 'neg_iou_thr', 'min_pos_iou'):
        assert [stage.assigner[key] for stage in model.train_cfg.rcnn] == [0.5, 0.6, 0.7]
    assert {stage.assigner.type for stage in model.train_cfg.rcnn} == {'LocalMaxIoUAssigner'}
    assert model.roi_head.stage_loss_weights == [1, 0.5, 0.25]


@pytest.mark.parametrize('name', [*FULL, *LITE])
def test_classes_and_max_dets_reach_every_part(name):
    config = config_of(name, classes='nucleus', max_dets=1234)
    settings = flat(config.model)
    assert {value for key, value in settings.items() if key.endswith('num_classes')} == {1}
    assert config.model.test_cfg.rcnn.max_per_img == 1234
    assert config.model.test_cfg.rpn.nms_pre == config.model.test_cfg.rpn.max_per_img == 2468
    assert config.model.test_cfg.rcnn.score_thr == 0.05
    assert config.model.rpn_head.anchor_generator.scales == ([4] if name.endswith('_lite') else [2])


@pytest.mark.parametrize('name', FULL)
def test_models_have_mmdetections_parameters_and_fewer_than_the_limit(name):
    with torch.device('meta'):
        ours, stock = (dict(MODELS.build(model).named_parameters())
                       for model in (config_of(name).model, stock_model(name)))
    assert ours.keys() == {key for key in stock if '.semantic_head.' not in key}
    assert sum(parameter.numel() for parameter in ours.values()) < MAX_PARAMETERS


def roi_head(name, stock=False):
    """The RoI head of a light model, some of its weights spread out, or MMDetection's of the same weights."""
    model = config_of(name).model
    settings = dict(model.roi_head, train_cfg=model.train_cfg.rcnn, test_cfg=model.test_cfg.rcnn)
    torch.manual_seed(0)
    head = MODELS.build(Config(as_stock(settings) if stock else settings)._cfg_dict)
    if stock:
        head.load_state_dict(roi_head(name).state_dict())
        return head
    head.init_weights()
    for key, parameter in head.named_parameters():
        if key.endswith(('logits.weight', 'fc_reg.weight')):
            torch.nn.init.normal_(parameter, std=0.05)
    return head


def discs():
    """25 cells of 7 to 19 pixels, some of which touch."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    labels = np.zeros((HEIGHT, WIDTH), np.int32)
    for number in range(25):
        row, column = 14 + number // 5 * 18, 14 + number % 5 * 18
        labels[np.hypot(rows - row, columns - column) < 3 + number % 7] = number + 1
    return LocalMasks.from_label_map(labels)


@pytest.fixture(scope='module')
def scene():
    """Features of two images, proposals for them, and their cells: 25 in the first one, none in the second."""
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(2, 128, -(-HEIGHT // stride), -(-WIDTH // stride), generator=generator)
                for stride in (4, 8, 16, 32, 64)]
    masks = discs()
    boxes = masks.get_bboxes().tensor
    near = (boxes.repeat(3, 1) + torch.randn(75, 4, generator=generator) * 2).clamp(0, HEIGHT)
    return features, near, (masks, torch.arange(25) % 4)


def samples(cells, stock=False):
    found = []
    for masks, labels in cells:
        sample = DetDataSample(metainfo=dict(
            img_shape=(HEIGHT, WIDTH), ori_shape=(HEIGHT // 2, WIDTH // 2), scale_factor=(2.0, 2.0)))
        boxes = masks.get_bboxes().tensor
        if stock:
            masks = BitmapMasks(masks.to_ndarray(), HEIGHT, WIDTH)
        sample.gt_instances = InstanceData(bboxes=boxes, labels=labels, masks=masks)
        found.append(sample)
    return found


def nothing():
    return LocalMasks.empty(HEIGHT, WIDTH), torch.zeros(0, dtype=torch.long)


def loss(head, features, proposals, data_samples):
    torch.manual_seed(0)
    return head.loss(features, [InstanceData(bboxes=proposals.clone()) for _ in data_samples], data_samples)


def predict(head, features, proposals, count=2):
    with torch.no_grad():
        return head.eval().predict(features, [InstanceData(bboxes=boxes.clone()) for boxes in proposals],
                                   samples([nothing()] * count), rescale=True)


def apart():
    """35 boxes that do not touch."""
    rows, columns = torch.meshgrid(torch.arange(5) * 24.0, torch.arange(7) * 22.0, indexing='ij')
    corners = torch.stack([columns, rows], -1).reshape(-1, 2)
    return torch.cat([corners, corners + 20], 1)


@pytest.fixture
def no_canvas(monkeypatch):
    """Whatever makes LocalMasks draw a canvas for each instance fails."""
    for name in ('to_ndarray', 'to_tensor', '__iter__'):
        monkeypatch.delattr(LocalMasks, name)


@pytest.mark.parametrize('name', LITE)
def test_a_roi_head_learns_from_local_masks_what_mmdetections_learns_from_canvases(name, scene, request):
    features, proposals, cells = scene
    expected = loss(roi_head(name, stock=True), features, proposals, samples([cells, cells], stock=True))
    request.getfixturevalue('no_canvas')
    found = loss(roi_head(name), features, proposals, samples([cells, cells]))
    assert found.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', LITE)
def test_a_roi_head_predicts_what_mmdetections_does(name, scene, monkeypatch):
    features, *_ = scene
    expected = predict(roi_head(name, stock=True), features, [apart(), apart()[:4]])
    monkeypatch.setattr(chunking, '_VALUES', 70 * roi_heads._VALUES)
    found = predict(roi_head(name), features, [apart(), apart()[:4]])
    assert len(found[0]) > 100
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs)
        torch.testing.assert_close(ours.bboxes, theirs.bboxes)
        torch.testing.assert_close(ours.scores.clamp(0), theirs.scores.clamp(0))
        assert torch.equal(ours.labels, theirs.labels)
        canvases = theirs.masks.numpy()
        assert (ours.masks.to_ndarray() != canvases).sum() <= 1e-3 * canvases.sum()
        assert canvases.any((1, 2)).mean() > 0.2


@pytest.mark.parametrize('name', LITE)
def test_a_roi_head_trains_and_predicts_in_half_precision(name, scene):
    features, proposals, cells = scene
    head = roi_head(name)
    with torch.autocast('cpu', torch.bfloat16):
        features = [feature.bfloat16() for feature in features]
        losses = loss(head, features, proposals, samples([cells, nothing()]))
        found = predict(head, features, [apart()[:9], apart()[:0]])
    assert all(torch.isfinite(value).all() for value in losses.values())
    assert len(found[0].masks) > 3


@pytest.mark.parametrize('name', LITE)
def test_a_batch_without_cells_gives_a_gradient_to_every_parameter(name, scene):
    features, proposals, _ = scene
    head = roi_head(name)
    losses = loss(head, features, proposals, samples([nothing(), nothing()]))
    total = sum(value for key, value in losses.items() if 'loss' in key)
    assert torch.isfinite(total)
    assert total > 0
    total.sum().backward()
    assert not [key for key, parameter in head.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize('name', LITE)
def test_images_without_proposals_give_no_detections(name, scene):
    features, proposals, _ = scene
    head = roi_head(name)
    none, some = predict(head, features, [proposals[:0], proposals[:10]])
    assert (len(none), none.masks.height, none.masks.width) == (0, HEIGHT // 2, WIDTH // 2)
    assert len(some.masks) == len(some) > 3
    assert [len(instances.masks) for instances in predict(head, features, [proposals[:0]] * 2)] == [0, 0]


def test_global_context_is_that_of_the_rois_image():
    stock, ours = roi_head('cell_scnet_lite', stock=True), roi_head('cell_scnet_lite')
    generator = torch.Generator().manual_seed(0)
    rois = torch.rand(9, 5, generator=generator)
    rois[:, 0] = torch.tensor([0, 0, 0, 0, 2, 2, 2, 2, 2])
    features, context = torch.randn(9, 8, 7, 7, generator=generator), torch.randn(3, 8, 1, 1, generator=generator)
    assert torch.equal(ours._fuse_glbctx(features, context, rois), stock._fuse_glbctx(features, context, rois))
    assert ours._fuse_glbctx(features[:0], context, rois[:0]).shape == (0, 8, 7, 7)


def test_pointrend_refines_some_detections_at_a_time(scene, monkeypatch):
    features, *_ = scene
    head = roi_head('cell_pointrend_lite')
    counts = []
    refine = head._mask_point_forward_test
    monkeypatch.setattr(head, '_mask_point_forward_test', lambda *args: counts.append(len(args[1])) or refine(*args))
    monkeypatch.setattr(chunking, '_VALUES', 30 * roi_heads._VALUES)
    found = predict(head, features, [apart(), apart()[:4]])
    assert max(counts) == 30 < len(found[0])
    assert sum(counts) == len(found[0]) + len(found[1])


def test_masks_of_scnet_start_undecided(scene):
    features, proposals, cells = scene
    torch.manual_seed(0)
    head = roi_head('cell_scnet_lite')
    head.mask_head.init_weights()
    found = loss(head, features, proposals, samples([cells, cells]))
    assert float(found['loss_mask']) == pytest.approx(1.75 * np.log(2), rel=0.1)


def test_pointrend_predicts_where_gradients_are_kept(scene):
    features, *_ = scene
    found, = roi_head('cell_pointrend_lite').eval().predict(
        [feature[:1].clone().requires_grad_() for feature in features],
        [InstanceData(bboxes=apart()[:9].requires_grad_() * 1)], samples([nothing()]), rescale=True)
    assert len(found.masks) > 9


def test_relayed_features_are_mmdetections():
    stock = MODELS.build(dict(type='FeatureRelayHead', in_channels=6, out_conv_channels=4))
    ours = MODELS.build(dict(type='CellFeatureRelayHead', in_channels=6, out_conv_channels=4))
    ours.load_state_dict(stock.state_dict())
    values = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours(values), stock(values))
    assert ours(values[:0]).shape == (0, *ours(values).shape[1:])
