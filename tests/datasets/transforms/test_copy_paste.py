import pickle
from copy import deepcopy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.datasets import BaseDetDataset, MultiImageMixDataset
from mmdet.registry import DATASETS
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from scipy.ndimage import distance_transform_edt

import cellseg_mm.register  # noqa: F401
from cellseg_mm.datasets.transforms.copy_paste import CellCopyPaste
from cellseg_mm.errors import UserError
from cellseg_mm.structures.local_masks import LocalMasks


def results(canvases, image, labels=None, flags=None):
    masks = LocalMasks.from_bitmaps(canvases)
    return dict(img=image, gt_masks=masks, gt_bboxes=masks.get_bboxes(),
                gt_bboxes_labels=np.zeros(len(masks), np.int64) if labels is None else labels,
                gt_ignore_flags=np.zeros(len(masks), bool) if flags is None else flags)


def scene(rng, height, width, cells):
    """Ellipses that overlap, touch and are cut by the edges."""
    y, x = np.mgrid[:height, :width][..., None]
    canvases = ((y - rng.uniform(0, height, cells)) / rng.uniform(2, 7, cells))**2 + (
        (x - rng.uniform(0, width, cells)) / rng.uniform(2, 7, cells))**2 < 1
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    return results(canvases.transpose(2, 0, 1), image, rng.integers(0, 3, cells), rng.random(cells) < 0.1)


def one_cell(background, color, top=10):
    """A square cell of 8 x 8 pixels in an image of 40 x 40."""
    canvas, image = np.zeros((1, 40, 40), bool), np.full((40, 40, 3), background, np.uint8)
    canvas[0, top:top + 8, 12:20], image[top:top + 8, 12:20] = True, color
    return results(canvas, image)


def nothing(background=0, side=40):
    return results(np.zeros((0, side, side), bool), np.full((side, side, 3), background, np.uint8))


def paste(target, *sources, seed=0, **arguments):
    set_random_seed(seed)
    return CellCopyPaste(**arguments)({**target, 'mix_results': list(sources)})


