import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from cellseg_mm.datasets.prepare import AuditError, prepare
from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.io.image import read_label_map
from cellseg_mm.processes import pool

REPOSITORY = Path(__file__).parents[2]
ENV = {**os.environ, 'PYTHONPATH': str(REPOSITORY)}
REAL = os.environ.get('CELLSEG_REAL_DATA')
needs_real_data = pytest.mark.skipif(not REAL, reason='CELLSEG_REAL_DATA is not set')


def draw(seed, shape=(24, 30)):
    """An image of one of three stains and label maps of two classes with touching, overlapping, parted cells."""
    rng = np.random.default_rng(seed)
    image = rng.integers(100, 130, (*shape, 3)) + 40 * np.eye(3, dtype=int)[seed % 3]
    first, second = np.zeros(shape), np.zeros(shape)
    first[2:8, 2:8], first[2:8, 8:14], first[20, 2], first[20, 5] = 1, 300, 7, 7
    second[6:12, 12:20] = 70_000
    return image.astype(np.uint8), {'class1': first, 'class2': second}


def write_course(root, train=6, test=2):
    for seed in range(train):
        image, labels = draw(seed)
        folder = root / f'train/s{seed}'
        folder.mkdir(parents=True)
        tifffile.imwrite(folder / 'image.tif', image, photometric='rgb')
        for name, values in labels.items():
            tifffile.imwrite(folder / f'{name}.tif', values)
    records = []
    for seed in range(test):
        path = root / f'test_release/t{seed}.tif'
        path.parent.mkdir(exist_ok=True)
        tifffile.imwrite(path, draw(100 + seed)[0], photometric='rgb')
        records.append({'file_name': path.name, 'id': 40 - seed, 'height': 24, 'width': 30})
    if test:
        (root / 'test_image_name_to_ids.json').write_text(json.dumps(records))
    return root


def write_pairs(root, count=6):
    for seed in range(count):
        image, labels = draw(seed)
        for folder, pixels in (('images', image), ('labels', labels['class1'].astype(np.uint16))):
            (root / folder).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / folder / f'p{seed}.png'), pixels)
    return root


@pytest.fixture
def course(tmp_path):
    return write_course(tmp_path / 'root')


def run(root, **options):
    return prepare(root, **{'workers': 1, 'folds': 0, **options})


def load(root, split):
    return json.loads((root / f'annotations/{split}.json').read_text())


def names(root, split):
    return [image['file_name'] for image in load(root, split)['images']]


def annotation_files(root):
    return sorted(path.name for path in (root / 'annotations').iterdir())


def tool(*arguments):
    return subprocess.run([sys.executable, 'tools/prepare_data.py', *map(str, arguments)], cwd=REPOSITORY, env=ENV,
                          capture_output=True, text=True, check=False)


def check_cells(root, data, labels_of):
    """Every annotation is one id of one label map, pixel for pixel, and no id is missing."""
    for image in data['images']:
        for category in data['categories']:
            labels = labels_of(root / image['file_name'], category['name'])
            cells = [cell for cell in data['annotations']
                     if (cell['image_id'], cell['category_id']) == (image['id'], category['id'])]
            ids = np.unique(labels[labels != 0])
            assert len(cells) == len(ids)
            for value, cell in zip(ids, cells, strict=True):
                np.testing.assert_array_equal(coco_mask.decode(cell['segmentation']), labels == value)
                assert cell['area'] == np.count_nonzero(labels == value)
                assert cell['iscrowd'] == 0


