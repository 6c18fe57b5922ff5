import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from cellseg_mm.datasets import audit, survey
from cellseg_mm.datasets.layouts import find_course
from cellseg_mm.datasets.prepare import TEXT_MARK, prepare
from cellseg_mm.datasets.splits import appearance_features
from cellseg_mm.datasets.survey import Cutting, read_facts, read_survey, read_warnings, stain
from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.io.image import read_image


def test_every_cell_and_image_is_there_once(tiny_data):
    found = read_survey(tiny_data)
    files = {split: json.loads((tiny_data / f'annotations/{split}.json').read_text()) for split in survey.SPLITS}
    assert {split: inside.sum() for split, inside in found.sides.items()} == {
        split: len(data['images']) for split, data in files.items()}
    names = [category['name'] for category in files['train']['categories']]
    assert found.classes == names
    for split in ('train', 'val'):
        of_class = [cell['category_id'] for cell in files[split]['annotations']]
        assert found.counts[found.sides[split]].sum(0).tolist() == [
            of_class.count(number) for number in range(1, len(names) + 1)]
    assert (np.diff(found.image * len(names) + found.label) >= 0).all()
    for index in range(len(found.images)):
        for label, cells in enumerate(found.cells_of(index)):
            assert (found.image[list(cells)] == index).all()
            assert (found.label[list(cells)] == label).all()
    assert found.annotated.tolist() == [entry.splits != ('test', ) for entry in found.images]
    assert sorted(index for members in found.groups.values() for index in members) == list(range(len(found.images)))


def test_groups_of_test_images_alone_come_last(tiny_data):
    found = read_survey(tiny_data)
    images = [replace(entry, group='a' if entry.splits == ('test', ) else f'b{number}')
              for number, entry in enumerate(found.images)]
    names = list(replace(found, images=images).groups)
    assert len(names) > 2
    assert names.index('a') == len(names) - 1


def test_facts_agree_with_the_audit_of_the_files(tiny_data):
    found = read_survey(tiny_data)
    samples = {sample.image.resolve(): sample for sample in find_course(tiny_data).train}
    index = int(found.counts.sum(1).argmax())
    entry, cells = found.images[index], found.cells_of(index)
    x, y, w, h = found.box[cells[0][0]].tolist()
    fact = read_facts(Cutting(entry.path, entry.size, [[found.rles[cell] for cell in own] for own in cells],
                              [(x, y, w, h)], 32))
    report = audit.inspect(samples[entry.path.resolve()], found.classes)
    image = read_image(entry.path)
    for name in ('touching', 'disconnected', 'overlapping'):
        np.testing.assert_array_equal(getattr(fact, name), getattr(report, name))
    assert fact.touching.any()
    np.testing.assert_array_equal(fact.features, appearance_features(image))
    np.testing.assert_array_equal(fact.parts[0], image[y:y + h, x:x + w])
    assert fact.thumbnail.shape == (32, 32, 3)
    assert fact.stain is not None
    assert not fact.grey


def write_image(root, name, image, labels):
    for folder, array in (('images', image), ('labels', labels)):
        (root / folder).mkdir(exist_ok=True)
        cv2.imwrite(str(root / folder / f'{name}.png'), array)


def prepare_pairs(root, **options):
    prepare(root, images=root / 'images', labels=root / 'labels', folds=0, workers=1, **options)


def test_the_only_image_is_in_train_and_val_with_its_cells_once(tmp_path):
    labels = np.zeros((20, 30), np.uint8)
    labels[2:6, 3:9], labels[10:12, 3:9] = 1, 2
    write_image(tmp_path, 'a', np.full((20, 30), 90, np.uint8), labels)
    prepare_pairs(tmp_path)
    found = read_survey(tmp_path)
    assert [entry.side for entry in found.images] == ['train and val']
    assert found.counts.tolist() == [[2]]


def test_crowds_are_no_cells(tmp_path):
    for name in 'ab':
        write_image(tmp_path, name, np.full((20, 30), 90, np.uint8), np.eye(20, 30, dtype=np.uint8))
    prepare_pairs(tmp_path)
    path = tmp_path / 'annotations/train.json'
    data = json.loads(path.read_text())
    data['annotations'][0]['iscrowd'] = 1
    path.write_text(json.dumps(data))
    assert len(read_survey(tmp_path).image) == 1


def test_an_image_that_has_changed_since_is_named(tiny_data):
    entry = read_survey(tiny_data).images[0]
    with pytest.raises(CellDataError, match=r'annotations are for .*; run tools/prepare_data\.py again'):
        read_facts(Cutting(entry.path, (7, 9), [], [], 0))


def test_vast_parts_are_made_smaller(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((40, 2000), np.uint8))
    fact = read_facts(Cutting(tmp_path / 'a.png', (40, 2000), [], [(0, 0, 2000, 40), (0, 0, 512, 40)], 0))
    assert [part.shape[:2] for part in fact.parts] == [(10, 512), (40, 512)]
    assert fact.grey


def test_what_is_not_prepared_says_how_to(tmp_path):
    with pytest.raises(CellDataError, match=f'run: python tools/prepare_data.py {tmp_path}'):
        read_survey(tmp_path)
    with pytest.raises(UserError, match='there is no such folder'):
        read_survey(tmp_path / 'nowhere')


def test_warnings_are_read_back_as_sentences_and_places(tmp_path):
    path = tmp_path / 'warnings.txt'
    assert read_warnings(path) == ([], {})
    path.write_text(f'{TEXT_MARK}\nall images are of one group: they are split one by one\n'
                    'cells under 4 px: 2\n    a class: 1 at x 1, y 2\n    b\nimages without a cell: 1\n    c\n')
    assert read_warnings(path) == (
        ['all images are of one group: they are split one by one'],
        {'cells under 4 px': ['a class: 1 at x 1, y 2', 'b'], 'images without a cell': ['c']})


@pytest.mark.parametrize(('name', 'colour', 'stained'), [
    ('haematoxylin', (90, 60, 140), True), ('eosin', (230, 140, 190), True), ('glass', (245, 245, 245), False),
    ('grey', (120, 120, 120), False), ('green', (90, 200, 90), False), ('fluorescence', (20, 0, 40), False)])
def test_only_what_looks_stained_is_unmixed(name, colour, stained):
    pixels = np.array([colour] * 50 + [(colour if name == 'fluorescence' else (240, 240, 240))] * 50, np.uint8)
    density, dyes = stain(pixels)
    assert (dyes is not None) == stained
    if name != 'glass':
        np.testing.assert_allclose(density, -np.log10((np.array(colour) + 1) / 256))


def test_more_dye_is_measured_as_more():
    pale, dark = (stain(np.array([colour] * 20 + [(250, 250, 250)] * 20, np.uint8))[1]
                  for colour in ((170, 140, 200), (90, 60, 140)))
    assert dark[0] > pale[0] > 0
