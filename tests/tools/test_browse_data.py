import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

TOOL = Path(__file__).parents[2] / 'tools' / 'browse_data.py'
CONFIG = """
custom_imports = dict(imports=['cellseg_mm.register'], allow_failed_imports=False)
default_scope = 'mmdet'
data_root = {root!r}
classes = ('round', 'square')
max_dets = 100
model = dict()
pipeline = [
    dict(type='LoadTiffImage'),
    dict(type='LoadCellAnnotations'),
    dict(type='Resize', scale_factor=2.0),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(
    type='CellDataset', data_root=data_root, ann_file='annotations/train.json', metainfo=dict(classes=classes),
    pipeline=pipeline))
val_dataloader = dict(dataset=dict(
    type='CellDataset', data_root=data_root, ann_file='annotations/val.json', metainfo=dict(classes=classes),
    test_mode=True, pipeline=[dict(type='LoadTiffImage'), dict(type='PackDetInputs')]))
"""


def write_split(root, split, names):
    images, annotations = [], []
    mask = np.zeros((300, 260), np.uint8)
    mask[40:80, 30:70] = 1
    rle = coco_mask.encode(np.asfortranarray(mask))
    for image_id, name in enumerate(names, 1):
        path = root / 'train' / name / 'image.png'
        path.parent.mkdir(parents=True)
        cv2.imwrite(str(path), np.full((300, 260, 3), 200, np.uint8))
        images.append({'id': image_id, 'file_name': f'train/{name}/image.png', 'height': 300, 'width': 260})
        if name != 'empty':
            annotations.append({'id': image_id, 'image_id': image_id, 'category_id': 2, 'iscrowd': 0, 'area': 1600.0,
                                'bbox': [30, 40, 40, 40],
                                'segmentation': {'size': [300, 260], 'counts': rle['counts'].decode()}})
    categories = [{'id': 1, 'name': 'round'}, {'id': 2, 'name': 'square'}]
    (root / 'annotations').mkdir(exist_ok=True)
    (root / 'annotations' / f'{split}.json').write_text(
        json.dumps({'images': images, 'annotations': annotations, 'categories': categories}))


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_split(tmp_path / 'data', 'train', ['a', 'empty', 'c', 'd'])
    write_split(tmp_path / 'data', 'val', ['v'])
    path = tmp_path / 'tiny.py'
    path.write_text(CONFIG.format(root=str(tmp_path / 'data')))
    return path


@pytest.fixture
def browse_data(monkeypatch, capsys):
    """Runs the tool; returns its exit status, stdout and stderr."""
    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['browse_data.py', *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(TOOL), run_name='__main__')
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err
    return run


def pictures(out):
    return [Path(line) for line in out.splitlines() if line.endswith('.png')]


def test_pictures_show_images_after_the_pipeline(config, browse_data):
    status, out, _ = browse_data(config, '--count', 9)
    assert status == 0
    names = [f'train_000{index}_{name}_image.png' for index, name in enumerate(['a', 'empty', 'c', 'd'])]
    assert pictures(out) == [Path('work_dirs', 'tiny', 'browse', name) for name in names]
    page = cv2.imread(str(pictures(out)[0]))
    # Two panels of an image twice as large as its file, and a square of 80 pixels outlined in its class's colour.
    assert page.shape[0] > 600
    assert page.shape[1] > 2 * 520
    outline = np.argwhere((page[:600] == (233, 180, 86)).all(axis=2))
    assert (outline.max(axis=0) - outline.min(axis=0) + 1).tolist() == [80, 80]


def test_the_same_call_draws_the_same_pictures(config, browse_data):
    first, second = (pictures(browse_data(config, '--count', 3, '--out', name)[1]) for name in ('one', 'two'))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert len(first) == 3


def test_validation_images_go_through_the_training_pipeline(config, browse_data):
    status, out, _ = browse_data(config, '--split', 'val')
    assert status == 0
    assert [path.name for path in pictures(out)] == ['val_0000_v_image.png']
    assert ((cv2.imread(str(pictures(out)[0]))[:600] == (233, 180, 86)).all(axis=2)).any()


def add(config, line):
    with config.open('a') as file:
        file.write(f'{line}\n')


def wrap(config, split, wrapper):
    add(config, f"{split}_dataloader = dict(dataset=dict({wrapper}, dataset={split}_dataloader['dataset']))")


MIXED = "type='MultiImageMixDataset', pipeline=[dict(type='Resize', scale_factor=1.5), dict(type='PackDetInputs')]"
BALANCED = "type='ClassBalancedDataset', oversample_thr=3.0"