class TestCourseLayout:
    def test_every_id_of_every_file_becomes_one_annotation(self, course):
        run(course)
        for split in ('train', 'val'):
            check_cells(course, load(course, split), lambda image, name: read_label_map(image.with_name(f'{name}.tif')))

    def test_splits_share_out_all_images_under_the_same_ids(self, course):
        run(course, folds=2)
        everything = [(n + 1, f'train/s{n}/image.tif') for n in range(6)]
        for first, second in (('train', 'val'), ('fold0_train', 'fold0_val'), ('fold1_train', 'fold1_val')):
            images = load(course, first)['images'] + load(course, second)['images']
            assert sorted((image['id'], image['file_name']) for image in images) == everything
        assert sorted(names(course, 'fold0_val') + names(course, 'fold1_val')) == [name for _, name in everything]

    def test_annotation_files_load_as_coco(self, course):
        run(course)
        coco = COCO(course / 'annotations/train.json')
        assert [category['name'] for category in coco.loadCats(coco.getCatIds())] == ['class1', 'class2']
        assert {(image['height'], image['width']) for image in coco.imgs.values()} == {(24, 30)}
        assert len(set(coco.getAnnIds())) == 4 * len(coco.imgs)

    def test_test_images_keep_their_listed_ids_and_have_no_cells(self, course):
        run(course)
        test = load(course, 'test')
        assert [(image['id'], image['file_name']) for image in test['images']] == [
            (39, 'test_release/t1.tif'), (40, 'test_release/t0.tif')]
        assert test['annotations'] == []
        assert test['categories'] == load(course, 'train')['categories']

    def test_without_a_test_split_there_is_no_test_file(self, tmp_path):
        root = write_course(tmp_path, test=0)
        run(root)
        assert annotation_files(root) == ['train.json', 'val.json', 'warnings.txt']

    def test_a_class_without_file_and_an_image_without_cells_are_fine(self, course):
        (course / 'train/s0/class2.tif').unlink()
        for name in ('class1', 'class2'):
            (course / f'train/s1/{name}.tif').unlink()
        prepared = run(course)
        assert sum(len(load(course, split)['annotations']) for split in ('train', 'val')) == 6 * 4 - 1 - 4
        assert any('images without a cell: 1 (s1)' in warning for warning in prepared.warnings)

    def test_classes_can_be_chosen_and_ordered(self, course):
        run(course, classes=['class2', 'class1'])
        assert load(course, 'train')['categories'] == [{'id': 1, 'name': 'class2'}, {'id': 2, 'name': 'class1'}]
        run(course, classes=['class2'])
        assert load(course, 'val')['info']['classes'] == ['class2']
        check_cells(course, load(course, 'train'), lambda image, name: read_label_map(image.with_name(f'{name}.tif')))

    def test_a_class_that_no_image_has_is_kept_with_one_warning(self, course):
        prepared = run(course, classes=['class1', 'class2', 'zz'])
        assert [warning for warning in prepared.warnings if 'zz' in warning] == ['classes without a cell: 1 (zz)']
        assert load(course, 'train')['info']['classes'] == ['class1', 'class2', 'zz']

    @needs_real_data
    def test_the_real_sample_has_2_and_159_cells(self, tmp_path):
        (tmp_path / 'train').mkdir()
        (tmp_path / 'train/sample').symlink_to(Path(REAL) / 'hw3/sample')
        run(tmp_path)
        data = load(tmp_path, 'train')
        assert [sum(cell['category_id'] == k for cell in data['annotations']) for k in (1, 2)] == [2, 159]
        check_cells(tmp_path, data, lambda image, name: read_label_map(image.with_name(f'{name}.tif')))


