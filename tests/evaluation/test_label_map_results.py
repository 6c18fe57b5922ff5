import re
import time

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from cellseg_mm.errors import CellDataError
from cellseg_mm.evaluation.instances import pair_images
from cellseg_mm.evaluation.label_map_results import read_label_maps
from cellseg_mm.structures.local_masks import LocalMasks

SIZE = 40, 50
# Touching cells, one in two parts, ids with gaps and above 255.
LABELS = np.zeros(SIZE, np.int64)
LABELS[2:10, 2:10], LABELS[2:10, 10:20], LABELS[20:25, 3:6], LABELS[20:25, 30:36] = 3, 300, 7, 7


def truth_of(*names, classes=('a', 'b'), cells=0):
    images = [{'id': 10 + i, 'file_name': name, 'height': SIZE[0], 'width': SIZE[1]} for i, name in enumerate(names)]
    return {'images': images, 'annotations': [{}] * cells,
            'categories': [{'id': 5 + i, 'name': name} for i, name in enumerate(classes)]}


def write(path, labels=LABELS, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.png':
        Image.fromarray(labels.astype(np.uint16)).save(path)
    else:
        tifffile.imwrite(path, labels.astype(options.pop('dtype', np.uint16)), **options)


def write_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, np.zeros((*SIZE, 3), np.uint8), photometric='rgb')


def cells_of(results, truth):
    """By image's name and category, the boxes of the cells in order."""
    names = {image['id']: image['file_name'] for image in truth['images']}
    found = {}
    for result in results:
        found.setdefault((names[result['image_id']], result['category_id']), []).append(result['bbox'])
    return found


BOXES = [[2, 2, 8, 8], [3, 20, 33, 5], [10, 2, 10, 8]]


def test_cellpose_masks_beside_images_flows_and_outlines(tmp_path):
    truth = truth_of('images/x.tif', 'images/y.png')
    write_image(tmp_path / 'x.tif')
    write(tmp_path / 'x_cp_masks.tif')
    tifffile.imwrite(tmp_path / 'x_flows.tif', np.zeros((3, *SIZE), np.float32))
    (tmp_path / 'x_cp_outlines.txt').write_text('1,2,3')
    write_image(tmp_path / 'x_outlines.png')
    write(tmp_path / 'y_cp_masks.png')
    results, has_classes = read_label_maps(tmp_path, truth)
    assert cells_of(results, truth) == {('images/x.tif', 5): BOXES, ('images/y.png', 5): BOXES}
    assert not has_classes
    assert {result['score'] for result in results} == {1.0}


def test_cellpose_masks_in_the_folders_of_images_of_one_name(tmp_path):
    truth = truth_of('train/p/image.tif', 'train/q/image.tif')
    for name in 'pq':
        write_image(tmp_path / name / 'image.tif')
        write(tmp_path / name / 'a.tif', np.ones(SIZE))  # the true cells, which Cellpose leaves where they are
        write(tmp_path / name / 'image_cp_masks.tif', dtype=np.uint32)
    results, has_classes = read_label_maps(tmp_path, truth)
    assert cells_of(results, truth) == {('train/p/image.tif', 5): BOXES, ('train/q/image.tif', 5): BOXES}
    assert not has_classes


def test_cellpose_masks_in_a_folder_of_their_own(tmp_path):
    truth = truth_of('x.tif')
    write(tmp_path / 'masks/x_cp_masks.png')
    write_image(tmp_path / 'outlines/x_outlines.tif')
    assert len(read_label_maps(tmp_path, truth)[0]) == 3


@pytest.mark.parametrize('options', [
    {'dtype': np.int32, 'compression': 'zlib'}, {'dtype': np.float32, 'imagej': True}, {'dtype': np.int64}])
def test_stardist_labels_of_the_images_names(tmp_path, options):
    truth = truth_of('test_release/x.tif', classes=('cell', ))
    write(tmp_path / 'x.tif', **options)
    results, has_classes = read_label_maps(tmp_path, truth)
    assert cells_of(results, truth) == {('test_release/x.tif', 5): BOXES}
    assert has_classes


@pytest.mark.parametrize('name', [
    'x.tif', 'x.TIFF', 'x.ome.tif', 'x-labels.tif', 'x_labels.tif', 'x-labelled.png', 'x.tif-labels.png',
    'x-labels.ome.tif', 'sub/x_label.tif'])
