"""tools/predict.py from images to files."""
import errno
import json
import os
import resource
import shutil
import sys
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from conftest import kill_tool_when, run_tool
from local_model import discs, local_config, write_checkpoint

from cellseg_mm.engine import prediction
from cellseg_mm.inference.predictor import Predictor
from cellseg_mm.io.files import alone_in
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
    """All that was written."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob('*'))
            if path.is_file()}


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
    tifffile.imwrite(images / 'g.tif', discs(64, 64), photometric='rgb', tile=(64, 64), metadata=None)
    with tifffile.TiffFile(images / 'g.tif', mode='r+') as tif:
        for name in ('ImageWidth', 'ImageLength'):
            tif.pages[0].tags[name].overwrite(60_000)
    status, printed, complaints = predict(call_tool, checkpoint, images, out=tmp_path / 'out')
    assert status == 1
    assert '2 of 7 images done, 5 failed' in printed
    lines = complaints.strip().split('\n')
    assert len(lines) == 5
    for name, line in zip(('c.png', 'd.tif', 'e.tif', 'f.tif', 'g.tif'), lines, strict=True):
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
    (['{images}', '--scale', '1000'], 'take --tile'),
    (['x' * 300 + '.png'], 'the name is too long'),
])
def test_what_cannot_be_begun_is_told_in_a_line(call_tool, checkpoint, images, tmp_path, arguments, told):
    arguments = [argument.replace('{images}', str(images)) for argument in arguments]
    status, _, complaints = call_tool('predict', *arguments, '--checkpoint', checkpoint, '--out', tmp_path / 'out')
    assert status == 2
    assert complaints.count('\n') == 1
    assert told in complaints


@pytest.mark.parametrize(('option', 'value'), [
    ('--score-thr', '75'), ('--score-thr', 'nan'), ('--score-thr', '-1'), ('--scale', '0'), ('--scale', '1e-9'),
    ('--tile', '0'), ('--batch-size', '-1')])
def test_numbers_that_make_no_sense_are_refused(call_tool, option, value):
    status, _, complaints = call_tool('predict', 'a.png', '--checkpoint', 'a.pth', option, value)
    assert status == 2
    assert f'error: {option} must be ' in complaints


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
    for formats in (['csv', 'coco'], ['csv']):
        status, printed, _ = predict(call_tool, checkpoint, images, '--formats', *formats, out=out)
        assert (status, '2 of 2 images done' in printed) == (0, True)
        assert times == {path: path.stat().st_mtime_ns for path in out.glob('b*')}
    # It keeps the number that its results name.
    ids = {Path(image['file_name']).name: image['id']
           for image in json.loads((out / 'images.json').read_text())['images']}
    assert ids == {'b.png': 1, 'a.png': 2}
    # A format more is written beside the others, and not again after that.
    predict(call_tool, checkpoint, images, '--formats', 'geojson', out=out)
    times = {path: path.stat().st_mtime_ns for path in out.glob('b*')}
    assert {path.name for path in times} == {'b.csv', 'b.coco.json', 'b.geojson', 'b.prediction.json'}
    predict(call_tool, checkpoint, images, '--formats', 'csv', 'geojson', out=out)
    assert times == {path: path.stat().st_mtime_ns for path in out.glob('b*')}


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
    out = tmp_path / os.fsdecode(b'Erg\xe4nzt')
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
               'geojson', 'labels', 'classes', 'coco']


def without_cells(tile):
    """Leave nothing in a tile of a `TileStore` that was found there."""
    with np.load(tile) as file:
        kept = dict(file)
    np.savez(tile, **{**kept, **{name: kept[name][:0] for name in ('pixels', 'boxes', 'labels', 'scores')}})


def test_a_killed_prediction_goes_on_with_the_tiles_that_are_left(checkpoint, tmp_path):
    write_image(tmp_path / 'a.png', discs(600, 600))
    arguments = [tmp_path / 'a.png', '--checkpoint', checkpoint, *SMALL_TILES]
    whole = run_tool('predict', *arguments, '--out', tmp_path / 'whole')
    assert whole.returncode == 0, whole.stderr
    out = tmp_path / 'out'
    kill_tool_when(out / '.a.tiles/40.npz', 'predict', *arguments, '--out', out)
    assert not list(out.glob('a*'))
    killed = tmp_path / 'killed'
    shutil.copytree(out, killed)
    tiles = list((out / '.a.tiles').glob('*.npz'))
    assert 40 < len(tiles) < 225
    again = run_tool('predict', *arguments, '--out', out)
    assert again.returncode == 0, again.stderr
    expected = contents(tmp_path / 'whole')
    assert contents(out) == expected
    assert len(expected['a.csv'].splitlines()) > 20

    # What is kept is not looked at again: without its cells, they are missing.
    for tile in (killed / '.a.tiles').glob('*.npz'):
        without_cells(tile)
    run_tool('predict', *arguments, '--out', killed)
    missing = set(pd.read_csv(out / 'a.csv')['y_px']) - set(pd.read_csv(killed / 'a.csv')['y_px'])
    assert missing
    assert min(missing) < 100


@pytest.fixture
def begun(call_tool, checkpoint, tmp_path, monkeypatch):
    """A prediction of a.png that has looked at all of its tiles, into out; and what it would have written, in whole."""
    write_image(tmp_path / 'a.png', discs(200, 230))
    arguments = [tmp_path / 'a.png', '--checkpoint', checkpoint, *SMALL_TILES]
    call_tool('predict', *arguments, '--out', tmp_path / 'whole')
    with monkeypatch.context() as patch:
        patch.setattr(Predictor, 'merged', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert call_tool('predict', *arguments, '--out', tmp_path / 'out')[0] == 130
    return arguments


@pytest.mark.parametrize('damaged', ['7.npz', 'plan.json'])
@pytest.mark.parametrize('left', [b'', b'PK\x03\x04 no more'], ids=['empty', 'cut'])
def test_a_tile_that_cannot_be_read_is_looked_at_again(begun, call_tool, tmp_path, damaged, left):
    path = tmp_path / 'out/.a.tiles' / damaged
    assert path.is_file()
    path.write_bytes(left)
    status, _, complaints = call_tool('predict', *begun, '--out', tmp_path / 'out')
    assert (status, complaints.count('\n')) == (0, complaints.count('tiles: '))
    assert contents(tmp_path / 'out') == contents(tmp_path / 'whole')


def test_overwriting_looks_at_all_tiles_again(begun, call_tool, tmp_path):
    for tile in (tmp_path / 'out/.a.tiles').glob('*.npz'):
        without_cells(tile)
    call_tool('predict', *begun, '--out', tmp_path / 'out', '--overwrite')
    assert contents(tmp_path / 'out') == contents(tmp_path / 'whole')
    (tmp_path / 'out/a.csv').write_text('')
    call_tool('predict', *begun, '--out', tmp_path / 'out')
    assert not (tmp_path / 'out/a.csv').read_text()  # it is there, and left alone
    call_tool('predict', *begun, '--out', tmp_path / 'out', '--overwrite')
    assert contents(tmp_path / 'out') == contents(tmp_path / 'whole')


def test_files_of_two_settings_are_not_taken_for_one_prediction(call_tool, checkpoint, images, tmp_path, monkeypatch):
    def predicted(threshold):
        return call_tool('predict', images / 'a.png', '--checkpoint', checkpoint, '--out', tmp_path / 'out', '--device',
                         'cpu', '--formats', 'geojson', 'csv', '--score-thr', threshold)

    predicted(0.72)
    expected = contents(tmp_path / 'out')
    with monkeypatch.context() as patch:
        patch.setattr(prediction, 'write_csv', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert predicted(0.9)[0] == 130
    assert contents(tmp_path / 'out')['a.geojson'] != expected['a.geojson']
    assert predicted(0.72)[0] == 0
    assert contents(tmp_path / 'out') == expected


def test_no_file_of_other_settings_stays_beside_new_ones(call_tool, checkpoint, images, tmp_path):
    out = tmp_path / 'out'
    for formats, threshold in ((['csv', 'coco'], 0.72), (['geojson'], 0.9)):
        call_tool('predict', images / 'a.png', '--checkpoint', checkpoint, '--out', out, '--device', 'cpu', '--formats',
                  *formats, '--score-thr', threshold)
    assert {path.name for path in out.glob('a*')} == {'a.geojson', 'a.prediction.json'}


def test_a_further_format_that_fails_leaves_the_files_that_are_done(call_tool, checkpoint, images, tmp_path,
                                                                    monkeypatch):
    def predicted(form):
        return predict(call_tool, checkpoint, images / 'a.png', '--formats', form, out=tmp_path / 'out')[0]

    assert predicted('labels') == 0
    with monkeypatch.context() as patch:
        patch.setattr(prediction, 'write_csv', lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, 'full')))
        assert predicted('csv') == 1
    assert predicted('csv') == 0
    assert {path.name for path in (tmp_path / 'out').glob('a*')} == {'a.csv', 'a.prediction.json', 'a_labels.ome.tif'}
    assert len(np.unique(read_label_map(tmp_path / 'out/a_labels.ome.tif'))) > 5


@pytest.mark.parametrize('error', [MemoryError(), cv2.error('(-4:Insufficient memory) Failed to allocate 9 bytes')])
def test_an_image_that_memory_does_not_suffice_for_is_told_in_a_line(call_tool, checkpoint, images, tmp_path,
                                                                     monkeypatch, error):
    look = Predictor.look
    monkeypatch.setattr(Predictor, 'look', lambda self, slide, *rest: look(self, slide, *rest)
                        if 'a.png' not in str(slide.path) else (_ for _ in ()).throw(error))
    status, printed, complaints = predict(call_tool, checkpoint, images, '--formats', 'csv', out=tmp_path / 'out')
    assert (status, complaints.count('\n')) == (1, 1)
    assert 'a.png: failed: memory ran out: try smaller tiles by --tile' in complaints
    assert '1 of 2 images done, 1 failed' in printed


def test_a_link_to_nowhere_is_told(call_tool, checkpoint, images, tmp_path):
    (images / 'c.png').symlink_to(tmp_path / 'nowhere.png')
    status, printed, complaints = predict(call_tool, checkpoint, images, '--formats', 'csv', out=tmp_path / 'out')
    assert (status, complaints.count('\n')) == (1, 1)
    assert 'c.png: failed' in complaints
    assert 'does not exist' in complaints
    assert '2 of 3 images done, 1 failed' in printed


def test_an_image_that_changes_while_it_is_predicted_is_done_again(call_tool, checkpoint, images, tmp_path,
                                                                   monkeypatch):
    write = prediction.write_csv

    def write_and_change(path, columns):
        write(path, columns)
        write_image(images / 'a.png', discs(150, 160, seed=9))

    with monkeypatch.context() as patch:
        patch.setattr(prediction, 'write_csv', write_and_change)
        predict(call_tool, checkpoint, images / 'a.png', '--formats', 'csv', out=tmp_path / 'out')
    before = (tmp_path / 'out/a.csv').read_text()
    predict(call_tool, checkpoint, images / 'a.png', '--formats', 'csv', out=tmp_path / 'out')
    assert (tmp_path / 'out/a.csv').read_text() != before


def test_a_slide_of_several_files_is_predicted_into_a_folder_beside_it(call_tool, checkpoint, tmp_path):
    # Whose time changes as tiles are kept there.
    (tmp_path / 'slide').mkdir()
    (tmp_path / 'slide/a.vms').write_bytes(cv2.imencode('.png', discs(300, 300))[1].tobytes())
    (tmp_path / 'slide/.#lock').symlink_to('nowhere')
    status, printed, _ = call_tool('predict', tmp_path / 'slide/a.vms', '--checkpoint', checkpoint, '--out',
                                   tmp_path / 'slide/predictions', *SMALL_TILES)
    assert (status, '1 of 1 images done' in printed) == (0, True)


def test_nothing_is_written_into_an_image_that_is_a_folder(call_tool, checkpoint, tmp_path):
    (tmp_path / 'a.zarr').mkdir()
    status, _, complaints = predict(call_tool, checkpoint, tmp_path / 'a.zarr', out=tmp_path / 'a.zarr/out')
    assert status == 2
    assert 'name another folder with --out' in complaints
    assert not list((tmp_path / 'a.zarr').iterdir())


def test_an_image_that_was_moved_away_keeps_its_name_and_files(call_tool, checkpoint, images, tmp_path):
    predict(call_tool, checkpoint, images / 'a.png', '--formats', 'csv', out=tmp_path / 'out')
    before = (tmp_path / 'out/a.csv').read_text()
    (tmp_path / 'other').mkdir()
    (images / 'a.png').rename(tmp_path / 'moved.png')
    (images / 'b.png').rename(tmp_path / 'other/a.png')
    predict(call_tool, checkpoint, tmp_path / 'other/a.png', '--formats', 'csv', out=tmp_path / 'out')
    assert (tmp_path / 'out/a.csv').read_text() == before
    assert (tmp_path / 'out/other_a.csv').is_file()


def test_two_predictions_at_once_do_not_share_a_folder(call_tool, checkpoint, images, tmp_path):
    (tmp_path / 'out').mkdir()
    with alone_in(tmp_path / 'out', 'a prediction'):
        status, _, complaints = predict(call_tool, checkpoint, images, out=tmp_path / 'out')
    assert status == 2
    assert 'a prediction is at work in it' in complaints
    assert predict(call_tool, checkpoint, images, '--formats', 'csv', out=tmp_path / 'out')[0] == 0


def test_models_of_other_classes_may_share_a_folder(call_tool, checkpoint, images, tmp_path):
    other = write_checkpoint(tmp_path / 'other.pth', classes=('x', 'y'))
    predict(call_tool, checkpoint, images / 'a.png', '--formats', 'coco', out=tmp_path / 'out')
    status, _, complaints = predict(call_tool, other, images / 'b.png', '--formats', 'coco', out=tmp_path / 'out')
    assert (status, complaints) == (0, '')
    index = (tmp_path / 'out/index.html').read_text()
    assert all(f'>{name}' in index for name in ('round', 'long', 'x', 'y'))
    listed = json.loads((tmp_path / 'out/images.json').read_text())
    assert [Path(image['file_name']).name for image in listed['images']] == ['b.png']
    assert [category['name'] for category in listed['categories']] == ['x', 'y']


def test_what_depends_on_a_config_is_done_again_where_that_changed(call_tool, checkpoint, images, tmp_path):
    def found(threshold):
        config = local_config(score_thr=threshold)
        (tmp_path / 'config.py').write_text(config.pretty_text)
        status, _, complaints = predict(call_tool, checkpoint, images / 'a.png', '--formats', 'coco', '--config',
                                        tmp_path / 'config.py', out=tmp_path / 'out')
        assert (status, complaints) == (0, '')
        return min(cell['score'] for cell in json.loads((tmp_path / 'out/a.coco.json').read_text()))

    assert found(0.75) > 0.75 > found(0.6)


def test_several_calls_into_one_folder_share_its_lists(call_tool, checkpoint, images, tmp_path):
    out = tmp_path / 'out'
    write_image(tmp_path / 'more/a.png', discs(150, 160, seed=7))
    (images / 'broken.png').write_bytes(b'')
    predict(call_tool, checkpoint, images / 'b.png', '--formats', 'coco', 'viewer', out=out)
    predict(call_tool, checkpoint, images / 'a.png', images / 'broken.png', '--formats', 'coco', 'viewer', out=out)
    predict(call_tool, checkpoint, tmp_path / 'more', '--formats', 'coco', 'viewer', out=out)
    listed = json.loads((out / 'images.json').read_text())['images']
    assert {image['file_name'] for image in listed} == {
        str(path) for path in (images / 'a.png', images / 'b.png', tmp_path / 'more/a.png')}
    # Each has a number of its own, which its results name, and a name of its own.
    results = {path.name: {cell['image_id'] for cell in json.loads(path.read_text())}
               for path in out.glob('*.coco.json')}
    assert results.keys() == {'a.coco.json', 'b.coco.json', 'more_a.coco.json'}
    assert sorted(number for numbers in results.values() for number in numbers) == sorted(
        {image['id'] for image in listed})
    assert len(listed) == len({image['id'] for image in listed})
    index = (out / 'index.html').read_text()
    for page in ('a.html', 'b.html', 'more_a.html'):
        assert f'href="./{page}"' in index
    assert '3 images' in index


@pytest.mark.parametrize(('others', 'expected'), [
    (['a.tif'], {'a_png', 'a_tif'}),
    (['a.tif', 'images_a.tif', 'images_a.png', 'b.png'], {'a_png', 'a_tif', 'images_a_png', 'images_a_tif', 'b'})])
def test_files_that_differ_by_their_suffix_have_names_by_it(call_tool, checkpoint, tmp_path, others, expected):
    for number, name in enumerate(['a.png', *others]):
        (tmp_path / 'images').mkdir(exist_ok=True)
        cv2.imwrite(tmp_path / 'images' / name, discs(90, 100, seed=number))
    status, printed, _ = predict(call_tool, checkpoint, tmp_path / 'images', '--formats', 'csv', out=tmp_path / 'out')
    assert (status, f'{1 + len(others)} of {1 + len(others)} images done' in printed) == (0, True)
    assert {path.stem for path in (tmp_path / 'out').glob('*.csv')} == expected


def test_links_are_named_as_they_are_called(call_tool, checkpoint, images, tmp_path):
    (tmp_path / 'patient7.png').symlink_to(images / 'a.png')
    predict(call_tool, checkpoint, tmp_path / 'patient7.png', '--formats', 'csv', out=tmp_path / 'out')
    assert (tmp_path / 'out/patient7.csv').is_file()


@pytest.mark.parametrize('record', [
    '', '[]', '{}', '{"plan": null, "outcome": {"name": "b"}}', 'null',
    '{"plan": null, "outcome": {"name": "b", "path": 5, "image_id": 1}}',
    '{"plan": null, "outcome": {"name": "b", "path": "b.png", "image_id": "q"}}',
    '{"plan": null, "outcome": {"name": "b", "path": "b.png", "image_id": 1, "files": 5}}'])
def test_a_record_of_something_else_is_told_before_any_work(call_tool, checkpoint, images, tmp_path, record):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/b.prediction.json').write_text(record)
    status, _, complaints = predict(call_tool, checkpoint, images, out=tmp_path / 'out')
    assert status == 2
    assert complaints.count('\n') == 1
    assert 'b.prediction.json' in complaints
    assert 'delete it' in complaints


def test_a_full_disk_fails_the_images_that_do_not_fit(checkpoint, images, tmp_path):
    write_image(images / 'big.png', np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8))
    full = run_tool('predict', images, '--checkpoint', checkpoint, '--out', tmp_path / 'out', '--device', 'cpu',
                    '--formats', 'overlay', '--score-thr', '1',
                    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)))
    assert full.returncode == 1, full.stderr
    line, = full.stderr.splitlines()
    assert 'big.png: failed: ' in line
    assert 'name another folder' in line
    assert '2 of 3 images done, 1 failed' in full.stdout
    assert {path.name for path in (tmp_path / 'out').glob('*.png')} == {'a_overlay.png', 'b_overlay.png'}
    assert not list((tmp_path / 'out').glob('.*.partial*'))


def test_a_checkpoint_that_would_run_code_is_refused_unless_it_is_trusted(call_tool, images, tmp_path):
    path = write_checkpoint(tmp_path / 'a.pth')
    stored = torch.load(path, weights_only=True)
    torch.save({**stored, 'extra': PurePosixPath('x')}, path)
    status, _, complaints = predict(call_tool, path, images, out=tmp_path / 'out')
    assert (status, complaints.count('\n')) == (2, 1)
    assert '--trust-checkpoint' in complaints
    status, printed, _ = predict(call_tool, path, images, '--trust-checkpoint', '--formats', 'csv',
                                 out=tmp_path / 'out')
    assert (status, '2 of 2 images done' in printed) == (0, True)


def glass(height, width):
    return np.full((height, width, 3), 242, np.uint8)


def test_a_slide_of_glass_has_no_tissue_unless_background_is_looked_at(call_tool, checkpoint, tmp_path):
    write_image(tmp_path / 'a.png', glass(400, 500))
    looked = []
    for options in ([], ['--background']):
        status, printed, complaints = call_tool('predict', tmp_path / 'a.png', '--checkpoint', checkpoint, '--out',
                                                tmp_path / 'out', *SMALL_TILES, *options)
        assert (status, complaints.count('\n')) == (0, complaints.count('tiles: '))
        assert 'a.png: ' in printed
        looked.append('no tissue was found' in printed)
    assert looked == [True, False]
    assert len(pd.read_csv(tmp_path / 'out/a.csv')) > 0  # this model sees cells in anything


def test_the_pixel_size_decides_how_large_cells_are_seen(call_tool, checkpoint, images, tmp_path):
    write_image(tmp_path / 'large.png', cv2.imread(images / 'a.png').repeat(2, 0).repeat(2, 1))
    found, sizes = [], []
    for path, options in ((images / 'a.png', ['--mpp', 0.5]), (tmp_path / 'large.png', ['--mpp', 0.25]),
                          (tmp_path / 'large.png', ['--scale', 0.5])):
        out = tmp_path / f'out{len(found)}'
        status, printed, _ = predict(call_tool, checkpoint, path, '--formats', 'csv', 'coco', *options, out=out)
        assert (status, 'pixel size is unknown' in printed) == (0, False)
        found.append([round(cell['score'], 4) for cell in json.loads((out / f'{path.stem}.coco.json').read_text())])
        sizes.append(pd.read_csv(out / f'{path.stem}.csv').get('area_um2'))
    small, large, scaled = found
    assert len(small) > 5
    assert set(small) <= set(large)  # masks of less than a pixel are left out
    assert scaled == large
    assert sizes[1].median() == pytest.approx(sizes[0].median(), rel=0.1)
    assert sizes[2] is None


def test_a_pixel_size_that_the_checkpoint_does_not_tell_is_missed_once(call_tool, images, tmp_path):
    path = write_checkpoint(tmp_path / 'a.pth')
    stored = torch.load(path, weights_only=True)
    del stored['meta']['dataset_meta']['mpp']
    torch.save(stored, path)
    _, printed, _ = predict(call_tool, path, images, '--formats', 'csv', out=tmp_path / 'out')
    assert printed.count('the pixel size of the training is not told') == 1
    _, printed, _ = predict(call_tool, path, images, '--formats', 'csv', '--scale', '1', out=tmp_path / 'scaled')
    assert 'pixel size' not in printed


TORCHRUN = sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2'


def test_two_processes_find_what_one_finds(checkpoint, images, tmp_path):
    # Images of many tiles are shared by both, those of one tile shared out.
    for number in range(3):
        write_image(images / f'small{number}.png', discs(90, 95, seed=number))
    (images / 'broken.png').write_bytes(b'')
    arguments = [images, '--checkpoint', checkpoint, *SMALL_TILES]
    one = run_tool('predict', *arguments, '--out', tmp_path / 'one')
    assert one.returncode == 1, one.stderr
    two = run_tool('predict', *arguments, '--out', tmp_path / 'two', '--launcher', 'pytorch', launch=TORCHRUN)
    assert two.returncode == 1, two.stderr
    assert contents(tmp_path / 'two') == contents(tmp_path / 'one')
    assert two.stdout.count('images done') == 1
    assert sorted(line for line in two.stdout.splitlines() if ' cells' in line) == sorted(
        line for line in one.stdout.splitlines() if ' cells' in line)
    assert two.stderr.count('broken.png: failed: ') == 1