class TestOtherLayouts:
    def test_images_beside_label_maps(self, tmp_path):
        root = write_pairs(tmp_path)
        run(root, images=root / 'images', labels=root / 'labels')
        assert load(root, 'train')['categories'] == [{'id': 1, 'name': 'cell'}]
        assert set(names(root, 'train') + names(root, 'val')) == {f'images/p{n}.png' for n in range(6)}
        check_cells(root, load(root, 'train'), lambda image, _: read_label_map(root / 'labels' / image.name))

    def test_the_one_class_of_label_maps_can_be_named(self, tmp_path):
        root = write_pairs(tmp_path)
        assert run(root, images=root / 'images', labels=root / 'labels', classes=['nucleus']).classes == ['nucleus']
        with pytest.raises(UserError, match='one class; name one'):
            run(root, images=root / 'images', labels=root / 'labels', classes=['a', 'b'])

    def test_images_outside_the_root_are_named_by_their_full_path(self, tmp_path):
        pairs = write_pairs(tmp_path / 'elsewhere')
        root = tmp_path / 'root'
        root.mkdir()
        run(root, images=pairs / 'images', labels=pairs / 'labels')
        assert all((root / name).is_file() and Path(name).is_absolute() for name in names(root, 'train'))

    def test_coco_files_of_other_programs(self, tmp_path):
        root = write_pairs(tmp_path)
        mask = np.zeros((24, 30), np.uint8)
        mask[1:3, 1:3] = 1
        rle = coco_mask.encode(np.asfortranarray(mask))
        cells = [[[1, 1, 3, 1, 3, 3, 1, 3]], {'size': [24, 30], 'counts': rle['counts'].decode()},
                 {'size': [24, 30], 'counts': [25, 2, 22, 2, 669]}]
        (root / 'cells.json').write_text(json.dumps({
            'images': [{'id': 10 * n, 'file_name': f'p{n}.png', 'height': 24, 'width': 30} for n in range(6)],
            'categories': [{'id': 30, 'name': 'b'}, {'id': 4, 'name': 'a'}],
            'annotations': [{'image_id': 10 * n, 'category_id': 30, 'id': n, 'segmentation': cells[n % 3]}
                            for n in range(6)]}))
        run(root, coco=root / 'cells.json', images=root / 'images')
        for split in ('train', 'val'):
            data = load(root, split)
            assert data['categories'] == [{'id': 1, 'name': 'a'}, {'id': 2, 'name': 'b'}]
            for cell in data['annotations']:
                assert cell['category_id'] == 2
                assert cell['bbox'] == [1, 1, 2, 2]
                assert cell['segmentation'] == {'size': [24, 30], 'counts': rle['counts'].decode()}
        assert len(load(root, 'train')['annotations'] + load(root, 'val')['annotations']) == 6

    def test_our_own_annotations_are_coco_too(self, course, tmp_path):
        run(course, folds=2, val_fraction=0.5)
        copy = tmp_path / 'copy'
        copy.mkdir()
        everything = load(course, 'train')
        for name in ('images', 'annotations'):
            everything[name] += load(course, 'val')[name]
        (copy / 'all.json').write_text(json.dumps(everything))
        run(copy, coco=copy / 'all.json', images=course)
        segmentations = [{json.dumps(cell['segmentation']) for split in ('train', 'val')
                          for cell in load(root, split)['annotations']} for root in (course, copy)]
        assert segmentations[0] == segmentations[1]

    def test_a_coco_file_that_would_be_overwritten_is_refused(self, course):
        run(course)
        with pytest.raises(UserError, match='would be overwritten'):
            run(course, coco=course / 'annotations/train.json', images=course)


