import functools
import importlib.util
import inspect
import os
import subprocess
import sys
from pathlib import Path

import mmdet
import numpy as np
import ops_references as slow
import pytest
import torch
import torchvision  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch.autograd import gradcheck

import cellseg_mm

import mmcv.ops  # isort: skip (after cellseg_mm, which provides mmcv._ext)
from mmcv import _ext  # isort: skip
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction  # isort: skip
from mmdet.registry import MODELS  # isort: skip
from mmdet.structures import DetDataSample  # isort: skip
from mmdet.structures.mask import BitmapMasks  # isort: skip
from mmdet.utils import register_all_modules  # isort: skip

if not _ext.__file__.endswith('mmcv_ext.py'):
    pytest.skip('mmcv has its compiled ops here, so ours are not used', allow_module_level=True)

HALF = [torch.bfloat16, torch.float16]
ms_deform_attn = MultiScaleDeformableAttnFunction.apply


def random(*shape, seed=0, dtype=torch.float64, grad=True):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_(grad)


def random_boxes(count, seed=0, extent=100.0):
    generator = np.random.default_rng(seed)
    corner = generator.uniform(0, extent, (count, 2))
    return np.hstack([corner, corner + generator.uniform(2, extent / 3, (count, 2))]).astype(np.float32)


def random_rois(count, images, seed=0):
    boxes = torch.from_numpy(random_boxes(count, seed)) - 10
    return torch.cat([torch.arange(count)[:, None] % images, boxes], 1).double()


def assert_same_values_and_gradients(output, expected, inputs, tolerance=1e-9):
    torch.testing.assert_close(output, expected, rtol=tolerance, atol=tolerance)
    weights = random(*output.shape, seed=7, grad=False).to(output.dtype)
    for grad, expected_grad in zip(torch.autograd.grad(output, inputs, weights),
                                   torch.autograd.grad(expected, inputs, weights), strict=True):
        torch.testing.assert_close(grad, expected_grad, rtol=tolerance, atol=tolerance)


def python(code, *arguments):
    path = os.pathsep.join([str(Path(cellseg_mm.__file__).parents[1]), os.environ.get('PYTHONPATH', '')])
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code, *map(str, arguments)], text=True,
                          check=False, capture_output=True, env={**os.environ, 'PYTHONPATH': path})
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


# The module mmcv._ext

def test_importing_the_package_imports_no_torch_and_takes_no_time():
    seconds, heavy = python(
        'import sys, time; start = time.perf_counter(); import cellseg_mm; print(time.perf_counter() - start, '
        'any(name in sys.modules for name in ("torch", "torchvision", "numpy", "mmcv", "mmengine", "mmdet")))')
    assert heavy == 'False'
    assert float(seconds) < 0.5


def test_the_module_is_found_with_a_valid_spec_before_it_is_imported():
    name, origin, loaded = python(
        'import sys, importlib.util, cellseg_mm; spec = importlib.util.find_spec("mmcv._ext"); '
        'print(spec.name, spec.origin, "mmcv._ext" in sys.modules)')
    assert (name, loaded) == ('mmcv._ext', 'False')
    assert Path(origin).is_file()
    assert _ext.__spec__.name == 'mmcv._ext'


def test_only_that_one_module_name_is_found():
    finder = cellseg_mm.ops._Finder
    assert finder.find_spec('mmcv._ext') is not None
    assert finder.find_spec('mmcv._ext2') is None
    assert importlib.util.find_spec('mmcv.no_such_module') is None


def test_installing_twice_leaves_one_finder():
    cellseg_mm.ops.install()
    cellseg_mm.ops.install()
    assert sys.meta_path.count(cellseg_mm.ops._Finder) == 1


def test_a_compiled_ext_of_mmcvs_own_is_left_alone(tmp_path):
    (tmp_path / '_ext.py').write_text('nms = "compiled"')
    imported = python('import sys, cellseg_mm, mmcv; mmcv.__path__.append(sys.argv[1]); '
                      'from mmcv import _ext; print(_ext.nms, _ext.__file__)', tmp_path)
    assert imported == ['compiled', str(tmp_path / '_ext.py')]


def test_all_of_mmdetection_imports():
    for name in 'mmdet.models', 'mmdet.apis', 'mmdet.datasets', 'mmdet.engine', 'mmdet.evaluation':
        importlib.import_module(name)
    assert importlib.import_module('mmcv.utils.ext_loader').check_ops_exist()


