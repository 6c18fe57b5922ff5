"""HTML pages in one file, which open offline: sections of tables, charts and pictures under one look.

What returns HTML returns `markupsafe.Markup`; any other string is a text, and is escaped.
"""
import base64
import json
import math
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path

import cv2
import jinja2
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from cellseg_mm.visualization.overlay import class_colours

MISSING = '\N{EN DASH}'
INK, GREY, LIGHT, ACCENT = '#1d2733', '#66717e', '#e4e8ec', '#0b62a8'
_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif'
_CHART_HEIGHT = 360
_AXIS_HEIGHT = 48  # of the ticks, their labels and the title below a chart
_LONG = 15  # rows of a table, from which on it scrolls by itself
_AXIS = dict(gridcolor=LIGHT, linecolor='#b9c1c9', showline=True, zeroline=False, ticks='outside', ticklen=4,
             tickcolor='#b9c1c9', automargin=True, title=dict(standoff=10, font=dict(size=13, color=GREY)))
_LOOK = go.layout.Template(layout=dict(
    paper_bgcolor='white', plot_bgcolor='white', font=dict(family=_FONT, size=13, color=INK), hovermode='closest',
    hoverlabel=dict(font=dict(family=_FONT, size=13)), margin=dict(l=56, r=16, t=12, b=44), xaxis=_AXIS, yaxis=_AXIS,
    legend=dict(orientation='h', x=0, yanchor='top', font=dict(size=13)), dragmode='zoom'))
_TEMPLATES = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).with_name('templates')), autoescape=True,
                                trim_blocks=True, lstrip_blocks=True)
