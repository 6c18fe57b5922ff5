import pickle

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from cellseg_mm.models.detectors import cell_detectors
from cellseg_mm.models.detectors.cell_detectors import CellDetector
from cellseg_mm.structures.local_masks import LocalMasks
from tests.conftest import TINY_CONFIG

NAMES = [name for name in vars(cell_detectors) if name.startswith('Cell') and name != 'CellDetector']
FEATURES = torch.Generator().manual_seed(0)
IMAGES = 50 * torch.randn(1, 3, 64, 96, generator=FEATURES)


@pytest.fixture(scope='module')
def config():
    from cellseg_mm import register  # noqa: F401
    init_default_scope('mmdet')
    config = Config.fromfile(TINY_CONFIG).model
    config.type = 'CellMaskRCNN'
    config.roi_head.mask_head.type = 'FCNMaskHead'  # MMDetection's own: canvas masks come out of it
    config.test_cfg.rcnn.score_thr = 0.0
    return config


def build(config, **options):
    torch.manual_seed(0)
    model = MODELS.build({**config, **options})
    return model.eval()


@pytest.fixture(scope='module')
def model(config):
    return build(config, cpu_bf16=False)


def sample():
    return DetDataSample(metainfo=dict(
        img_shape=(64, 96), ori_shape=(32, 48), scale_factor=(2.0, 2.0), batch_input_shape=(64, 96), img_id=1))


def predict(model):
    with torch.no_grad():
        return model.predict(IMAGES, [sample()])[0].pred_instances


def stock_features(model, images=IMAGES):
    with torch.no_grad():
        return super(CellDetector, model).extract_feat(images)


def features(model, images=IMAGES):
    with torch.no_grad():
        return model.extract_feat(images)


def dtypes_within(model):
    """The dtypes that come out of the backbone while features are computed."""
    seen = []
    handle = model.backbone.register_forward_hook(lambda *args: seen.extend(map_.dtype for map_ in args[-1]))
    features(model)
    handle.remove()
    return set(seen)


@pytest.mark.parametrize('name', NAMES)
def test_every_detector_is_registered_importable_and_picklable(name):
    cls = MODELS.get(name)
    assert pickle.loads(pickle.dumps(cls)) is cls is getattr(cell_detectors, name)
    assert issubclass(cls, MODELS.get(f'mmdet.{name.removeprefix("Cell")}'))


def test_all_of_mmdetections_models_of_instance_masks_are_there():
    assert {'CellMaskRCNN', 'CellCascadeRCNN', 'CellHybridTaskCascade', 'CellMaskScoringRCNN', 'CellPointRend',
            'CellQueryInst', 'CellSCNet', 'CellSOLO', 'CellSOLOv2', 'CellCondInst', 'CellYOLACT', 'CellRTMDet',
            'CellMask2Former'} <= set(NAMES)


def test_canvas_masks_become_local_without_a_pixel_of_difference(model):
    canvases = torch.rand(7, 32, 48, generator=FEATURES) > 0.9
    canvases[3] = False
    results = InstanceData(masks=canvases.clone(), scores=torch.rand(7), bboxes=torch.zeros(7, 4))
    predicted = model.add_pred_to_datasample([sample()], [results])[0].pred_instances
    assert isinstance(predicted.masks, LocalMasks)
    assert np.array_equal(predicted.masks.to_ndarray(), canvases.numpy())


def test_no_detection_gives_no_masks_on_the_canvas_of_the_image(model):
    results = InstanceData(masks=torch.zeros(0, 32, 48, dtype=torch.bool), scores=torch.zeros(0))
    masks = model.add_pred_to_datasample([sample()], [results])[0].pred_instances.masks
    assert (len(masks), masks.height, masks.width) == (0, 32, 48)


def test_local_masks_and_boxes_alone_pass_through(model):
    local = LocalMasks.empty(32, 48)
    results = [InstanceData(masks=local, scores=torch.zeros(0)), InstanceData(scores=torch.zeros(3))]
    with_masks, without = model.add_pred_to_datasample([sample(), sample()], results)
    assert with_masks.pred_instances.masks is local
    assert 'masks' not in without.pred_instances


