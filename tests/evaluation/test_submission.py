import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import METRICS
from mmdet.structures import DetDataSample
from mmengine.evaluator import Evaluator
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask

from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.evaluation.submission import (
    check_submission,
    check_submission_file,
    format_summary,
    write_submission,
)

CLASSES = 'class1', 'class2', 'class3', 'class4'
IMAGES = [{'id': 3, 'file_name': 'a.tif', 'height': 20, 'width': 30},
          {'id': 4, 'file_name': 'b.tif', 'height': 10, 'width': 12},
          {'id': 8, 'file_name': 'c.tif', 'height': 5, 'width': 5}]
NAN, DELETE = float('nan'), object()


def rle(height, width, x=1, y=1, side=3):
    mask = np.zeros((height, width), np.uint8, order='F')
    mask[y:y + side, x:x + side] = 1
    encoded = coco_mask.encode(mask)
    return {'size': [height, width], 'counts': encoded['counts'].decode()}


def valid():
    mask = rle(20, 30, 5, 2)
    return [{'image_id': 3, 'category_id': 1, 'bbox': [1.0, 1.0, 3.0, 3.0], 'score': 0.9, 'segmentation': rle(20, 30)},
            {'image_id': 3, 'category_id': 4, 'bbox': [5.0, 2.0, 3.0, 3.0], 'score': 1, 'segmentation': mask},
            {'image_id': 4, 'category_id': 1, 'bbox': [0.0, 0.0, 0.0, 3.0], 'score': 0.0, 'segmentation': rle(10, 12)}]


def broken(path, value):
    """A submission whose second entry is changed at one place, such as 'segmentation.counts'."""
    results = valid()
    *parents, key = path.split('.')
    node = results[1]
    for parent in parents:
        node = node[parent]
    if value is DELETE:
        del node[key]
    else:
        node[key] = value
    return results


def test_a_valid_submission_is_counted():
    summary = check_submission(valid(), IMAGES, 4, num_parameters=44_000_000, predicted_ids=[3, 4, 8])
    assert summary.cells == {1: 2, 2: 0, 3: 0, 4: 1}
    assert (summary.images, summary.images_without_cells, summary.num_parameters) == (3, 1, 44_000_000)
    text = format_summary(summary, CLASSES)
    assert 'class1: 2 cells' in text
    assert 'class3: 0 cells' in text
    assert '3 cells in 2 of 3 images' in text
    assert '44.0 M parameters' in text


@pytest.mark.parametrize(('path', 'value', 'message'), [
    ('image_id', 7, 'image id'), ('image_id', '3', 'image id'), ('image_id', 3.0, 'image id'),
    ('image_id', True, 'image id'), ('image_id', [3], 'image id'),
    ('category_id', 0, 'category'), ('category_id', 5, 'category'), ('category_id', '1', 'category'),
    ('category_id', None, 'category'),
    ('score', NAN, 'score'), ('score', float('inf'), 'score'), ('score', 1.01, 'score'), ('score', -0.1, 'score'),
    ('score', '0.5', 'score'), ('score', None, 'score'), ('score', DELETE, 'lack'),
    ('bbox', [1, 1, 3], 'bbox'), ('bbox', [1, 1, -3, 3], 'bbox'), ('bbox', [1, NAN, 3, 3], 'bbox'), ('bbox', 5, 'bbox'),
    ('bbox', [1, 1, '3', 3], 'bbox'), ('bbox', DELETE, 'lack'),
    ('segmentation', [[1, 1, 4, 1, 4, 4]], 'text counts'), ('segmentation', None, 'text counts'),
    ('segmentation.counts', [1, 2, 3], 'text counts'), ('segmentation.size', [30, 20], 'another size'),
    ('segmentation.size', [20], 'another size'), ('segmentation.size', DELETE, 'another size'),
    ('segmentation.counts', '', 'add up'), ('segmentation.counts', rle(10, 12)['counts'], 'add up'),
    ('segmentation.counts', rle(20, 30)['counts'] + '1', 'add up'), ('segmentation.counts', 'Ob0No00', 'add up'),
    ('segmentation.counts', 'é' * 5, 'cannot be decoded'), ('segmentation.counts', '!!!', 'cannot be decoded'),
    ('segmentation.counts', 'o' * 200, 'cannot be decoded'), ('segmentation.counts', 'P', 'cannot be decoded'),
    ('segmentation.counts', rle(20, 30, side=0)['counts'], 'empty mask'),
])
def test_a_malformed_entry_is_refused_and_located(path, value, message):
    with pytest.raises(UserError, match=f'1 of 3 entries .*{message}.*first entry 1$'):
        check_submission(broken(path, value), IMAGES, 4)


@pytest.mark.parametrize(('results', 'message'), [
    ([], 'no cell at all'), ({'results': []}, 'not a list'), (None, 'not a list'), ([1, 2], '2 of 2 entries lack')])