@pytest.mark.parametrize(('split', 'name'), [('train', 'train_0000_a_image.png'), ('val', 'val_0000_v_image.png')])
def test_images_go_through_the_pipelines_of_wrappers_too(config, browse_data, split, name):
    add(config, 'pipeline.pop()')  # the wrapper packs
    wrap(config, 'train', BALANCED)
    wrap(config, 'train', MIXED)
    status, out, _ = browse_data(config, '--split', split, '--count', 1, '--cfg-options', 'default_scope=mmdet')
    assert status == 0
    page, = pictures(out)
    assert page.name == name
    outline = np.argwhere((cv2.imread(str(page))[:900] == (233, 180, 86)).all(axis=2))
    assert (outline.max(axis=0) - outline.min(axis=0) + 1).tolist() == [120, 120]


def places(out):
    return [path.name.rpartition('_')[0] for path in pictures(out)]


def test_images_are_repeated_as_their_classes_are_in_training(config, browse_data):
    wrap(config, 'train', BALANCED)
    status, out, _ = browse_data(config, '--count', 9)
    assert status == 0
    assert places(out) == ['train_0000_a', 'train_0001_a', 'train_0002_empty', 'train_0003_c', 'train_0004_c',
                           'train_0005_d', 'train_0006_d']


def test_images_that_are_all_repeated_are_shown_once(config, browse_data):
    wrap(config, 'train', "type='RepeatDataset', times=8")
    status, out, _ = browse_data(config, '--count', 9)
    assert status == 0
    assert places(out) == ['train_0000_a', 'train_0001_empty', 'train_0002_c', 'train_0003_d']


def test_every_validation_image_is_shown_once_whatever_the_training_repeats_or_leaves_out(config, browse_data):
    add(config, "train_dataloader['dataset'].update(filter_cfg=dict(min_size=280), indices=1)")
    wrap(config, 'train', BALANCED)
    # Predicted images are not filtered, whatever is set.
    add(config, "val_dataloader['dataset']['filter_cfg'] = dict(min_size=280)")
    wrap(config, 'val', "type='RepeatDataset', times=2")
    status, out, _ = browse_data(config, '--split', 'val', '--count', 9)
    assert status == 0
    assert places(out) == ['val_0000_v']


def test_an_image_that_the_pipeline_drops_is_not_shown_as_another(config, browse_data):
    add(config, "pipeline.insert(2, dict(type='RandomCrop', crop_size=(600, 600)))")  # none without a cell
    status, out, _ = browse_data(config, '--count', 4)
    assert status == 0
    assert places(out) == ['train_0000_a', 'train_0002_c', 'train_0003_d']
    add(config, "train_dataloader['dataset'].update(indices=[1, 0])")
    status, _, err = browse_data(config, '--count', 1)
    assert status == 2
    assert 'drops every image that was to be shown; ask for more of them' in err


@pytest.mark.parametrize(('break_it', 'message'), [
    (lambda root: (root / 'annotations' / 'train.json').unlink(), 'prepare_data.py'),
    (lambda root: (root / 'train' / 'a' / 'image.png').write_bytes(b'no image'), 'image.png'),
    (lambda root: (root / 'train' / 'a' / 'image.png').unlink(), 'image.png'),
    (lambda root: (root.parent / 'tiny.py').unlink(), 'tiny.py'),
])
def test_what_the_user_can_mend_is_told_in_one_line(config, browse_data, tmp_path, break_it, message):
    break_it(tmp_path / 'data')
    status, _, err = browse_data(config)
    assert status == 2
    assert message in err
    assert len([line for line in err.splitlines() if line.startswith('error: ')]) == 1
    assert not list(tmp_path.rglob('*browse*/*'))


def test_a_count_below_one_is_refused(browse_data):
    status, _, err = browse_data('any.py', '--count', 0)
    assert status == 2
    assert '--count must be above 0' in err


def test_an_empty_data_set_is_told_in_one_line(config, browse_data):
    status, _, err = browse_data(config, '--cfg-options', 'train_dataloader.dataset.filter_cfg.filter_empty_gt=True',
                                 'train_dataloader.dataset.filter_cfg.min_size=5000')
    assert status == 2
    assert 'error: ' in err
    assert 'the train data set is empty' in err


def test_help_answers_without_heavy_imports():
    environment = os.environ | {'PYTHONPATH': str(TOOL.parents[1])}
    shown = subprocess.run([sys.executable, '-X', 'importtime', TOOL, '--help'], capture_output=True, text=True,
                           check=True, env=environment)
    assert '--split' in shown.stdout
    assert 'argparse' in shown.stderr
    assert not any(heavy in shown.stderr for heavy in ('numpy', 'torch', 'mmengine', 'matplotlib'))
