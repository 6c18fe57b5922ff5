import csv
import io
import json
import math
import re
from copy import deepcopy
from dataclasses import replace

import cv2
import numpy as np
import pytest
from browser import opened
from hypothesis import given, settings
from hypothesis import strategies as st

from cellseg_mm.evaluation.evaluate import evaluate
from cellseg_mm.evaluation.evidence import compare, gather
from cellseg_mm.evaluation.instances import ImagePair, Instances
from cellseg_mm.structures.local_masks import LocalMasks
from cellseg_mm.visualization.comparison_charts import pareto_front, place_labels
from cellseg_mm.visualization.comparison_columns import adjusted_p, cost_columns, quality_columns, shortened
from cellseg_mm.visualization.comparison_page import ranked_by_disagreement, verdict
from cellseg_mm.visualization.comparison_report import (
    comparison_csv,
    comparison_markdown,
    format_comparison_table,
    write_comparison_report,
)
from cellseg_mm.visualization.page import MISSING
from cellseg_mm.visualization.viewer import compared_models

CLASSES = ['round', '<b>flat</b> & "odd"']
NAMES = ['first', 'shifted', 'sparse', '</script><i>|foreign*']
SHAPE = 64, 96
IMAGES = 5


def instances(places, labels, scores):
    masks = LocalMasks.from_bitmaps(np.array(
        [cv2.circle(np.zeros(SHAPE, np.uint8), place, 5, 1, -1) for place in places]).reshape(-1, *SHAPE))
    count = len(places)
    return Instances(masks, np.array(labels, np.int64), np.array(scores, float), masks.boxes.astype(float),
                     np.zeros(count, bool), np.zeros(count, bool))


def pairs_of(change):
    """Twelve true cells an image, and what a model sees of them: (place, label), or None, by image and cell."""
    pairs = []
    for image in range(IMAGES):
        places = [(8 + 16 * column, 10 + 20 * row) for row in range(3) for column in range(4)]
        truth = [(place, index % 2) for index, place in enumerate(places)]
        seen = [found for index, cell in enumerate(truth) if (found := change(image, index, *cell))]
        predicted = instances([place for place, _ in seen], [label for _, label in seen], [0.9] * len(seen))
        pairs.append(ImagePair(image + 1, f'<image>{image}.png', f'group {image}', 0.5, instances(
            places, [label for _, label in truth], [1.0] * len(truth)), predicted))
    return pairs


MODELS = {
    'first': lambda image, index, place, label: (place, label) if index != image else None,
    'shifted': lambda _, index, place, label: ((place[0] + 2, place[1]), label) if index % 4 else (place, label),
    'sparse': lambda image, index, place, label: (place, label) if (index + image) % 3 else None,
    NAMES[3]: lambda image, index, place, label: (place, 1 - label if index < 3 * image else label),
}


def cost(speed):
    return {'parameters': 7_600_000, 'gflops': 12.5, 'input_size': [512, 640], 'images_per_second': speed,
            'seconds': [1 / speed], 'peak_memory_mb': 1500.0, 'device': 'CPU, 2 threads'}


@pytest.fixture(scope='module')
def made():
    """A comparison of four models with predictions and one without, and the evidences."""
    rows, evidences = [], {}
    for name, speed in zip(NAMES, (2.0, 40.0, 1.0, None), strict=True):
        pairs = pairs_of(MODELS[name])
        evidences[name] = gather(pairs, CLASSES, 100)
        rows.append({
            'name': name, 'kind': 'trained', 'source': f'configs/{name}.py', 'results': f'{name}/results.json',
            'problem': None, 'evaluation': evaluate(pairs, CLASSES, 100, replicates=50),
            'versus_first': compare(evidences['first'], evidences[name], 50) if rows else None,
            'cost': speed and cost(speed), 'training': speed and {
                'iterations': 600, 'epochs': 3, 'seconds': 90.0, 'peak_memory_mb': {'cpu': 5000.0, 'gpu': None}}})
    rows.append({'name': 'broken', 'kind': 'results', 'source': 'results.json', 'results': None,
                 'problem': 'result 3 has <no> mask', 'evaluation': None, 'versus_first': None, 'cost': None,
                 'training': None})
    first = rows[0]['evaluation']
    return {'ground_truth': 'val.json', **{key: first[key] for key in ('images', 'groups', 'cells')},
            'classes': CLASSES, 'class_agnostic': False, 'max_dets': 100,
            'budget': {'iterations': 600, 'minutes': None, 'seed': 0},
            'hardware': {'processor': 'Chip', 'cores': 2, 'memory_gb': 8.0, 'gpus': []}, 'versions': {'torch': '2'},
            'notes': ['first: <said> of it.'], 'rows': rows}, evidences