def test_results_of_a_panoptic_fusion_become_local():
    detector = cell_detectors.CellMask2Former.__new__(cell_detectors.CellMask2Former)
    canvases = torch.zeros(2, 32, 48, dtype=torch.bool)
    canvases[1, 4:8, 5:9] = True
    samples = detector.add_pred_to_datasample(
        [sample(), sample()], [dict(ins_results=InstanceData(masks=canvases)), dict()])
    assert samples[0].pred_instances.masks.boxes.tolist() == [[0, 0, 0, 0], [5, 4, 4, 4]]
    assert 'pred_instances' not in samples[1]


def test_features_and_predictions_are_those_of_the_stock_detector(model, config, monkeypatch):
    stock = build({key: value for key, value in config.items() if key != 'type'}, type='MaskRCNN')
    stock.load_state_dict(model.state_dict())
    for ours, theirs in zip(features(model), features(stock), strict=True):
        assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()
    # Of the very same features: NMS may turn on the last bit.
    monkeypatch.setattr(model, 'extract_feat', stock.extract_feat)
    ours, theirs = predict(model), predict(stock)
    assert isinstance(ours.masks, LocalMasks)
    assert len(ours) == len(theirs) > 0
    torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-5, atol=1e-6)
    assert (ours.masks.to_ndarray() != theirs.masks.numpy()).mean() < 1e-3
    assert pickle.loads(pickle.dumps(ours)).masks.to_rles() == ours.masks.to_rles()


def test_bf16_is_used_where_the_key_or_the_processor_says_so(config, monkeypatch):
    assert dtypes_within(build(config, cpu_bf16=True)) == {torch.bfloat16}
    assert dtypes_within(build(config, cpu_bf16=False)) == {torch.float32}
    for has, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda has=has: dict(amx_bf16=has))
        assert dtypes_within(build(config)) == {dtype}


def test_features_leave_in_float32_near_those_without_bf16(config):
    model = build(config, cpu_bf16=True)
    for ours, stock in zip(features(model), stock_features(model), strict=True):
        assert ours.dtype == torch.float32
        assert 0 < (ours - stock).norm() < 0.05 * stock.norm()


def test_training_computes_what_stock_does(config):
    model = build(config, cpu_bf16=True).train()
    for ours, stock in zip(model.extract_feat(IMAGES), super(CellDetector, model).extract_feat(IMAGES), strict=True):
        assert torch.equal(ours, stock)
        assert ours.stride() == stock.stride()


def test_an_autocast_of_the_callers_is_left_alone(model):
    with torch.autocast('cpu', torch.bfloat16):
        assert all(torch.equal(ours, stock) and ours.dtype == torch.bfloat16
                   for ours, stock in zip(features(model), stock_features(model), strict=True))


def test_other_devices_are_left_alone(config):
    model = build(config, cpu_bf16=True).to('meta')
    with torch.autocast('cuda', torch.bfloat16, enabled=False):
        assert all(map_.dtype == torch.float32 and map_.is_contiguous()
                   for map_ in features(model, IMAGES.to('meta')))


@pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no CUDA device')
def test_cuda_autocast_decides_alone_on_cuda(config):
    model = build(config, cpu_bf16=True).cuda()
    assert features(model, IMAGES.cuda())[0].dtype == torch.float32
    with torch.autocast('cuda', torch.float16):
        assert features(model, IMAGES.cuda())[0].dtype == torch.float16


def test_predicting_leaves_the_weights_as_they_are(config):
    model = build(config, cpu_bf16=True)
    before = {name: (value.clone(), value.stride()) for name, value in model.state_dict().items()}
    predict(model)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) and after[name].dtype == value.dtype and after[name].stride() == stride
               for name, (value, stride) in before.items())


def test_predictions_in_bf16_are_near_those_without(model, config):
    other = build(config, cpu_bf16=True)
    other.load_state_dict(model.state_dict())
    without, within = predict(model), predict(other)
    assert abs(len(without) - len(within)) < 0.2 * len(without)
    assert abs(without.scores.max() - within.scores.max()) < 0.02