def test_the_environment_report_of_mmcv_works():
    assert mmcv.utils.collect_env()['MMCV Compiler']


def test_an_uncovered_op_says_its_name_and_how_to_get_it():
    with pytest.raises(NotImplementedError, match=r"'carafe_forward'.*install mmcv with its compiled ops.*pip install"):
        mmcv.ops.carafe(torch.zeros(1, 4, 5, 5), torch.zeros(1, 9, 10, 10), 3, 1, 2)


def test_the_module_pretends_to_no_private_attribute():
    assert not hasattr(_ext, '__wrapped__')
    assert not hasattr(_ext, '_ipython_display_')
    assert inspect.unwrap(_ext) is _ext


@pytest.mark.parametrize('schema', [
    'nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
    """roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width,
       int sampling_ratio, bool aligned) -> Tensor""",
    """_roi_align_backward(Tensor grad, Tensor rois, float spatial_scale, int pooled_height, int pooled_width,
       int batch_size, int channels, int height, int width, int sampling_ratio, bool aligned) -> Tensor""",
    """_roi_pool_backward(Tensor grad, Tensor rois, Tensor argmax, float spatial_scale, int pooled_height,
       int pooled_width, int batch_size, int channels, int height, int width) -> Tensor""",
    """deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, int stride_h, int stride_w,
       int pad_h, int pad_w, int dilation_h, int dilation_w, int groups, int offset_groups, bool use_mask) -> Tensor""",
    """_deform_conv2d_backward(Tensor grad, Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias,
       int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w, int groups, int offset_groups,
       bool use_mask) -> (Tensor, Tensor, Tensor, Tensor, Tensor)""",
], ids=lambda schema: schema.split('(')[0])
def test_torchvisions_operators_have_the_schemas_we_call(schema):
    found = getattr(torch.ops.torchvision, schema.split('(')[0]).default._schema
    assert str(found).replace('SymInt', 'int') == 'torchvision::' + ' '.join(schema.split())


# Golden results of mmcv's compiled ops

@functools.cache
def golden_cases():
    path = Path(os.environ.get('CELLSEG_REAL_DATA', '/nonexistent'), 'mmcv_ops', 'golden.npz')
    if not path.is_file():
        pytest.skip('CELLSEG_REAL_DATA names no folder with mmcv_ops/golden.npz')
    cases = {}
    with np.load(path) as arrays:
        for key in arrays:
            case, name = key.split('/')
            array = arrays[key]
            cases.setdefault(case, {})[name] = torch.from_numpy(array) if array.ndim else array.item()
    return cases


def golden(prefix):
    cases = {name: dict(case) for name, case in golden_cases().items() if name.startswith(prefix)}
    assert cases
    return cases.items()