def on_canvases(sources, draw, margin, max_covered, match_color):
    """What is pasted, by a full canvas for each cell."""
    image = sources[0]['img'].astype(np.float32)
    canvases = list(sources[0]['gt_masks'].to_ndarray().astype(bool))
    areas = [canvas.sum() for canvas in canvases]
    labels, flags = list(sources[0]['gt_bboxes_labels']), list(sources[0]['gt_ignore_flags'])
    edge = max(margin, 1)
    whole = [(source, cell) for source in sources for cell, canvas in enumerate(source['gt_masks'].to_ndarray())
             if canvas.any() and canvas.sum() == canvas[edge:-edge, edge:-edge].sum()
             and not source['gt_ignore_flags'][cell]]

    def turned(array, symmetry):
        array = np.rot90(array, symmetry % 4)
        return array[:, ::-1] if symmetry > 3 else array

    for number, symmetry, places in zip(*draw(len(whole)), strict=True):
        source, cell = whole[number]
        every = np.pad(source['gt_masks'].to_ndarray(), [(0, 0), (50, 50), (50, 50)]).astype(bool)
        alone = turned(every[cell], symmetry)
        others = turned(every.any(0) & ~every[cell], symmetry)
        pixels = turned(np.pad(np.float32(source['img']), [(50, 50), (50, 50), (0, 0)]), symmetry)
        (top, left), (bottom, right) = np.argwhere(alone).min(0), np.argwhere(alone).max(0) + 1
        free = []
        for across, down in places:
            x = int(across * (image.shape[1] - (right - left) + 1))
            y = int(down * (image.shape[0] - (bottom - top) + 1))

            def placed(array, shape=image.shape, top=top - y, left=left - x):
                """The part of the turned source that comes onto the image."""
                rows, columns = (np.arange(side) + start for side, start in zip(shape, (top, left), strict=False))
                inside = ((rows >= 0) & (rows < len(array)))[:, None] & (columns >= 0) & (columns < array.shape[1])
                taken = array[np.clip(rows, 0, len(array) - 1)][:, np.clip(columns, 0, array.shape[1] - 1)]
                return taken * inside.reshape(inside.shape + (1, ) * (array.ndim - 2))

            mask = placed(alone)
            if all(mask[canvas].sum() == 0 or (canvas & ~mask).sum() >= (1 - max_covered) * area
                   for canvas, area in zip(canvases, areas, strict=True)):
                free.append((mask, placed(others), placed(pixels)))
        distances = distance_transform_edt(~alone)
        ring = pixels[(distances > 0) & (distances < margin + 1)]
        if not free:
            continue
        best = 0
        if match_color and margin:
            rings = [(distance_transform_edt(~mask) < margin + 1) & ~mask for mask, *_ in free[:8]]
            best = np.argmin([np.abs(image[around].mean(0) - ring.mean(0)).sum() for around in rings])
        mask, others, pixels = free[best]
        weights = 0.5 + 0.5 * np.cos(np.pi * np.minimum(distance_transform_edt(~mask) / (margin + 1), 1))
        around = (weights > 0) & ~mask
        background = around & ~others & ~np.any([mask, *canvases], axis=0)
        if match_color and background.sum() > around.sum() / 2:
            pixels = np.minimum(pixels * (image[background].mean(0) / pixels[background].mean(0)), 255)
        weights = np.where(background | mask, weights, 0)[..., None]
        image = np.rint(image * (1 - weights) + pixels * weights)
        canvases = [canvas & ~mask for canvas in canvases] + [mask]
        areas, labels, flags = [*areas, mask.sum()], [*labels, source['gt_bboxes_labels'][cell]], [*flags, False]
    kept = [i for i, canvas in enumerate(canvases) if canvas.any()]
    return image, [canvases[i] for i in kept], [labels[i] for i in kept], [flags[i] for i in kept]


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([0, 0.3, 1]), st.integers(0, 4), st.booleans())
def test_cells_and_pixels_are_those_of_full_canvases(seed, max_covered, margin, match_color):
    rng = np.random.default_rng(seed)
    target, *mixed = sources = [scene(rng, *rng.integers(25, 50, 2), rng.integers(0, 9)) for _ in range(3)]
    given = deepcopy(sources)

    def draw(cells):
        draws = np.random.default_rng(seed)
        count = min(cells, 6)
        return draws.permutation(cells)[:count], draws.integers(0, 8, count), draws.random((count, 12, 2))

    transform = CellCopyPaste(margin=margin, max_covered=max_covered, match_color=match_color)
    transform._draw = lambda weights: draw(len(weights))
    pasted = transform({**target, 'mix_results': mixed})
    image, canvases, labels, flags = on_canvases(given, draw, margin, max_covered, match_color)
    assert np.array_equal(pasted['gt_masks'].to_ndarray(), np.reshape(canvases, (-1, *image.shape[:2])))
    assert pasted['gt_bboxes_labels'].tolist() == labels
    assert pasted['gt_ignore_flags'].tolist() == flags
    np.testing.assert_array_equal(pasted['gt_bboxes'].tensor, pasted['gt_masks'].get_bboxes().tensor)
    # A half can be rounded either way.
    np.testing.assert_allclose(pasted['img'], image, atol=1)
    assert pasted['img'].dtype == np.uint8
    assert pasted['gt_bboxes_labels'].dtype == np.int64
    assert pasted['gt_ignore_flags'].dtype == bool
    for source, before in zip(sources, given, strict=True):
        assert np.array_equal(source['img'], before['img'])
        assert np.array_equal(source['gt_masks'].pixels, before['gt_masks'].pixels)