@pytest.fixture
def root(tmp_path):
    for image in range(IMAGES):
        noise = np.random.default_rng(image).integers(0, 256, (*SHAPE, 3), np.uint8)
        assert cv2.imwrite(str(tmp_path / f'<image>{image}.png'), noise)
    return tmp_path


def with_rows(made, *rows, **values):
    return {**made[0], 'rows': list(rows), **values}


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_holds_all_figures_at_full_precision(made):
    records = read(comparison_csv(made[0]))
    assert [record['name'] for record in records] == [*NAMES, 'broken']
    for record, row in zip(records[:4], made[0]['rows'], strict=False):
        for key, value in row['evaluation']['metrics'].items():
            assert record[key] == '' if math.isnan(value) else float(record[key]) == value
        for key, (low, high) in row['evaluation']['intervals'].items():
            assert (float(record[f'{key}_low']), float(record[f'{key}_high'])) == (low, high)
        for key, test in (row['versus_first'] or {}).items():
            assert float(record[f'{key}_difference']) == test['difference']
            assert float(record[f'{key}_p']) == test['p'] <= float(record[f'{key}_p_holm'])
    assert float(records[1]['images_per_second']) == 40
    assert (records[1]['input_height'], records[1]['input_width']) == ('512', '640')
    assert records[3]['images_per_second'] == records[0]['AP50_dense_p'] == records[4]['AP50_dense'] == ''
    assert records[4]['problem'] == 'result 3 has <no> mask'


def test_csv_columns_do_not_depend_on_what_is_known(made):
    whole, broken = (next(csv.reader(io.StringIO(comparison_csv(comparison))))
                     for comparison in (made[0], with_rows(made, made[0]['rows'][4])))
    assert whole[:len(broken)] == broken
    assert 'training_peak_memory_mb_gpu' in broken
    assert len(set(whole)) == len(whole)


def test_csv_opens_in_pandas(made, root):
    pandas = pytest.importorskip('pandas', reason='pandas is not installed')
    write_comparison_report(*made, root)
    frame = pandas.read_csv(root / 'comparison.csv')
    assert frame['AP50_dense'].dtype == float
    assert frame['name'].tolist()[3] == NAMES[3]


def markdown_tables(text):
    """Cells of each table, as a reader of GitHub's Markdown splits them."""
    found = re.findall(r'(?:^\|.*\|$\n?)+', text, re.MULTILINE)
    return [[[cell.strip() for cell in re.split(r'(?<!\\)\|', line)[1:-1]] for line in table.splitlines()]
            for table in found]


def test_markdown_is_two_aligned_tables_with_the_best_in_bold(made):
    text = comparison_markdown(made[0])
    quality, costs = markdown_tables(text)
    for table in (quality, costs):
        assert len({len(line) for line in table}) == 1
        assert all(re.fullmatch('-+:?', cell) for cell in table[1])
        assert table[5][0] == r'\</script\>\<i\>\|foreign\*'
    assert len({len(line) for line in text.splitlines() if line.startswith('|')}) == 2
    ap50 = [row['evaluation']['metrics']['AP50_dense'] for row in made[0]['rows'][:4]]
    for place, value in enumerate(ap50, 2):
        bold = f'**{value:.3f}**' if f'{value:.3f}' == f'{max(ap50):.3f}' else f'{value:.3f}'
        assert quality[place][1].split(' ')[0] == bold
    assert quality[6][1:] == ['-'] * (len(quality[0]) - 1)
    assert [line[costs[0].index('images/s')] for line in costs[2:]] == ['2.00', '**40.00**', '1.00', '-', '-']
    assert r'- broken: result 3 has \<no\> mask' in text
    assert r'first: \<said\> of it.' in text


