"""Instances drawn over their image, and images side by side under titles and a legend.

An instance is a crop: a tuple (x, y, bitmap) of the column and row of its upper left pixel and its mask, uint8 of 0
and 1, (h, w).
"""
import colorsys
import re
from collections import Counter
from functools import cache
from operator import itemgetter
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cellseg_mm.evaluation.instances import pair_images
from cellseg_mm.io.image import read_annotated_image, write_image
from cellseg_mm.progress import track
from cellseg_mm.structures.local_masks import LocalMasks

# Okabe and Ito, 'Color Universal Design' (2008), https://jfly.uni-koeln.de/color/, without black; as RGB.
_OKABE_ITO = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0),
              (204, 121, 167))
# The same for lines on white that are no classes, in an order of their own and less yellow.
LINE_COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#56b4e9', '#e69f00', '#8c6d31', '#7f7f7f')
_GOLDEN_RATIO = 0.618034
_FILL = 0.18
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
_READABLE_SIDE = 1000
_MAX_SCALE = 8
_INK, _FAINT_INK = (34, 34, 34), (110, 110, 110)
# Of the picture's area, how much texts may take before there are too many of them to read.
_CROWDED = 0.05


def class_colours(count):
    """Colours of `count` classes: safe for colour-blind readers up to the seventh, generated and distinct beyond.

    Returns:
        list[tuple[int, int, int]]: BGR, 0 to 255.
    """
    colours = list(_OKABE_ITO[:count])
    for index in range(len(colours), count):
        # Steps of the golden ratio around the hue circle never come back to a hue already taken.
        value = (1.0, 0.75, 0.5)[index % 3]
        colours.append(tuple(round(255 * c) for c in colorsys.hsv_to_rgb(index * _GOLDEN_RATIO % 1, 0.9, value)))
    return [colour[::-1] for colour in colours]