def test_what_is_not_a_list_of_results_is_refused(results, message):
    with pytest.raises(UserError, match=message):
        check_submission(results, IMAGES, 4)


def test_all_that_is_wrong_is_listed_in_one_line():
    results = broken('score', NAN)
    results[0]['score'] = 2
    results[2]['category_id'] = 9
    with pytest.raises(UserError) as error:
        check_submission(results, IMAGES, 4, num_parameters=200_000_000, predicted_ids=[3])
    message = str(error.value)
    for part in ('2 of 3 test images were not predicted, first image 4', '200,000,000 parameters', '2 of 3 entries',
                 'first entry 0', '1 of 3 entries', 'first entry 2'):
        assert part in message
    assert '\n' not in message


def test_every_mask_that_pycocotools_writes_is_accepted():
    rng = np.random.default_rng(0)
    results = []
    for density in np.linspace(0.02, 1, 200):
        mask = rng.random((20, 30)) < density
        counts = coco_mask.encode(np.asfortranarray(mask, np.uint8))['counts'].decode()
        if mask.any():
            results.append({**valid()[0], 'segmentation': {'size': [20, 30], 'counts': counts}})
    assert check_submission(results, IMAGES, 4).cells[1] == len(results) > 150


def test_the_zip_holds_just_the_json_and_the_same_results_give_the_same_bytes(tmp_path):
    for folder in 'ab':
        summary = write_submission(tmp_path / folder, valid(), IMAGES, 4)
    a, b = ({path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()} for folder in 'ab')
    assert a == b
    assert a.keys() == {'test-results.json', 'test-results.zip'}
    with zipfile.ZipFile(tmp_path / 'a/test-results.zip') as archive:
        member, = archive.infolist()
        assert (member.filename, member.compress_type) == ('test-results.json', zipfile.ZIP_DEFLATED)
        assert archive.read(member) == a['test-results.json']
    assert json.loads(a['test-results.json']) == valid()
    assert summary.files == {str(tmp_path / 'b' / name): len(content) for name, content in b.items()}
    assert 'test-results.zip: 0.00 MB, checked' in format_summary(summary, CLASSES)


def test_an_invalid_submission_leaves_the_earlier_one_in_place(tmp_path):
    write_submission(tmp_path, valid(), IMAGES, 4)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match='not a valid submission'):
        write_submission(tmp_path, broken('score', NAN), IMAGES, 4)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.fixture
def id_list(tmp_path):
    path = tmp_path / 'test_image_name_to_ids.json'
    path.write_text(json.dumps(IMAGES))
    return path


@pytest.mark.parametrize('name', ['test-results.json', 'test-results.zip'])
@pytest.mark.parametrize('coco', [False, True])
def test_a_written_file_is_checked_against_the_id_list(tmp_path, id_list, name, coco):
    if coco:
        id_list.write_text(json.dumps({'images': IMAGES, 'categories': [], 'annotations': []}))
    write_submission(tmp_path / 'out', valid(), IMAGES, 4)
    summary = check_submission_file(tmp_path / 'out' / name, id_list, 4)
    assert summary.cells == {1: 2, 2: 0, 3: 0, 4: 1}
    assert list(summary.files) == [str(tmp_path / 'out' / name)]
    with pytest.raises(UserError, match='category'):
        check_submission_file(tmp_path / 'out' / name, id_list, 3)


def cut_zip(path):
    write_submission(path.parent / 'whole', valid(), IMAGES, 4)
    path.write_bytes((path.parent / 'whole/test-results.zip').read_bytes()[:-30])


def damaged_zip(path):
    write_submission(path.parent / 'whole', valid(), IMAGES, 4)
    content = bytearray((path.parent / 'whole/test-results.zip').read_bytes())
    content[60] ^= 255
    path.write_bytes(content)


def zip_of_two(path):
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('test-results.json', '[]')
        archive.writestr('readme.txt', '')


@pytest.mark.parametrize(('name', 'write', 'message'), [
    ('a.json', lambda _: None, 'no such file'), ('a.zip', lambda _: None, 'no such file'),
    ('a.json', lambda path: path.write_text(json.dumps(valid())[:-5]), 'not JSON'),
    ('a.json', lambda path: path.write_bytes(b'\xff\xfe\xfd'), 'not JSON'),
    ('a.zip', lambda path: path.write_text('[]'), 'not a zip'), ('a.zip', cut_zip, 'not a zip'),
    ('a.zip', damaged_zip, 'not a zip'), ('a.zip', zip_of_two, 'just test-results.json')])
def test_a_file_that_cannot_be_read_is_named(tmp_path, id_list, name, write, message):
    write(tmp_path / name)
    with pytest.raises(CellDataError, match=f'{re.escape(name)}: .*{message}'):
        check_submission_file(tmp_path / name, id_list, 4)


