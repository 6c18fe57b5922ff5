import json
import shutil

import cv2
import numpy as np
import pytest
from browser import launched, opened
from training_folders import CLASSES, write_log, write_work_dir

from cellseg_mm.errors import UserError
from cellseg_mm.evaluation.evaluate import evaluate, write_evaluation
from cellseg_mm.evaluation.instances import pair_images
from cellseg_mm.io.image import write_image
from cellseg_mm.visualization import report
from cellseg_mm.visualization.report import loss_verdict, write_report

HOSTILE = '<script>window.hacked = 1</script><b>'
SECTIONS = ['At a glance', 'Training', 'Classes', 'Curves and errors', 'Sizes', 'Images', 'The run']


@pytest.fixture(scope='module')
def browser():
    with launched() as browser:
        yield browser


@pytest.fixture(scope='module')
def page(browser, tmp_path_factory):
    work = write_work_dir(tmp_path_factory.mktemp('training'), [HOSTILE, *CLASSES[1:]], ['<i>a.png', 'b.png', 'c.png'])
    with opened(browser, write_report(work)) as page:
        page.wait_for_selector('.chart .main-svg')
        yield page


def text(work):
    """The report without plotly."""
    html = write_report(work).read_text(encoding='utf-8')
    return html[html.index('<body>'):]


def sections(html):
    return [name for name in SECTIONS if f'<h2>{name}</h2>' in html]


def change_evaluation(work, **changes):
    path = work / 'val-evaluation.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_report_opens_without_a_problem_and_shows_all_there_is(page):
    assert page.problems == []
    assert page.locator('h2').all_inner_texts() == page.locator('nav a').all_inner_texts() == SECTIONS
    assert page.locator('.chart').count() == page.locator('.chart .plot-container').count() == 10


def test_pictures_load(page):
    page.locator('img').first.scroll_into_view_if_needed()
    widths = page.locator('img').evaluate_all('all => all.map(img => img.naturalWidth)')
    assert len(widths) >= 3
    assert all(widths)
    for canvas in page.locator('canvas[role=img]').all():
        shades = cv2.imdecode(np.frombuffer(canvas.screenshot(), np.uint8), cv2.IMREAD_COLOR)
        assert len(np.unique(shades)) > 100


def test_names_are_shown_as_they_are_and_never_run(page):
    assert page.evaluate('window.hacked') is None
    assert HOSTILE in page.locator('section', has_text='AP regards').locator('tbody tr').first.inner_text()
    assert page.locator('table.sortable tbody td').first.inner_text() == '<i>a.png'
    assert page.locator('.chart text', has_text='<script>').count() >= 4


def test_the_table_of_images_sorts(page):
    def cells(index):
        return page.locator(f'table.sortable tbody td:nth-child({index})').all_inner_texts()

    assert cells(3) == ['2', '4', '6']
    page.locator('table.sortable th button', has_text='true cells').click()
    assert cells(3) == ['6', '4', '2']
    assert cells(1) == ['c.png', 'b.png', '<i>a.png']


def test_figures_stand_with_their_intervals_and_what_they_rest_on(tmp_path):
    work = write_work_dir(tmp_path)
    found = json.loads((work / 'val-evaluation.json').read_text())
    low, high = found['intervals']['AJI']
    html = text(work)
    assert f'<div class="value">{found["metrics"]["AJI"]:.3f}</div>' in html
    assert f'95%: {low:.3f} to {high:.3f}' in html
    assert 'rest on 3 validation images in 3 groups with 12 true cells' in html
    assert 'With so few groups take them for too narrow.' in html
    assert 'On these same images the best epoch and the score thresholds were chosen: expect' in html


def test_thresholds_from_elsewhere_are_named(tmp_path):
    work = write_work_dir(tmp_path)
    change_evaluation(work, thresholds_from='other.thresholds.json')
    html = text(work)
    assert 'The score thresholds are those of other.thresholds.json.' in html
    assert 'the best epoch was chosen' in html
    (work / 'other.thresholds.json').touch()
    assert 'the best epoch and the score thresholds were chosen' in text(work)