@pytest.mark.parametrize('names', [NAMES, ['model' * 20 + str(index) for index in range(4)], list('abcd')])
@pytest.mark.parametrize('classes', [CLASSES, [f'class of number {index}' for index in range(30)], ['cell']])
def test_the_terminal_table_fits_120_columns_and_keeps_the_order(made, names, classes):
    comparison = {**deepcopy(made[0]), 'classes': classes}
    for row, name in zip(comparison['rows'], names, strict=False):
        row['name'] = name
        row['evaluation']['metrics'] |= {f'AP50_dense/{name}': 0.5 for name in classes}
    lines = format_comparison_table(comparison).splitlines()
    assert max(map(len, lines)) <= 120
    first = [line for line in lines if line][1:6]
    assert [line[:32].split('  ')[0].strip() for line in first] == [shortened(name, 32) for name in [*names, 'broken']]
    assert first[0].split()[1] == f'{made[0]["rows"][0]["evaluation"]["metrics"]["AP50_dense"]:.3f}'
    assert first[4].endswith('result 3 has <no> mask')


def test_marks_are_for_what_is_significant_after_holm_and_the_legend_says_so(made):
    rows = deepcopy(made[0]['rows'][:4])
    for row, p in zip(rows[1:], (0.001, 0.03, 0.04), strict=True):
        row['versus_first']['AP50_dense']['p'] = p
    comparison = with_rows(made, *rows, groups=40)
    assert adjusted_p(rows) == [None, pytest.approx(0.003), pytest.approx(0.06), pytest.approx(0.06)]
    column = next(column for column in quality_columns(comparison) if column.title == 'p')
    assert column.texts == ['', '0.0010*', '0.0300', '0.0400']
    assert "p < 0.05 after Holm's correction for 3 tests" in ' '.join(format_comparison_table(comparison).split())
    side = 'Better' if rows[1]['versus_first']['AP50_dense']['difference'] > 0 else 'Worse'
    assert f'{side} than first by more than chance: shifted.' in verdict(comparison)


def test_too_few_groups_for_any_test_are_called_so(made):
    text = ' '.join(format_comparison_table(made[0]).split())
    assert '5 groups are too few for any test to come out: p cannot be below 0.0625.' in text


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=10))
def test_the_front_is_what_nothing_beats(points):
    speeds, scores = zip(*points, strict=True)
    free = {i for i, (speed, score) in enumerate(points)
            if not any(a >= speed and b >= score and (a, b) != (speed, score) for a, b in points)}
    front = pareto_front(speeds, scores)
    assert set(front) == free
    assert len(front) == len(free)
    assert [speeds[i] for i in front] == sorted(speeds[i] for i in front)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(5, 95), st.integers(10, 90), st.integers(3, 28)), min_size=1, max_size=12,
                unique_by=lambda point: point[:2]))
def test_names_of_a_dozen_points_do_not_cover_each_other(points):
    x, y, lengths = (np.array(values) for values in zip(*points, strict=True))
    shifts = np.array(place_labels(x / 100, y / 100, lengths))
    for width in (600, 1100):
        middles = np.stack([x * width / 100, y * 3.5], 1) + shifts
        halves = np.stack([lengths * 3.5, np.full(len(x), 7)], 1)
        apart = (np.abs(middles[:, None] - middles) >= halves[:, None] + halves).any(2)
        assert apart[~np.eye(len(x), dtype=bool)].all()


def test_images_are_ranked_by_disagreement_whoever_is_right(made):
    evidences = made[1]
    ranked = ranked_by_disagreement(evidences)
    assert len(ranked) == IMAGES
    assert [value for value, _ in ranked] == sorted((value for value, _ in ranked), reverse=True)
    assert all(list(pairs) == NAMES for _, pairs in ranked)
    assert ranked[0][0] > ranked[-1][0]
    one = ranked_by_disagreement({'sparse': evidences['sparse']})
    # One model is held against the ground truth: it misses 4 of 12 cells, so that F1 is 16 / 20.
    assert [value for value, _ in one] == pytest.approx([1 - 16 / 20] * IMAGES)