def test_qupath_labels_under_the_names_that_scripts_give_them(tmp_path, name):
    truth = truth_of('x.tif')
    write(tmp_path / name)
    (tmp_path / 'x.jpg').write_bytes(b'the image that TileExporter writes beside it')
    assert cells_of(read_label_maps(tmp_path, truth)[0], truth) == {('x.tif', 5): BOXES}


def test_qupath_labels_of_eight_bits(tmp_path):
    truth = truth_of('x.tif')
    write(tmp_path / 'x.tif', np.minimum(LABELS, 255), dtype=np.uint8)
    assert cells_of(read_label_maps(tmp_path, truth)[0], truth) == {('x.tif', 5): BOXES}


@pytest.mark.parametrize('layout', ['{image}/{cls}.tif', '{cls}/{image}.tif', 'masks/{cls}/{image}_labels.tif'])
def test_files_or_folders_named_by_class_give_their_cells_that_class(tmp_path, layout):
    truth = truth_of('train/x/image.tif', 'train/y/image.tif')
    write(tmp_path / layout.format(image='x', cls='a'))
    write(tmp_path / layout.format(image='x', cls='b'), LABELS[::-1])
    write(tmp_path / layout.format(image='y', cls='b'))
    results, has_classes = read_label_maps(tmp_path, truth)
    assert cells_of(results, truth) == {
        ('train/x/image.tif', 5): BOXES, ('train/y/image.tif', 6): BOXES,
        ('train/x/image.tif', 6): [[2, 30, 8, 8], [3, 15, 33, 5], [10, 30, 10, 8]]}
    assert has_classes


def test_a_prepared_data_set_is_itself_a_folder_of_label_maps(tmp_path, capsys):
    truth = truth_of('train/x/image.tif', 'train/empty/image.tif')
    for name in ('x', 'empty'):
        write_image(tmp_path / name / 'image.tif')
    write(tmp_path / 'x/a.tif')
    assert len(read_label_maps(tmp_path, truth)[0]) == 3
    assert 'left out' not in capsys.readouterr().err


def test_a_folder_may_be_of_images_though_it_is_named_like_a_class(tmp_path):
    truth = truth_of('a/1.tif', 'b/1.tif')
    write(tmp_path / 'a/1.tif')
    write(tmp_path / 'b/1.tif', LABELS * 0)
    results, has_classes = read_label_maps(tmp_path, truth)
    assert cells_of(results, truth) == {('a/1.tif', 5): BOXES}
    assert not has_classes


def test_an_image_may_itself_be_called_labels(tmp_path):
    truth = truth_of('x.tif', 'x_labels.tif')
    write(tmp_path / 'x.tif')
    write(tmp_path / 'x_labels.tif', LABELS * 0)
    assert cells_of(read_label_maps(tmp_path, truth)[0], truth) == {('x.tif', 5): BOXES}


def test_maps_of_other_images_are_left_out_and_told(tmp_path, capsys):
    truth = truth_of('x.tif')
    for name in 'xyz':
        write(tmp_path / f'{name}.tif')
    (tmp_path / '._x.tif').write_bytes(b'of macOS')
    assert len(read_label_maps(tmp_path, truth)[0]) == 3
    assert 'left out, files that fit no image: 2, such as y.tif\n' in capsys.readouterr().err


def test_a_folder_of_an_unknown_class_is_told(tmp_path, capsys):
    write(tmp_path / 'a/x.tif')
    write(tmp_path / 'B/x.tif')
    assert len(read_label_maps(tmp_path, truth_of('x.tif'))[0]) == 3
    assert 'left out, files that fit no image and class: 1, such as B/x.tif' in capsys.readouterr().err


def test_masks_of_one_number_are_told_where_there_are_more_cells(tmp_path, capsys):
    write(tmp_path / 'x.tif', (LABELS > 0) * 255)
    read_label_maps(tmp_path, truth_of('x.tif', cells=1))
    assert 'masks' not in capsys.readouterr().err
    assert len(read_label_maps(tmp_path, truth_of('x.tif', cells=2))[0]) == 1
    assert 'save a number for each cell' in capsys.readouterr().err