def test_figures_of_another_checkpoint_than_the_best_are_said_to_be_so(tmp_path):
    work = write_work_dir(tmp_path)
    assert 'These figures of best_epoch_4.pth rest on' in text(work)
    change_evaluation(work, checkpoint='epoch_5.pth')
    html = text(work)
    assert 'These figures of epoch_5.pth rest on' in html
    assert 'They are not those of the best checkpoint, best_epoch_4.pth.' in html
    assert 'On these same images the score thresholds were chosen' in html
    change_evaluation(work, checkpoint=None)
    html = text(work)
    assert 'They are not known to be of the best checkpoint, best_epoch_4.pth.' in html
    assert 'the best epoch and' not in html


def test_without_intervals_none_is_spoken_of(tmp_path):
    work = write_work_dir(tmp_path)
    names = json.loads((work / 'val-evaluation.json').read_text())['intervals']
    change_evaluation(work, groups=1, intervals={name: [None, None] for name in names})
    html = text(work)
    assert 'in 1 group with 12 true cells. They have no intervals, since' in html
    assert '95%:' not in html
    assert 'The 95% intervals come from' not in html


def test_without_a_training_no_epoch_is_said_to_be_chosen(tmp_path):
    work = write_work_dir(tmp_path)
    shutil.rmtree(work / '20260105_083000')
    (work / 'best_epoch_4.pth').unlink()
    assert 'On these same images the score thresholds were chosen' in text(work)


def test_the_run_is_described(tmp_path):
    html = text(write_work_dir(tmp_path))
    for shown in ('1 h 07 min', '1,234,567', 'A Processor, 2 cores, 16.0 GB memory, no GPU', '2.5 GB main memory',
                  'cellseg_mm 1.0, torch 2.0', '9 images, 1,000 cells', 'by patient', '5 January 2026, 08:30',
                  'max_dets = 50'):
        assert shown in html


def test_a_class_without_cells_has_dashes(tmp_path):
    html = text(write_work_dir(tmp_path))
    row = html[html.index('</i>rare'):]
    row = row[:row.index('</tr>')]
    assert row.count('>0<') == 2
    assert row.count('>\N{EN DASH}<') == 8


@pytest.mark.parametrize(('gone', 'left_out', 'note'), [
    (['run.json'], [], 'There is no run.json'),
    (['small.py'], [], 'The images cannot be shown: the config names no annotations'),
    (['val-results.json'], [], 'The images cannot be shown: there is no val-results.json'),
    (['../data/a.png', '../data/b.png', '../data/c.png'], [], 'Worst 1 is not shown: '),
    (['val-evaluation.json'], ['Classes', 'Curves and errors', 'Sizes', 'Images'], 'There is no evaluation'),
    (['20260105_083000'], ['Training'], 'best epoch 4'),
    (['val-evaluation.json', 'run.json', 'small.py', 'best_epoch_4.pth'],
     ['Classes', 'Curves and errors', 'Sizes', 'Images'], 'best epoch 4'),
])
def test_what_is_missing_is_left_out_or_named(tmp_path, gone, left_out, note):
    work = write_work_dir(tmp_path)
    for name in gone:
        shutil.rmtree(work / name, ignore_errors=True)
        (work / name).unlink(missing_ok=True)
    html = text(work)
    assert sections(html) == [name for name in SECTIONS if name not in left_out]
    assert note in html


def test_paths_that_count_from_another_folder_are_explained(tmp_path):
    work = write_work_dir(tmp_path)
    config = work / 'small.py'
    config.write_text(config.read_text().replace(str(tmp_path / 'data'), 'data'))
    html = text(work)
    assert ('the annotations data/val.json are not there; name the work directory from the folder that the training '
            'was started in') in html
    assert 'AP50 cap 100' in html


def test_an_image_of_another_size_is_named_and_the_others_shown(tmp_path):
    work = write_work_dir(tmp_path)
    write_image(work.parent / 'data/b.png', np.full((10, 10, 3), 200, np.uint8))
    html = text(work)
    assert 'b.png: is 10 x 10 pixels, its annotations are for 64 x 48' in html
    assert html.count('cell-viewer') >= 1