def test_true_cells_that_models_see_differently_are_disputed(made):
    pairs = {name: evidence.confident[1] for name, evidence in made[1].items() if name in ('first', 'sparse')}
    truth, *models = compared_models(pairs)
    assert [pane.title for pane in (truth, *models)] == ['Ground truth', 'first', 'sparse']
    # Image 1: the first model misses cell 1, the other one those where (index + 1) % 3 is 0.
    assert truth.statuses == ['disputed' if index in (1, 2, 5, 8, 11) else 'found' for index in range(12)]
    assert all(set(pane.statuses) == {'right'} for pane in models)


def canvases(page):
    return page.locator('.viewer').evaluate("""async viewer => {
      for (let i = 0; i < 3; i++) await new Promise(requestAnimationFrame);
      return [...viewer.querySelectorAll('figure:not([hidden]) canvas:first-child')].map(one => one.toDataURL());
    }""")


def test_the_page_opens_without_a_complaint_and_its_panes_zoom_together(made, root, chromium):
    paths = write_comparison_report(*made, root, root)
    assert [path.name for path in paths] == ['comparison.csv', 'comparison.md', 'comparison.html']
    with opened(chromium, paths[2]) as page:
        page.locator('.chart .main-svg').first.wait_for()
        page.locator('.viewer[data-ready="0"]').wait_for()
        text = page.locator('body').inner_text()
        assert '5 models · val.json · 5 images in 5 groups, 60 true cells · budget 600 iterations each' in text
        for part in (NAMES[3], CLASSES[1], 'result 3 has <no> mask', 'first: <said> of it.'):
            assert part in text
        first = page.locator('table').first.locator('tbody tr')
        ap50 = made[0]['rows'][0]['evaluation']['metrics']['AP50_dense']
        assert first.first.locator('td').nth(1).get_attribute('data-value') == str(ap50)
        assert first.nth(4).locator('td').nth(1).inner_text() == MISSING
        page.locator('table').first.get_by_role('button', name='AP50 dense cap').click()
        assert first.last.inner_text().startswith('broken')
        assert page.locator('.chart').first.locator('.annotation').count() == 3
        assert page.evaluate('document.documentElement.scrollWidth <= window.innerWidth')

        page.get_by_role('button', name='Outlines').click()
        start = canvases(page)
        assert len(start) == 5
        assert len(set(start)) == 1
        page.locator('.stage').nth(2).dblclick()
        after = canvases(page)
        assert len(set(after)) == 1
        assert after != start
        assert page.problems == []


def test_a_reader_chooses_which_panes_are_shown(made, root, chromium):
    rows, evidences = made[0]['rows'], {f'model {index}': made[1][NAMES[index % 4]] for index in range(9)}
    comparison = with_rows(made, *({**rows[index % 4], 'name': f'model {index}'} for index in range(9)))
    path = write_comparison_report(comparison, evidences, root, root)[2]
    with opened(chromium, path) as page:
        page.locator('.viewer[data-ready="0"]').wait_for()
        shown = page.locator('figcaption b:visible', has_text=re.compile('Ground|model'))
        assert shown.all_inner_texts() == ['Ground truth', *(f'model {index}' for index in range(5))]
        choice = page.locator('.choice')
        choice.get_by_role('button', name='model 8').click()
        choice.get_by_role('button', name='model 0').click()
        assert shown.all_inner_texts() == ['Ground truth', *(f'model {index}' for index in (1, 2, 3, 4, 8))]
        sizes = page.locator('.stage:visible').evaluate_all(
            'stages => stages.map(stage => [stage.clientWidth, stage.clientHeight].join())')
        assert len(set(sizes)) == 1
        # All six fit a laptop's window together.
        tops = page.locator('.stage:visible').evaluate_all('stages => stages.map(stage => stage.offsetTop)')
        assert len(set(tops)) == 2
        assert page.locator('.viewer').bounding_box()['height'] <= 768
        images = canvases(page)
        assert len(images) == 6
        assert images[1] != images[5]
        assert page.problems == []


