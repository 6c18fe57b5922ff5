"""tools/predict.py from images to files."""
import json
import os
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
from conftest import kill_tool_when, run_tool
from local_model import discs, write_checkpoint

from cellseg_mm.io.image import read_label_map, write_image


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp('model') / 'a.pth')


@pytest.fixture
def images(tmp_path):
    """A folder of two images of discs."""
    for seed, name in enumerate('ab'):
        write_image(tmp_path / 'images' / f'{name}.png', discs(220, 260, seed=seed))
    return tmp_path / 'images'


def predict(call_tool, checkpoint, *arguments, out):
    return call_tool('predict', *arguments, '--checkpoint', checkpoint, '--out', out, '--score-thr', 0.75, '--device',
                     'cpu')


def contents(folder):
    """What was written, but for what tells when and by which process."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob('*'))
            if path.is_file() and not path.name.endswith('.ome.tif')}


def test_all_formats_tell_of_the_same_cells(call_tool, checkpoint, images, tmp_path):
    out = tmp_path / 'out'
    status, printed, complaints = predict(call_tool, checkpoint, images, '--formats', 'all', '--mpp', 0.5, out=out)
    assert (status, complaints) == (0, '')
    assert '2 of 2 images done, 0 failed' in printed
    for name in 'ab':
        table = pd.read_csv(out / f'{name}.csv')
        assert len(table) > 5
        labels = read_label_map(out / f'{name}_labels.ome.tif')
        np.testing.assert_array_equal(np.unique(labels), [0, *table['cell']])
        np.testing.assert_array_equal(np.bincount(labels.ravel())[1:], table['area_px'])
        classes = tifffile.imread(out / f'{name}_classes.ome.tif')
        np.testing.assert_array_equal(classes > 0, labels > 0)
        features = json.loads((out / f'{name}.geojson').read_text())['features']
        assert [feature['properties']['classification']['name'] for feature in features] == table['class'].tolist()
        assert pd.read_parquet(out / f'{name}.parquet')['cell'].tolist() == table['cell'].tolist()
        assert cv2.imread(out / f'{name}_overlay.png').shape[2] == 3
        assert '<html' in (out / f'{name}.html').read_text()
        record = json.loads((out / f'{name}.prediction.json').read_text())['outcome']
        assert sum(record['counts'].values()) == len(table)
        # Doubtful and overlapping cells are left to metrics.
        assert len(json.loads((out / f'{name}.coco.json').read_text())) > len(table)
    ids = {image['file_name']: image['id'] for image in json.loads((out / 'images.json').read_text())['images']}
    assert {result['image_id'] for result in json.loads((out / 'b.coco.json').read_text())} == {
        ids[str(images / 'b.png')]}
    assert not list(out.glob('.*'))


def test_what_fails_does_not_stop_the_others(call_tool, checkpoint, images, tmp_path):
    (images / 'c.png').write_bytes((images / 'a.png').read_bytes()[:300])
    (images / 'd.tif').write_bytes(b'')
    (images / 'e.tif').write_text('no image')
    tifffile.imwrite(images / 'f.tif', np.zeros((4, 40, 40), np.uint8), photometric='minisblack')
    status, printed, complaints = predict(call_tool, checkpoint, images, out=tmp_path / 'out')
    assert status == 1
    assert '2 of 6 images done, 4 failed' in printed
    lines = complaints.strip().split('\n')
    assert len(lines) == 4
    for name, line in zip(('c.png', 'd.tif', 'e.tif', 'f.tif'), lines, strict=True):
        assert name in line
        assert 'failed: ' in line
    assert (tmp_path / 'out/a.geojson').exists()
    assert not list((tmp_path / 'out').glob('c*'))


@pytest.mark.parametrize(('arguments', 'told'), [
    (['nowhere'], 'nowhere'),
    (['{images}', '--formats', 'labels', 'svg'], 'there is no format svg; there are labels, classes, geojson'),
    (['{images}', '--tta', 'spins'], 'no views of the name spins; there are flips, turns, scales'),
    (['{images}', '--tile', '100', '--overlap', '100'], 'tiles of 100 pixels cannot overlap by 100'),
    (['{images}', '--config', 'nowhere.py'], 'nowhere.py: there is no such config'),
    (['{images}', '--launcher', 'pytorch'], 'needs torchrun'),
    (['{images}', '--device', 'cuda:77'], 'cuda:77'),
])
def test_what_cannot_be_begun_is_told_in_a_line(call_tool, checkpoint, images, tmp_path, arguments, told):
    arguments = [argument.replace('{images}', str(images)) for argument in arguments]
    status, _, complaints = call_tool('predict', *arguments, '--checkpoint', checkpoint, '--out', tmp_path / 'out')
    assert status == 2
    assert complaints.count('\n') == 1
    assert told in complaints


@pytest.mark.parametrize('mpp', ['2.5e-7', '250', '0', 'nan'])
def test_a_pixel_size_that_no_microscope_has_is_refused(call_tool, mpp):
    status, _, complaints = call_tool('predict', 'a.png', '--checkpoint', 'a.pth', '--mpp', mpp)
    assert status == 2
    assert 'error: --mpp is in micrometres per pixel, such as 0.25' in complaints


def test_a_folder_that_cannot_be_written_to_is_told_first(call_tool, checkpoint, images):
    status, _, complaints = predict(call_tool, checkpoint, images, out='/proc/predictions')
    assert status == 2
    assert '--out' in complaints


def test_what_is_done_is_left_alone(call_tool, checkpoint, images, tmp_path):
    out = tmp_path / 'out'
    predict(call_tool, checkpoint, images / 'b.png', '--formats', 'csv', 'coco', out=out)
    times = {path: path.stat().st_mtime_ns for path in out.glob('b*')}
    status, printed, _ = predict(call_tool, checkpoint, images, '--formats', 'csv', 'coco', out=out)
    assert (status, '2 of 2 images done' in printed) == (0, True)
    assert times == {path: path.stat().st_mtime_ns for path in out.glob('b*')}
    # It keeps the number that its results name.
    ids = {Path(image['file_name']).name: image['id']
           for image in json.loads((out / 'images.json').read_text())['images']}
    assert ids == {'b.png': 1, 'a.png': 2}
    predict(call_tool, checkpoint, images, '--formats', 'csv', out=out)
    assert times != {path: path.stat().st_mtime_ns for path in out.glob('b*')}


def test_an_image_that_changed_is_done_again(call_tool, checkpoint, images, tmp_path):
    out = tmp_path / 'out'
    predict(call_tool, checkpoint, images / 'a.png', '--formats', 'csv', out=out)
    before = (out / 'a.csv').read_text()
    write_image(images / 'a.png', discs(220, 260, seed=9))
    predict(call_tool, checkpoint, images / 'a.png', '--formats', 'csv', out=out)
    assert (out / 'a.csv').read_text() != before


def test_images_of_one_name_are_told_apart_by_their_folders(call_tool, checkpoint, images, tmp_path):
    write_image(tmp_path / 'more' / 'a.png', discs(220, 260, seed=5))
    predict(call_tool, checkpoint, images, tmp_path / 'more', '--formats', 'csv', out=tmp_path / 'out')
    assert {path.name for path in (tmp_path / 'out').glob('*.csv')} == {'images_a.csv', 'more_a.csv', 'b.csv'}


def test_names_that_are_taken_are_told_apart_too(call_tool, checkpoint, tmp_path):
    for name in ('index.png', 'images.png', 'a.png', 'a.coco.png'):
        write_image(tmp_path / 'folder' / name, discs(120, 120))
    out = tmp_path / 'out'
    for _ in range(2):
        status, printed, complaints = predict(call_tool, checkpoint, tmp_path / 'folder', '--formats', 'coco', 'viewer',
                                              out=out)
        assert (status, complaints) == (0, '')
    assert '4 of 4 images done' in printed
    assert {path.name for path in out.glob('*.html')} == {'index.html', 'folder_index.html', 'images.html', 'a.html',
                                                          'a.coco.html'}


def test_names_that_are_no_text_are_predicted(call_tool, checkpoint, images, tmp_path):
    name = os.fsdecode(b'Pr\xe4parat.png')
    (images / 'a.png').rename(images / name)
    out = tmp_path / 'out'
    status, printed, complaints = predict(call_tool, checkpoint, images / name, '--formats', 'all', out=out)
    assert (status, complaints) == (0, '')
    assert 'Pr?parat.png: ' in printed


def test_the_folder_of_the_images_is_not_written_to(call_tool, checkpoint, images):
    before = contents(images)
    status, _, complaints = predict(call_tool, checkpoint, images, out=images)
    assert status == 2
    assert 'name another folder with --out' in complaints
    assert contents(images) == before


def test_an_image_without_cells_has_empty_files(call_tool, checkpoint, tmp_path):
    write_image(tmp_path / 'a.png', np.full((90, 120, 3), (104, 116, 124), np.uint8))
    status, printed, _ = call_tool('predict', tmp_path / 'a.png', '--checkpoint', checkpoint, '--out', tmp_path / 'out',
                                   '--formats', 'all', '--score-thr', 0.99, '--device', 'cpu')
    assert status == 0
    assert ': 0 cells' in printed
    assert len(pd.read_csv(tmp_path / 'out/a.csv')) == 0
    assert json.loads((tmp_path / 'out/a.geojson').read_text())['features'] == []
    assert read_label_map(tmp_path / 'out/a_labels.ome.tif').max() == 0


SMALL_TILES = ['--tile', '104', '--overlap', '64', '--score-thr', '0.75', '--device', 'cpu', '--formats', 'csv',
               'geojson']


def test_a_killed_prediction_goes_on_with_the_tiles_that_are_left(checkpoint, tmp_path):
    write_image(tmp_path / 'a.png', discs(600, 600))
    arguments = [tmp_path / 'a.png', '--checkpoint', checkpoint, *SMALL_TILES]
    whole = run_tool('predict', *arguments, '--out', tmp_path / 'whole')
    assert whole.returncode == 0, whole.stderr
    out = tmp_path / 'out'
    kill_tool_when(out / '.a.tiles/40.npz', 'predict', *arguments, '--out', out)
    assert not list(out.glob('a*'))
    kept = {path: path.stat().st_mtime_ns for path in (out / '.a.tiles').glob('*.npz')}
    assert 40 < len(kept) < 225
    time.sleep(0.01)
    again = run_tool('predict', *arguments, '--out', out)
    assert again.returncode == 0, again.stderr
    expected = contents(tmp_path / 'whole')
    assert contents(out) == expected
    assert len(expected['a.csv'].splitlines()) > 20


def test_two_processes_find_what_one_finds(checkpoint, images, tmp_path):
    write_image(images / 'large.png', discs(400, 400))
    arguments = [images, '--checkpoint', checkpoint, *SMALL_TILES]
    one = run_tool('predict', *arguments, '--out', tmp_path / 'one')
    assert one.returncode == 0, one.stderr
    launch = (sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2')
    two = run_tool('predict', *arguments, '--out', tmp_path / 'two', '--launcher', 'pytorch', launch=launch)
    assert two.returncode == 0, two.stderr
    assert contents(tmp_path / 'two') == contents(tmp_path / 'one')
    assert two.stdout.count('images done') == 1