_TEMPLATES.policies['json.dumps_kwargs'] = {'separators': (',', ':')}


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title (str): Its heading, and its name in the navigation; '' for the only one of a page, which needs neither.
        body (Markup): HTML.
        note (str | Markup): What to know before reading it, under the heading.
    """

    title: str
    body: str
    note: str = ''


def render_page(title, subtitle, sections):
    """Put sections under a heading and a navigation bar into one HTML document that needs no other file.

    The page asks browsers to refuse any request to elsewhere.

    Args:
        title (str): The heading.
        subtitle (str | Markup): A line under it.
        sections (list[Section]): In order.

    Returns:
        str: HTML. plotly.js is in it once, if a section has a chart.
    """
    charts = any('class="chart"' in section.body for section in sections)
    return fill('page.html', title=title, subtitle=subtitle, sections=sections, plotly=get_plotlyjs() if charts else '')


def fill(template, **values):
    """Fill in a template of this package; texts in it are escaped."""
    return Markup(_TEMPLATES.get_template(template).render(**values))  # noqa: S704 -- the template escapes


def join(*parts):
    """Pieces of HTML below each other; plain strings are escaped."""
    return Markup('\n').join(parts)


def beside(*parts):
    """Pieces of HTML in columns of one width, below each other where the window is narrow."""
    return Markup('<div class="beside">{}</div>').format(
        Markup('').join(Markup('<div>{}</div>').format(part) for part in parts))


def paragraph(text):
    """A paragraph of text."""
    return Markup('<p>{}</p>').format(text)


def folded(summary, body):
    """A part that opens at a click on its summary."""
    return Markup('<details><summary>{}</summary>{}</details>').format(summary, body)


def tiles(figures):
    """Key figures in boxes.

    Args:
        figures (list[tuple[str, str, str]]): (name, value, detail) of each.

    Returns:
        Markup: HTML.
    """
    tile = Markup('<div class="tile"><div class="name">{}</div><div class="value">{}</div>'
                  '<div class="detail">{}</div></div>')
    return Markup('<div class="tiles">{}</div>').format(Markup('').join(tile.format(*figure) for figure in figures))


def facts(rows):
    """Names and what belongs to each.

    Args:
        rows (list[tuple[str, str]]): (name, text).

    Returns:
        Markup: HTML.
    """
    row = Markup('<dt>{}</dt><dd>{}</dd>')
    return Markup('<dl>{}</dl>').format(Markup('').join(row.format(*pair) for pair in rows))


def chart(figure):
    """A plotly figure in the page's look, zoomable and as wide as its place; the library comes with the page.

    Args:
        figure (plotly.graph_objects.Figure): Left as it is; of SVG traces, since those by WebGL need more than the
            page's policy lets them. Its title is set above it as text of the page; other texts in it are plotly's own
            HTML: escape names that are not yours.

    Returns:
        Markup: HTML.
    """
    figure = go.Figure(figure)
    title = figure.layout.title.text
    height = figure.layout.height or _CHART_HEIGHT
    figure.update_layout(template=_LOOK, title=None, height=height, width=None)
    if figure.layout.legend.y is None:
        # As a share of the height between the margins.
        figure.layout.legend.y = -_AXIS_HEIGHT / max(height - 2 * _AXIS_HEIGHT, _AXIS_HEIGHT)
    # '<' occurs in JSON within strings only; escaped, none of them can end or nest the script.
    data = Markup(figure.to_json().replace('<', '\\u003c'))  # noqa: S704
    caption = Markup('<figcaption>{}</figcaption>').format(title) if title else ''
    return Markup('<figure>{}<div class="chart" style="height:{}px"><script type="application/json">{}</script></div>'
                  '</figure>').format(caption, height, data)


def table(columns, rows, caption='', sortable=False):
    """A table; columns of numbers are aligned to the right.

    Args:
        columns (list[str]): Headings.
        rows (list[Sequence]): Of each, a cell a column: a text, a number (whole ones with separators, others with three
            decimals; None and NaN as a dash), or (number, text), sorted by the one and shown as the other.
        caption (str): A line above.
        sortable (bool): Sort by a column at a click on its heading.

    Returns:
        Markup: HTML.
    """
    numeric = [_is_numeric([row[index] for row in rows]) for index in range(len(columns))]
    return fill('table.html', caption=caption, sortable=sortable, long=len(rows) > _LONG,
                columns=list(zip(columns, numeric, strict=True)),
                rows=[[(*_cell(cell), right) for cell, right in zip(row, numeric, strict=True)] for row in rows])


def picture(bgr, alt, quality=85):
    """An image as JPEG within the page.

    Args:
        bgr (numpy.ndarray): uint8 (H, W, 3) BGR or (H, W) grey.
        alt (str): What it shows, in words.
        quality (int): Of the JPEG, 1 to 100.

    Returns:
        Markup: HTML.
    """
    return Markup('<img src="{}" width="{}" height="{}" alt="{}">').format(
        data_uri(bgr, 'jpeg', quality), bgr.shape[1], bgr.shape[0], alt)


def data_uri(bgr, form, quality):
    """An address that holds an image.

    Args:
        bgr (numpy.ndarray): uint8 (H, W, 3) BGR or (H, W) grey.
        form (str): 'jpeg' or 'webp'.
        quality (int): 1 to 100.

    Returns:
        str: The data URI.
    """
    flag = {'webp': cv2.IMWRITE_WEBP_QUALITY, 'jpeg': cv2.IMWRITE_JPEG_QUALITY}[form]
    encoded = cv2.imencode(f'.{form}', bgr, [flag, quality])[1]
    return f'data:image/{form};base64,{base64.b64encode(encoded).decode()}'


def swatch(colour, text):
    """A text after a patch of its colour.

    Args:
        colour (str): In CSS.
        text (str): The text.

    Returns:
        Markup: HTML.
    """
    return Markup('<i class="swatch" style="background: {}"></i>{}').format(colour, text)


def css_colours(count):
    """`class_colours` as '#rrggbb'."""
    return ['#{:02x}{:02x}{:02x}'.format(*bgr[::-1]) for bgr in class_colours(count)]


def number(value, decimals=3):
    """A number as people read it: whole ones with separators, others with `decimals`; a dash for None and NaN."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f'{value:,}' if isinstance(value, Integral) else f'{value:,.{decimals}f}'


def _cell(cell):
    if isinstance(cell, tuple):
        value, text = cell
    elif cell is None or isinstance(cell, Real):
        value, text = cell, number(cell)
    else:
        return '', cell
    return '' if value is None or not math.isfinite(value) else json.dumps(float(value)), text


def _is_numeric(cells):
    values = [cell for cell in cells if cell is not None]
    return bool(values) and all(isinstance(cell, (Real, tuple)) for cell in values)
