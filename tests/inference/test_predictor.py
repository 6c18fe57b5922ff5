"""From images to cells, with a model that is small, and untrained."""
import numpy as np
import pytest
import torch
from local_model import discs, write_checkpoint

from cellseg_mm.errors import UserError
from cellseg_mm.inference.predictor import Predictor
from cellseg_mm.io.image import write_image
from cellseg_mm.io.slide import ArrayImage
from cellseg_mm.structures.cells import Cells
from cellseg_mm.structures.overlaps import intersections


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp('model') / 'a.pth')


@pytest.fixture(scope='module')
def image():
    return discs()


def by_score(cells):
    return cells[np.lexsort((cells.masks.boxes[:, 1], cells.masks.boxes[:, 0], -cells.scores.round(4)))]


def assert_same_cells(found, expected):
    found, expected = by_score(found), by_score(expected)
    assert len(found) == len(expected) > 5
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    np.testing.assert_array_equal(found.labels, expected.labels)
    # A pixel whose value is that of the threshold may fall on either side.
    assert (found.masks.to_ndarray() != expected.masks.to_ndarray()).sum() <= 2


@pytest.mark.parametrize(('factor', 'tile', 'overlap', 'shape'), [
    (1, 200, 120, (300, 400)), (1, 160, 120, (280, 400)), (1, 172, 128, (301, 333)), (2, 400, 240, (220, 300)),
    (0.8, 200, 120, (300, 400)), (1.25, 200, 125, (240, 320))])
def test_tiles_find_what_the_whole_image_shows(tmp_path, factor, tile, overlap, shape):
    checkpoint = write_checkpoint(tmp_path / 'a.pth', factor=factor)
    image = discs(*shape)
    whole = Predictor(checkpoint, device='cpu', tile=4000).detect(image)
    assert_same_cells(Predictor(checkpoint, device='cpu', tile=tile, overlap=overlap).detect(image), whole)
    in_batches = Predictor(checkpoint, device='cpu', tile=tile, overlap=overlap, batch_size=3)
    assert_same_cells(in_batches.detect(image), whole)


def test_cells_are_found_though_the_tile_around_them_was_skipped_as_glass(checkpoint):
    image = np.full((400, 900, 3), 242, np.uint8)
    image[:, :330] = discs(400, 330)
    predictor = Predictor(checkpoint, device='cpu', tile=120, overlap=80)
    plan = predictor.plan(ArrayImage(image))
    assert len(plan.shown) < 0.6 * len(plan.tiling.tiles)
    boxes = predictor.detect(image).masks.boxes
    owners = plan.tiling.owners(boxes[:, :2] + boxes[:, 2:] / 2)
    assert set(owners.tolist()) - set(plan.shown)


def test_a_file_gives_what_its_pixels_give(checkpoint, image, tmp_path):
    write_image(tmp_path / 'a.png', image)
    predictor = Predictor(checkpoint, device='cpu')
    assert_same_cells(predictor.detect(tmp_path / 'a.png'), predictor.detect(image))


def test_cells_that_count_are_sure_and_share_no_pixel(checkpoint, image):
    predictor = Predictor(checkpoint, device='cpu')
    predictor.thresholds = np.array([0.75, 0.72])
    cells = predictor(image)
    assert len(cells)
    assert (cells.scores >= predictor.thresholds[cells.labels]).all()
    assert cells.masks.to_ndarray().sum(0).max() == 1
    assert cells.masks.areas.min() > 0


def test_an_image_of_other_pixels_is_scaled_to_those_of_the_training(checkpoint, image):
    predictor = Predictor(checkpoint, device='cpu')
    assert predictor.plan(ArrayImage(image, mpp=0.5)).factors == (1.0, )
    assert predictor.plan(ArrayImage(image, mpp=0.25)).factors == (0.5, )
    assert predictor.plan(ArrayImage(image), mpp=1.0).factors == (2.0, )
    assert not predictor.plan(ArrayImage(image), mpp=1.0).note
    plan = predictor.plan(ArrayImage(image))
    assert plan.factors == (1.0, )
    assert 'its pixel size is unknown, and taken to be 0.5 µm' in plan.note
    assert not predictor.note


def test_pixels_far_from_the_trainings_are_refused(checkpoint, image):
    with pytest.raises(UserError, match=r'its pixels are 8 µm, the model was trained on 0\.5 µm'):
        Predictor(checkpoint, device='cpu')(image, mpp=8)