def assert_golden(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_golden_cases_are_all_of_a_tested_kind():
    kinds = 'nms_', 'soft_nms_', 'batched_nms_12000', 'roi_align_', 'deform_conv2d_', 'modulated_deform_conv2d_'
    assert all(name.startswith(kinds) for name in golden_cases())


def test_nms_keeps_what_compiled_mmcv_keeps():
    for _, case in golden('nms_'):
        dets, keep = mmcv.ops.nms(case['boxes'], case['scores'], case['iou_threshold'], offset=case['offset'])
        assert torch.equal(keep, case['keep'])
        assert_golden(dets, case['dets'])


def test_soft_nms_keeps_what_compiled_mmcv_keeps():
    for name, case in golden('soft_nms_'):
        dets, keep = mmcv.ops.soft_nms(case['boxes'], case['scores'], case['iou_threshold'], case['sigma'],
                                       case['min_score'], name.removeprefix('soft_nms_'))
        assert torch.equal(keep, case['keep'])
        assert_golden(dets, case['dets'])


def test_batched_nms_keeps_what_compiled_mmcv_keeps():
    for _, case in golden('batched_nms_'):
        dets, keep = mmcv.ops.batched_nms(case['boxes'], case['scores'], case['idxs'],
                                          {'type': 'nms', 'iou_threshold': case['iou_threshold']})
        assert torch.equal(keep, case['keep'])
        assert_golden(dets, case['dets'])


def test_roi_align_gives_the_values_and_gradients_of_compiled_mmcv():
    for name, case in golden('roi_align_'):
        mode, aligned, sampling_ratio = name.split('_')[2:]
        layer = mmcv.ops.RoIAlign(tuple(case['output'].shape[2:]), case['spatial_scale'], int(sampling_ratio), mode,
                                  aligned == '1')
        features = case['input'].requires_grad_()
        output = layer(features, case['rois'])
        assert_golden(output, case['output'])
        assert_golden(torch.autograd.grad(output, features, case['grad_output'])[0], case['grad_input'])


@pytest.mark.parametrize('kind', ['deform_conv2d', 'modulated_deform_conv2d'])
def test_deformable_convolutions_give_the_values_and_gradients_of_compiled_mmcv(kind):
    for name, case in golden(kind):
        groups, deform_groups, stride, dilation = map(int, name.split('_')[-4:])
        names = [part for part in ('input', 'offset', 'mask', 'weight', 'bias') if part in case]
        inputs = [case[part].requires_grad_() for part in names]
        # Kernel 3: the output's size tells the padding.
        padding = ((case['output'].shape[2] - 1) * stride + 2 * dilation + 1 - case['input'].shape[2] + 1) // 2
        output = getattr(mmcv.ops, kind)(*inputs, stride, padding, dilation, groups, deform_groups)
        assert_golden(output, case['output'])
        for part, grad in zip(names, torch.autograd.grad(output, inputs, case['grad_output']), strict=True):
            assert_golden(grad, case[f'grad_{part}'])


# Suppression

# Integer corners and few scores: IoUs equal to the threshold and equal scores are common.
small_boxes = st.lists(st.tuples(*[st.integers(0, 6)] * 2, *[st.integers(0, 5)] * 2, st.sampled_from([0.25, 0.5, 0.9])),
                       max_size=14)
thresholds = st.sampled_from([0.1, 0.3, 0.5, 0.6, 0.7])


def as_boxes(rows):
    rows = np.array(rows, np.float32).reshape(-1, 5)
    return np.hstack([rows[:, :2], rows[:, :2] + rows[:, 2:4]]), rows[:, 4]


@settings(deadline=None, max_examples=150)
@given(small_boxes, thresholds, st.sampled_from([0, 1]))
def test_nms_equals_the_slow_version_on_ties_and_empty_boxes(rows, iou_threshold, offset):
    boxes, scores = as_boxes(rows)
    dets, keep = mmcv.ops.nms(boxes, scores, iou_threshold, offset=offset)
    assert keep.tolist() == slow.nms(boxes, scores, iou_threshold, offset)
    assert np.array_equal(dets, np.hstack([boxes, scores[:, None]])[keep])


@pytest.mark.filterwarnings('error')
@settings(deadline=None, max_examples=150)
@given(small_boxes, thresholds, st.sampled_from([0, 1]), st.sampled_from(['naive', 'linear']),
       st.sampled_from([0.001, 0.25]))
def test_soft_nms_equals_the_slow_version_on_ties_and_empty_boxes(rows, iou_threshold, offset, method, min_score):
    boxes, scores = as_boxes(rows)
    dets, keep = mmcv.ops.soft_nms(boxes, scores, iou_threshold, 0.5, min_score, method, offset)
    expected, expected_scores = slow.soft_nms(boxes, scores, iou_threshold, 0.5, min_score, method, offset)
    assert keep.tolist() == expected
    assert dets[:, 4].tolist() == expected_scores
    assert np.array_equal(dets[:, :4], boxes[keep])


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
def test_soft_nms_equals_the_slow_version_on_crowded_boxes(method, offset):
    boxes, scores = random_boxes(60), np.random.default_rng(1).uniform(0.01, 1, 60).astype(np.float32)
    dets, keep = mmcv.ops.soft_nms(boxes, scores, 0.2, 0.3, 0.05, method, offset)
    expected, expected_scores = slow.soft_nms(boxes, scores, 0.2, 0.3, 0.05, method, offset)
    assert keep.tolist() == expected
    assert len(keep) < len(boxes)
    np.testing.assert_allclose(dets[:, 4], expected_scores, rtol=1e-5)


@pytest.mark.parametrize('split_thr', [10000, 10])
def test_batched_nms_lets_boxes_of_two_classes_overlap(split_thr):
    boxes, scores = random_boxes(50), np.random.default_rng(1).permutation(50).astype(np.float32)
    classes = np.arange(50) % 3
    expected = sorted((place for label in range(3) for place in np.flatnonzero(classes == label)[
        slow.nms(boxes[classes == label], scores[classes == label], 0.2)]), key=lambda place: -scores[place])
    dets, keep = mmcv.ops.batched_nms(*map(torch.from_numpy, (boxes, scores, classes)),
                                      {'type': 'nms', 'iou_threshold': 0.2, 'split_thr': split_thr})
    assert keep.tolist() == expected
    assert torch.equal(dets[:, :4], torch.from_numpy(boxes)[keep])


@pytest.mark.parametrize('dtype', HALF)
def test_nms_takes_half_types(dtype):
    boxes = torch.from_numpy(random_boxes(40)).to(dtype)
    scores = torch.arange(40).flip(0).to(dtype)
    _, keep = mmcv.ops.nms(boxes, scores, 0.3)
    assert keep.tolist() == slow.nms(boxes.float().numpy(), scores.tolist(), 0.3)


def test_suppressing_no_boxes_keeps_none():
    boxes, scores = torch.zeros(0, 4), torch.zeros(0)
    for dets, keep in (mmcv.ops.nms(boxes, scores, 0.5), mmcv.ops.nms(boxes, scores, 0.5, offset=1),
                       mmcv.ops.soft_nms(boxes, scores)):
        assert (dets.shape, keep.shape, keep.dtype) == ((0, 5), (0,), torch.int64)


# Pooling of regions

@pytest.mark.parametrize('sampling_ratio', [0, 1, 2])
@pytest.mark.parametrize('aligned', [False, True])
@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_roi_align_equals_the_slow_version(mode, aligned, sampling_ratio):
    features, rois = random(2, 3, 9, 11), random_rois(7, images=2)
    arguments = (2, 3), 0.13, sampling_ratio, mode, aligned
    assert_same_values_and_gradients(mmcv.ops.roi_align(features, rois, *arguments),
                                     slow.roi_align(features, rois, *arguments), features)


@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_roi_align_gives_the_same_whatever_fits_in_memory_at_once(mode, monkeypatch):
    features, rois = random(2, 3, 9, 11), random_rois(7, images=2)
    arguments = (2, 3), 0.13, 0, mode, True
    monkeypatch.setattr(_ext, '_MAX_SAMPLES', 100)
    assert_same_values_and_gradients(mmcv.ops.roi_align(features, rois, *arguments),
                                     slow.roi_align(features, rois, *arguments), features)


def test_roi_align_of_equal_maxima_sends_the_gradient_to_the_first():
    features = torch.zeros(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    roi_of_four_pixels = torch.tensor([[0, 0, 0, 2, 2]]).double()
    mmcv.ops.roi_align(features, roi_of_four_pixels, 1, 1.0, 2, 'max', True).sum().backward()
    assert features.grad[0, 0, 0, 0] == features.grad.sum() == 1


@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_roi_align_of_a_region_without_extent_is_zero(mode):
    features = random(1, 2, 5, 5)
    output = mmcv.ops.roi_align(features, torch.tensor([[0, 2.0, 2, 2, 2]]).double(), 2, 1.0, 0, mode, True)
    assert output.eq(0).all()
    assert torch.autograd.grad(output.sum(), features)[0].eq(0).all()


@pytest.mark.parametrize('spatial_scale', [0.13, 1.0])
def test_roi_pool_equals_the_slow_version(spatial_scale):
    features, rois = random(2, 3, 9, 11), random_rois(7, images=2)
    rois[6] = torch.tensor([1, 5, 5, 2, 2])
    arguments = (2, 3), spatial_scale
    assert_same_values_and_gradients(mmcv.ops.roi_pool(features, rois, *arguments),
                                     slow.roi_pool(features, rois, *arguments), features)


@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_roi_align_passes_gradcheck(mode):
    assert gradcheck(lambda features: mmcv.ops.roi_align(features, random_rois(3, images=2), 2, 0.13, 0, mode, True),
                     random(2, 1, 5, 4))


def test_roi_pool_passes_gradcheck():
    assert gradcheck(lambda features: mmcv.ops.roi_pool(features, random_rois(3, images=2), 2, 0.13),
                     random(2, 1, 5, 4))


@pytest.mark.parametrize('dtype', HALF)
@pytest.mark.parametrize('pool', [
    lambda features, rois: mmcv.ops.roi_align(features, rois, 2, 0.13, 0, 'avg', True),
    lambda features, rois: mmcv.ops.roi_align(features, rois, 2, 0.13, 0, 'max', True),
    lambda features, rois: mmcv.ops.roi_pool(features, rois, 2, 0.13)], ids=['average', 'maximum', 'roi_pool'])
def test_pooling_of_half_types_is_as_exact_as_their_last_rounding(pool, dtype):
    features, rois = random(2, 3, 9, 11, grad=False).to(dtype).requires_grad_(), random_rois(5, images=2).to(dtype)
    output, expected = pool(features, rois), pool(features.float(), rois.float())
    assert output.dtype == dtype
    assert torch.equal(output, expected.to(dtype))
    weights = random(*output.shape, seed=1, grad=False).to(dtype)
    grad = torch.autograd.grad(output, features, weights)[0]
    assert torch.equal(grad, torch.autograd.grad(expected, features, weights.float())[0])


@pytest.mark.parametrize('images', [0, 2])
@pytest.mark.parametrize('pool', [
    lambda features, rois: mmcv.ops.roi_align(features, rois, 7, 1.0, 0, 'avg', True),
    lambda features, rois: mmcv.ops.roi_align(features, rois, 7, 1.0, 0, 'max', True),
    lambda features, rois: mmcv.ops.roi_pool(features, rois, 7, 1.0)], ids=['average', 'maximum', 'roi_pool'])
def test_pooling_no_regions_gives_none_and_no_gradient(pool, images):
    features = random(images, 3, 8, 9, dtype=torch.float32)
    output = pool(features, torch.zeros(0, 5))
    assert output.shape == (0, 3, 7, 7)
    output.sum().backward()
    assert features.grad.eq(0).all()


# Deformable convolutions and attention

CONVOLUTIONS = pytest.mark.parametrize(('groups', 'deform_groups', 'stride', 'padding', 'dilation'), [
    (1, 1, 1, 1, 1), (2, 1, 1, 0, 1), (1, 2, 2, 1, 1), (2, 4, 1, 2, 2)])


def convolution(groups, deform_groups, stride, padding, dilation, images=2):
    rows, columns = ((extent + 2 * padding - 2 * dilation - 1) // stride + 1 for extent in (4, 5))
    return (random(images, 4, 4, 5), random(images, deform_groups * 18, rows, columns, seed=1),
            random(images, deform_groups * 9, rows, columns, seed=2), random(6, 4 // groups, 3, 3, seed=3),
            random(6, seed=4))


@CONVOLUTIONS
def test_deform_conv_equals_the_slow_version(groups, deform_groups, stride, padding, dilation):
    features, offset, _, weight, _ = convolution(groups, deform_groups, stride, padding, dilation)
    geometry = stride, padding, dilation, groups, deform_groups
    assert_same_values_and_gradients(mmcv.ops.deform_conv2d(features, offset, weight, *geometry),
                                     slow.deform_conv2d(features, offset, weight, None, None, *geometry),
                                     [features, offset, weight])


@pytest.mark.parametrize('with_bias', [False, True])
@CONVOLUTIONS
def test_modulated_deform_conv_equals_the_slow_version(groups, deform_groups, stride, padding, dilation, with_bias):
    features, offset, mask, weight, bias = convolution(groups, deform_groups, stride, padding, dilation)
    bias = bias if with_bias else None
    geometry = stride, padding, dilation, groups, deform_groups
    assert_same_values_and_gradients(
        mmcv.ops.modulated_deform_conv2d(features, offset, mask, weight, bias, *geometry),
        slow.deform_conv2d(features, offset, weight, mask, bias, *geometry),
        [features, offset, mask, weight, *[bias] * with_bias])


def test_deform_conv_in_steps_of_one_image_gives_the_same():
    features, offset, _, weight, _ = convolution(1, 1, 1, 1, 1, images=4)
    whole, steps = (mmcv.ops.deform_conv2d(features, offset, weight, 1, 1, 1, 1, 1, False, step) for step in (32, 1))
    assert_same_values_and_gradients(steps, whole, [features, offset, weight])


def test_deformable_convolutions_pass_gradcheck():
    features, weight, bias = random(1, 2, 3, 3), random(2, 2, 3, 3, seed=1), random(2, seed=2)
    offset, mask = random(1, 18, 3, 3, seed=3), random(1, 9, 3, 3, seed=4)
    assert gradcheck(lambda *inputs: mmcv.ops.deform_conv2d(*inputs, 1, 1), (features, offset, weight))
    assert gradcheck(lambda *inputs: mmcv.ops.modulated_deform_conv2d(*inputs, 1, 1),
                     (features, offset, mask, weight, bias))


def test_deformable_convolutions_take_kernels_and_steps_of_two_lengths():
    features, weight = random(1, 2, 7, 9), random(3, 2, 1, 3, seed=1)
    offset, mask = torch.zeros(1, 6, 4, 9).double(), torch.ones(1, 3, 4, 9).double()
    geometry = (2, 1), (0, 2), (1, 2)
    for output in (mmcv.ops.deform_conv2d(features, offset, weight, *geometry),
                   mmcv.ops.modulated_deform_conv2d(features, offset, mask, weight, None, *geometry)):
        expected = torch.nn.functional.conv2d(features, weight, None, *geometry)
        assert_same_values_and_gradients(output, expected, [features, weight])


@pytest.mark.parametrize('dtype', HALF)
def test_deformable_convolutions_take_half_types(dtype):
    tensors = [tensor.detach().to(dtype) for tensor in convolution(1, 1, 1, 1, 1)]
    features, offset, mask, weight, bias = (tensor.clone().requires_grad_() for tensor in tensors)
    exact = [tensor.float() for tensor in (features, offset, mask, weight, bias)]
    output = mmcv.ops.modulated_deform_conv2d(features, offset, mask, weight, bias, 1, 1)
    assert torch.equal(output, mmcv.ops.modulated_deform_conv2d(*exact, 1, 1).to(dtype))
    output = mmcv.ops.deform_conv2d(features, offset, weight, 1, 1)
    assert torch.equal(output, mmcv.ops.deform_conv2d(*(exact[i] for i in (0, 1, 3)), 1, 1).to(dtype))
    output.sum().backward()
    assert offset.grad.isfinite().all()


def attention(images=2, queries=3):
    shapes = [(4, 5), (2, 3)]
    value = random(images, 26, 2, 4)
    locations = torch.sigmoid(2 * random(images, queries, 2, 2, 3, 2, seed=1, grad=False)) * 1.4 - 0.2
    weights = random(images, queries, 2, 2, 3, seed=2)
    return shapes, torch.tensor(shapes), torch.tensor([0, 20]), value, locations.requires_grad_(), weights


def test_deformable_attention_equals_the_slow_version():
    shapes, spatial_shapes, starts, value, locations, weights = attention()
    assert_same_values_and_gradients(ms_deform_attn(value, spatial_shapes, starts, locations, weights, 64),
                                     slow.ms_deform_attn(value, shapes, locations, weights),
                                     [value, locations, weights])


def test_deformable_attention_passes_gradcheck():
    _, spatial_shapes, starts, *inputs = attention(images=1, queries=2)
    assert gradcheck(lambda value, *rest: ms_deform_attn(value, spatial_shapes, starts, *rest, 64), inputs)


@pytest.mark.parametrize('dtype', HALF)
def test_deformable_attention_takes_half_types(dtype):
    _, spatial_shapes, starts, value, locations, weights = attention()
    half = [tensor.detach().to(dtype).requires_grad_() for tensor in (value, locations, weights)]
    output = ms_deform_attn(half[0], spatial_shapes, starts, *half[1:], 64)
    exact = ms_deform_attn(half[0].float(), spatial_shapes, starts, *(tensor.float() for tensor in half[1:]), 64)
    assert torch.equal(output, exact.to(dtype))
    assert all(grad.dtype == dtype for grad in torch.autograd.grad(output.sum(), half))


@pytest.mark.parametrize(('images', 'queries'), [(0, 3), (2, 0)])
def test_deformable_attention_of_nothing_is_empty(images, queries):
    _, spatial_shapes, starts, value, locations, weights = attention(images, queries)
    output = ms_deform_attn(value, spatial_shapes, starts, locations, weights, 64)
    assert output.shape == (images, queries, 8)
    output.sum().backward()
    assert value.grad.eq(0).all()


# Focal losses

@pytest.mark.parametrize('weight', [None, torch.tensor([0.5, 2.0, 1.0, 3.0]).double()], ids=['unweighted', 'weighted'])
@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
@pytest.mark.parametrize('gamma', [0.0, 1.5, 2.0])
def test_sigmoid_focal_loss_equals_binary_cross_entropy_with_its_factors(gamma, reduction, weight):
    logits, target = random(9, 4), torch.arange(9) % 5
    expected = slow.sigmoid_focal_loss(logits, target, gamma, 0.25, weight)
    expected = {'none': expected, 'mean': expected.sum() / 9, 'sum': expected.sum()}[reduction]
    assert_same_values_and_gradients(mmcv.ops.sigmoid_focal_loss(logits, target, gamma, 0.25, weight, reduction),
                                     expected, logits)
    assert gradcheck(lambda logits: mmcv.ops.sigmoid_focal_loss(logits, target, gamma, 0.25, weight, reduction), logits)


@pytest.mark.parametrize('weight', [None, torch.tensor([0.5, 2.0, 1.0, 3.0]).double()], ids=['unweighted', 'weighted'])
@pytest.mark.parametrize('reduction', ['mean', 'sum'])
@pytest.mark.parametrize('gamma', [0.0, 1.5, 2.0])
def test_softmax_focal_loss_equals_cross_entropy_with_its_factors(gamma, reduction, weight):
    logits, target = random(9, 4), torch.arange(9) % 5 - 1
    expected = slow.softmax_focal_loss(logits, target, gamma, 0.25, weight).sum() / (9 if reduction == 'mean' else 1)
    assert_same_values_and_gradients(mmcv.ops.softmax_focal_loss(logits, target, gamma, 0.25, weight, reduction),
                                     expected, logits)
    assert gradcheck(lambda logits: mmcv.ops.softmax_focal_loss(logits, target, gamma, 0.25, weight, reduction), logits)


@pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
@pytest.mark.parametrize('loss', [mmcv.ops.sigmoid_focal_loss, mmcv.ops.softmax_focal_loss])
def test_focal_losses_of_extreme_logits_stay_finite(loss, gamma):
    logits = torch.tensor([[-200.0, 200], [200, -200], [60, 0]], requires_grad=True)
    for label in 0, 1:
        value = loss(logits, torch.full((3,), label), gamma, 0.25)
        assert value.isfinite()
        assert torch.autograd.grad(value, logits)[0].isfinite().all()


@pytest.mark.parametrize('loss', [mmcv.ops.sigmoid_focal_loss, mmcv.ops.softmax_focal_loss])
def test_focal_losses_of_no_rows_sum_to_zero(loss):
    logits = random(0, 4)
    value = loss(logits, torch.zeros(0, dtype=torch.long), 2.0, 0.25, None, 'sum')
    assert value == 0
    assert torch.autograd.grad(value, logits)[0].shape == (0, 4)


@pytest.mark.parametrize('dtype', HALF)
@pytest.mark.parametrize('loss', [mmcv.ops.sigmoid_focal_loss, mmcv.ops.softmax_focal_loss])
def test_focal_losses_take_half_types(loss, dtype):
    logits, target = random(9, 4, grad=False).to(dtype).requires_grad_(), torch.arange(9) % 4
    value = loss(logits, target, 2.0, 0.25)
    assert value.dtype == dtype
    assert value.item() == pytest.approx(loss(logits.float(), target, 2.0, 0.25).item(), rel=0.02)
    assert torch.autograd.grad(value, logits)[0].isfinite().all()


# All together

def test_ops_run_under_bf16_autocast_forward_and_backward():
    conv = torch.nn.Conv2d(3, 4, 3, padding=1)
    offsets = torch.nn.Conv2d(4, 18, 3, padding=1)
    deform = mmcv.ops.DeformConv2d(4, 4, 3, padding=1)
    modulated = mmcv.ops.ModulatedDeformConv2d(4, 4, 3, padding=1)
    rois = torch.tensor([[0, 1.0, 1, 8, 8], [1, 2, 0, 9, 7]])
    with torch.autocast('cpu', torch.bfloat16):
        features = conv(random(2, 3, 12, 12, dtype=torch.float32))
        assert features.dtype == torch.bfloat16
        features = deform(features, offsets(features))
        features = modulated(features, offsets(features), features.new_ones(2, 9, 12, 12))
        pooled = sum(mmcv.ops.RoIAlign(2, 1.0, 0, mode)(features, rois) for mode in ('avg', 'max'))
        pooled = pooled + mmcv.ops.RoIPool(2, 1.0)(features, rois)
        logits = pooled.mean((2, 3))
        loss = sum(loss(logits, torch.tensor([0, 3])) for loss in (mmcv.ops.SigmoidFocalLoss(2.0, 0.25),
                                                                  mmcv.ops.SoftmaxFocalLoss(2.0, 0.25)))
        loss.backward()
    assert all(parameter.grad.isfinite().all() for layer in (conv, offsets, deform, modulated)
               for parameter in layer.parameters())
    assert conv.weight.grad.abs().sum() > 0


@pytest.fixture(scope='module')
def mask_rcnn():
    register_all_modules()
    init_default_scope('mmdet')
    torch.manual_seed(0)
    config = Config.fromfile(Path(mmdet.__file__).parent / '.mim/configs/_base_/models/mask-rcnn_r50_fpn.py').model
    config.backbone.update(depth=18, init_cfg=None)
    config.neck.in_channels = [64, 128, 256, 512]
    return MODELS.build(config)


@pytest.mark.parametrize('amp', [False, True])
def test_a_mask_rcnn_of_mmdetection_learns_from_a_tiny_image(mask_rcnn, amp):
    sample = DetDataSample(metainfo={'img_shape': (64, 64), 'ori_shape': (64, 64), 'pad_shape': (64, 64),
                                     'batch_input_shape': (64, 64), 'scale_factor': (1.0, 1.0)})
    masks = np.zeros((1, 64, 64), np.uint8)
    masks[0, 8:40, 10:50] = 1
    sample.gt_instances = InstanceData(bboxes=torch.tensor([[10.0, 8, 50, 40]]), labels=torch.tensor([1]),
                                       masks=BitmapMasks(masks, 64, 64))
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    mask_rcnn.train().zero_grad()
    with torch.autocast('cpu', torch.bfloat16, enabled=amp):
        loss, losses = mask_rcnn.parse_losses(mask_rcnn.loss(image, [sample]))
    assert {'loss_cls', 'loss_bbox', 'loss_mask', 'loss_rpn_cls', 'loss_rpn_bbox'} <= losses.keys()
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all()
               for parameter in mask_rcnn.parameters() if parameter.requires_grad)
    with torch.no_grad():
        assert 'masks' in mask_rcnn.eval().predict(image, [sample])[0].pred_instances


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_cuda_gives_what_the_cpu_gives():
    features, rois = random(2, 4, 9, 11), random_rois(7, images=2)
    _, spatial_shapes, starts, value, locations, weights = attention()
    logits, target = random(9, 4, seed=5), torch.arange(9) % 4
    filters, offset = random(6, 4, 3, 3, seed=3), random(2, 18, 9, 11, seed=4)
    mask = random(2, 9, 9, 11, seed=6)
    boxes, scores = torch.from_numpy(random_boxes(500)), torch.arange(500.0)

    for op, inputs, others in [
        (lambda x, rois: mmcv.ops.roi_align(x, rois, 3, 0.13, 0, 'avg', True), [features], [rois]),
        (lambda x, rois: mmcv.ops.roi_align(x, rois, 3, 0.13, 0, 'max', True), [features], [rois]),
        (lambda x, rois: mmcv.ops.roi_pool(x, rois, 3, 0.13), [features], [rois]),
        (lambda x, offset, weight: mmcv.ops.deform_conv2d(x, offset, weight, 1, 1), [features, offset, filters], []),
        (lambda x, offset, mask, weight: mmcv.ops.modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1),
         [features, offset, mask, filters], []),
        (lambda value, places, weights, shapes, starts: ms_deform_attn(value, shapes, starts, places, weights, 64),
         [value, locations, weights], [spatial_shapes, starts]),
        (mmcv.ops.sigmoid_focal_loss, [logits], [target]),
        (mmcv.ops.softmax_focal_loss, [logits], [target]),
    ]:
        expected = op(*inputs, *others)
        output = op(*(tensor.cuda() for tensor in (*inputs, *others))).cpu()
        assert_same_values_and_gradients(output, expected, inputs)
    for keep, expected in zip(mmcv.ops.nms(boxes.cuda(), scores.cuda(), 0.3, offset=1),
                              mmcv.ops.nms(boxes, scores, 0.3, offset=1), strict=True):
        assert torch.equal(keep.cpu(), expected)
