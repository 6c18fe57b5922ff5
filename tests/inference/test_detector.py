"""From a checkpoint to a model that predicts, or to a line that says why not."""
import copy
import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from local_model import CLASSES, discs, local_config, write_checkpoint

from cellseg_mm.errors import UserError
from cellseg_mm.inference.detector import Detector, whole_steps
from cellseg_mm.inference.predictor import Predictor
from cellseg_mm.io.slide import ArrayImage
from cellseg_mm.structures.tiling import Tiling

REMOVED = object()
WRONG = (REMOVED, None, 'x', [], {}, -1, 0, True, float('inf'), {'a': {'type': 1}})
RESIZE = 'meta', 'cfg', 'test_dataloader', 'dataset', 'pipeline', 1
META = 'meta', 'dataset_meta'
STRIDES = 4, 32, 64, 128
TILES = (1024, 192), (512, 192), (512, 128), (512, 96), (256, 64)


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp('model') / 'a.pth')


@pytest.fixture(scope='module')
def whole(path):
    """What is in a good checkpoint, its config as a dictionary."""
    checkpoint = torch.load(path, weights_only=True)
    checkpoint['meta']['cfg'] = local_config().to_dict()
    return checkpoint


def places(node):
    """The keys to each value in nested dictionaries and lists."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, value in inner:
        yield key,
        yield from ((key, *place) for place in places(value))


def damaged(node, place, value):
    """A copy with another value at a place, or none."""
    node = list(node) if isinstance(node, tuple) else copy.copy(node)
    key, *rest = place
    if rest:
        node[key] = damaged(node[key], rest, value)
    elif value is REMOVED:
        node.pop(key)
    else:
        node[key] = value
    return node


def write_damaged(path, whole, place, value):
    checkpoint = damaged(whole, place, value)
    if isinstance(checkpoint.get('meta'), dict) and isinstance(checkpoint['meta'].get('cfg'), dict):
        text = ''.join(f'{key} = {value!r}\n' for key, value in checkpoint['meta']['cfg'].items())
        checkpoint['meta'] = checkpoint['meta'] | {'cfg': text.replace(': inf', ': 1e999').replace('[inf', '[1e999')}
    torch.save(checkpoint, path)


@settings(max_examples=60)
@given(data=st.data())
def test_no_damage_of_a_checkpoint_ends_in_a_traceback(data, whole, tmp_path_factory):
    place = data.draw(st.sampled_from([place for place in places(whole) if len(place) < 2 or place[0] == 'meta' or
                                       place[1] == 'backbone.conv1.weight']))
    path = tmp_path_factory.getbasetemp() / 'damaged.pth'
    write_damaged(path, whole, place, data.draw(st.sampled_from(WRONG)))
    try:
        detector = Detector(path, device='cpu')
        whole_steps(detector.factor or 1, detector.stride, 1024, 192)
        detector([discs(40, 50)], 1.0)
    except UserError as error:
        told = str(error)  # not all damage does harm
        assert str(path) in told
        assert '\n' not in told


@pytest.mark.parametrize(('place', 'value', 'told'), [
    (('state_dict', 'backbone.conv1.weight'), 1, 'backbone.conv1.weight is no tensor, not (64, 3, 7, 7)'),
    (META, [1], 'its dataset_meta is no dictionary'),
    ((*META, 'mpp'), '0.5', "its pixel size (mpp) is '0.5', not a length in micrometres or None"),
    ((*META, 'mpp'), float('nan'), 'its pixel size (mpp) is nan'),
    ((*META, 'mpp'), True, 'its pixel size (mpp) is True'),
    ((*META, 'classes'), 'cell', "has the classes 'cell', no list of different names"),
    ((*META, 'classes'), [1, 2], 'has the classes [1, 2], no list of different names'),
    ((*META, 'classes'), [], 'has the classes [], no list of different names'),
    ((*META, 'classes'), ['a', 'a'], "has the classes ['a', 'a'], no list of different names"),
    ((*META, 'classes'), ['a', 'b'], "trained on the classes ('a', 'b'), the config has ('round', 'long')"),
    (('meta', 'cfg', 'text'), 1, 'text is reserved for config file'),
    (('meta', 'cfg', 'test_dataloader'), [1], 'no test_dataloader with a pipeline'),
    (RESIZE, 'Resize', 'a list of steps with a type each'),
    ((*RESIZE, 'type'), REMOVED, 'a list of steps with a type each'),
    ((*RESIZE, 'scale_factor'), REMOVED, 'needs a scale or a scale_factor of one number above 0 or two'),
    ((*RESIZE, 'scale_factor'), [1, 2], 'it stretches images, by (1, 2), which tiles cannot share'),
    ((*RESIZE, 'scale_factor'), 1e6, 'it enlarges images by 1e+06, which shows no cells'),
    ((*RESIZE, 'keep_ratio'), False, 'only one Resize with keep_ratio=True can be shared by tiles'),
    ((*RESIZE[:-1], 0, 'percentiles'), [99, 1], 'the percentiles [99, 1], which do not rise within 0 to 100'),
    (('meta', 'cfg', 'model', 'data_preprocessor'), REMOVED, "its config builds no model: AttributeError: 'BaseData"),
    (('meta', 'cfg', 'model', 'data_preprocessor', 'pad_size_divisor'), 0, 'pads images to multiples of 0 pixels'),
    (('meta', 'cfg', 'model', 'backbone', 'depths'), 18, 'its config builds no model: TypeError: '),
    (('meta', 'cfg', 'model', 'test_cfg', 'rpn'), {}, 'its model cannot predict: '),
])
def test_what_is_wrong_with_a_checkpoint_is_told(whole, tmp_path, place, value, told):
    write_damaged(tmp_path / 'a.pth', whole, place, value)
    with pytest.raises(UserError) as caught:
        Detector(tmp_path / 'a.pth', device='cpu')([discs(40, 50)])
    assert told in str(caught.value)


def test_names_of_more_classes_than_the_model_tells_apart_are_refused(whole, tmp_path):
    classes = (*CLASSES, 'flat')
    whole = damaged(damaged(whole, (*META, 'classes'), classes), ('meta', 'cfg', 'classes'), classes)
    write_damaged(tmp_path / 'a.pth', whole, ('meta', 'epoch'), 1)
    with pytest.raises(UserError, match='names the classes round, long, flat, but its model tells 2 apart'):
        Detector(tmp_path / 'a.pth', device='cpu')


def test_a_checkpoint_without_its_config_takes_one(whole, path, tmp_path):
    write_damaged(tmp_path / 'a.pth', whole, ('meta', 'cfg'), REMOVED)
    found, = Detector(tmp_path / 'a.pth', config=local_config(), device='cpu')([discs()])
    expected, = Detector(path, device='cpu')([discs()])
    np.testing.assert_array_equal(found.scores, expected.scores)
    with pytest.raises(UserError, match=r"trained on the classes \('round', 'long'\), the config has \('a', 'b'\)"):
        Detector(tmp_path / 'a.pth', config=local_config(classes=('a', 'b')), device='cpu')
    config = local_config()
    config.custom_imports.imports.append('no_such_module')
    with pytest.raises(UserError, match=r'a\.pth: the custom_imports of its config fail: .*no_such_module'):
        Detector(tmp_path / 'a.pth', config=config, device='cpu')


def test_scales_to_one_size_are_those_of_the_trainings_images(whole, tmp_path):
    whole = damaged(whole, RESIZE, dict(type='Resize', scale=(1333, 800), keep_ratio=True))
    write_damaged(tmp_path / 'a.pth', whole, (*META, 'image_size'), [300.0, 300.0])
    assert Detector(tmp_path / 'a.pth', device='cpu').factor == pytest.approx(800 / 300)
    write_damaged(tmp_path / 'a.pth', whole, (*META, 'image_size'), ['300', '300'])
    with pytest.raises(UserError, match=r"its image_size is \['300', '300'\], not the height and width of images"):
        Detector(tmp_path / 'a.pth', device='cpu')
    write_damaged(tmp_path / 'a.pth', whole, (*META, 'image_size'), REMOVED)
    with pytest.raises(UserError, match='give --scale'):
        Predictor(tmp_path / 'a.pth', device='cpu')(discs())
    assert Predictor(tmp_path / 'a.pth', device='cpu', scale=1.0).plan(ArrayImage(discs())).factors == (1.0, )


@pytest.mark.parametrize('stride', STRIDES)
@pytest.mark.parametrize(('tile', 'overlap'), TILES)
def test_steps_are_whole_for_image_and_network(stride, tile, overlap):
    for factor in np.geomspace(0.05, 20, 800):
        pixels, exact = whole_steps(factor, stride, tile, overlap)
        assert pixels * exact / stride == pytest.approx(round(pixels * exact / stride))
        size, shared = math.floor(tile / exact), math.ceil(overlap / exact)
        Tiling(1, 1, size, shared, pixels)
        if abs(exact / factor - 1) > 0.01:  # then no step that fits has a smaller error
            steps = np.arange(1, tile)
            exacts = np.maximum(np.round(steps * factor / stride), 1) * stride / steps
            fits = steps <= np.floor(tile / exacts) - np.ceil(overlap / exacts)
            assert abs(exacts[fits] / factor - 1).min() > 0.01
            assert tile < 1024
            assert factor > 3
            assert abs(exact / factor - 1) <= 0.1


@given(factor=st.floats(0.02, 50), stride=st.sampled_from(STRIDES), tile=st.integers(1, 1500),
       share=st.floats(0, 1))
def test_tiles_that_cannot_go_on_are_refused_with_the_size_that_can(factor, stride, tile, share):
    overlap = int(tile * share)
    try:
        whole_steps(factor, stride, tile, overlap)
    except UserError as error:
        needed = int(str(error).split('--tile ')[1].split(',')[0])
        assert needed > tile
        whole_steps(factor, stride, needed, overlap)


def test_an_exact_step_is_preferred_to_a_short_one():
    assert whole_steps(0.8, 32, 1024, 192) == (40, 0.8)
    assert whole_steps(2.5, 64, 1024, 192) == (128, 2.5)
    assert whole_steps(2.5, 64, 512, 192) == (51, 128 / 51)  # of 204 pixels, of which they share 77


@pytest.mark.parametrize(('own', 'factor', 'deviation'), [
    (1.0, 0.25, 1 / 4), (1.0, 0.3, 0.3), (2.0, 0.4, 0.4), (1.0, 0.5, 1 / 2), (0.3, 0.1, 0.1)])
def test_pixels_far_smaller_than_the_trainings_are_averaged(whole, tmp_path, monkeypatch, own, factor, deviation):
    write_damaged(tmp_path / 'a.pth', whole, (*RESIZE, 'scale_factor'), own)
    noise = np.clip(np.random.default_rng(0).normal(128, 40, (600, 600, 3)), 0, 255).astype(np.uint8)
    assert seen(Detector(tmp_path / 'a.pth', device='cpu'), noise, factor, monkeypatch).std() == pytest.approx(
        40 * deviation, rel=0.15)


def test_tiles_of_smaller_pixels_find_what_the_whole_image_shows(path):
    image = cv2.resize(discs(180, 240), None, fx=1 / 0.3, fy=1 / 0.3)
    image = np.clip(image + np.random.default_rng(0).normal(0, 20, image.shape), 0, 255).astype(np.uint8)
    whole, tiled = (Predictor(path, device='cpu', scale=0.3, tile=tile, overlap=120).detect(image)
                    for tile in (2000, 200))
    assert len(whole) > 5
    np.testing.assert_allclose(np.sort(tiled.scores), np.sort(whole.scores), atol=1e-4)
    assert (tiled.masks.to_ndarray().sum(0) != whole.masks.to_ndarray().sum(0)).sum() <= 2


@pytest.mark.parametrize(('own', 'factor'), [(0.3, 0.3), (1.0, 0.7), (2.0, 2.0), (0.4, 0.3)])
def test_others_are_sampled_as_in_training(whole, tmp_path, monkeypatch, own, factor):
    write_damaged(tmp_path / 'a.pth', whole, (*RESIZE, 'scale_factor'), own)
    image = discs(100, 120)
    np.testing.assert_array_equal(
        seen(Detector(tmp_path / 'a.pth', device='cpu'), image, factor, monkeypatch),
        cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR).transpose(2, 0, 1))


def seen(detector, image, factor, monkeypatch):
    """What a detector's network is given of an image, before it is normalised."""
    given, predict = [], detector._model.test_step
    monkeypatch.setattr(detector._model, 'test_step', lambda batch: given.extend(batch['inputs']) or predict(batch))
    detector([image], factor)
    return given[0].numpy()
