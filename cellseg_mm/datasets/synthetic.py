"""Synthetic H&E-like images in the course data set's folder layout: data to learn on where no real data is at hand.

The tissue is drawn as two maps of stain concentration, haematoxylin and eosin, which become colours by the
Beer-Lambert law. The classes follow MoNuSAC's look, loosely: class1 epithelial nuclei (oval, pale, textured, with
nucleoli), class2 lymphocytes (small, round, dark), class3 neutrophils (dark lobes in pink cytoplasm), class4
macrophages (large foamy cells with a bean-shaped nucleus). Fibroblast nuclei and red blood cells are there, unlabelled.
"""
import csv
import io
import json
import uuid
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from scipy import ndimage

from cellseg_mm.datasets.annotations import describe
from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.io.files import atomic_path, write_json, write_text
from cellseg_mm.progress import track
from cellseg_mm.structures.rle import encode_label_map

FREQUENCIES = {'class1': 0.458, 'class2': 0.498, 'class3': 0.022, 'class4': 0.022}
MIN_SIDE, MAX_SIDE = 64, 512
CELLS_PER_PIXEL = 1.03e-3
IMAGES_PER_GROUP = 5
MARKER = '.cellseg_mm_demo.json'
_NAMESPACE = uuid.UUID('5b0c8b0e-3f0a-5d55-9c59-6a1c0e1b7d42')


class Stain(NamedTuple):
    """How a slide was stained and scanned; images of one patient share it.

    Args:
        haematoxylin: Absorbance (natural logarithm) of one unit of haematoxylin in R, G, B, shape (3,).
        eosin: The same of eosin.
        white: Intensity of bare glass in R, G, B, 0 to 255, shape (3,).
        blur: Standard deviation of the optical blur in pixels.
    """

    haematoxylin: np.ndarray
    eosin: np.ndarray
    white: np.ndarray
    blur: float


class _Cell(NamedTuple):
    """A cell on a square patch (S, S): distance to its outline (pixels, positive inside), and how it is painted."""

    distance: np.ndarray
    alpha: np.ndarray
    haematoxylin: np.ndarray
    eosin: np.ndarray


def random_stain(rng):
    """Draw the stain of a patient, around the absorbance vectors of Macenko et al., ISBI 2009."""
    haematoxylin = np.array([0.60, 0.70, 0.33]) + rng.normal(0, [0.05, 0.03, 0.06])
    eosin = np.array([0.14, 0.86, 0.40]) + rng.normal(0, [0.04, 0.04, 0.09])
    return Stain(haematoxylin / np.linalg.norm(haematoxylin) * rng.uniform(0.85, 1.2),
                 eosin / np.linalg.norm(eosin) * rng.uniform(0.65, 1.25),
                 np.array([243, 240, 245]) + rng.normal(0, 3, 3), rng.uniform(0.55, 0.9))


def make_cells_image(rng, height, width, counts, stain=None):
    """Draw one image and the label maps of its cells.

    Args:
        rng (np.random.Generator): Source of all chance.
        height (int): Pixels.
        width (int): Pixels.
        counts (dict[str, int]): Cells wanted for each class, `class1` to `class4`. Where the image is full, fewer come.
        stain (Stain): Stain of the patient; drawn where None.

    Returns:
        tuple: uint8 (H, W, 3) RGB image, and {class: int32 (H, W) label map}. 0 is background; ids run on over the
        maps, 1 to n in the first, n + 1 and so on in the next; a class without cells is absent.
    """
    stain = stain or random_stain(rng)
    epithelium = np.clip(1.1 * counts.get('class1', 0) / max(sum(counts.values()), 1) + rng.normal(0, 0.07), 0, 0.85)
    haematoxylin, eosin, gaps, nests, fibroblasts = _tissue(rng, (height, width), epithelium)
    maps = {'fibroblasts': fibroblasts}
    # Large and rare ones first, since the others fit into what is left.
    placed = {name: _place(rng, name, counts.get(name, 0), maps, (haematoxylin, eosin), gaps, nests)
              for name in reversed(FREQUENCIES)}
    labelled = {}
    taken = 0
    for name in FREQUENCIES:
        if placed[name]:
            labelled[name] = np.where(maps[name] > 0, maps[name] + taken, 0).astype(np.int32)
            taken += placed[name]
    return _photograph(rng, haematoxylin, eosin, stain), labelled