@pytest.mark.parametrize('content', [{}, [1], [{'id': 3}], {'images': None}])
def test_an_id_list_of_another_form_is_named(tmp_path, id_list, content):
    id_list.write_text(json.dumps(content))
    write_submission(tmp_path / 'out', valid(), IMAGES, 4)
    with pytest.raises(CellDataError, match='test_image_name_to_ids'):
        check_submission_file(tmp_path / 'out/test-results.json', id_list, 4)


@pytest.fixture
def ann_file(tmp_path):
    path = tmp_path / 'annotations' / 'test.json'
    path.parent.mkdir()
    path.write_text(json.dumps({'images': IMAGES, 'annotations': [], 'categories': [
        {'id': i, 'name': name} for i, name in enumerate(CLASSES, 1)]}))
    return path


def predict(image, labels):
    masks = torch.zeros(len(labels), image['height'], image['width'], dtype=torch.bool)
    masks[:, 1:3, 1:3] = True
    return DetDataSample(
        metainfo={'img_id': image['id'], 'ori_shape': (image['height'], image['width'])},
        pred_instances=InstanceData(masks=masks, labels=torch.tensor(labels, dtype=int), scores=torch.rand(len(labels)),
                                    bboxes=torch.tensor([[1.0, 1.0, 3.0, 3.0]]).repeat(len(labels), 1)))


def submit(ann_file, out_dir, samples, num_parameters=None):
    metric = METRICS.build({'type': 'Submission', 'ann_file': str(ann_file), 'out_dir': str(out_dir)})
    metric.num_parameters = num_parameters
    evaluator = Evaluator(metric)
    evaluator.dataset_meta = {'classes': CLASSES}
    evaluator.process(samples)
    return metric, evaluator.evaluate(len(samples))


def test_predictions_become_a_checked_submission(ann_file, tmp_path):
    samples = [predict(IMAGES[0], [3, 0, 0]), predict(IMAGES[1], []), predict(IMAGES[2], [1])]
    metric, figures = submit(ann_file, tmp_path / 'out', samples, 44_000_000)
    assert figures == {'submission/cells': 4, 'submission/images_without_cells': 1}
    assert metric.summary.cells == {1: 2, 2: 1, 3: 0, 4: 1}
    results = json.loads((tmp_path / 'out/test-results.json').read_text())
    assert [(result['image_id'], result['category_id']) for result in results] == [(3, 4), (3, 1), (3, 1), (8, 2)]
    assert results[3]['bbox'] == [1, 1, 2, 2]
    assert coco_mask.decode(results[3]['segmentation']).sum() == 4


@pytest.mark.parametrize(('images', 'labels', 'num_parameters', 'message'), [
    (IMAGES[:2], [0], None, '1 of 3 test images were not predicted'), (IMAGES, [], None, 'no cell at all'),
    (IMAGES, [0], 200_000_000, 'parameters')])
def test_predictions_that_cannot_be_submitted_write_nothing(
        ann_file, tmp_path, images, labels, num_parameters, message):
    with pytest.raises(UserError, match=message):
        submit(ann_file, tmp_path / 'out', [predict(image, labels) for image in images], num_parameters)
    assert not list((tmp_path / 'out').iterdir())


@pytest.mark.parametrize('name', ['test-results.json', 'test-results.zip'])
def test_the_independent_scorer_agrees(tmp_path, name):
    from cellseg_mm.evaluation.coco_ap import average_precision
    from cellseg_mm.evaluation.instances import pair_images
    write_submission(tmp_path, valid(), IMAGES, 4)
    cells = [{**result, 'id': i, 'iscrowd': 0, 'area': 9.0} for i, result in enumerate(valid()[:2])]
    cells.append({**cells[0], 'id': 2, 'segmentation': rle(20, 30, 15, 10)})
    truth = {'images': IMAGES, 'annotations': cells,
             'categories': [{'id': i, 'name': name} for i, name in enumerate(CLASSES, 1)]}
    (tmp_path / 'truth.json').write_text(json.dumps(truth))
    script = Path(__file__).parents[2] / 'benchmarks/score_submission.py'
    output = subprocess.run([sys.executable, script, tmp_path / name, tmp_path / 'truth.json'],
                            check=True, capture_output=True, text=True).stdout
    metrics = average_precision(pair_images(truth, valid()), CLASSES, 1000)
    rows = [line.split() for line in output.splitlines() if line.startswith((*CLASSES, 'mean'))]
    for row, cap in zip(rows, ['cap100'] * 5 + ['dense'] * 5, strict=True):
        suffix = '' if row[0] == 'mean' else f'/{row[0]}'
        assert [float(value) for value in row[1:]] == pytest.approx(
            [metrics[f'{figure}_{cap}{suffix}'] for figure in ('AP50', 'AP75', 'AP')], abs=1e-4, nan_ok=True)
    assert metrics['AP50_dense/class1'] == pytest.approx(51 / 101)
