import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from pycocotools import mask as coco_mask
from scipy import ndimage

from cellseg_mm.datasets.synthetic import FREQUENCIES, make_cells_image, random_stain, write_demo_data
from cellseg_mm.errors import UserError

CLASSES = list(FREQUENCIES)
TRAIN, TEST = 30, 6
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('demo')
    write_demo_data(root, TRAIN, TEST, seed=3)
    return root


@pytest.fixture(scope='module')
def train_maps(root):
    """{image id: {class: label map}} as the files hold them."""
    return {folder.name: {path.stem: tifffile.imread(path) for path in sorted(folder.glob('class*.tif'))}
            for folder in sorted((root / 'train').iterdir())}


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob('*')) if path.is_file()}


def ids_of(labels):
    return np.unique(labels[labels > 0])


def touching(labels):
    """Ids whose cell has a pixel next to one of another cell, diagonals included."""
    low = ndimage.minimum_filter(np.where(labels > 0, labels, np.inf), 3)
    high = ndimage.maximum_filter(labels, 3)
    return ids_of(np.where((labels > 0) & ((low < labels) | (high > labels)), labels, 0))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    for name, seed in ('a', 5), ('b', 5), ('c', 6):
        write_demo_data(tmp_path / name, train=3, test=1, seed=seed)
    assert contents(tmp_path / 'a') == contents(tmp_path / 'b')
    images = [{data for path, data in contents(tmp_path / name).items() if path.suffix == '.tif'} for name in 'ac']
    assert not images[0] & images[1]


def test_a_second_run_into_the_same_folder_leaves_the_same_data(tmp_path):
    write_demo_data(tmp_path, train=3, test=1)
    before = contents(tmp_path)
    next(tmp_path.rglob('image.tif')).unlink()
    write_demo_data(tmp_path, train=3, test=1)
    assert contents(tmp_path) == before


def test_images_are_rgba_lzw_with_predictor(root):
    paths = [*root.glob('train/*/image.tif'), *root.glob('test_release/*.tif')]
    assert len(paths) == TRAIN + TEST
    for path in paths:
        with tifffile.TiffFile(path) as tiff:
            page, = tiff.pages
            assert page.dtype == np.uint8
            assert page.shape[2:] == (4,)
            assert page.compression == tifffile.COMPRESSION.LZW
            assert page.predictor == tifffile.PREDICTOR.HORIZONTAL
            assert page.photometric == tifffile.PHOTOMETRIC.RGB
            assert page.extrasamples == (tifffile.EXTRASAMPLE.UNASSALPHA,)
            assert (page.asarray()[..., 3] == 255).all()


def test_label_maps_are_uncompressed_float64_of_the_image_size(root):
    for path in root.glob('train/*/class*.tif'):
        with tifffile.TiffFile(path) as tiff:
            page, = tiff.pages
            assert page.dtype == np.float64
            assert page.compression == tifffile.COMPRESSION.NONE
            assert page.shape == tifffile.TiffFile(path.with_name('image.tif')).pages[0].shape[:2]


def test_ids_run_on_over_the_class_files(train_maps):
    for maps in train_maps.values():
        ids = [value for name in sorted(maps) for value in ids_of(maps[name])]
        assert ids == list(range(1, len(ids) + 1))


def test_a_class_without_cells_has_no_file_and_one_image_has_none_at_all(train_maps):
    assert all(labels.any() for maps in train_maps.values() for labels in maps.values())
    assert sum(not maps for maps in train_maps.values()) == 1
    assert any(0 < len(maps) < 4 for maps in train_maps.values())


def test_frequencies_are_as_skewed_as_the_real_ones(root, train_maps):
    cells = dict.fromkeys(CLASSES, 0)
    for maps in train_maps.values():
        for name, labels in maps.items():
            cells[name] += len(ids_of(labels))
    for annotation in json.loads((root / 'test_groundtruth.json').read_text())['annotations']:
        cells[CLASSES[annotation['category_id'] - 1]] += 1
    shares = [100 * count / sum(cells.values()) for count in cells.values()]
    np.testing.assert_allclose(shares, [46, 50, 2, 2], atol=1)


def test_every_group_shares_a_look_and_holds_every_class(root, train_maps):
    rows = list(csv.DictReader((root / 'groups.csv').open()))
    assert len({row['id'] for row in rows}) == TRAIN + TEST
    assert {row['id'] for row in rows[:TRAIN]} == set(train_maps)
    colours, classes = {}, {}
    for row in rows[:TRAIN]:
        image = tifffile.imread(root / 'train' / row['id'] / 'image.tif')[..., :3]
        # Dark pixels are nuclei; their colour tells of the stain.
        dark = image[image.sum(2) < np.quantile(image.sum(2), 0.1)].mean(0)
        colours.setdefault(row['group'], []).append(dark / dark.sum())
        classes.setdefault(row['group'], set()).update(train_maps[row['id']])
    assert all(found == set(CLASSES) for found in classes.values())
    within = np.mean([np.var(group, axis=0).sum() for group in colours.values()])
    between = np.var([np.mean(group, axis=0) for group in colours.values()], axis=0).sum()
    assert between > 2 * within


def test_about_a_quarter_of_the_common_cells_touch_their_own_class(train_maps):
    for name in 'class1', 'class2':
        maps = [maps[name] for maps in train_maps.values() if name in maps]
        share = sum(len(touching(labels)) for labels in maps) / sum(len(ids_of(labels)) for labels in maps)
        assert 0.15 < share < 0.4


