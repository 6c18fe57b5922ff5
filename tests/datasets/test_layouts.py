import json
from pathlib import Path

import pytest

from cellseg_mm.datasets.layouts import find_coco, find_course, find_pairs, find_test
from cellseg_mm.errors import CellDataError, UserError


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def problems(layout):
    return [str(problem) for problem in (layout[1] if isinstance(layout, tuple) else layout.problems)]


class TestCourse:
    def test_classes_are_the_names_of_all_label_maps_in_natural_order(self, tmp_path):
        layout = find_course(touch(tmp_path, 'train/b/image.tif', 'train/b/class10.tif', 'train/b/class2.tif',
                                   'train/a/image.tif', 'train/a/tumour.tif'))
        assert layout.classes == ['class2', 'class10', 'tumour']
        assert [sample.key for sample in layout.train] == ['a', 'b']
        assert layout.train[1].labels == {name: tmp_path / f'train/b/{name}.tif' for name in ('class2', 'class10')}
        assert not layout.problems

    def test_an_image_without_label_maps_is_no_problem(self, tmp_path):
        layout = find_course(touch(tmp_path, 'train/a/image.tif'))
        assert layout.train[0].labels == {}
        assert not layout.problems

    def test_hidden_and_other_files_are_passed_over(self, tmp_path):
        layout = find_course(touch(tmp_path, 'train/a/image.tif', 'train/a/._image.tif', 'train/a/notes.txt',
                                   'train/.git/config', 'train/list.csv'))
        assert [sample.labels for sample in layout.train] == [{}]
        assert not layout.problems

    def test_every_folder_without_an_image_is_reported(self, tmp_path):
        (tmp_path / 'train/c').mkdir(parents=True)
        found = problems(find_course(touch(tmp_path, 'train/a/class1.tif', 'train/b/image.tif')))
        assert len(found) == 2
        assert 'train/a: has no image.tif' in found[0]
        assert 'train/c: has no image.tif' in found[1]

    def test_two_files_of_one_class_are_reported(self, tmp_path):
        found = problems(find_course(touch(tmp_path, 'train/a/image.tif', 'train/a/c.tif', 'train/a/c.tiff')))
        assert len(found) == 1
        assert 'c.tiff: has the same name as c.tif' in found[0]


class TestClassChoice:
    @pytest.fixture
    def layout(self, tmp_path):
        return find_course(touch(tmp_path, 'train/a/image.tif', 'train/a/x.tif', 'train/a/y.tif', 'train/a/z.tif'))

    def test_classes_come_in_the_order_named(self, layout):
        layout.choose_classes(['z', 'x', 'y'])
        assert layout.classes == ['z', 'x', 'y']
        assert not layout.warnings

    def test_a_class_that_is_not_named_is_left_out_with_a_warning(self, layout):
        layout.choose_classes(['z', 'x'])
        assert layout.classes == ['z', 'x']
        assert layout.warnings == ['class y, left out since --classes does not name it: in 1 images']

    def test_a_class_that_no_image_has_is_kept(self, layout):
        layout.choose_classes(['x', 'zz', 'y', 'z'])
        assert layout.classes == ['x', 'zz', 'y', 'z']
        assert not problems(layout)

    def test_classes_of_which_no_image_has_any_are_a_problem(self, layout):
        layout.choose_classes(['xx', 'zz'])
        assert problems(layout) == ['--classes xx,zz: no image has cells of these classes; choose among x, y, z']

    def test_a_class_named_twice_is_refused(self, layout):
        with pytest.raises(UserError, match='x more than once'):
            layout.choose_classes(['x', 'x'])


class TestPairs:
    def test_images_and_label_maps_pair_by_name_whatever_their_suffix(self, tmp_path):
        touch(tmp_path, 'i/b.png', 'i/a.TIF', 'l/a.png', 'l/b.tiff', 'i/readme.md')
        layout = find_pairs(tmp_path / 'i', tmp_path / 'l', 'nucleus')
        assert [(s.key, s.image.name, s.labels['nucleus'].name) for s in layout.train] == [
            ('a', 'a.TIF', 'a.png'), ('b', 'b.png', 'b.tiff')]
        assert layout.classes == ['nucleus']
        assert not layout.problems

    def test_every_file_without_its_other_half_is_reported(self, tmp_path):
        touch(tmp_path, 'i/a.png', 'i/b.png', 'i/c.png', 'i/c.jpg', 'l/c.png', 'l/d.png')
        found = problems(find_pairs(tmp_path / 'i', tmp_path / 'l', 'cell'))
        assert len(found) == 4
        for problem in ('i/a.png: has no label map', 'i/b.png: has no label map', 'i/c.png: has the same name as c.jpg',
                        'l/d.png: has no image'):
            assert any(problem in line for line in found)

    def test_a_missing_folder_is_named(self, tmp_path):
        with pytest.raises(UserError, match='nowhere: there is no such folder'):
            find_pairs(tmp_path, tmp_path / 'nowhere', 'cell')


