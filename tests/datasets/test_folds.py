import json
from pathlib import Path

import pytest

from cellseg_mm.datasets.folds import read_folds
from cellseg_mm.datasets.prepare import prepare
from cellseg_mm.datasets.synthetic import write_demo_data
from cellseg_mm.errors import CellDataError

CLASSES = 'a', 'b'
CATEGORIES = [{'id': 1, 'name': 'a'}, {'id': 2, 'name': 'b'}]


def write(root, name, numbers, **changes):
    annotations = {
        'info': {'split': name, 'grouping': 'some', 'seed': 0}, 'categories': CATEGORIES,
        'images': [{'id': n, 'file_name': f'{n}.tif', 'height': 9, 'width': 9, 'group': f'g{n // 2}'} for n in numbers],
        'annotations': [{'id': 10 * n, 'image_id': n, 'category_id': 1} for n in numbers]}
    (root / 'annotations' / f'{name}.json').write_text(json.dumps(annotations | changes))


@pytest.fixture
def root(tmp_path):
    """Three folds of six images in three groups."""
    (tmp_path / 'annotations').mkdir()
    write(tmp_path, 'train', [0, 1, 2, 3])
    write(tmp_path, 'val', [4, 5])
    for fold in range(3):
        val = [2 * fold, 2 * fold + 1]
        write(tmp_path, f'fold{fold}_train', sorted({*range(6)} - {*val}))
        write(tmp_path, f'fold{fold}_val', val)
    return tmp_path


def test_sound_folds_are_counted_and_known_by_their_content(root):
    folds = read_folds(root, CLASSES)
    assert (folds.count, folds.groups, len(folds.digests)) == (3, 3, 6)
    assert read_folds(root, CLASSES, wanted=3) == folds
    write(root, 'fold0_val', [0, 1], info={'split': 'other', 'grouping': 'some', 'seed': 0})
    assert read_folds(root, CLASSES) != folds


def test_another_number_of_folds_names_the_command_that_makes_them(root):
    with pytest.raises(CellDataError, match=r'there are 3 folds in it, not 5; run: python tools/prepare_data.py \S+ '
                                            r'--folds 5'):
        read_folds(root, CLASSES, wanted=5)


def test_no_folds_at_all_names_the_command_that_makes_them(root):
    for path in root.glob('annotations/fold*'):
        path.unlink()
    with pytest.raises(CellDataError, match=r'there are no folds in it; run: python tools/prepare_data.py .*5'):
        read_folds(root, CLASSES)
    with pytest.raises(CellDataError, match='--folds 4'):
        read_folds(root, CLASSES, wanted=4)


def remove(*names):
    return lambda root: [Path(root, 'annotations', name).unlink() for name in names]


def rewrite(name, numbers, **changes):
    return lambda root: write(root, name, numbers, **changes)


@pytest.mark.parametrize(('spoil', 'message'), [
    (remove('fold1_val.json'), 'fold1_val.json is missing'),
    (remove('fold1_val.json', 'fold1_train.json'), 'fold1_train.json, fold1_val.json is missing'),
    (remove('val.json'), 'val.json: there are no annotations yet'),
    (rewrite('train', [0, 1, 2, 3], categories=CATEGORIES[:1]), 'its classes are'),
    (rewrite('fold2_val', [4, 5], categories=CATEGORIES[::-1]), 'fold2_val.json: it is not of the same preparation'),
    (rewrite('fold2_train', [0, 1, 2, 3], info={'grouping': 'other'}), 'fold2_train.json: it is not of the same'),
    (rewrite('fold1_val', [2]), 'fold1_val.json: its images, with those of fold1_train.json, are not those of train'),
    (rewrite('fold1_val', [2, 3, 6]), 'are not those of train.json and val.json'),
    (rewrite('fold1_val', [2, 3, 4]), 'some of its images are in fold1_train.json too'),
    (rewrite('fold1_val', [2, 3], annotations=[]), 'its annotations, with those of fold1_train.json, are not those'),
    (rewrite('fold1_val', [2, 3], annotations=[{'id': 20, 'image_id': 0}, {'id': 30, 'image_id': 0}]),
     'cells of images that it does not list'),
    (lambda root: (write(root, 'fold1_val', [0, 1]), write(root, 'fold1_train', [2, 3, 4, 5])),
     'fold1_val.json: the image 0.tif is in fold0_val.json too'),
    (lambda root: (write(root, 'fold2_val', []), write(root, 'fold2_train', range(6))), '4.tif is in no fold_<k>_val'),
    (lambda root: (write(root, 'fold1_val', [3]), write(root, 'fold1_train', [0, 1, 2, 4, 5])),
     'the group g1 is in fold1_train.json too'),
])
def test_what_would_spoil_the_figures_is_refused(root, spoil, message):
    spoil(root)
    with pytest.raises(CellDataError) as caught:
        read_folds(root, CLASSES)
    assert message in str(caught.value)


def test_what_the_preparation_writes_is_sound(tmp_path):
    write_demo_data(tmp_path, train=9, test=1)
    classes = prepare(tmp_path, folds=3, workers=1).classes
    assert read_folds(tmp_path, classes).count == 3


def test_folds_of_one_group_alone_are_let_through_and_told(tmp_path):
    write_demo_data(tmp_path, train=4, test=0)
    keys = [path.name for path in (tmp_path / 'train').iterdir()]
    (tmp_path / 'groups.csv').write_text('id,group\n' + ''.join(f'{key},one\n' for key in keys))
    classes = prepare(tmp_path, folds=2, groups=tmp_path / 'groups.csv', workers=1).classes
    assert read_folds(tmp_path, classes).groups == 1