def test_pointing_at_a_disputed_cell_tells_what_each_model_makes_of_it(made, root, chromium):
    evidences = {name: made[1][name] for name in NAMES[:3]}
    path = write_comparison_report(with_rows(made, *made[0]['rows'][:3]), evidences, root, root)[2]
    pairs = ranked_by_disagreement(evidences)[0][1]
    truth, first, *_ = compared_models(pairs)
    missed = set(range(12)) - set(first.partners.tolist())
    assert [truth.statuses[cell] for cell in missed] == ['disputed']
    x, y, w, h = truth.instances.masks.boxes[missed.pop()]
    with opened(chromium, path) as page:
        page.locator('.viewer[data-ready="0"]').wait_for()
        page.locator('.stage').first.scroll_into_view_if_needed()
        box = page.locator('.stage').first.bounding_box()
        scale = min((box['width'] - 2) / SHAPE[1], (box['height'] - 2) / SHAPE[0])
        page.mouse.move(box['x'] + box['width'] / 2 + scale * (x + w / 2 - SHAPE[1] / 2),
                        box['y'] + box['height'] / 2 + scale * (y + h / 2 - SHAPE[0] / 2))
        lines = page.locator('.tip').inner_text().splitlines()
        assert lines[1:4] == ['disputed', 'first: missed', 'shifted: right 0.90']
        assert page.problems == []


def blank(row, **values):
    return {'name': 'blank', 'kind': 'trained', 'source': None, 'results': None, 'problem': None, 'evaluation': None,
            'versus_first': None, 'cost': None, 'training': None} | values


def without_figures(row, nothing):
    row = deepcopy(row)
    evaluation = row['evaluation']
    evaluation['metrics'] = dict.fromkeys(evaluation['metrics'], nothing)
    evaluation['intervals'] = {key: [nothing, nothing] for key in evaluation['intervals']}
    row['versus_first'] = {key: dict.fromkeys(test, nothing) | {'interval': [nothing, nothing]}
                           for key, test in (row['versus_first'] or {}).items()}
    row['cost'] = dict.fromkeys(cost(1.0), nothing) | {'device': None, 'input_size': None, 'seconds': []}
    row['training'] = {'iterations': nothing, 'epochs': nothing, 'seconds': nothing,
                       'peak_memory_mb': {'cpu': nothing, 'gpu': nothing}}
    return row


@pytest.mark.parametrize('case', ['one', 'alike', 'no cost', 'agnostic', 'one group', 'null', 'nan', 'blank'])
def test_whatever_is_unknown_is_left_out(made, root, chromium, case):
    first, second = made[0]['rows'][:2]
    evidences = {name: made[1][name] for name in NAMES[:2]}
    if case == 'one':
        comparison, evidences = with_rows(made, first), {'first': made[1]['first']}
    elif case == 'alike':
        comparison = with_rows(made, first, {**first, 'name': 'shifted', 'versus_first': compare(
            made[1]['first'], made[1]['first'], 20)})
        assert not any(any(column.best) for column in quality_columns(comparison))
    elif case == 'no cost':
        comparison = with_rows(made, *({**row, 'cost': None, 'training': None} for row in (first, second)))
        assert cost_columns(comparison) == []
    elif case == 'agnostic':
        comparison = with_rows(made, first, second, classes=['cell'], class_agnostic=True)
        assert format_comparison_table(comparison).startswith('Class-agnostic')
        assert comparison_markdown(comparison).startswith('Class-agnostic')
        evidences = {}
    elif case == 'one group':
        rows = deepcopy([first, second])
        for row in rows:
            row['evaluation']['intervals'] = {key: [math.nan] * 2 for key in row['evaluation']['intervals']}
        rows[1]['versus_first'] = {key: test | {'interval': [math.nan] * 2, 'p': 1.0}
                                   for key, test in rows[1]['versus_first'].items()}
        comparison = with_rows(made, *rows, groups=1)
        assert 'all images are of one group' in format_comparison_table(comparison)
        assert '[' not in format_comparison_table(comparison)
    elif case == 'blank':
        comparison, evidences = with_rows(made, blank(first), budget=None, hardware={}, versions={}), {}
    else:
        nothing = None if case == 'null' else math.nan
        comparison = with_rows(made, *(without_figures(row, nothing) for row in (first, second)))
    path = write_comparison_report(comparison, evidences, root, None if case == 'no cost' else root)[2]
    page = re.sub(r'(?s)<script.*?</script>', '', path.read_text('utf-8'))
    for text in comparison_csv(comparison), comparison_markdown(comparison), format_comparison_table(comparison), page:
        assert not re.search(r'\b(nan|None)\b', text)
    assert comparison_markdown(comparison).count('\n| ') >= len(comparison['rows'])
    with opened(chromium, path) as page:
        page.locator('h1').wait_for()
        assert page.problems == []