class TestGroups:
    def write(self, path, rows):
        path.write_text('\n'.join(','.join(row) for row in rows))
        return path

    def test_images_of_one_group_stay_together(self, course, tmp_path):
        rows = [(f's{n}', 'AB'[n < 4]) for n in range(6)]
        prepared = run(course, groups=self.write(tmp_path / 'patients.csv', [('uuid', 'patient'), *rows]))
        assert sorted([names(course, 'train'), names(course, 'val')], key=len) == [
            [f'train/s{n}/image.tif' for n in (4, 5)], [f'train/s{n}/image.tif' for n in range(4)]]
        assert {image['group'] for image in load(course, 'val')['images']} == {'A'}
        assert prepared.notes[0] == ('split: 2 groups, as patients.csv groups the images; 2 of 2 classes are in both '
                                     'train and val')

    def test_groups_of_test_images_and_a_missing_header_are_fine(self, course, tmp_path):
        rows = [(f's{n}', str(n)) for n in range(6)] + [('t0', '9')]
        for headless in (rows, rows[::-1]):
            run(course, groups=self.write(tmp_path / 'g.csv', headless))
            assert [image.get('group') for image in load(course, 'test')['images']] == [None, '9']
            images = load(course, 'train')['images'] + load(course, 'val')['images']
            assert sorted(image['group'] for image in images) == list('012345')

    def test_images_of_equal_appearance_are_grouped_without_a_file(self, course):
        prepared = run(course)
        assert prepared.notes[0].startswith('split: 3 groups, by appearance, since no --groups were given; ')
        groups = {image['id']: image['group'] for split in ('train', 'val') for image in load(course, split)['images']}
        assert all(group.startswith('look') for group in groups.values())
        # Images 1 and 4, 2 and 5, 3 and 6 are of one stain.
        assert [groups[n] == groups[m] for n in range(1, 7) for m in range(n + 1, 7)] == [
            m == n + 3 for n in range(1, 7) for m in range(n + 1, 7)]

    def test_all_ids_that_do_not_fit_are_listed(self, course, tmp_path):
        rows = [('id', 'group'), *((f's{n}', 'A') for n in range(4)), ('s0', 'B'), ('s9', 'A')]
        with pytest.raises(AuditError) as caught:
            run(course, groups=self.write(tmp_path / 'g.csv', rows))
        lines = [str(problem) for problem in caught.value.problems]
        assert len(lines) == 3
        for problem in ('names no group for s4, s5;', 'knows images that are not there: s9;', 'names twice s0;'):
            assert any(problem in line for line in lines)

    @pytest.mark.parametrize('text', ['id,group\ns0', 'id;group\ns0;1', 'id,group\ns0,', b'\xff\xfe\x00'])
    def test_a_broken_file_is_a_problem(self, course, tmp_path, text):
        path = tmp_path / 'g.csv'
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(AuditError, match=r'g\.csv'):
            run(course, groups=path)

    def test_one_group_is_split_by_images_with_a_warning(self, course, tmp_path):
        rows = [('id', 'group'), *((f's{n}', 'A') for n in range(6))]
        prepared = run(course, folds=5, groups=self.write(tmp_path / 'g.csv', rows))
        assert len(names(course, 'train')) + len(names(course, 'val')) == 6
        assert names(course, 'val')
        assert any('all images are of one group' in warning for warning in prepared.warnings)

    def test_one_image_trains_and_validates_with_a_warning(self, tmp_path):
        root = write_course(tmp_path, train=1, test=0)
        prepared = run(root, folds=5)
        assert names(root, 'train') == names(root, 'val') == ['train/s0/image.tif']
        assert annotation_files(root) == ['train.json', 'val.json', 'warnings.txt']
        assert any('there is one image' in warning for warning in prepared.warnings)

    def test_a_class_of_one_group_is_warned_about(self, course, tmp_path):
        for n in range(1, 6):
            (course / f'train/s{n}/class2.tif').unlink()
        prepared = run(course, groups=self.write(tmp_path / 'g.csv', [('id', 'group')] + [
            (f's{n}', str(n // 2)) for n in range(6)]))
        assert '1 of 2 classes are in both' in prepared.notes[0]
        assert any(warning.startswith('class2: none of its cells is in ')
                   and warning.endswith(', since all of them are in one group') for warning in prepared.warnings)

    def test_more_folds_than_groups_become_fewer_folds(self, course, tmp_path):
        rows = [('id', 'group'), *((f's{n}', str(n // 2)) for n in range(6))]
        prepared = run(course, folds=5, groups=self.write(tmp_path / 'g.csv', rows))
        assert 'fold2_val.json' in annotation_files(course)
        assert 'fold3_val.json' not in annotation_files(course)
        assert '3 folds instead of 5, since there are only 3 groups' in prepared.warnings


class TestPixelSize:
    def test_it_is_recorded_where_the_file_or_the_user_knows_it(self, course):
        tifffile.imwrite(course / 'train/s0/image.tif', draw(0)[0], photometric='rgb', resolution=(40_000, 40_000),
                         resolutionunit='CENTIMETER')
        assert run(course).notes[1] == ('pixel size: recorded in 1 of 8 images; give it by --mpp if you know it')
        images = load(course, 'train')['images'] + load(course, 'val')['images']
        assert [image.get('mpp') for image in sorted(images, key=lambda i: i['id'])] == [0.25] + [None] * 5
        run(course, mpp=0.5)
        images = load(course, 'train')['images'] + load(course, 'val')['images'] + load(course, 'test')['images']
        assert [image['mpp'] for image in sorted(images, key=lambda i: i['id'])] == [0.25] + [0.5] * 7


class TestProblems:
    def test_all_are_reported_at_once_and_nothing_is_written(self, course):
        (course / 'train/s0/image.tif').unlink()
        truncated = course / 'train/s1/image.tif'
        truncated.write_bytes(truncated.read_bytes()[:-100])
        tifffile.imwrite(course / 'train/s2/class1.tif', np.ones((3, 4)))
        for sample, value in (('s3', np.nan), ('s4', 0.5), ('s5', -1.0)):
            tifffile.imwrite(course / f'train/{sample}/class1.tif', np.full((24, 30), value))
        (course / 'test_release/t0.tif').write_text('not an image')
        (course / 'test_release/t1.tif').unlink()
        finished = tool(course, '--workers', 2)
        assert finished.returncode == 2
        lines = [line for line in finished.stderr.splitlines() if line.startswith('error: ')]
        for file in ('train/s0', 's1/image.tif', 's2/class1.tif', 's3/class1.tif', 's4/class1.tif', 's5/class1.tif',
                     't0.tif', 't1.tif'):
            assert sum(file in line for line in lines) == 1, file
        assert len(lines) == 8
        assert '8 problems; nothing was written' in finished.stderr
        assert 'Traceback' not in finished.stderr
        assert not (course / 'annotations').exists()

    def test_annotations_of_an_earlier_run_survive_a_failed_one(self, course):
        run(course)
        before = (course / 'annotations/train.json').read_bytes()
        (course / 'train/s0/image.tif').unlink()
        with pytest.raises(AuditError):
            run(course)
        assert (course / 'annotations/train.json').read_bytes() == before

    def test_a_test_image_of_another_size_than_listed_is_a_problem(self, course):
        tifffile.imwrite(course / 'test_release/t0.tif', draw(0, (40, 50))[0], photometric='rgb')
        with pytest.raises(AuditError, match=r't0.tif: is of 40 x 50 pixels but said to be of 24 x 30'):
            run(course)

    def test_an_empty_folder_says_what_to_put_there(self, tmp_path):
        with pytest.raises(UserError, match='there are no images; put them in'):
            run(tmp_path)

    def test_images_without_any_label_map_say_what_to_put_there(self, tmp_path):
        root = write_course(tmp_path, train=1, test=0)
        for path in root.glob('train/s0/class*.tif'):
            path.unlink()
        with pytest.raises(UserError, match='there are no classes'):
            run(root)

    def test_a_missing_root_is_named(self, tmp_path):
        with pytest.raises(UserError, match='nowhere: there is no such folder'):
            run(tmp_path / 'nowhere')


class TestFiles:
    def test_the_same_input_and_seed_give_the_same_bytes(self, course):
        def contents(**options):
            run(course, **options)
            return [(course / 'annotations' / name).read_bytes() for name in annotation_files(course)]
        first = contents(folds=2, seed=3)
        assert contents(folds=2, seed=3, workers=2) == first

    def test_files_of_other_settings_are_removed_and_foreign_files_kept(self, course):
        run(course, folds=3)
        (course / 'annotations/mine.json').write_text('{}')
        (course / 'annotations/.train.123.partial.json').write_text('half of a f')
        (course / 'annotations/.warnings.123.partial.txt').write_text('')
        run(course)
        assert annotation_files(course) == ['mine.json', 'test.json', 'train.json', 'val.json', 'warnings.txt']

    @pytest.mark.parametrize('name', ['train.json', 'val.json', 'test.json', 'fold9_train.json', 'warnings.txt'])
    @pytest.mark.parametrize('content', ['', '{', '{"info": ', '{"info": 3, "images": []}', 'Warnings of my own\n',
                                         '{"images": [], "info": {"grouping": "mine"}}', '{"info": {"year": 2020}}'])
    def test_files_of_others_under_our_names_are_kept_and_nothing_is_written(self, course, name, content):
        (course / 'train/s0/image.tif').write_text('not even read')
        foreign = course / 'annotations' / name
        foreign.parent.mkdir()
        foreign.write_text(content)
        with pytest.raises(CellDataError) as caught:
            run(course)
        assert str(caught.value) == (f'{foreign}: not written by this program, and would be overwritten; '
                                     'move it elsewhere')
        assert foreign.read_text() == content
        assert annotation_files(course) == [name]

    def test_a_folder_or_a_file_in_the_way_is_named(self, course):
        (course / 'annotations/val.json').mkdir(parents=True)
        with pytest.raises(CellDataError, match=r'val\.json: not written by this program'):
            run(course)
        (course / 'annotations/val.json').rmdir()
        (course / 'annotations').rmdir()
        (course / 'annotations').write_text('mine')
        with pytest.raises(CellDataError, match='annotations: is a file, where annotations are to go; move it'):
            run(course)

    def test_every_place_of_every_warning_is_in_a_file_of_its_own(self, course):
        for n in range(5):
            for name in ('class1', 'class2'):
                (course / f'train/s{n}/{name}.tif').unlink()
        prepared = run(course, folds=7, mpp=0.5)
        assert 'images without a cell: 5 (s0, s1, s2, ...; all in warnings.txt)' in prepared.warnings
        assert prepared.files[-1] == course / 'annotations/warnings.txt'
        lines = prepared.files[-1].read_text().splitlines()
        assert lines[2].startswith('3 folds instead of 7')
        at = lines.index('images without a cell: 5')
        assert lines[at + 1:at + 6] == [f'    s{n}' for n in range(5)]

    def test_without_a_warning_that_file_is_removed(self, tmp_path):
        root = write_pairs(tmp_path)
        for path in (root / 'labels').iterdir():
            cv2.imwrite(str(path), np.kron([[1, 2, 0]], np.ones((24, 10))).astype(np.uint16))
        (root / 'labels/p3.png').replace(root / 'p3.png')
        cv2.imwrite(str(root / 'labels/p3.png'), np.zeros((24, 30), np.uint16))
        run(root, images=root / 'images', labels=root / 'labels')
        assert annotation_files(root) == ['train.json', 'val.json', 'warnings.txt']
        (root / 'p3.png').replace(root / 'labels/p3.png')
        assert run(root, images=root / 'images', labels=root / 'labels').warnings == []
        assert annotation_files(root) == ['train.json', 'val.json']

    def test_a_full_disk_leaves_the_files_of_the_earlier_run(self, course, monkeypatch):
        run(course)
        before = {name: (course / 'annotations' / name).read_bytes() for name in annotation_files(course)}

        def fail(path, *args, **kwargs):
            if 'test' in path.name:
                raise OSError(28, 'No space left on device')
            return real(path, *args, **kwargs)
        real = Path.write_text
        monkeypatch.setattr(Path, 'write_text', fail)
        with pytest.raises(OSError, match='No space'):
            run(course, seed=9, val_fraction=0.5)
        assert {name: (course / 'annotations' / name).read_bytes() for name in annotation_files(course)} == before


class TestCommand:
    def test_it_prints_a_summary_that_fits_80_columns(self, course):
        finished = tool(course, '--workers', 1, '--folds', 0)
        assert finished.returncode == 0, finished.stderr
        lines = finished.stdout.splitlines()
        assert max(len(line) for line in lines if 'written to' not in line) <= 80
        assert '\x1b' not in finished.stdout
        for text in ('class1', 'touching', 'split: ', 'pixel size: ', 'train.json, val.json, test.json'):
            assert text in finished.stdout
        assert 'test.json, warnings.txt' in finished.stdout
        assert lines[-2:] == ['classes, as configs/_base_/cells.py must have them:',
                              "  classes = ('class1', 'class2')"]

    @pytest.mark.parametrize('arguments', [
        ['--val-fraction', '1'], ['--folds', '1'], ['--mpp', '0'], ['--mpp', 'nan'], ['--mpp', '2.5e-7'],
        ['--workers', '0'], ['--seed', '-1'], ['--classes', 'a,,b'], ['--images', 'x'], ['--labels', 'x'],
        ['--images', 'x', '--labels', 'y', '--coco', 'z'],
    ])
    def test_impossible_options_are_refused(self, tmp_path, arguments):
        assert tool(tmp_path, *arguments).returncode == 2

    def test_help_answers_before_anything_heavy_is_imported(self):
        finished = subprocess.run([sys.executable, '-X', 'importtime', 'tools/prepare_data.py', '--help'], check=True,
                                  cwd=REPOSITORY, env=ENV, capture_output=True, text=True)
        assert 'cellseg_mm.errors' in finished.stderr
        assert 'numpy' not in finished.stderr


class TestWorkers:
    def test_a_worker_that_dies_is_reported_in_one_line(self):
        with pytest.raises(UserError, match='a worker process died'), pool(1) as executor:
            list(executor.map(os._exit, [1]))

    @pytest.mark.parametrize(('kill', 'number', 'status'), [
        (os.killpg, signal.SIGINT, 130), (os.kill, signal.SIGTERM, 128 + signal.SIGTERM),
        (os.kill, signal.SIGKILL, -signal.SIGKILL)], ids=['Ctrl-C', 'terminate', 'kill'])
    def test_an_interrupted_run_leaves_neither_workers_nor_files(self, course, kill, number, status):
        # A named pipe keeps the worker that reads it busy for ever.
        pipe = course / 'train/s3/image.tif'
        pipe.unlink()
        os.mkfifo(pipe)
        process = subprocess.Popen(
            [sys.executable, 'tools/prepare_data.py', course, '--workers', '2'], cwd=REPOSITORY, start_new_session=True,
            env=ENV, stderr=subprocess.PIPE, text=True,
            # Where the tests run in the background of a shell, interrupts are ignored, and so by what they start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # noqa: PLW1509
        # Opening the other end returns only once a worker reads.
        writer = os.open(pipe, os.O_WRONLY)
        try:
            kill(process.pid, number)
            stderr = process.communicate(timeout=60)[1]
            assert 'Traceback' not in stderr
            assert process.returncode == status
            wait_until_gone(process.pid)
        finally:
            os.close(writer)
        assert not (course / 'annotations').exists()


def wait_until_gone(group, seconds=10):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    pytest.fail('worker processes outlived the command')