def readable_scale(shape):
    """The whole number by which to enlarge an image of this (height, width, ...) so that its cells can be seen."""
    return int(np.clip(_READABLE_SIDE // max(shape[:2]), 1, _MAX_SCALE))


def enlarge(image, scale):
    """Enlarge an image by a whole number; 1 leaves it as it is."""
    return image if scale == 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)


def draw_instances(image, crops, labels, colours, scale=1):
    """Outline each instance just inside its edge, so that touching ones stay apart, and tint it faintly.

    Args:
        image (numpy.ndarray): uint8 (H, W, 3) BGR; left as it is.
        crops (list[tuple]): (x, y, bitmap) of each instance, in pixels of `image`.
        labels (Sequence[int]): Index of each instance's class.
        colours (list[tuple]): BGR of each class.
        scale (int): Enlarge the image by this; outlines are drawn at the larger size.

    Returns:
        numpy.ndarray: uint8 (scale * H, scale * W, 3) BGR.
    """
    canvas = enlarge(image, scale).copy()
    outlines = []
    for (x, y, bitmap), label in zip(crops, labels, strict=True):
        if not bitmap.size:
            continue
        mask, outline = _mask_and_outline(bitmap, scale)
        x, y = x * scale, y * scale
        region = canvas[y:y + mask.shape[0], x:x + mask.shape[1]]
        region[mask] = region[mask] * (1 - _FILL) + np.multiply(colours[label], _FILL) + 0.5
        outlines.append((region, outline, colours[label]))
    for region, outline, colour in outlines:
        region[outline] = colour
    return canvas


def shrink(masks, height, width):
    """Masks on a canvas made smaller, in which each that has a pixel keeps one.

    Args:
        masks (LocalMasks): N masks.
        height (int): Rows of the smaller canvas, at most those of the masks'.
        width (int): Its columns, likewise.

    Returns:
        LocalMasks: N masks, each where `LocalMasks.resize` has it; where that leaves nothing, the pixel in the middle.
    """
    if (height, width) == (masks.height, masks.width):
        return masks
    small = masks.resize((height, width))
    lost = (small.boxes[:, 2] == 0) & (masks.boxes[:, 2] > 0)
    boxes, middles = small.boxes.copy(), masks.boxes[lost, :2] + masks.boxes[lost, 2:] / 2
    boxes[lost, :2], boxes[lost, 2:] = middles * (width / masks.width, height / masks.height), 1
    return LocalMasks(np.insert(small.pixels, small.offsets[:-1][lost], 1), boxes, height, width)


def draw_boxes(image, boxes, labels, colours, scale=1):
    """Outline boxes, just inside their edges.

    Args:
        image (numpy.ndarray): uint8 (H, W, 3) BGR, enlarged by `scale`; left as it is.
        boxes (numpy.ndarray): (N, 4) of x1, y1, x2, y2 in pixels of the image before it was enlarged.
        labels (Sequence[int]): Index of each instance's class.
        colours (list[tuple]): BGR of each class.
        scale (int): By how much the image was enlarged.

    Returns:
        numpy.ndarray: uint8 (H, W, 3) BGR.
    """
    image = image.copy()
    for (left, top, right, bottom), label in zip((boxes * scale).round().astype(int).tolist(), labels, strict=True):
        for inset in range(min(scale, 2)):
            cv2.rectangle(image, (left + inset, top + inset), (right - 1 - inset, bottom - 1 - inset), colours[label])
    return image


def draw_texts(image, corners, texts):
    """Write a text above each corner, unless it hides an earlier one; none at all where there are too many to read.

    Args:
        image (numpy.ndarray): uint8 (H, W, 3) BGR; left as it is.
        corners (numpy.ndarray): int (N, 2) of x and y in pixels.
        texts (list[str]): N texts.

    Returns:
        numpy.ndarray: uint8 (H, W, 3) BGR.
    """
    height, width = image.shape[:2]
    size = int(np.clip(max(height, width) / 55, 12, 44))
    font = text_font('DejaVuSans-Bold', size)
    lengths, line = [int(np.ceil(font.getlength(text))) for text in texts], round(1.2 * size)
    if line * sum(lengths) > _CROWDED * height * width:
        return image
    page = Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
    pen, taken = ImageDraw.Draw(page), np.zeros((height, width), bool)
    for (x, y), text, length in zip(corners.tolist(), texts, lengths, strict=True):
        x, y = max(min(x, width - length), 0), max(min(y, height) - line, 0)
        place = taken[y:y + line, x:x + length]
        if not place.any():
            place[:] = True
            pen.text((x, y + line / 2), text, 'white', font, anchor='lm', stroke_width=size // 8, stroke_fill=_INK)
    return np.ascontiguousarray(np.asarray(page)[..., ::-1])


def _mask_and_outline(bitmap, scale):
    mask = cv2.copyMakeBorder(np.ascontiguousarray(bitmap), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    if scale > 1:
        # Half of the interpolated value is the smooth line through the stairs of the pixels.
        mask = cv2.resize(mask * 255, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR) > 127
    mask = mask.astype(np.uint8)
    inside = cv2.erode(mask, _CROSS, iterations=min(scale, 2))
    inner = slice(scale, -scale)
    return mask[inner, inner] > 0, (mask > inside)[inner, inner]


def side_by_side(panels, legend=()):
    """Put images beside each other on white, below each other where they are wide, with titles and a legend.

    Args:
        panels (list[tuple]): (title, image uint8 (H, W, 3) BGR) of each.
        legend (list[tuple]): (text, BGR colour) of each entry, written in one line, or more if need be, at the foot.

    Returns:
        numpy.ndarray: uint8 (H, W, 3) BGR.
    """
    widths, heights = [image.shape[1] for _, image in panels], [image.shape[0] for _, image in panels]
    stacked = max(widths) > 2 * max(heights)
    # A wide picture will be looked at made smaller, so that its letters have to grow with it.
    size = int(np.clip((max(widths) if stacked else sum(widths)) / 75, 15, 44))
    font, bold, gap = text_font('DejaVuSans', size), text_font('DejaVuSans-Bold', size), size
    cells = [max(width, int(np.ceil(bold.getlength(title)))) for width, (title, _) in zip(widths, panels, strict=True)]
    entries = [int(np.ceil(font.getlength(text))) + 3 * size for text, _ in legend]
    inner = max(max(cells) if stacked else sum(cells) + gap * (len(cells) - 1), *entries, 0)
    places = _flow(entries, inner)

    title_height, line_height = 2 * size, round(1.8 * size)
    row_height = [title_height + height for height in heights]
    body = sum(row_height) + gap * (len(panels) - 1) if stacked else max(row_height)
    foot = gap // 2 + line_height * (places[-1][1] + 1) if places else 0
    page = Image.new('RGB', (inner + 2 * gap, gap + body + foot + gap), 'white')
    pen = ImageDraw.Draw(page)
    x, y = gap, gap
    for index, (title, image) in enumerate(panels):
        pen.text((x, y + size / 2), title, _INK, bold, anchor='lm')
        page.paste(Image.fromarray(np.ascontiguousarray(image[..., ::-1])), (x, y + title_height - size // 2))
        x, y = (x, y + row_height[index] + gap) if stacked else (x + cells[index] + gap, y)
    for (text, colour), (left, line) in zip(legend, places, strict=True):
        x, y = left + gap, gap + body + gap // 2 + line * line_height
        pen.rounded_rectangle((x, y, x + size, y + size), size / 5, colour[::-1], _FAINT_INK)
        pen.text((x + 1.5 * size, y + size / 2), text, _INK, font, anchor='lm')
    return np.asarray(page)[..., ::-1]


def compare(image, sides, classes, colours):
    """Put an image beside the same with its cells, above how many there are of each class.

    Args:
        image (numpy.ndarray): uint8 (H, W, 3) BGR; shown enlarged by `readable_scale`.
        sides (list[tuple]): (title, word, drawn, labels) of each panel beside it: its title, the word for its cells in
            the legend, what to show, uint8 (H', W', 3) BGR, and each cell's class.
        classes (Sequence[str]): Names of the classes.
        colours (list[tuple]): BGR of each class.

    Returns:
        numpy.ndarray: uint8 BGR.
    """
    panels = [('Image', enlarge(image, readable_scale(image.shape)))]
    panels += [(f'{title}: {count_of(len(labels), "cell")}', drawn) for title, _, drawn, labels in sides]
    counts = [(Counter(labels), word) for _, word, _, labels in sides]
    legend = [(f'{name}: ' + ', '.join(f'{count[label]:,} {word}' for count, word in counts), colours[label])
              for label, name in enumerate(classes)]
    return side_by_side(panels, legend if sides else [])


def _flow(widths, limit):
    """Left edge and line of each word when written in lines at most `limit` wide."""
    places, x, line = [], 0, 0
    for width in widths:
        if x and x + width > limit:
            x, line = 0, line + 1
        places.append((x, line))
        x += width
    return places


@cache
def text_font(name, size):
    return ImageFont.truetype(str(Path(mpl.get_data_path(), 'fonts', 'ttf', f'{name}.ttf')), size)


def count_of(number, noun):
    """'1 cell', '2 cells'."""
    return f'{number:,} {noun}' + 's' * (number != 1)


def write_comparisons(ground_truth, results, image_root, out_dir, thresholds, limit=12):
    """Write a PNG for each of the most telling images: image, ground truth (where there is any) and prediction.

    Args:
        ground_truth (dict): As `read_cells` gives it: `images`, `annotations` with RLE, `categories`. Crowds are left
            out.
        results (list[dict]): COCO results: image_id, category_id, score, segmentation RLE.
        image_root (str | Path): The folder that file names are relative to.
        out_dir (str | Path): Where to write; a file is named after its rank and its image.
        thresholds (dict[str, float]): By class, the score below which predictions are left out. The others are drawn
            as `ImagePair.confident` gives them, which the metrics count.
        limit (int): How many images to write at most.

    Returns:
        list[Path]: The files written, the most telling first: those densest in each class from the rarest on, then
        the densest ones.

    Raises:
        UserError: A result does not fit the ground truth.
        CellDataError: An image cannot be read, or is not of the size that its masks were made for.
    """
    # Labels count the categories by ascending id.
    classes = [category['name'] for category in sorted(ground_truth['categories'], key=itemgetter('id'))]
    colours = class_colours(len(classes))
    true, found = {}, {}
    for pair in pair_images(ground_truth, results):
        true[pair.image_id] = pair.truth[~pair.truth.crowd]
        found[pair.image_id] = pair.confident([thresholds[name] for name in classes]).predicted
    known = any(map(len, true.values()))
    scores = [f'{score:.2g}' for score in (min(thresholds.values()), max(thresholds.values()))]
    by_class = f' to {scores[1]}, by class' if scores[0] != scores[1] else ''
    kinds = [(f'Prediction, score ≥ {scores[0]}{by_class}', 'predicted', found)]
    if known:
        kinds = [('Ground truth', 'true', true), *kinds]
    chosen = _most_telling(ground_truth['images'], true if known else found)[:limit]
    paths = []
    for rank, info in enumerate(track(chosen, 'drawing overlays', len(chosen)), 1):
        image = read_annotated_image(Path(image_root, info['file_name']), (info['height'], info['width']))
        scale = readable_scale(image.shape)
        sides = []
        for title, word, kind in kinds:
            instances = kind[info['id']]
            labels = instances.labels.tolist()
            drawn = draw_instances(image, instances.masks.crops(), labels, colours, scale)
            sides.append((title, word, drawn, labels))
        name = re.sub(r'[^\w.-]+', '_', str(Path(info['file_name']).with_suffix('')))
        paths.append(Path(out_dir, f'{rank:02d}_{name}.png'))
        write_image(paths[-1], compare(image, sides, classes, colours))
    return paths


def _most_telling(images, instances):
    """Images by what they show: the densest in each class from the rarest on, then the densest; ties by name."""
    counts = {info['id']: Counter(instances[info['id']].labels.tolist()) for info in images}
    by_density = sorted(images, key=lambda info: (-counts[info['id']].total(), info['file_name']))
    totals = sum(counts.values(), Counter())
    densest = [max(by_density, key=lambda info, c=category: counts[info['id']][c])
               for category in sorted(totals, key=lambda c: (totals[c], c))]
    return list({info['id']: info for info in densest + by_density}.values())
