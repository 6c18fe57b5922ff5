import csv
import re

import cv2
import numpy as np
import pytest
from browser import launched, opened

from cellseg_mm.datasets import survey
from cellseg_mm.datasets.prepare import prepare
from cellseg_mm.datasets.survey import read_survey
from cellseg_mm.errors import CellDataError
from cellseg_mm.visualization.data_report import write_data_report

TITLES = ['At a glance', 'Problems found', 'Classes', 'Sizes and density', 'Colour', 'Groups', 'Contact sheets',
          'For the model']


@pytest.fixture(scope='module')
def browser():
    with launched() as browser:
        yield browser


@pytest.fixture
def read(browser):
    """Open a page, hold it against what every page must be, and return its text."""

    def read(path):
        with opened(browser, path) as page:
            assert page.problems == []
            assert page.locator('h2').all_inner_texts() == TITLES
            assert page.locator('.chart').count() == page.locator('.chart .main-svg').count() // 3 > 0
            broken = page.evaluate('[...document.images].filter(i => !i.complete || !i.naturalWidth).length')
            assert broken == 0
            assert page.evaluate('document.documentElement.scrollWidth <= innerWidth')
            return page.inner_text('body')

    return read


def write_pair(root, name, image, labels):
    for folder, array in (('images', image), ('labels', labels)):
        (root / folder).mkdir(exist_ok=True)
        assert cv2.imwrite(str(root / folder / f'{name}.png'), array)


def make(root, images, groups=None, classes=('nucleus', ), **options):
    """Prepare images and label maps of one class."""
    for number, (image, labels) in enumerate(images):
        write_pair(root, f'image{number}', image, labels)
    if groups:
        with (root / 'groups.csv').open('w', newline='') as file:
            csv.writer(file).writerows([('id', 'group'), *((f'image{n}', group) for n, group in enumerate(groups))])
        options['groups'] = root / 'groups.csv'
    prepare(root, images=root / 'images', labels=root / 'labels', classes=list(classes), folds=0, workers=1, **options)
    return root


def cells(shape=(40, 50), sides=(3, 5)):
    labels = np.zeros(shape, np.uint8)
    for number, side in enumerate(sides, 1):
        labels[2:2 + side, 7 * number:7 * number + side] = number
    return labels


def picture(seed=0, shape=(40, 50, 3)):
    return np.random.default_rng(seed).integers(100, 250, shape).astype(np.uint8)


def test_the_page_tells_what_is_in_the_data(tiny_data, tiny_config, tmp_path, read):
    text = read(write_data_report(tiny_data, tmp_path / 'a/page.html', tiny_config, workers=1))
    found = read_survey(tiny_data)
    total = len(found.image)
    assert f'8 images with {total:,} cells of 4 classes, ' in text
    assert '; 3 to test on, whose cells are not known here.' in text
    for name, train, val in zip(found.classes, *(found.counts[found.sides[split]].sum(0) for split in ('train', 'val')),
                                strict=True):
        assert re.search(rf'^{name}\s+{train:,}\s+{val:,}\s+{train + val:,}\s', text, re.MULTILINE)
    most = found.counts.sum(1).max()
    assert f'The fullest image holds {most:,} cells' in text
    # The config allows 50.
    assert f'max_dets = 50 is below the {most:,} cells of the fullest image' in text
    assert 'resizes all images by 1.00' in text
    assert '% of the cells have an anchor of IoU 0.5 or more' in text
    assert 'haematoxylin' in text
    assert 'test images' in text
    assert (tmp_path / 'a/page.html').stat().st_size < 15e6


def test_images_are_read_once_and_more_processes_change_nothing(tiny_data, tmp_path, monkeypatch, tiny_config):
    opened_images, real = [], survey.read_annotated_image
    monkeypatch.setattr(survey, 'read_annotated_image',
                        lambda path, shape: opened_images.append(path) or real(path, shape))
    pages = [write_data_report(tiny_data, tmp_path / f'{workers}.html', tiny_config, workers).read_text()
             for workers in (1, 2)]
    assert len(opened_images) == len(set(opened_images)) == 11
    one, two = (re.sub(r'read on [^<]*', '', page) for page in pages)
    assert one == two