def test_images_that_cannot_be_read_are_named_and_all_else_is_shown(made, root):
    (root / '<image>2.png').unlink()
    text = write_comparison_report(*made, root, root)[2].read_text('utf-8')
    assert 'An image is not shown' in text
    assert 'class="cell-viewer"' in text


def test_very_large_images_are_not_all_put_into_the_page(made, root, monkeypatch):
    monkeypatch.setattr('cellseg_mm.visualization.comparison_page._PIXELS', 2 * SHAPE[0] * SHAPE[1])
    text = write_comparison_report(*made, root, root)[2].read_text('utf-8')
    assert [f'No. {number}:' in text for number in (1, 2, 3)] == [True, True, False]


def test_the_same_comparison_gives_the_same_page(made, root):
    first, second = (write_comparison_report(*made, root, root)[2].read_bytes() for _ in range(2))
    assert first == second


def write_log(path, validations):
    records = [record for number in range(1, validations + 1) for record in (
        {'loss': 1.5, 'epoch': number, 'step': 50 * number}, {'cells/AP50_dense': 0.2 * number, 'step': number})]
    path.parent.mkdir(parents=True)
    path.write_text('\n'.join(map(json.dumps, records)), 'utf-8')


@pytest.mark.parametrize('validations', [1, 2])
def test_curves_of_trainings_in_the_folder_are_drawn_where_they_have_two_points(made, root, validations):
    write_log(root / 'first' / '20260101_000000' / 'vis_data' / 'scalars.json', validations)
    text = write_comparison_report(*made, root, root)[2].read_text('utf-8')
    assert ('AP50 of the validation images in training' in text) == (validations == 2)
    assert ('"x":[50,100],"y":[0.2,0.4]' in text) == (validations == 2)


def test_a_row_of_unknown_origin_has_no_curve_of_another_training(made, root, monkeypatch):
    write_log(root / 'run' / 'vis_data' / 'scalars.json', 2)
    monkeypatch.chdir(root)
    (root / 'out').mkdir()
    comparison = with_rows(made, made[0]['rows'][0] | {'source': None, 'results': None})
    text = write_comparison_report(comparison, {}, root / 'out')[2].read_text('utf-8')
    assert 'AP50 of the validation images in training' not in text


def test_names_are_shortened_in_the_middle_where_they_differ_least():
    assert shortened('cell_maskrcnn_r50_lite', 22) == 'cell_maskrcnn_r50_lite'
    assert shortened('cell_maskrcnn_r50_lite', 11) == 'cell_…_lite'
    assert len(shortened('x' * 50, 12)) == 12


def test_true_cells_of_pairs_do_not_matter_for_disagreement(made):
    evidences = made[1]
    swapped = {name: replace(evidence, confident=[replace(pair, truth=pair.truth[:0]) for pair in evidence.confident])
               for name, evidence in evidences.items()}
    assert [value for value, _ in ranked_by_disagreement(swapped)] == [
        value for value, _ in ranked_by_disagreement(evidences)]