def _smooth(rng, shape, scale):
    """Smooth noise of zero mean and unit variance, float (H, W), varying over `scale` pixels."""
    basis = []
    for side in shape:
        knots = np.arange(-1, side / scale + 2)
        weights = np.exp(-0.5 * ((np.arange(side)[:, None] / scale + rng.uniform() - knots) / 0.6) ** 2)
        basis.append(weights / np.sqrt((weights ** 2).sum(1, keepdims=True)))
    # einsum, since a BLAS product may round differently from one run to the next.
    rows = np.einsum('rk,kl->rl', basis[0], rng.normal(size=[weights.shape[1] for weights in basis]))
    return np.einsum('rl,cl->rc', rows, basis[1])


def _tissue(rng, shape, epithelium):
    """Background, all (H, W): haematoxylin and eosin concentrations, masks of gaps, epithelial nests, fibroblasts.

    `epithelium` is the share of the image, 0 to 1, that nests cover.
    """
    angle = rng.uniform(0, np.pi)
    fibres = _fibres(rng, shape, angle)
    haze = _smooth(rng, shape, rng.uniform(35, 60))
    eosin = 0.42 + 0.12 * haze + 0.16 * fibres + 0.04 * _grain(rng, shape, 1.5)
    haematoxylin = 0.22 + 0.13 * _smooth(rng, shape, rng.uniform(25, 60)) + 0.05 * fibres
    nest_field = _smooth(rng, shape, rng.uniform(35, 60))
    nests = nest_field > np.quantile(nest_field, 1 - epithelium)
    cytoplasm = ndimage.gaussian_filter(nests.astype(float), 2.5)
    eosin += cytoplasm * (0.45 + 0.06 * _grain(rng, shape, 1.3) + 0.05 * haze - eosin)
    basophilia = 0.45 + 0.07 * _grain(rng, shape, 1.3) + 0.13 * _smooth(rng, shape, 12) + 0.10 * _smooth(rng, shape, 40)
    haematoxylin += cytoplasm * (basophilia - haematoxylin)
    gap_field = _smooth(rng, shape, rng.uniform(14, 30)) + 0.4 * _smooth(rng, shape, 7)
    gaps = gap_field > np.quantile(gap_field, 1 - rng.uniform(0.02, 0.14))
    fibroblasts = _scatter_unlabelled(rng, (haematoxylin, eosin), angle, ~nests & ~gaps, ~gaps)
    for concentration, glass in (haematoxylin, 0.02), (eosin, 0.03):
        concentration += ndimage.gaussian_filter(gaps.astype(float), 0.9) * (glass - concentration)
    return np.maximum(haematoxylin, 0.02), np.maximum(eosin, 0.02), gaps, nests & ~gaps, fibroblasts


def _scatter_unlabelled(rng, concentrations, angle, stroma, tissue):
    """Paint what has no class: nuclei out of focus in `tissue` (mask), fibroblasts along `angle`, red blood cells.

    Returns:
        np.ndarray: bool (H, W), where the fibroblasts are.
    """
    fibroblasts, nobody = np.zeros((2, *stroma.shape), np.int32)
    for place in _draw(rng, tissue, 3e-4):
        _paint(_out_of_focus(rng), *place, nobody, 0, concentrations)
    places = _draw(rng, stroma, 1e-3)
    for place in places:
        _paint(_fibroblast(rng, angle + rng.normal(0, 0.35)), *place, fibroblasts, 1, concentrations)
    if len(places) and rng.random() < 0.4:
        flock = np.rint(places[0] + rng.normal(0, 14, (rng.integers(4, 14), 2))).astype(int)
        for place in flock.clip(0, np.array(stroma.shape) - 1):
            _paint(_red_cell(rng), *place, nobody, 0, concentrations)
    return fibroblasts > 0


def _draw(rng, mask, density):
    """Random pixels of a mask, int (N, 2) rows and columns, `density` of them for each pixel."""
    pixels = np.argwhere(mask)
    return pixels[rng.integers(len(pixels), size=int(len(pixels) * density))]


def _fibres(rng, shape, angle):
    """Strands along `angle`, float (H, W) of about unit variance: noise stretched that way, then bent."""
    rows, cols = np.mgrid[:shape[0], :shape[1]].astype(float)
    along = cols * np.cos(angle) + rows * np.sin(angle) + 10 * _smooth(rng, shape, 50)
    across = rows * np.cos(angle) - cols * np.sin(angle) + 8 * _smooth(rng, shape, 40)
    noise = rng.normal(size=(256, 256))
    return sum(weight * ndimage.map_coordinates(noise, [across / thick, along / long], order=3, mode='wrap')
               for weight, thick, long in ((0.8, 2.2, 24), (0.9, 5.0, 50)))


