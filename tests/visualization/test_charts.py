import numpy as np
import pytest

from cellseg_mm.visualization import charts

MATRIX = [[6, 2, 2], [0, 0, 0], [2, 1, 0]]


def test_the_confusion_matrix_shows_counts_and_shares_of_rows():
    heat, = charts.confusion(MATRIX, ['a', 'b']).data
    assert list(map(list, heat.text)) == [
        ['6<br>60%', '2<br>20%', '2<br>20%'], ['0', '0', '0'], ['2<br>67%', '1<br>33%', '']]
    assert np.isnan(heat.z[2][2])


def test_shares_of_right_and_wrong_add_up_to_one_where_there_is_anything():
    bars = charts.fates(MATRIX, ['a', 'b']).data
    assert [bar.y for bar in bars] == [('a, true', 'a, predicted', 'b, true', 'b, predicted')] * 3
    assert sum(np.array(bar.x) for bar in bars) == pytest.approx([1, 1, 0, 1])
    assert [list(bar.customdata) for bar in bars] == [[6, 6, 0, 0], [2, 0, 0, 2], [2, 2, 0, 1]]


def test_precision_is_drawn_up_to_the_recall_that_is_reached():
    curves = {'found': {'precision': [1.0, 0.5, 0.25, 0, 0]}, 'not found': {'precision': [0] * 5},
              'absent': {'precision': [None] * 5}}
    curve, = charts.precision_recall(curves, {'AP50_dense/found': 0.35}).data
    assert curve.name == 'found 0.350'
    assert list(curve.x) == [0, 0.25, 0.5]
    assert list(curve.y) == [1, 0.5, 0.25]


def test_empty_bins_have_no_reliability():
    bins = {'confidence': [0.2, None, 0.9], 'precision': [0.1, None, 0.8], 'count': [4, 0, 2]}
    _, line, bars = charts.calibration(bins).data
    assert (line.x, line.y) == ((0.2, 0.9), (0.1, 0.8))
    assert bars.x == pytest.approx([1 / 6, 0.5, 5 / 6])


def test_every_true_cell_is_in_one_bar_of_its_size():
    rng = np.random.default_rng(0)
    diameters = np.append(rng.uniform(5, 60, 500), 400)
    statuses = rng.choice(['found', 'confused', 'missed'], 501).tolist()
    bars = charts.found_by_size(diameters, statuses).data
    assert [sum(bar.y) for bar in bars] == [statuses.count(status) for status in ('found', 'confused', 'missed')]
    edges = np.append(np.array(bars[0].x) - (bars[0].x[0]), np.inf)
    assert sum(np.array(bar.y) for bar in bars).tolist() == np.histogram(diameters, edges)[0].tolist()


@pytest.mark.parametrize('diameters', [[0.5], [1.0, 1.0], [3000.0]])
def test_cells_of_one_size_make_a_chart(diameters):
    bars = charts.found_by_size(np.array(diameters), ['missed'] * len(diameters)).data
    assert sum(bars[2].y) == len(diameters)


def test_names_are_drawn_letter_by_letter():
    name = '<b>&a'
    lines = charts.ap50({f'AP50_dense/{name}': ([1], [0.5])}, [name], 'epoch').data
    assert lines[0].name == '&lt;b&gt;&amp;a'
    assert '<b>' not in str(charts.confusion(np.ones((2, 2)), [name]).data[0].x)


def test_a_learning_rate_that_spans_much_is_drawn_on_a_logarithmic_scale():
    assert charts.learning_rate([1, 2], [0.1, 0.00001]).layout.yaxis.type == 'log'
    assert charts.learning_rate([1, 2], [0.1, 0.05]).layout.yaxis.type == 'linear'
    assert charts.learning_rate([1, 2], [0.1, 0]).layout.yaxis.type == 'linear'


def test_an_error_without_a_figure_has_no_bar():
    bar, = charts.errors({'missed': 0.25, 'both': None}).data
    assert bar.x == (0.25, None)
    assert bar.text == ('0.250', '')
