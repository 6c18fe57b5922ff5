"""Pages of predictions: the cells of an image, and the images of a batch."""
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from cellseg_mm.io.files import write_text
from cellseg_mm.visualization.overlay import count_of
from cellseg_mm.visualization.page import Section, data_uri, paragraph, render_page, table
from cellseg_mm.visualization.viewer import LARGEST, Pane, ViewerImage, viewer

_THUMBNAIL = 56  # pixels a side


def write_viewer(path, image, cells, classes, thresholds=None, mpp=None):
    """Write a page that shows an image and its cells: zoom, classes and the least score are the reader's choice.

    Pointing at a cell tells its class, number, score and size. How large slides are shown, and how much a page holds,
    is in `cellseg_mm.visualization.viewer`.

    Args:
        path (str | Path): Where to; the page is named after it.
        image (Slide): As `open_slide` gives it.
        cells (Cells): N cells on a canvas of its size.
        classes (Sequence[str]): Names of the classes.
        thresholds (Sequence[float] | None): Of each class, the score that its cells have at least; said where known.
        mpp (float | None): Micrometres per pixel, where known.
    """
    facts = [f'{image.width:,} x {image.height:,} pixels' + (f' of {mpp:.4g} µm' if mpp else ''),
             count_of(len(cells), 'cell')]
    if thresholds is not None:
        facts.append(_scores(classes, thresholds))
    shown = ViewerImage(Path(path).stem, '', image.overview(LARGEST), [Pane('Prediction', cells)], mpp)
    write_text(path, render_page(Path(path).stem, '; '.join(facts), [Section('', viewer([shown], classes))]))


def _scores(classes, thresholds):
    if len(set(thresholds)) == 1:
        return f'scores of at least {thresholds[0]:.2g}'
    by_class = (f'{threshold:.2g} ({name})' for name, threshold in zip(classes, thresholds, strict=True))
    return f'scores of at least {", ".join(by_class)}'


def thumbnail(image):
    """A picture for `write_index`.

    Args:
        image (Slide): As `open_slide` gives it.

    Returns:
        str: An address that holds a JPEG, of some kB.
    """
    return data_uri(image.overview(3 * _THUMBNAIL), 'jpeg', 75)


def write_index(path, entries):
    """Write a page of the images of a batch: failures first, then how many cells of each class were found in which.

    Args:
        path (str | Path): Where to.
        entries (Sequence): Of each image, `name` (str); `counts` (dict[str, int]), cells by class, or None where
            it failed; `note` (str), what there is to say, or why it failed; `files` (Sequence[str]), paths
            from the page's folder on, of which one that ends in '.html' is linked to; and `thumbnail` (str), as
            `thumbnail` makes it, or ''.
    """
    failed = [entry for entry in entries if entry.counts is None]
    done = [entry for entry in entries if entry.counts is not None]
    sections = []
    if failed:
        sections.append(Section('Failed', table(
            ['image', 'reason'], [(entry.name, entry.note) for entry in failed])))
    if done:
        classes = list(dict.fromkeys(name for entry in done for name in entry.counts))
        same = {entry.note for entry in done}
        notes = len(same) > 1
        rows = [(_name(entry), sum(entry.counts.values()), *(entry.counts.get(name, '') for name in classes),
                 *([entry.note] if notes else [])) for entry in done]
        columns = ['image', 'cells', *classes, *(['note'] if notes else [])]
        said = paragraph(f'Of all images: {same.pop()}.') if not notes and any(same) else ''
        sections.append(Section('Images', said + table(columns, rows, sortable=True)))
    if not entries:
        sections.append(Section('', paragraph('There is no image.')))
    facts = [count_of(len(entries), 'image')] + ([f'{len(failed):,} failed'] if failed else [])
    write_text(path, render_page('Predictions', ', '.join(facts), sections))


def _name(entry):
    pages = [file for file in entry.files if file.endswith('.html')]
    name = Markup('<span style="overflow-wrap: anywhere">{}</span>').format(entry.name)
    if entry.thumbnail:
        name = Markup('<img src="{}" alt="" style="flex: none; width: {side}px; height: {side}px; object-fit: cover">'
                      '{}').format(entry.thumbnail, name, side=_THUMBNAIL)
    style = 'display: flex; gap: 10px; min-width: 180px'
    if not pages:
        return Markup('<div style="{}">{}</div>').format(style, name)
    # After a folder, no name can be taken for the scheme of an address.
    return Markup('<a href="./{}" style="{}">{}</a>').format(quote(pages[0]), style, name)