def _outline(rng, rows, cols, a, b, wobble, turn=None, dent=0.0):
    """Distance to a wobbly ellipse (semi-axes `a`, `b`) in pixels along the ray from its centre, positive inside."""
    angle = np.arctan2(rows, cols) - (rng.uniform(0, 2 * np.pi) if turn is None else turn)
    radius = a * b / np.hypot(b * np.cos(angle), a * np.sin(angle))
    factor = 1 - dent * np.exp(-((np.abs((angle + np.pi / 2) % (2 * np.pi) - np.pi) / 0.6) ** 2))
    for wave in (2, 3, 4, 5):
        factor += wobble / wave * rng.normal() * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    return radius * factor - np.hypot(rows, cols)


def _cover(distance, edge=1.6):
    """Opacity 0 to 1 of a shape whose edge is `edge` pixels wide."""
    return np.clip(distance / edge + 0.5, 0, 1)


def _grid(reach):
    side = int(np.ceil(reach)) + 3
    return np.mgrid[-side:side + 1, -side:side + 1].astype(float)


def _grain(rng, shape, sigma):
    # White noise of variance 1 has the standard deviation 1 / (2 sqrt(pi) sigma) after the filter.
    return ndimage.gaussian_filter(rng.normal(size=shape), sigma) * 2 * np.sqrt(np.pi) * sigma


def _epithelial(rng):
    a = np.clip(rng.normal(12.5, 1.4), 9.5, 16)
    b = a * rng.uniform(0.62, 0.88)
    rows, cols = _grid(a * 1.3)
    distance = _outline(rng, rows, cols, a, b, 0.06)
    rim = np.exp(-((distance - 1.2) / 1.3) ** 2)
    level = np.clip(rng.normal(0.70, 0.12), 0.48, 1.0)
    haematoxylin = level * (1 + 0.20 * _grain(rng, rows.shape, 1.2) + 0.45 * rim)
    for _ in range(rng.integers(1, 3)):
        row, col = rng.uniform(-0.45, 0.45, 2) * b
        spot = np.hypot(rows - row, cols - col) - rng.uniform(1.4, 2.2)
        haematoxylin += _cover(-spot) * 0.9
    return _Cell(distance, 0.95 * _cover(distance), haematoxylin, np.full(rows.shape, 0.38))


def _lymphocyte(rng):
    a = np.clip(rng.normal(7.6, 0.7), 6, 9.5)
    rows, cols = _grid(a * 1.25)
    distance = _outline(rng, rows, cols, a, a * rng.uniform(0.84, 1), 0.05)
    haematoxylin = np.clip(rng.normal(1.9, 0.25), 1.2, 2.5) * (1 + 0.13 * _grain(rng, rows.shape, 1.3))
    # A thin clear halo, as shrinkage leaves it.
    halo = 0.45 * np.exp(-((distance + 1.8) / 1.0) ** 2)
    inside = _cover(distance)
    return _Cell(distance, np.maximum(inside, halo), haematoxylin * inside, 0.12 + 0.25 * inside)


def _neutrophil(rng):
    a = np.clip(rng.normal(11.5, 0.8), 9.5, 13.5)
    rows, cols = _grid(a * 1.25)
    distance = _outline(rng, rows, cols, a, a * rng.uniform(0.85, 1), 0.05)
    lobes = rng.integers(2, 5)
    turn, spread = rng.uniform(0, 2 * np.pi), rng.uniform(1.1, 1.45)
    nucleus = np.full(rows.shape, -99.0)
    for lobe in range(lobes):
        angle = turn + (lobe - (lobes - 1) / 2) * spread
        row, col = 0.46 * a * np.sin(angle), 0.46 * a * np.cos(angle)
        size = a * rng.uniform(0.30, 0.38) * (1.15 if lobes == 2 else 1)
        nucleus = np.maximum(nucleus, _outline(rng, rows - row, cols - col, size * 1.1, size * 0.9, 0.05))
    inside = _cover(nucleus)
    grain = _grain(rng, rows.shape, 0.9)
    return _Cell(distance, _cover(distance), 0.10 + inside * (2.2 + 0.15 * grain),
                 1.05 + 0.13 * grain - 0.6 * inside)


