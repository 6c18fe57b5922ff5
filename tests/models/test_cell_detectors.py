import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from scipy.ndimage import label
from torch.nn.functional import pad

from cellseg_mm.errors import UserError
from cellseg_mm.models.detectors import cell_detectors
from cellseg_mm.models.detectors.cell_detectors import CellDetector
from cellseg_mm.structures.local_masks import LocalMasks
from cellseg_mm.structures.overlaps import intersections
from tests.conftest import TINY_CONFIG

NAMES = [f'Cell{name}' for name in cell_detectors._NAMES]
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


class Discs(torch.nn.Module):
    """Finds bright discs, as a detector whose predictions are right would, and keeps what it was shown."""

    def predict(self, batch_inputs, batch_data_samples, rescale=True):  # noqa: ARG002
        for inputs, sample in zip(batch_inputs, batch_data_samples, strict=True):
            self.shown.append(tuple(inputs.shape))
            seen = inputs[0, :sample.img_shape[0], :sample.img_shape[1]]
            assert not inputs.sum() - 3 * seen.sum()  # what lies beyond is padding
            original = torch.nn.functional.interpolate(seen[None, None], sample.ori_shape, mode='nearest')[0, 0]
            masks = LocalMasks.from_label_map(label(original.numpy() > 0)[0])
            sample.pred_instances = InstanceData(
                masks=masks, labels=torch.arange(len(masks)) % 3, bboxes=masks.get_bboxes('hbox').tensor,
                scores=torch.from_numpy(masks.areas / 1000))
        return batch_data_samples


class TiledDiscs(CellDetector, Discs):
    """`Discs` as detectors of this project are made."""


@given(seed=st.integers(0, 10**6), height=st.integers(20, 150), width=st.integers(20, 150),
       factor=st.sampled_from([1.0, 2.0]))
@settings(deadline=None, max_examples=30)
def test_tiles_are_of_one_size_and_find_each_cell_of_the_image_once(seed, height, width, factor):
    image, masks = discs(seed, height, width)
    seen = tuple(round(side * factor) for side in (height, width))
    inputs = torch.nn.functional.interpolate(torch.from_numpy(image)[None, None].float(), seen, mode='nearest')[0]
    inputs = pad(inputs.repeat(3, 1, 1), (0, 32, 0, 7))
    detector = TiledDiscs(tiles=dict(size=64, overlap=28, max_per_tile=1000, max_per_img=1000), cpu_bf16=False)
    detector.shown = []
    sample = DetDataSample(metainfo=dict(img_shape=seen, ori_shape=(height, width), batch_input_shape=inputs.shape[1:],
                                         scale_factor=(seen[1] / width, seen[0] / height)))
    found = detector.predict(inputs[None], [sample])[0].pred_instances
    assert set(detector.shown) == {(3, 64, 64)}
    assert sorted(rle['counts'] for rle in found.masks.to_rles()) == sorted(rle['counts'] for rle in masks.to_rles())
    assert len(found.masks) == len(found.labels) == len(found.scores) == len(found.bboxes)
    assert (found.masks.height, found.masks.width) == (height, width)
    assert torch.equal(found.bboxes, found.masks.get_bboxes('hbox').tensor)
    assert (found.scores.diff() <= 0).all()


