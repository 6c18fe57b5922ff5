"""A slide of 200,000 cells from first read to last export: python benchmarks/slide.py [--side 20000] [--cells 200000].

The slide is generated: discs on a jittered grid, dark on light, each of one of four classes by its colour, written tile
by tile. In place of a network, the nearest colour and connected components find the cells of a tile, each as networks
do, again as two other classes that are less likely, so that what is measured is all around the network: reading, what
is kept of tiles, merging, suppression, and all formats. It runs in a process of its own, whose peak of resident memory
is printed, with the seconds of each part and how many cells came out.
"""
import argparse
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
from measure import in_a_process, machine, register, time_calls

GLASS = (236, 240, 238)  # BGR
COLORS = ((150, 60, 90), (90, 40, 150), (60, 90, 60), (130, 130, 40))
CLASSES = 'class1', 'class2', 'class3', 'class4'
TILE = 512
SCORES = 0.9, 0.25, 0.1  # of a cell's class, and of the two that come after it


def cells_of(side, count, seed=0):
    """Middles, radii and classes of discs on a grid with jitter, so that neighbours may touch: (N, 4) int."""
    rng = np.random.default_rng(seed)
    across = int(np.sqrt(count))
    pitch = side / across
    rows, columns = np.divmod(np.arange(across**2), across)
    middles = (np.column_stack([columns, rows]) + 0.5) * pitch + rng.uniform(-0.18, 0.18, (across**2, 2)) * pitch
    radii = rng.uniform(0.16, 0.3, across**2) * pitch
    return np.column_stack([middles, radii, rng.integers(0, len(COLORS), across**2)]).round().astype(int)


def write_slide(path, side, cells):
    """Write the slide as a tiled BigTIFF, row of tiles by row of tiles."""
    import tifffile
    by_row = np.argsort(cells[:, 1], kind='stable')
    cells = cells[by_row]

    def tiles():
        for top in range(0, side, TILE):
            band = np.full((TILE, -(-side // TILE) * TILE, 3), GLASS, np.uint8)
            first, last = np.searchsorted(cells[:, 1], [top - 60, top + TILE + 60])
            for x, y, radius, label in cells[first:last].tolist():
                cv2.circle(band, (x, y - top), radius, COLORS[label], -1)
            for left in range(0, side, TILE):
                yield band[:, left:left + TILE, ::-1]

    tifffile.imwrite(path, tiles(), shape=(side, side, 3), dtype=np.uint8, tile=(TILE, TILE), compression='deflate',
                     photometric='rgb', bigtiff=True, resolution=(40_000, 40_000), resolutionunit='CENTIMETER')


class Threshold:
    """Finds discs by their colours: what a `Detector` is to a predictor."""

    classes, mpp, factor, stride, tiles = CLASSES, 0.25, 1.0, 32, None
    thresholds = dict.fromkeys(CLASSES, 0.5)
    percentiles = (0.1, 99.9)

    def __init__(self, *args):
        pass

    def __call__(self, pictures, factor):  # noqa: ARG002 -- a detector's
        return [self._see(picture) for picture in pictures]

    def _see(self, picture):
        from cellseg_mm.structures.cells import Cells
        from cellseg_mm.structures.local_masks import LocalMasks
        distances = np.stack([np.abs(picture.astype(int) - color).sum(-1) for color in (GLASS, *COLORS)])
        nearest = distances.argmin(0)
        labels = np.zeros(picture.shape[:2], np.int64)
        kinds = [np.zeros(0, np.int64)]
        for label in range(len(COLORS)):
            count, components = cv2.connectedComponents((nearest == label + 1).astype(np.uint8), connectivity=4)
            labels[components > 0] = components[components > 0] + sum(map(len, kinds))
            kinds.append(np.full(count - 1, label))
        kinds = np.concatenate(kinds)
        masks = LocalMasks.from_label_map(labels)
        return Cells.cat([Cells(masks, (kinds + other) % len(COLORS), np.full(len(kinds), score, np.float32))
                          for other, score in enumerate(SCORES)])


def predict(path, out):
    """Seconds by part, peak bytes, and how many cells were found, of a prediction with all formats."""
    from cellseg_mm.engine import prediction
    from cellseg_mm.export import FORMATS
    from cellseg_mm.inference import predictor
    seconds = Counter()
    predictor.Detector = Threshold
    for name, owner, function in (
            ('finding', Threshold, '__call__'), ('merging', predictor.Predictor, 'merged'),
            ('suppressing', predictor.Predictor, 'confident'), ('measuring', prediction, 'measure'),
            *((function.removeprefix('write_'), prediction, function) for function in vars(prediction)
              if function.startswith('write_') and function not in ('write_json', 'write_index'))):
        time_calls(seconds, name, owner, function)
    started = time.perf_counter()
    outcome, = prediction.predict_images([str(path)], [__file__], out, formats=list(FORMATS))
    seconds['all'] = time.perf_counter() - started
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return seconds, peak, sum(outcome.counts.values()) if outcome.counts else outcome.note


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--side', type=int, default=20_000)
    parser.add_argument('--cells', type=int, default=200_000)
    args = parser.parse_args()
    register()
    print(machine())
    cells = cells_of(args.side, args.cells)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'slide.tif')
        write_slide(path, args.side, cells)
        print(f'{args.side} x {args.side} px, {len(cells):,} cells, {path.stat().st_size / 1e6:,.0f} MB')
        seconds, peak, found = in_a_process(predict, path, Path(folder, 'out'))
        sizes = {file.name: file.stat().st_size / 1e6 for file in sorted(Path(folder, 'out').iterdir())}
    print(f'{found:,} found; peak memory {peak / 1e9:.2f} GB')
    print('seconds: ' + ', '.join(f'{name} {value:.1f}' for name, value in seconds.most_common()))
    print('MB: ' + ', '.join(f'{name} {size:.1f}' for name, size in sizes.items()))


if __name__ == '__main__':
    main()