def _macrophage(rng):
    a = np.clip(rng.normal(22, 2), 18, 27)
    rows, cols = _grid(a * 1.35)
    distance = _outline(rng, rows, cols, a, a * rng.uniform(0.72, 0.95), 0.09)
    row, col = rng.uniform(-0.28, 0.28, 2) * a
    nucleus = _outline(rng, rows - row, cols - col, a * 0.46, a * 0.33, 0.04, dent=0.5)
    inside = _cover(nucleus)
    haematoxylin = 0.16 + 0.04 * _grain(rng, rows.shape, 1.5)
    eosin = 0.34 + 0.08 * _grain(rng, rows.shape, 1.5)
    for _ in range(rng.integers(14, 26)):
        place = rng.uniform(-0.85, 0.85, 2) * a
        hole = _cover(rng.uniform(1.5, 3.8) - np.hypot(rows - place[0], cols - place[1]))
        eosin -= hole * (eosin - 0.06)
        haematoxylin -= hole * (haematoxylin - 0.04)
    membrane = np.exp(-((distance - 0.8) / 1.2) ** 2)
    rim = np.exp(-((nucleus - 1) / 1.2) ** 2)
    haematoxylin += inside * (0.95 + 0.16 * _grain(rng, rows.shape, 1.2) + 0.4 * rim - haematoxylin) + 0.12 * membrane
    eosin += 0.22 * membrane
    return _Cell(distance, 0.95 * _cover(distance), haematoxylin, eosin)


def _fibroblast(rng, angle):
    rows, cols = _grid(15)
    distance = _outline(rng, rows, cols, rng.uniform(9, 14), rng.uniform(2, 3.6), 0.05, angle)
    haematoxylin = rng.uniform(0.9, 1.7) * (1 + 0.15 * _grain(rng, rows.shape, 1.2))
    return _Cell(distance, _cover(distance), haematoxylin, np.full(rows.shape, 0.4))


def _out_of_focus(rng):
    rows, cols = _grid(18)
    distance = _outline(rng, rows, cols, rng.uniform(6, 10), rng.uniform(5, 8), 0.1)
    haematoxylin = np.full(rows.shape, rng.uniform(0.8, 1.4))
    return _Cell(distance, 0.8 * _cover(distance, edge=8), haematoxylin, np.full(rows.shape, 0.4))


def _red_cell(rng):
    rows, cols = _grid(8)
    distance = _outline(rng, rows, cols, rng.uniform(5, 6.5), rng.uniform(4.5, 6), 0.04)
    return _Cell(distance, 0.9 * _cover(distance), np.full(rows.shape, 0.03), 1 - 0.03 * np.maximum(distance, 0))


_CELLS = {'class1': _epithelial, 'class2': _lymphocyte, 'class3': _neutrophil, 'class4': _macrophage}
# How often a new cell is set against one of its own class, and how often over the edge of one of another class.
_CLUSTERED = {'class1': 0.08, 'class2': 0.09, 'class3': 0.0, 'class4': 0.0}
_OVERLAPPING = 0.05


def _windows(cell, row, col, shape):
    """Slices of the image and of the patch that coincide when the patch's centre lies at (row, col)."""
    half = cell.distance.shape[0] // 2
    image, patch = [], []
    for centre, side in zip((row, col), shape, strict=True):
        start, stop = max(centre - half, 0), min(centre + half + 1, side)
        image.append(slice(start, stop))
        patch.append(slice(start - centre + half, stop - centre + half))
    return tuple(image), tuple(patch)