def discs(seed, height, width):
    """An image of discs that do not touch, and their masks."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    image, masks = np.zeros((height, width), bool), []
    for _ in range(40):
        squared = (rows - rng.integers(height))**2 + (columns - rng.integers(width))**2
        radius = rng.integers(1, 6)
        if not (image & (squared <= (radius + 2)**2)).any():
            masks.append(squared <= radius**2)
            image |= masks[-1]
    return image, LocalMasks.from_bitmaps(np.array(masks))


def test_of_many_predictions_in_tiles_the_surest_are_left():
    image, masks = discs(0, 140, 140)
    detector = TiledDiscs(tiles=dict(size=64, overlap=20, max_per_tile=1000, max_per_img=5), cpu_bf16=False)
    detector.shown = []
    inputs = torch.from_numpy(image).float().repeat(3, 1, 1)
    sample = DetDataSample(metainfo=dict(img_shape=(140, 140), ori_shape=(140, 140), scale_factor=(1.0, 1.0)))
    found = detector.predict(inputs[None], [sample])[0].pred_instances
    assert found.masks.areas.tolist() == sorted(masks.areas.tolist())[:-6:-1]


def test_an_image_without_cells_has_none_in_its_tiles():
    detector = TiledDiscs(tiles=dict(size=64, overlap=20, max_per_tile=1000, max_per_img=5), cpu_bf16=False)
    detector.shown = []
    sample = DetDataSample(metainfo=dict(img_shape=(140, 100), ori_shape=(70, 50), scale_factor=(2.0, 2.0)))
    found = detector.predict(torch.zeros(1, 3, 160, 128), [sample])[0].pred_instances
    assert len(found) == 0
    assert (found.masks.height, found.masks.width) == (70, 50)


@pytest.mark.parametrize('rescale', [True, False])
@pytest.mark.parametrize('factors', [(1.3, 1.3), (0.8, 0.8), (2.0, 1.0), (0.7, 1.9)])
def test_tiles_fit_inputs_of_any_scale(factors, rescale):
    image, masks = discs(5, 130, 170)
    seen = tuple(round(side * factor) for side, factor in zip((130, 170), factors, strict=True))
    inputs = torch.nn.functional.interpolate(torch.from_numpy(image)[None, None].float(), seen, mode='nearest')[0]
    detector = TiledDiscs(tiles=dict(size=64, overlap=28, max_per_tile=1000, max_per_img=1000), cpu_bf16=False)
    detector.shown = []
    sample = DetDataSample(metainfo=dict(img_shape=seen, ori_shape=(130, 170), scale_factor=factors[::-1]))
    found = detector.predict(inputs.repeat(1, 3, 1, 1), [sample], rescale)[0].pred_instances
    assert set(detector.shown) == {(3, 64, 64)}
    if not rescale:
        assert (found.masks.height, found.masks.width) == seen
        masks = masks.resize(seen)
    large = masks[masks.areas > 30]
    i, j, shared = intersections(large, found.masks)
    same = shared > 0.5 * (large.areas[i] + found.masks.areas[j] - shared)
    assert np.bincount(i[same], minlength=len(large)).tolist() == [1] * len(large) != []


def test_the_loss_of_an_image_is_that_of_its_tiles(config):
    model = build(config, tiles=dict(size=64, overlap=32, max_per_tile=1000, max_per_img=10)).train()
    whole = sample()
    masks = LocalMasks.from_bitmaps(np.stack([np.pad(np.ones((12, 14)), ((5, 47), (x, 82 - x))) for x in (3, 45, 80)]))
    boxes = masks.get_bboxes('hbox').tensor
    whole.gt_instances = InstanceData(masks=masks, labels=torch.tensor([0, 1, 2]), bboxes=boxes)
    whole.ignored_instances = whole.gt_instances[:0]
    shown = []
    model.backbone.register_forward_hook(lambda *args: shown.append(args[1][0]))
    calls = []
    stock_loss = model.roi_head.loss
    model.roi_head.loss = lambda x, proposals, samples: calls.append(samples) or stock_loss(x, proposals, samples)
    model.loss(IMAGES, [whole])
    assert torch.equal(shown[0], torch.stack([IMAGES[0, :, :, :64], IMAGES[0, :, :, 32:]]))
    for number, (part, cells) in enumerate(zip(calls[0], ([0, 1], [1, 2]), strict=True)):
        expected = masks[cells].crop(np.array([32 * number, 0, 64 + 32 * number, 64]))
        assert part.gt_instances.masks.to_rles() == expected.to_rles()
        assert part.gt_instances.labels.tolist() == cells
        assert torch.equal(part.gt_instances.bboxes, expected.get_bboxes('hbox').tensor)
        assert part.img_shape == part.batch_input_shape == (64, 64)
        assert len(part.ignored_instances) == 0


def test_an_image_smaller_than_a_tile_is_learnt_from_in_a_padded_square(config):
    model = build(config, tiles=dict(size=128, overlap=32, max_per_tile=1000, max_per_img=10)).train()
    whole = sample()
    masks = LocalMasks.from_bitmaps(np.pad(np.ones((1, 12, 14)), ((0, 0), (5, 47), (3, 79))))
    whole.gt_instances = InstanceData(masks=masks, labels=torch.tensor([0]), bboxes=masks.get_bboxes('hbox').tensor)
    whole.ignored_instances = whole.gt_instances[:0]
    shown = []
    model.backbone.register_forward_hook(lambda *args: shown.append(args[1][0]))
    losses = model.loss(IMAGES, [whole])
    assert torch.equal(shown[0], pad(IMAGES, (0, 32, 0, 64)))
    assert all(torch.isfinite(torch.as_tensor(value)).all() for value in losses.values() if not isinstance(value, list))


@pytest.mark.parametrize(('tiles', 'problem'), [
    (dict(size=64, overlap=64, max_per_tile=1000, max_per_img=5), 'tiles of 64 pixels cannot overlap by 64'),
    (dict(size=70, overlap=6, max_per_tile=1000, max_per_img=5), 'tiles of 70 pixels are no multiple of 32'),
    (dict(size=64, overlap=6, max_per_tile=9), 'max_per_img'),
    (dict(size=64, overlaps=6, max_per_tile=1000, max_per_img=5), 'overlaps'),
])
def test_tiles_that_cannot_be_are_refused_before_any_image_is_read(tiles, problem, config):
    with pytest.raises((UserError, TypeError), match=problem):
        build(config, tiles=tiles)
