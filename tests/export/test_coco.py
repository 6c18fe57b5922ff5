"""COCO results, read back by this project's evaluation and by pycocotools."""
import json
import time
import weakref

import numpy as np
import pytest
from export_scenes import CLASSES, scene, slide
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from cellseg_mm.evaluation.instances import pair_images, read_results
from cellseg_mm.evaluation.submission import check_submission
from cellseg_mm.export.coco import write_coco
from cellseg_mm.structures.cells import Cells
from cellseg_mm.structures.local_masks import LocalMasks


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    return tmp_path_factory.mktemp('coco') / 'results.json'


def annotations(images):
    return {'images': [{'id': image_id, 'file_name': f'{image_id}.tif', 'height': cells.masks.height,
                        'width': cells.masks.width} for image_id, cells in images],
            'categories': [{'id': label + 1, 'name': name} for label, name in enumerate(CLASSES)], 'annotations': []}


@settings(max_examples=20)
@given(st.lists(st.builds(scene, st.integers(0, 10**6), st.integers(0, 6)), min_size=1, max_size=3))
def test_evaluation_reads_the_same_cells(path, scenes):
    images = list(enumerate(scenes, 7))
    write_coco(path, images)
    results = read_results(path)
    for pair, (image_id, cells) in zip(pair_images(annotations(images), results), images, strict=True):
        assert pair.image_id == image_id
        np.testing.assert_array_equal(pair.predicted.masks.to_ndarray(), cells.masks.to_ndarray())
        np.testing.assert_array_equal(pair.predicted.masks.boxes, pair.predicted.boxes)
        np.testing.assert_array_equal(pair.predicted.labels, cells.labels)
        np.testing.assert_array_equal(pair.predicted.scores.astype(np.float32), cells.scores)


def test_they_can_be_submitted(path):
    images = [(1, scene(0)), (2, Cells.none(60, 75))]
    write_coco(path, images)
    summary = check_submission(read_results(path), annotations(images)['images'], len(CLASSES))
    assert sum(summary.cells.values()) == len(images[0][1])
    assert summary.images_without_cells == 1


def test_pycocotools_reads_them(path, capsys):
    cells = scene(4)
    write_coco(path, [(3, cells)])
    truth = COCO()
    truth.dataset = annotations([(3, cells)])
    truth.createIndex()
    loaded = truth.loadRes(str(path))
    assert loaded.getImgIds() == [3]
    found = loaded.loadAnns(loaded.getAnnIds())
    assert [result['category_id'] for result in found] == (cells.labels + 1).tolist()
    np.testing.assert_array_equal(coco_mask.decode([result['segmentation'] for result in found]).transpose(2, 0, 1),
                                  cells.masks.to_ndarray())


def test_empty_masks_are_left_out(path):
    masks = LocalMasks.from_bitmaps(np.stack([np.zeros((4, 5), bool), np.ones((4, 5), bool)]))
    write_coco(path, [(1, Cells(masks, np.array([0, 1]), np.float32([0.5, 0.25])))])
    result, = json.loads(path.read_text())
    assert (result['category_id'], result['score'], result['bbox']) == (2, 0.25, [0, 0, 5, 4])


@pytest.mark.parametrize('images', [[], [(1, Cells.none(9, 9))]])
def test_without_cells_the_list_is_empty(path, images):
    write_coco(path, images)
    assert json.loads(path.read_text()) == []


def test_one_image_at_a_time_is_held(path):
    earlier = []

    def images():
        for image_id in range(5):
            assert not any(reference() for reference in earlier[:-1])
            cells = scene(image_id)
            earlier.append(weakref.ref(cells))
            yield image_id, cells

    write_coco(path, images())
    assert {result['image_id'] for result in json.loads(path.read_text())} == set(range(5))


def test_an_error_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / 'results.json'
    path.write_text('old')

    def images():
        yield 1, scene(1)
        raise OSError('no image')

    with pytest.raises(OSError, match='no image'):
        write_coco(path, images())
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [('results.json', 'old')]


def test_ten_thousand_cells_take_no_second(path):
    cells = slide(2500, 10_000)
    write_coco(path, [(1, cells[np.arange(3)])])  # compiled
    start = time.process_time()
    write_coco(path, [(1, cells)])
    assert time.process_time() - start < 1
    assert len(json.loads(path.read_text())) == 10_000