def test_a_model_without_anchors_is_told_of_its_limits_all_the_same(tiny_data, tiny_config, tmp_path):
    tiny_config.model.pop('rpn_head')
    page = write_data_report(tiny_data, tmp_path / 'page.html', tiny_config, workers=1).read_text()
    assert 'no region proposal network with anchors' in page
    assert 'max_dets = 50 is below' in page


def test_names_are_text_whatever_they_are(tmp_path, read, tiny_config):
    group, name = '</script><script>alert(1)</script>', '<b>'
    make(tmp_path, [(picture(n), cells()) for n in range(6)], [group] * 3 + ['x&y'] * 3, [name])
    text = read(write_data_report(tmp_path, None, tiny_config, workers=1))
    assert re.search(rf'^{re.escape(name)}\s+6\s+6\s+12', text, re.MULTILINE)
    assert group in text
    assert 'x&y' in text


@pytest.mark.parametrize(('images', 'groups', 'expected'), [
    ([(picture(), cells())], None, ['used to train and to validate alike', 'there is one image']),
    ([(picture(n, (40, 50)), cells() * (n > 0)) for n in range(8)], ['p'] * 8,
     ['grey', 'No image looks stained', 'images without a cell: 1 place', 'all images are of one group']),
    ([(picture(n), cells() * 0) for n in range(4)], None,
     ['0 cells', 'There is no cell of this class', 'nothing can be said']),
    ([(picture(n, (1, 1)), np.ones((1, 1), np.uint8)) for n in range(2)], None,
     ['1 to train on and 1 to validate on', 'cells under 4 px: 2 places']),
], ids=['one image', 'grey, one group', 'no cell', 'one pixel'])
def test_small_and_odd_data_have_a_page_too(tmp_path, read, tiny_config, images, groups, expected):
    text = read(write_data_report(make(tmp_path, images, groups), None, tiny_config, workers=1))
    for sentence in expected:
        assert sentence in text
    assert 'to test on' not in text


def test_images_of_one_group_may_be_on_both_sides(tmp_path, tiny_config):
    make(tmp_path, [(picture(n), cells()) for n in range(8)], ['p'] * 8)
    page = write_data_report(tmp_path, None, tiny_config, workers=1).read_text()
    assert '<b>p</b><br>7 train, 1 val<br>16 cells' in page


def test_many_groups_are_named_in_natural_order(tmp_path, tiny_config):
    make(tmp_path, [(picture(n), cells()) for n in range(50)], [f'patient {n}' for n in range(50)])
    page = write_data_report(tmp_path, None, tiny_config, workers=1).read_text()
    assert 'These are 40 of 50 groups.' in page
    names = re.findall('<b>(patient .*?)</b>', page)
    assert names == [f'patient {n}' for n in range(40)]


def test_micrometres_are_given_where_all_pixel_sizes_are_known(tmp_path, tiny_config):
    make(tmp_path, [(picture(n), cells(sides=(4, ))) for n in range(4)], mpp=0.25)
    page = write_data_report(tmp_path, None, tiny_config, workers=1).read_text()
    row, = re.findall('longest side, µm</td>(.*?)</tr>', page, re.DOTALL)
    assert re.findall('>([^<>]+)</td>', row) == ['nucleus', *['1'] * 5]
    assert 'recorded for 4 of 4 images' in page


def test_preparing_again_leaves_the_page(tmp_path, tiny_config):
    make(tmp_path, [(picture(n), cells()) for n in range(4)])
    path = write_data_report(tmp_path, None, tiny_config, workers=1)
    assert path == tmp_path / 'data_report.html'
    make(tmp_path, [])
    assert path.is_file()


def test_a_lost_image_is_named_and_an_old_page_stays(tmp_path, tiny_config):
    make(tmp_path, [(picture(n), cells()) for n in range(4)])
    path = write_data_report(tmp_path, None, tiny_config, workers=1)
    (tmp_path / 'images/image2.png').unlink()
    before = path.read_bytes()
    with pytest.raises(CellDataError, match=r'image2\.png'):
        write_data_report(tmp_path, None, tiny_config, workers=1)
    assert path.read_bytes() == before