def _place(rng, name, count, maps, concentrations, gaps, nests):
    """Place up to `count` cells of a class: paint them into `concentrations` and enter them in `maps`; return how many.

    `maps` holds what is placed already, each class with ids from 1.
    """
    labels = np.zeros(gaps.shape, np.int32)
    others = np.any([other > 0 for other in maps.values()], axis=0)
    maps[name] = labels
    home = {'class1': nests, 'class2': ~nests & ~gaps}.get(name, ~gaps)
    home, tissue = np.flatnonzero(home), np.flatnonzero(~gaps)
    centres = []
    for _ in range(count):
        cell = _CELLS[name](rng)
        for attempt in range(80):
            beside = bool(centres) and attempt < 20 and rng.random() < _CLUSTERED[name]
            over = not beside and rng.random() < _OVERLAPPING
            if beside:
                centre = centres[rng.integers(len(centres))]
                angle, away = rng.uniform(0, 2 * np.pi), cell.distance.max() * rng.uniform(1.5, 2)
                row, col = np.rint(np.array(centre) + away * np.array([np.sin(angle), np.cos(angle)])).astype(int)
                if not (0 <= row < gaps.shape[0] and 0 <= col < gaps.shape[1]):
                    continue
            else:
                area = home if len(home) and attempt < 60 and rng.random() < 0.92 else tissue
                row, col = np.unravel_index(area[rng.integers(len(area))], gaps.shape)
            if _fits(cell, row, col, labels, others, beside, over):
                centres.append((row, col))
                _paint(cell, row, col, labels, len(centres), concentrations, opacity=0.75 if over else 1)
                break
    return len(centres)


def _fits(cell, row, col, labels, others, beside, over):
    """Whether a cell may lie at (row, col): apart from all cells, or touching its own class, or a bit over another."""
    image, patch = _windows(cell, row, col, labels.shape)
    distance, taken, foreign = cell.distance[patch], labels[image] > 0, others[image]
    inside = distance > 0
    area = inside.sum()
    if area < 0.35 * (cell.distance > 0).sum():
        return False
    if beside:
        if not (distance > -1)[taken].any() or (inside & taken).sum() > 0.18 * area:
            return False
    elif (distance > -2.5)[taken].any():
        return False
    if over:
        return 0.03 * area < (inside & foreign).sum() < 0.2 * area
    return not (distance > -1)[foreign].any()


def _paint(cell, row, col, labels, number, concentrations, opacity=1.0):
    image, patch = _windows(cell, row, col, labels.shape)
    free = labels[image] == 0
    for concentration, colour in zip(concentrations, (cell.haematoxylin, cell.eosin), strict=True):
        concentration[image] += opacity * free * cell.alpha[patch] * (colour[patch] - concentration[image])
    labels[image][free & (cell.distance[patch] > 0)] = number


def _photograph(rng, haematoxylin, eosin, stain):
    """Concentrations (H, W) to a uint8 (H, W, 3) RGB image: absorbance, uneven light, blur, noise."""
    absorbance = haematoxylin[..., None] * stain.haematoxylin + eosin[..., None] * stain.eosin
    light = 1 + 0.04 * _smooth(rng, haematoxylin.shape, 120)
    image = ndimage.gaussian_filter(stain.white * light[..., None] * np.exp(-absorbance), (stain.blur, stain.blur, 0))
    noise = rng.normal(0, 2.5, image.shape) + rng.normal(0, 2.0, haematoxylin.shape)[..., None]
    return np.rint(image + noise).clip(0, 255).astype(np.uint8)


def write_demo_data(root, train=80, test=20, seed=0):
    """Write a synthetic data set in the course layout; the same arguments give the same bytes.

    `ROOT/train/<id>/image.tif` and `class1.tif` to `class4.tif`, `ROOT/test_release/<id>.tif`,
    `ROOT/test_image_name_to_ids.json`, `ROOT/test_groundtruth.json` (COCO form) and `ROOT/groups.csv` (which images
    come from one patient). One image of the training folder has no cell.

    Args:
        root (str | Path): Folder to write to.
        train (int): Images in the training folder.
        test (int): Test images.
        seed (int): Seed of all chance.

    Returns:
        dict[str, int]: Cells of each class, over both splits.

    Raises:
        UserError: A count or the seed is negative, or `root` holds other data.
    """
    root = Path(root)
    if min(train, test, seed) < 0:
        raise UserError('the numbers of images and the seed must not be negative')
    _claim(root, {'train': train, 'test': test, 'seed': seed})
    totals = dict.fromkeys(FREQUENCIES, 0)
    groups, records, annotations = [], [], []
    plans = _plan(np.random.default_rng([seed, 0]), train, test)
    for number, plan in enumerate(track(plans, 'drawing images', len(plans))):
        rng = np.random.default_rng([seed, 1, number])
        key = str(uuid.uuid5(_NAMESPACE, f'{seed}/{train}/{test}/{number}'))
        image, maps = make_cells_image(rng, plan['height'], plan['width'], plan['counts'], plan['stain'])
        groups.append((key, plan['group']))
        for name, labels in maps.items():
            totals[name] += len(np.unique(labels)) - 1
        if number < train:
            _write_train(root / 'train' / key, image, maps)
            continue
        _write_image(root / 'test_release' / f'{key}.tif', image)
        records.append({'file_name': f'{key}.tif', 'id': len(records) + 1,
                        'height': plan['height'], 'width': plan['width']})
        annotations += _annotations(maps, records[-1]['id'], len(annotations) + 1)
    categories = [{'id': number, 'name': name} for number, name in enumerate(FREQUENCIES, 1)]
    write_json(root / 'test_image_name_to_ids.json', records, indent=4)
    write_json(root / 'test_groundtruth.json',
               {'images': records, 'annotations': annotations, 'categories': categories})
    table = io.StringIO()
    csv.writer(table, lineterminator='\n').writerows([('id', 'group'), *groups])
    write_text(root / 'groups.csv', table.getvalue())
    return totals