def test_views_of_a_model_are_fused(checkpoint, image):
    # What all views find of a picture that is its own mirror image has a mirror image, too.
    mirrored = np.concatenate([image, image[:, ::-1]], axis=1)
    found = Predictor(checkpoint, device='cpu', views=['flips']).detect(mirrored)
    turned = Cells(found.masks.flip('horizontal'), found.labels, found.scores)
    assert_same_cells(turned, found)


def test_mixed_precision_finds_about_the_same(checkpoint, image):
    exact, mixed = (Predictor(checkpoint, device='cpu', amp=amp).detect(image) for amp in (False, True))
    assert not np.isin(mixed.scores, exact.scores).any()
    i, j, shared = intersections(exact.masks, mixed.masks)
    # Masks of random weights are close to the threshold in many pixels.
    alike = (2 * shared >= exact.masks.areas[i] + mixed.masks.areas[j] - shared) & (
        exact.labels[i] == mixed.labels[j]) & (abs(exact.scores[i] - mixed.scores[j]) < 0.02)
    assert len(np.unique(i[alike])) > 0.6 * len(exact) > 20


def test_models_are_fused(checkpoint, image, tmp_path):
    twice = Predictor(checkpoint, checkpoint, device='cpu').detect(image)
    assert_same_cells(twice, Predictor(checkpoint, device='cpu').detect(image))
    other = write_checkpoint(tmp_path / 'b.pth', seed=1)
    assert len(Predictor(checkpoint, other, device='cpu').detect(image))


def test_models_of_other_classes_are_not_fused(checkpoint, tmp_path):
    other = write_checkpoint(tmp_path / 'b.pth', classes=('round', 'square'))
    with pytest.raises(UserError, match=r'it knows the classes round, square, .*a\.pth round, long'):
        Predictor(checkpoint, other, device='cpu')


def test_models_that_see_intensities_unlike_are_not_fused(checkpoint, tmp_path):
    other = torch.load(checkpoint, weights_only=True)
    other['meta']['cfg'] = other['meta']['cfg'].replace("dict(type='LoadTiffImage')",
                                                        "dict(type='LoadTiffImage', percentiles=(1, 99))")
    torch.save(other, tmp_path / 'b.pth')
    with pytest.raises(UserError, match=r'b\.pth: it knows intensities by the percentiles \(1, 99\), .*0\.1, 99\.9'):
        Predictor(checkpoint, tmp_path / 'b.pth', device='cpu')


@pytest.mark.parametrize(('settings', 'told'), [
    (dict(batch_size=0), 'batch_size is 0, and has to be 1 or more'), (dict(tile=-5), 'tile is -5'),
    (dict(overlap=-1), 'overlap is -1, and has to be 0'), (dict(scale=-1.0), 'scale is -1.0'),
    (dict(scale=float('nan')), 'scale is nan'), (dict(views='spins'), 'no views of the name spins'),
    (dict(device='meta'), 'meta: the model cannot be moved there'), (dict(device='abacus'), 'abacus: the model')])
def test_settings_that_make_no_sense_are_refused(checkpoint, settings, told):
    with pytest.raises(UserError, match=told):
        Predictor(checkpoint, **{'device': 'cpu', **settings})


def test_a_set_of_views_may_be_named_alone(checkpoint, image):
    alone, listed = (Predictor(checkpoint, device='cpu', views=views).detect(image) for views in ('flips', ['flips']))
    assert_same_cells(alone, listed)


@pytest.mark.parametrize('mpp', [0, 2.5e-7, 250])
def test_a_pixel_size_of_no_microscope_is_refused_for_arrays_too(checkpoint, image, mpp):
    with pytest.raises(UserError, match='micrometres are those of no microscope'):
        Predictor(checkpoint, device='cpu')(image, mpp=mpp)


@pytest.mark.parametrize(('scale', 'views'), [(None, []), (0.1, []), (None, ['turns', 'scales'])])
@pytest.mark.parametrize('shape', [(1, 1), (3, 200), (40, 31)])
def test_tiny_images_are_predicted(checkpoint, shape, scale, views):
    predictor = Predictor(checkpoint, device='cpu', scale=scale, views=views)
    assert predictor(np.zeros((*shape, 3), np.uint8)).masks.height == shape[0]


def test_an_image_without_a_cell_has_none(checkpoint):
    predictor = Predictor(checkpoint, device='cpu', tile=100, overlap=40, background=True)
    predictor.thresholds = np.full(2, 1.0)
    cells = predictor(np.full((300, 300, 3), 255, np.uint8))
    assert len(cells) == 0
    assert (cells.masks.height, cells.masks.width) == (300, 300)