@pytest.mark.parametrize('seed', range(5))
def test_a_cell_comes_pixel_for_pixel_to_a_free_place_and_all_else_stays(seed):
    rng = np.random.default_rng(seed)
    target, source = scene(rng, 120, 120, 20), one_cell(90, rng.integers(0, 256, (8, 8, 3)))
    source['gt_bboxes_labels'][:] = 3
    pasted = paste(target, source, seed=seed, class_weights=[0, 0, 0, 1], match_color=False, margin=3)
    *old, new = pasted['gt_masks'].to_ndarray().astype(bool)
    assert pasted['gt_bboxes_labels'][-1] == 3
    assert np.array_equal(old, target['gt_masks'].to_ndarray())
    assert not np.any(old, axis=0)[new].any()
    far = distance_transform_edt(~new) >= 4
    assert np.array_equal(pasted['img'][far], target['img'][far])
    cell = source['img'][10:18, 12:20]
    symmetries = [np.rot90(image, quarters) for image in (cell, cell[::-1]) for quarters in range(4)]
    assert sum(np.array_equal(pasted['img'][new].reshape(8, 8, 3), symmetry) for symmetry in symmetries) == 1


def test_light_is_scaled_to_that_of_the_place():
    pasted = paste(nothing(200), one_cell(100, (80, 40, 20)), match_color=True, seed=1)
    mask, = pasted['gt_masks'].to_ndarray().astype(bool)
    assert np.unique(pasted['img'][mask], axis=0).tolist() == [[160, 80, 40]]
    assert (pasted['img'][~mask] == 200).all()


def test_of_free_places_that_of_like_colours_is_taken():
    target = nothing(30, side=200)
    target['img'][:, 60:] = 220
    for seed in range(10):
        pasted = paste(target, one_cell(210, 50), seed=seed)
        assert (pasted['gt_bboxes'].tensor[:, 0] > 55).all()


def test_surroundings_fade_without_a_step():
    pasted = paste(nothing(200), one_cell(100, 0), match_color=False, margin=6, seed=1)
    x1, y1, x2, y2 = pasted['gt_bboxes'].tensor[0].int().tolist()
    rays = [pasted['img'][y1:, x1 + 4, 0][8:], pasted['img'][:y1, x1 + 4, 0][::-1], pasted['img'][y1 + 4, x2:, 0],
            pasted['img'][y1 + 4, :x1, 0][::-1]]
    ray = max(rays, key=len).astype(int)
    assert 100 < ray[0] < 110
    assert (np.diff(ray) >= 0).all()
    assert np.diff(ray).max() < 25
    assert (ray[6:] == 200).all()
    assert (x2 - x1, y2 - y1) == (8, 8)


@pytest.mark.parametrize('top', [0, 3, 29, 32])
def test_a_cell_that_the_edge_cuts_or_that_lacks_its_surroundings_stays_where_it_is(top):
    assert not any(len(paste(nothing(), one_cell(9, 1, top), seed=seed, margin=4)['gt_masks']) for seed in range(5))


def test_a_cell_to_ignore_is_not_pasted_and_nothing_onto_it():
    ignored = results(np.ones((1, 40, 40), bool), np.zeros((40, 40, 3), np.uint8), flags=np.ones(1, bool))
    assert not any(len(paste(nothing(side=90), ignored, seed=seed, margin=0)['gt_masks']) for seed in range(5))
    assert all(len(paste(ignored, one_cell(9, 1), seed=seed)['gt_masks']) == 1 for seed in range(5))


def test_a_cell_larger_than_the_image_is_left_out():
    large = results(np.pad(np.ones((1, 50, 50), bool), [(0, 0), (9, 9), (9, 9)]), np.zeros((68, 68, 3), np.uint8))
    assert not any(len(paste(nothing(), large, seed=seed)['gt_masks']) for seed in range(5))


def test_without_other_images_an_image_is_given_its_own_cells():
    set_random_seed(1)
    pasted = CellCopyPaste()(one_cell(100, 7))
    assert pasted['gt_masks'].areas.tolist() == [64, 64]
    assert (pasted['img'] == 7).all(-1).sum() == 128


def common_and_rare(common, rare):
    """Cells that do not touch, of class 0 and of class 1."""
    canvases = np.zeros((common + rare, 120, 120), bool)
    for i, canvas in enumerate(canvases):
        y, x = np.multiply(10, divmod(i, 10)) + 11
        canvas[y:y + 3, x:x + 3] = True
    image = np.random.default_rng(0).integers(0, 256, (120, 120, 3), np.uint8)
    return results(canvases, image, np.repeat([0, 1], [common, rare]))