def test_a_training_without_any_validation_yet_has_a_report(tmp_path, browser):
    write_log(tmp_path, CLASSES, epochs=1, validated=False)
    html = text(tmp_path)
    assert sections(html) == ['At a glance', 'Training', 'The run']
    assert 'No validation has been logged yet.' in html
    assert 'No validation loss was logged' in html
    with opened(browser, tmp_path / 'report.html') as page:
        page.wait_for_selector('.chart .main-svg')
        assert page.problems == []


@pytest.mark.parametrize('names', [(), ('a.png', )])
def test_without_predictions_and_cells_there_is_a_report(tmp_path, browser, names):
    work = write_work_dir(tmp_path, names=('a.png', ))
    path = tmp_path / 'data/val.json'
    truth = json.loads(path.read_text()) | {'annotations': []}
    truth['images'] = truth['images'][:len(names)]
    path.write_text(json.dumps(truth))
    (work / 'val-results.json').write_text('[]')
    if names:
        write_evaluation(work / 'val-evaluation.json', evaluate(pair_images(truth, []), CLASSES, 50, replicates=10))
    else:
        change_evaluation(work, images=0, groups=0, cells=0, metrics={}, intervals={}, confusion=[], errors={},
                          precision_recall={}, calibration={}, per_image=[], thresholds={})
    html = text(work)
    assert f'no true cell in the {len(names)} validation image' in html
    with opened(browser, work / 'report.html') as page:
        page.wait_for_selector('.chart .main-svg')
        assert page.problems == []


def test_the_best_and_the_worst_images_are_chosen_among_those_with_enough_cells():
    records = [{'image_id': number, 'cells': 20, 'AP50': number / 10, 'PQ': 0.5} for number in range(8)]
    records += [{'image_id': 8, 'cells': 0, 'AP50': None, 'PQ': None}]
    records += [{'image_id': 9, 'cells': 1, 'AP50': 1.0, 'PQ': 1.0}]
    chosen = report._telling(records)
    assert [(title, record['image_id']) for title, record in chosen] == [
        ('Best 1', 7), ('Best 2', 6), ('Best 3', 5), ('Worst 1', 0), ('Worst 2', 1), ('Worst 3', 2), ('Worst 4', 3)]
    few = report._telling(records[-4:])
    assert [(title, record['image_id']) for title, record in few] == [('Best 1', 9), ('Worst 1', 6), ('Worst 2', 7)]
    assert report._telling(records[8:9]) == []


@pytest.mark.parametrize(('training', 'validation', 'verdict'), [
    ([3, 2, 1], [3, 2, 1.5], 'least at epoch 3 (1.500), the last one: it still fell'),
    ([3, 2, 1.5, 1], [2, 1.5, 2, 2.5],
     'has risen to 2.500 since, while training loss fell from 2.000 to 1.000: judged by'),
    ([3, 2, 1], [2, 1.5, 2.5], 'overfitting may have begun'),
    ([3, 2, 2.5], [2, 1.5, 2.5], 'rather an unsteady training than overfitting'),
    ([3, 2, 1], [2, 1.5, 1.51], 'has stayed level since: no clear sign of overfitting'),
    ([3], [2], 'too few to see a trend'),
    ([3, 2, 1], None, 'No validation loss was logged'),
    (None, [2, 1.5, 2.5], 'has risen to 2.500 since.'),
])
def test_the_losses_tell_whether_the_training_overfitted(training, validation, verdict):
    training, validation = (None if y is None else (list(range(1, len(y) + 1)), y) for y in (training, validation))
    assert verdict in loss_verdict(training, validation)


def test_a_folder_without_a_training_is_refused(tmp_path):
    with pytest.raises(UserError, match='name the work directory of a training'):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_report_goes_where_it_is_asked_to(tmp_path):
    write_log(tmp_path / 'work', CLASSES, epochs=1)
    assert write_report(tmp_path / 'work', tmp_path / 'new/place.html') == tmp_path / 'new/place.html'
    assert (tmp_path / 'new/place.html').read_text(encoding='utf-8').startswith('<!DOCTYPE html>')