@pytest.mark.parametrize(('files', 'message'), [
    (['x.tif'], 'has no label map for 1 of 2 images, such as y.tif; name each as its image'),
    (['x.tif', 'why.tif'], 'such as y.tif (files that fit no image: 1, such as why.tif)'),
    (['a/x.tif', 'b/x.tif'], 'has no label map for 1 of 2 images, such as y.tif'),
    (['x.tif', 'y.tif', 'sub/y.tif'], 'is a second label map, beside sub/y.tif, for image y.tif; keep only one'),
    (['x_cp_masks.tif', 'y_cp_masks.tif', 'y_cp_masks.png'], 'for image y.tif; keep'),
    (['a/x.tif', 'a/y.tif', 'a/y.png'], 'for image y.tif and class a; keep'),
    (['other.txt'], 'there is no label map in it'),
])
def test_what_is_ambiguous_or_missing_is_told_in_one_line(tmp_path, files, message):
    for name in files:
        write(tmp_path / name) if name != 'other.txt' else (tmp_path / name).write_text('')
    with pytest.raises(CellDataError, match=re.escape(message)) as caught:
        read_label_maps(tmp_path, truth_of('x.tif', 'y.tif'))
    assert '\n' not in str(caught.value)


def test_images_of_one_name_need_their_folders(tmp_path):
    truth = truth_of('p/1.tif', 'q/1.tif')
    write(tmp_path / '1.tif')
    with pytest.raises(CellDataError, match=re.escape('(files that fit no image: 1, such as 1.tif)')):
        read_label_maps(tmp_path, truth)
    for name in 'pqr':
        write(tmp_path / name / '1.tif', LABELS[::-1] if name == 'q' else LABELS)
    (tmp_path / '1.tif').unlink()
    assert cells_of(read_label_maps(tmp_path, truth)[0], truth)['p/1.tif', 5] == BOXES


@pytest.mark.parametrize(('labels', 'options', 'message'), [
    (LABELS[:-1], {}, 'is 39 x 50 (height x width) but its image is 40 x 50'),
    (np.stack([LABELS] * 3), {'photometric': 'minisblack', 'metadata': {'axes': 'ZYX'}}, 'is a stack of 3 slices'),
    (-LABELS, {'dtype': np.int16}, 'has the negative label -300'),
    (LABELS + 0.5, {'dtype': np.float32}, 'has the fractional label'),
])
def test_files_that_are_no_label_map_of_the_image_are_refused(tmp_path, labels, options, message):
    write(tmp_path / 'x.tif', labels, **options)
    with pytest.raises(CellDataError, match=re.escape(message)):
        read_label_maps(tmp_path, truth_of('x.tif'))


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(CellDataError, match='there is no such folder'):
        read_label_maps(tmp_path / 'none', truth_of('x.tif'))


@given(st.lists(arrays(np.int64, SIZE, elements=st.sampled_from([0, 1, 2, 255, 256, 65535]), fill=st.just(0)),
                min_size=1, max_size=3), st.sampled_from(['{}.tif', '{}_cp_masks.png', '{}-labels.tif']))
def test_what_is_read_is_what_was_written(tmp_path_factory, label_maps, form):
    folder = tmp_path_factory.mktemp('maps')
    truth = truth_of(*(f'{i}.tif' for i in range(len(label_maps))))
    for i, labels in enumerate(label_maps):
        write(folder / form.format(i), labels)
    pairs = pair_images({**truth, 'annotations': []}, read_label_maps(folder, truth)[0])
    for pair, labels in zip(pairs, label_maps, strict=True):
        expected = LocalMasks.from_label_map(labels)
        assert pair.predicted.masks.to_rles() == expected.to_rles()
        assert [mask.tolist() for mask in pair.predicted.masks] == [
            (labels == number).tolist() for number in np.unique(labels) if number]


def test_ten_images_of_a_thousand_pixels_and_five_hundred_cells_take_less_than_a_second(tmp_path):
    labels = np.kron(np.arange(1, 513).reshape(16, 32), np.pad(np.ones((55, 25), int), ((3, 3), (3, 3))))[:1000, :1000]
    truth = truth_of(*(f'{i}.tif' for i in range(10)))
    for image in truth['images']:
        image['height'], image['width'] = labels.shape
        write(tmp_path / image['file_name'], labels)
    read_label_maps(tmp_path, truth)  # may compile
    start = time.process_time()
    assert len(read_label_maps(tmp_path, truth)[0]) == 10 * 512
    assert time.process_time() - start < 1