@pytest.mark.parametrize(('weights', 'share'), [(None, 0.5), ((1, 1), 0.5), ((3, 1), 0.25), ((0, 1), 1), ((1, 0), 0)])
def test_rare_classes_are_pasted_as_often_as_their_weight_says(weights, share):
    source = common_and_rare(90, 10)
    pasted = np.concatenate([paste(nothing(), source, seed=seed, class_weights=weights, max_cells=2)[
        'gt_bboxes_labels'] for seed in range(200)])
    assert 130 < len(pasted) < 270
    assert abs(pasted.mean() - share) < 0.1


def test_a_single_rare_cell_is_pasted_as_often_as_its_class():
    source = common_and_rare(48, 1)
    pasted = np.concatenate([paste(nothing(side=150), source, seed=seed, max_cells=20)['gt_bboxes_labels']
                             for seed in range(40)])
    assert len(pasted) > 250
    assert abs(pasted.mean() - 0.5) < 0.1


def test_an_image_and_sources_without_cells_are_no_matter():
    pasted = paste(nothing(5), nothing())
    assert (pasted['img'] == 5).all()
    assert len(pasted['gt_masks']) == len(pasted['gt_bboxes']) == len(pasted['gt_bboxes_labels']) == 0


def test_mmdetections_data_set_of_mixed_images_brings_the_cells(tiny_config):
    init_default_scope('mmdet')
    inner = tiny_config.train_dataloader.dataset
    inner.pipeline = [step for step in inner.pipeline if step.type in ('LoadTiffImage', 'LoadCellAnnotations')]
    plain = DATASETS.build(inner)
    mixed = DATASETS.build(dict(type='MultiImageMixDataset', dataset=inner, pipeline=[
        dict(type='CellCopyPaste', max_cells=8), dict(type='PackDetInputs')]))
    assert mixed.metainfo == plain.metainfo
    assert len(mixed) == len(plain)

    def cells():
        set_random_seed(4)
        return [mixed[i] for i in range(3)]

    first, second = cells(), cells()
    assert all(bool((one['inputs'] == two['inputs']).all()) for one, two in zip(first, second, strict=True))
    counts = [len(sample['data_samples'].gt_instances) - len(plain[i]['gt_masks']) for i, sample in enumerate(first)]
    assert min(counts) >= 0
    assert max(counts) > 2


class Images(BaseDetDataset):
    """Images with cells of these labels; of those below 0, as of -1 - label, to ignore."""

    METAINFO = dict(classes=('common', 'rare', 'absent'))  # noqa: RUF012 -- as MMDetection

    def __init__(self, labels, **kwargs):
        self.labels, self.read = labels, 0
        super().__init__(serialize_data=False, **kwargs)  # which collects garbage, for seconds

    def load_data_list(self):
        return [dict(img_id=number, instances=[
            dict(bbox_label=max(label, -1 - label), ignore_flag=int(label < 0)) for label in labels])
                for number, labels in enumerate(self.labels)]

    def get_data_info(self, idx):
        self.read += 1
        return super().get_data_info(idx)


LABELS = [[0, 0]] * 97 + [[0, 1], [0, -2], []]


def drawn_from(dataset, count=200, **arguments):
    set_random_seed(0)
    return CellCopyPaste(images=count, **arguments).get_indexes(dataset)


def test_images_that_bring_cells_have_the_class_that_is_drawn():
    assert set(drawn_from(Images(LABELS), class_weights=(0, 1, 0))) == {97}
    assert set(drawn_from(Images(LABELS), 2000, class_weights=(1, 0, 0))) == set(range(99))
    assert 80 < drawn_from(Images(LABELS)).count(97) < 120


def test_classes_of_which_no_image_has_a_cell_to_paste_bring_none():
    assert 97 not in drawn_from(Images(LABELS[:50]))
    assert drawn_from(Images(LABELS), class_weights=(0, 0, 1)) == []
    assert drawn_from(Images([[-1], []])) == []


