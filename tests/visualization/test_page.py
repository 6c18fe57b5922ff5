import base64
import io
import math
import re

import cv2
import numpy as np
import plotly.graph_objects as go
import pytest
from browser import open_page
from markupsafe import Markup
from PIL import Image

from cellseg_mm.visualization import page
from cellseg_mm.visualization.page import MISSING, Section, chart, picture, render_page, table

HOSTILE = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 1">'


def line(**layout):
    return go.Figure(go.Scatter(x=[1, 2, 3], y=[1, 4, 2], name='a line'), layout)


def test_texts_are_escaped_and_html_is_not():
    html = render_page(HOSTILE, HOSTILE, [Section('A & B', Markup('<b>bold</b>'), 'a < b')])
    assert HOSTILE not in html
    assert html.count('A &amp; B') == 2
    assert '<b>bold</b>' in html
    assert 'a &lt; b' in html


def test_plotly_comes_once_and_only_for_charts():
    without = render_page('t', '', [Section('a', page.paragraph('text'))])
    with_two = render_page('t', '', [Section('a', chart(line())), Section('b', chart(line()))])
    assert len(without) < 50_000
    assert with_two.count('* plotly.js v') == 1


@pytest.mark.parametrize(('value', 'shown'), [
    (1234567, '1,234,567'), (0.12345, '0.123'), (np.float64(2), '2.000'), (np.int64(3), '3'), (0, '0'), (None, MISSING),
    (math.nan, MISSING), (math.inf, MISSING)])
def test_numbers_are_shown_as_people_read_them(value, shown):
    assert page.number(value) == shown


def test_columns_of_numbers_are_aligned_to_the_right_and_texts_are_not():
    html = table(['name', 'cells', 'AP', 'nothing'], [['a', 3, (0.5, '50%'), None], [HOSTILE, None, 0.25, None]])
    headings = re.findall('<th [^>]*>', html)
    assert ['number' in heading for heading in headings] == [False, True, True, False]
    assert HOSTILE not in html
    assert 'data-value="0.5">50%' in html
    assert f'>{MISSING}<' in html


def test_a_picture_comes_back_as_it_was():
    shade = np.full((20, 30, 3), (200, 100, 50), np.uint8)
    html = picture(shade, 'a "shade"')
    data = base64.b64decode(re.search(r'base64,([^"]+)"', html)[1])
    assert abs(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).astype(int) - shade).max() < 4
    assert Image.open(io.BytesIO(data)).size == (30, 20)
    assert 'width="30" height="20"' in html
    assert 'a &#34;shade&#34;' in html


def test_a_chart_leaves_its_figure_as_it_was():
    figure = line(title='Its title')
    before = figure.to_json()
    html = chart(figure)
    assert figure.to_json() == before
    assert '<figcaption>Its title</figcaption>' in html


@pytest.fixture(scope='module')
def opened(tmp_path_factory):
    path = tmp_path_factory.mktemp('page') / 'page.html'
    rows = [['b10', 2, 0.5], ['b9', 10, None], ['A', None, 0.25], ['c', 1, 0.75]]
    path.write_text(render_page('A page', HOSTILE, [
        Section('Charts', page.beside(chart(line(title=HOSTILE)), chart(go.Figure(go.Bar(x=[HOSTILE], y=[1]))))),
        Section('Table', page.join(table(['name', 'cells', HOSTILE], rows, sortable=True), HOSTILE)),
        Section('Picture', picture(np.zeros((600, 40), np.uint8), 'grey')),
    ]), encoding='utf-8')
    with open_page(path) as browser_page:
        browser_page.wait_for_selector('.chart .main-svg')
        yield browser_page


def test_the_page_opens_without_a_problem_and_nothing_in_it_is_run(opened):
    assert opened.problems == []
    assert opened.evaluate('window.hacked') is None
    assert opened.locator('header p').inner_text() == HOSTILE
    assert opened.locator('.chart').count() == opened.locator('.chart .main-svg.main-svg:first-child').count() == 2
    assert opened.evaluate('document.querySelector("img").naturalHeight') == 600


def test_the_page_cannot_reach_out(opened):
    opened.evaluate('fetch("https://example.org").catch(() => 0)')
    assert any('Content Security Policy' in problem for problem in opened.problems)
    opened.problems.clear()


def column(opened, index):
    return opened.eval_on_selector_all('tbody tr', f'rows => rows.map(row => row.cells[{index}].textContent)')


@pytest.mark.parametrize(('index', 'once', 'twice'), [
    (0, ['A', 'b9', 'b10', 'c'], ['c', 'b10', 'b9', 'A']),
    (1, ['10', '2', '1', MISSING], ['1', '2', '10', MISSING]),
    (2, ['0.750', '0.500', '0.250', MISSING], ['0.250', '0.500', '0.750', MISSING])])
def test_a_table_sorts_at_a_click_with_missing_values_last(opened, index, once, twice):
    button = opened.locator('th button').nth(index)
    button.click()
    assert column(opened, index) == once
    button.click()
    assert column(opened, index) == twice
    assert opened.locator('th[aria-sort]').count() == 1


def test_the_navigation_stays_in_sight_and_names_the_section(opened):
    opened.locator('nav a', has_text='Picture').click()
    opened.locator('nav a.here', has_text='Picture').wait_for()
    assert opened.evaluate('document.querySelector("nav").getBoundingClientRect().top') == 0


def test_charts_fit_a_sheet_of_paper_when_printed_and_the_window_again_after(opened):
    widths = '[...document.querySelectorAll(".chart")].map(c => c.querySelector(".main-svg").clientWidth)'
    before = opened.evaluate(widths)
    opened.evaluate('dispatchEvent(new Event("beforeprint"))')
    assert opened.evaluate(widths) == [690, 690]
    opened.evaluate('dispatchEvent(new Event("afterprint"))')
    # The page's policy forbids what Playwright's own waiting for an expression needs.
    assert opened.evaluate(f'new Promise(done => setTimeout(() => done({widths}), 300))') == before