def test_a_few_cells_overlap_across_classes_by_some_pixels(train_maps):
    overlapping = cells = 0
    for maps in train_maps.values():
        claims = sum(((labels > 0).astype(int) for labels in maps.values()), np.zeros((1, 1), int))
        for labels in maps.values():
            areas = np.bincount(labels.astype(int).ravel())
            shared = np.bincount(labels[claims > 1].astype(int), minlength=len(areas))[1:]
            overlapping += (shared > 0).sum()
            cells += (areas[1:] > 0).sum()
    assert 0.005 < overlapping / cells < 0.06


def test_classes_differ_in_size_as_lymphocyte_epithelial_macrophage(train_maps):
    areas = {name: np.concatenate([np.bincount(maps[name].astype(int).ravel())[ids_of(maps[name]).astype(int)]
                                   for maps in train_maps.values() if name in maps]) for name in CLASSES}
    medians = {name: np.median(values) for name, values in areas.items()}
    assert 1.5 * medians['class2'] < medians['class1'] < medians['class4'] / 2
    assert min(values.min() for values in areas.values()) >= 20


def test_image_sides_differ_and_stay_between_64_and_512(root):
    sides = np.array([tifffile.TiffFile(path).pages[0].shape[:2] for path in root.glob('train/*/image.tif')])
    assert sides.min() >= 64
    assert sides.max() <= 512
    assert len(np.unique(sides)) > TRAIN
    assert np.mean((sides >= 128) & (sides <= 320)) > 0.7


def test_the_id_list_and_the_ground_truth_describe_the_test_images(root):
    records = json.loads((root / 'test_image_name_to_ids.json').read_text())
    truth = json.loads((root / 'test_groundtruth.json').read_text())
    assert [record['id'] for record in records] == list(range(1, TEST + 1))
    assert {record['file_name'] for record in records} == {path.name for path in root.glob('test_release/*')}
    assert truth['images'] == records
    assert truth['categories'] == [{'id': number, 'name': name} for number, name in enumerate(CLASSES, 1)]
    assert [annotation['id'] for annotation in truth['annotations']] == list(range(1, len(truth['annotations']) + 1))
    sizes = {record['id']: [record['height'], record['width']] for record in records}
    for record in records:
        image = tifffile.imread(root / 'test_release' / record['file_name'])
        assert list(image.shape) == [record['height'], record['width'], 4]
    for annotation in truth['annotations']:
        assert annotation['segmentation']['size'] == sizes[annotation['image_id']]
        mask = coco_mask.decode(annotation['segmentation'])
        assert annotation['area'] == mask.sum() > 0
        rows, cols = np.nonzero(mask)
        assert annotation['bbox'] == [cols.min(), rows.min(), np.ptp(cols) + 1, np.ptp(rows) + 1]


@pytest.mark.parametrize('name', ['train', 'test_release', 'groups.csv'])
def test_a_folder_with_other_data_is_refused_and_left_alone(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f'{name}.*name another folder'):
        write_demo_data(tmp_path, train=1, test=1)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_demo_data_of_other_settings_is_refused(tmp_path):
    write_demo_data(tmp_path, train=1, test=0)
    before = contents(tmp_path)
    with pytest.raises(UserError, match='other settings'):
        write_demo_data(tmp_path, train=1, test=0, seed=1)
    assert contents(tmp_path) == before


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / 'file').write_text('mine')
    for root in 'file', 'file/below':
        with pytest.raises(UserError, match='a file; name a folder'):
            write_demo_data(tmp_path / root)
    assert (tmp_path / 'file').read_text() == 'mine'


def test_negative_numbers_are_refused(tmp_path):
    for arguments in ({'train': -1}, {'test': -1}, {'seed': -1}):
        with pytest.raises(UserError, match='negative'):
            write_demo_data(tmp_path / 'new', **arguments)
    assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize('shape', [(1, 1), (1, 90), (7, 5), (40, 33)])
def test_images_smaller_than_a_cell_can_be_drawn(shape):
    image, maps = make_cells_image(np.random.default_rng(0), *shape, dict.fromkeys(CLASSES, 4))
    assert image.shape == (*shape, 3)
    assert all(labels.shape == shape and labels.any() for labels in maps.values())


def test_more_cells_than_fit_are_left_out():
    _, maps = make_cells_image(np.random.default_rng(0), 64, 64, {'class4': 50})
    assert 1 <= maps['class4'].max() < 10


def test_the_stain_alone_changes_colours_and_no_cell():
    stains = [random_stain(np.random.default_rng(seed)) for seed in (1, 2)]
    (a, a_maps), (b, b_maps) = (make_cells_image(np.random.default_rng(0), 80, 90, {'class2': 9}, s) for s in stains)
    assert (a != b).mean() > 0.5
    np.testing.assert_array_equal(a_maps['class2'], b_maps['class2'])


def test_the_command_writes_the_data_and_refuses_in_one_line(tmp_path):
    def run(*options):
        return subprocess.run([sys.executable, 'tools/make_demo_data.py', tmp_path, '--train', '2', '--test', '1',
                               *options],
                              cwd=REPOSITORY, env={**os.environ, 'PYTHONPATH': str(REPOSITORY)},
                              capture_output=True, text=True, check=False)

    done = run()
    assert done.returncode == 0, done.stderr
    assert '2 training and 1 test images' in done.stdout
    assert len(list(tmp_path.glob('train/*/image.tif'))) == 2
    refused = run('--seed', '1')
    assert refused.returncode == 2
    assert refused.stderr.count('\n') == 1