@pytest.mark.parametrize(('indices', 'expected'), [(98, set(range(98))), ([97, 5, 97], {0, 1, 2}), (-3, {0, 1})])
def test_a_part_of_a_data_set_counts_its_own_images(indices, expected):
    assert set(drawn_from(Images(LABELS, indices=indices), 1500)) == expected


@pytest.mark.parametrize(('wrapped', 'expected'), [
    (lambda images: RepeatDataset(images, 3), {97, 197, 297}),
    (lambda images: ClassBalancedDataset(images, 0.1), {97, 98, 99}),
    (lambda images: ConcatDataset([images, images]), {97, 197})],
    ids=['repeated', 'balanced', 'concatenated'])
def test_images_of_a_class_are_found_in_wrapped_data_sets(wrapped, expected):
    dataset = wrapped(Images(LABELS))
    drawn = set(drawn_from(dataset, class_weights=(0, 1, 0)))
    assert drawn == expected
    assert {dataset.get_data_info(index)['img_id'] for index in drawn} == {97}


def test_images_are_looked_through_once_whatever_repeats_them():
    images = Images(LABELS)
    repeated, transform = RepeatDataset(images, 50), CellCopyPaste()
    for _ in range(5):
        transform.get_indexes(repeated)
    assert images.read == 100
    assert set(transform.get_indexes(Images(LABELS[:1]))) == {0}


@pytest.mark.parametrize('copied', [deepcopy, lambda mixed: pickle.loads(pickle.dumps(mixed))],
                         ids=['copied', 'pickled'])
def test_copies_draw_alike_and_look_through_nothing_again(copied):
    mixed = MultiImageMixDataset(Images(LABELS), [dict(type='CellCopyPaste')])
    mixed.pipeline[0].get_indexes(mixed.dataset)
    again = copied(mixed)
    set_random_seed(1)
    expected = mixed.pipeline[0].get_indexes(mixed.dataset)
    set_random_seed(1)
    assert again.pipeline[0].get_indexes(again.dataset) == expected
    assert again.dataset.read == mixed.dataset.read == 100


class Unlabelled(Images):

    def load_data_list(self):
        return [dict(img_id=0)]


@pytest.mark.parametrize('dataset', [[0], Unlabelled([])], ids=['no data set', 'no instances'])
def test_data_that_do_not_tell_their_classes_are_refused(dataset):
    with pytest.raises(UserError, match=f'{type(dataset).__name__} does not tell the classes of its images; use CellD'):
        CellCopyPaste().get_indexes(dataset)
    assert CellCopyPaste(images=0).get_indexes(dataset) == []


@pytest.mark.parametrize('weights', [(0, 1), (1, 1, 1, 1)])
def test_weights_that_are_not_as_many_as_the_classes_are_refused(weights):
    with pytest.raises(UserError, match=f'class_weights is {len(weights)}, that of classes 3; give each class one'):
        CellCopyPaste(class_weights=weights).get_indexes(Images(LABELS))


@pytest.mark.parametrize(('arguments', 'message'), [
    (dict(max_cells=-1), 'max_cells=-1'), (dict(margin=-1), 'margin=-1'), (dict(images=-1), 'images=-1'),
    (dict(max_covered=1.1), r'max_covered=1\.1 from 0 to 1'), (dict(class_weights=(1, -1)), 'class_weights'),
    (dict(class_weights=(0, 0)), 'one at least above it'), (dict(class_weights=()), 'class_weights'),
    (dict(class_weights=(1, np.nan)), 'class_weights'), (dict(max_covered=np.nan), 'max_covered=nan'),
    (dict(images=1.5), r'images=1\.5')])
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        CellCopyPaste(**arguments)


def test_weights_that_are_too_few_for_the_classes_are_refused():
    source = one_cell(0, 1)
    source['gt_bboxes_labels'][:] = 2
    with pytest.raises(UserError, match='class_weights is 2, that of classes 3; give each class one'):
        paste(source, class_weights=(1, 1))