class TestCoco:
    def data(self):
        return {'images': [{'id': 9, 'file_name': 'b.png', 'height': 4, 'width': 5}, {'id': 3, 'file_name': 's/a.png'}],
                'categories': [{'id': 7, 'name': 'late'}, {'id': 2, 'name': 'early'}],
                'annotations': [{'id': 1, 'image_id': 9, 'category_id': 7, 'segmentation': [[0, 0, 2, 0, 2, 2]]}]}

    def find(self, tmp_path, data):
        touch(tmp_path, 'b.png', 's/a.png')
        return find_coco(write(tmp_path / 'cells.json', data))

    def test_categories_keep_the_order_of_their_ids(self, tmp_path):
        layout = self.find(tmp_path, self.data())
        assert layout.classes == ['early', 'late']
        assert [(s.key, s.image.relative_to(tmp_path).as_posix(), s.size, len(s.annotations))
                for s in layout.train] == [('b', 'b.png', (4, 5), 1), ('s/a', 's/a.png', None, 0)]
        assert layout.train[0].annotations[0]['category'] == 'late'
        assert not layout.problems

    def test_crowd_regions_are_left_out_with_a_warning(self, tmp_path):
        data = self.data()
        data['annotations'].append({**data['annotations'][0], 'id': 2, 'iscrowd': 1})
        layout = self.find(tmp_path, data)
        assert len(layout.train[0].annotations) == 1
        assert layout.warnings == ['crowd regions, left out since they are not single cells: 1']

    @pytest.mark.parametrize('name', ['elsewhere/b.png', 'C:\\pictures\\b.png'])
    def test_images_are_found_by_their_bare_name_in_the_folder_given(self, tmp_path, name):
        data = self.data()
        data['images'] = [{'id': 9, 'file_name': name}]
        touch(tmp_path, 'pictures/b.png')
        layout = find_coco(write(tmp_path / 'json/cells.json', data), tmp_path / 'pictures')
        assert [sample.image for sample in layout.train] == [tmp_path / 'pictures/b.png']

    @pytest.mark.parametrize(('change', 'problem'), [
        (lambda d: d['images'].append({'id': 1, 'file_name': 'gone.png'}), 'gone.png: is listed in'),
        (lambda d: d['images'].append({'id': 1, 'file_name': 300 * 'x'}), 'xxx: is listed in'),
        (lambda d: d['images'].append({'id': 9, 'file_name': 's/a.png'}), 'image id 9 occurs 2 times'),
        (lambda d: d['images'].append({'id': 1, 'file_name': 'x/b.png'}), 'b.png occurs 2 times'),
        (lambda d: d['images'].append({'id': 'one', 'file_name': 'c.png'}), 'images[2]: lacks a usable id'),
        (lambda d: d['images'].append({'id': 1}), 'images[2]: lacks a usable file_name'),
        (lambda d: d['categories'].append({'id': 2, 'name': 'x'}), 'category id 2 occurs 2 times'),
        (lambda d: d['categories'].append({'id': 3, 'name': 'late'}), 'category name late occurs 2 times'),
        (lambda d: d['annotations'].append({'id': 5, 'image_id': 8, 'category_id': 2}), '5: belongs to image 8'),
        (lambda d: d['annotations'].append({'id': 5, 'image_id': 9, 'category_id': 1}), '5: is of category 1'),
    ])
    def test_what_does_not_fit_together_is_reported(self, tmp_path, change, problem):
        data = self.data()
        change(data)
        found = problems(self.find(tmp_path, data))
        assert any(problem in line for line in found), found

    @pytest.mark.parametrize('data', ['', '{', '[]', '{}', '{"images": [], "categories": []}',
                                      '{"images": [1], "annotations": [], "categories": []}'])
    def test_a_file_that_is_not_coco_is_refused(self, tmp_path, data):
        with pytest.raises(CellDataError, match=r'cells.json: (is not COCO|this is not JSON)'):
            self.find(tmp_path, data)

    def test_a_missing_file_is_named(self):
        with pytest.raises(CellDataError, match='no such file'):
            find_coco(Path('nowhere.json'))


class TestTestSplit:
    LIST = 'test_image_name_to_ids.json'

    def test_images_come_in_the_order_of_their_listed_ids(self, tmp_path):
        touch(tmp_path, 'test_release/a.tif', 'test_release/b.tif')
        write(tmp_path / self.LIST, [{'file_name': 'a.tif', 'id': 5, 'height': 3, 'width': 4},
                                     {'file_name': 'b.tif', 'id': 2, 'height': 1, 'width': 2}])
        samples, found = find_test(tmp_path)
        assert [(s.key, s.id, s.size) for s in samples] == [('b', 2, (1, 2)), ('a', 5, (3, 4))]
        assert not found

    def test_without_a_list_ids_run_from_one(self, tmp_path):
        samples, found = find_test(touch(tmp_path, 'test_release/b.tif', 'test_release/a.png'))
        assert [(s.key, s.id) for s in samples] == [('a', 1), ('b', 2)]
        assert not found

    def test_no_test_split_is_fine(self, tmp_path):
        assert find_test(tmp_path) == ([], [])

    def test_list_and_folder_must_agree(self, tmp_path):
        touch(tmp_path, 'test_release/a.tif', 'test_release/extra.tif')
        write(tmp_path / self.LIST, [{'file_name': 'a.tif', 'id': 1}, {'file_name': 'gone.tif', 'id': 1}, {'id': 2}])
        found = problems(find_test(tmp_path))
        assert len(found) == 4
        for problem in ('extra.tif: is not listed', 'gone.tif: is listed', 'id 1 occurs 2 times',
                        'entry 2: lacks a usable file_name'):
            assert any(problem in line for line in found)

    @pytest.mark.parametrize('text', ['[', '{}', '[1]'])
    def test_a_broken_list_is_reported(self, tmp_path, text):
        write(tmp_path / self.LIST, text)
        assert len(problems(find_test(tmp_path))) == 1
