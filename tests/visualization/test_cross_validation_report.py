import math

from browser import open_page

from cellseg_mm.evaluation.out_of_fold import NOTES, summarise
from cellseg_mm.visualization.cross_validation_report import write_page

CLASSES = ['lymphocyte', '<b>odd</b> & "rare"']
NAMES = ['AP50_dense', 'AP50_cap100', 'AP_dense', 'bPQ', 'mPQ', 'AJI', 'Dice', 'F1',
         *(f'AP50_dense/{name}' for name in CLASSES)]


def evaluation(value, **metrics):
    return {'classes': CLASSES, 'metrics': dict.fromkeys(NAMES, value) | metrics, 'images': 12, 'groups': 4,
            'cells': 3456, 'thresholds': dict.fromkeys(CLASSES, 0.25),
            'intervals': {name: [value - 0.05, value + 0.04] for name in NAMES}}


def write(folder, rare=math.nan):
    alone = [evaluation(value, **{f'AP50_dense/{CLASSES[1]}': rare}) for value in (0.41, 0.52, 0.66)]
    pooled = evaluation(0.55)
    trainings = [(folder / f'fold{fold}', epoch) for fold, epoch in enumerate((7, None, 12))]
    write_page(folder / 'cross-validation.html', summarise(alone, pooled), alone, pooled, trainings)
    return folder / 'cross-validation.html'


def test_the_page_opens_without_a_complaint_and_shows_every_fold(tmp_path):
    for fold in range(3):
        (tmp_path / f'fold{fold}').mkdir()
        (tmp_path / f'fold{fold}/report.html').write_text('<title>the report</title>')
    with open_page(write(tmp_path)) as page:
        page.wait_for_selector('.chart .main-svg')
        # Of ten metrics: three folds but for the class that no fold has, means and pooled values.
        traces = [page.locator(f'.chart .scatter:nth-child({place}) .point') for place in (1, 2, 3)]
        assert [points.count() for points in traces] == [9, 27, 10]
        first = page.locator('table').first
        assert first.locator('tbody tr').count() == 10
        assert first.locator('tbody tr').first.inner_text().split('\t')[1:8] == [
            '0.410', '0.520', '0.660', '0.530', '0.125', '0.550', '0.500 to 0.590']
        text = page.locator('body').inner_text()
        assert 'AP50, <b>odd</b> & "rare"' in text
        assert '3 folds, 3,456 cells in 12 images of 4 groups' in text
        assert all(note in text for note in NOTES)
        assert page.evaluate('document.documentElement.scrollWidth <= window.innerWidth')
        assert page.problems == []
        page.get_by_role('link', name='fold1', exact=True).click()
        assert page.title() == 'the report'


def test_the_same_folds_give_the_same_page(tmp_path):
    assert write(tmp_path, rare=0.3).read_bytes() == write(tmp_path, rare=0.3).read_bytes()