def _claim(root, settings):
    """Refuse a folder that holds other data, else mark it as ours."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise CellDataError(root, 'is or lies below a file', 'name a folder') from None
    marker = root / MARKER
    if marker.is_file():
        if marker.read_text(encoding='utf-8') != json.dumps(settings):
            raise CellDataError(root, 'holds demo data made with other settings', 'name another folder, or delete it')
        return
    for name in ('train', 'test_release', 'test_image_name_to_ids.json', 'test_groundtruth.json', 'groups.csv'):
        if (root / name).exists():
            raise CellDataError(root, f'holds a {name} that is no demo data', 'name another folder')
    write_json(marker, settings)


def _plan(rng, train, test):
    """Size, group, stain and cells of each class for all images, training images first."""
    plans = []
    for count, split in ((train, 'train'), (test, 'test')):
        for number in range(count):
            if number % IMAGES_PER_GROUP == 0:
                stain, share, density = random_stain(rng), rng.uniform(0.25, 0.75), rng.uniform(0.9, 1.15)
            height, width = (int(side) for side in np.exp(rng.normal(5.35, 0.3, 2)).clip(MIN_SIDE, MAX_SIDE))
            plans.append({'height': height, 'width': width, 'group': f'{split}{number // IMAGES_PER_GROUP + 1:02d}',
                              'stain': stain, 'share': np.clip(share + rng.normal(0, 0.1), 0.1, 0.9),
                              'cells': CELLS_PER_PIXEL * density * height * width})
    if train > 1:
        plans[int(rng.integers(train))]['cells'] = 0
    cells = np.array([plan['cells'] for plan in plans])
    shares = np.array([plan['share'] for plan in plans])
    common = FREQUENCIES['class1'] + FREQUENCIES['class2']
    shares *= FREQUENCIES['class1'] / common * cells.sum() / max((shares * cells).sum(), 1)
    wanted = {'class1': cells * common * shares, 'class2': cells * common * (1 - shares),
              'class3': cells * FREQUENCIES['class3'], 'class4': cells * FREQUENCIES['class4']}
    for name, amounts in wanted.items():
        # Rounding the running sum, not each image, spreads the rare classes evenly over images and groups.
        whole = np.diff(np.floor(amounts.cumsum() + rng.uniform()), prepend=0).astype(int)
        for plan, amount in zip(plans, whole, strict=True):
            plan.setdefault('counts', {})[name] = int(amount)
    return plans


def _write_image(path, image):
    rgba = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
    with atomic_path(path) as partial:
        tifffile.imwrite(partial, rgba, photometric='rgb', extrasamples=['unassalpha'], compression='lzw',
                         predictor=True, rowsperstrip=4, metadata=None, software=False)


def _write_train(folder, image, maps):
    _write_image(folder / 'image.tif', image)
    for name in FREQUENCIES:
        if name not in maps:
            (folder / f'{name}.tif').unlink(missing_ok=True)
            continue
        with atomic_path(folder / f'{name}.tif') as partial:
            tifffile.imwrite(partial, maps[name].astype(np.float64), photometric='minisblack', rowsperstrip=2,
                             metadata=None, software=False)


def _annotations(maps, image_id, first_id):
    """COCO annotations of one image's label maps, ids from `first_id`."""
    cells = [(category, cell) for category, name in enumerate(FREQUENCIES, 1) if name in maps
             for cell in describe(encode_label_map(maps[name]))]
    return [{'id': number, 'image_id': image_id, 'category_id': category, **cell}
            for number, (category, cell) in enumerate(cells, first_id)]
