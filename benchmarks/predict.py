"""Prediction of a large image, end to end: python benchmarks/predict.py CHECKPOINT [ROOT] [--side 4000] [--stock].

The image is made of the training images of a data set, side by side, or else of generated ones, and written as a tiled
TIFF; --image takes another. Printed are megapixels per second and what time went to: `read` is
what the network waited for, `merge` has suppression and overlaps, `export` the formats that tools/predict.py writes by
default, and `rest` plans, thumbnails and what is kept of tiles for resuming. `mixed` computes in mixed precision.

--stock predicts the same image as MMDetection's `large_image_demo.py` does, with the same weights in MMDetection's own
classes: SAHI (pip install sahi) cuts patches of 640 px that overlap by a quarter, each cell gets a canvas of the image,
NMS of boxes merges them, and the cells are encoded as RLE. Memory is what a run holds at its highest beside the
network: its peak, less that of a run which forgets what it finds, each in a process of its own. Stock is run on smaller
images first, and stopped where it asks for more than the machine has.
"""
import argparse
import tempfile
import time
from collections import Counter
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
from measure import RESERVE, free_memory, in_a_process, machine, register, stock, time_calls, with_peak, within

PATCH, PATCH_OVERLAP = 640, 0.25  # of large_image_demo.py
STOCK_SIDES = 2000,
WRITERS = 'measure', 'write_label_map', 'write_geojson', 'write_csv', 'write_overlay', 'write_viewer'


def write_mosaic(path, side, root):
    """Write an image of `side` pixels, of a data set's images side by side."""
    import tifffile

    from cellseg_mm.datasets.synthetic import write_demo_data
    from cellseg_mm.io.image import read_image
    with tempfile.TemporaryDirectory() as folder:
        if root is None:
            write_demo_data(root := Path(folder), train=8, test=0)
        files = sorted(root.glob('train/*/image.tif'))
        image, tiles, y = np.empty((side, side, 3), np.uint8), cycle(files), 0
        while y < side:
            x, bottom = 0, side
            while x < side:
                tile = read_image(next(tiles))[:side - y, :side - x]
                height, width = tile.shape[:2]
                image[y:y + height, x:x + width] = tile
                x, bottom = x + width, min(bottom, y + height)
            y = bottom
    tifffile.imwrite(path, image[..., ::-1], tile=(512, 512), compression='deflate', photometric='rgb')


def ours(image, checkpoint, forgets=False, amp=False):
    """Seconds by what they went to, and how many cells were found."""
    from cellseg_mm.engine import prediction
    from cellseg_mm.inference.detector import Detector
    from cellseg_mm.inference.predictor import Predictor
    from cellseg_mm.inference.tile_store import TileStore
    from cellseg_mm.structures.cells import Cells
    seconds = Counter()
    time_calls(seconds, 'network', Detector, '__call__')
    for name in ('merged', 'confident'):
        time_calls(seconds, 'merge', Predictor, name)
    for name in WRITERS:
        time_calls(seconds, 'export', prediction, name)
    time_calls(seconds, 'read', Future, 'result')
    if forgets:
        write = TileStore.write
        TileStore.write = lambda store, tile, cells: write(store, tile, Cells.none(cells.masks.height,
                                                                                  cells.masks.width))
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        outcome, = prediction.predict_images([str(image)], [checkpoint], out, amp=amp)
        seconds['all'] = time.perf_counter() - started
    return seconds, sum(outcome.counts.values())


def theirs(image, checkpoint, forgets=False):
    """The same by stock MMDetection."""
    from mmdet.apis import inference_detector
    from mmdet.registry import MODELS
    from mmdet.utils.large_image import merge_results_by_nms
    from mmengine.dataset import Compose
    from pycocotools import mask as coco_mask
    from sahi.slicing import slice_image

    from cellseg_mm.io.image import read_image
    from cellseg_mm.models.checkpoint import read_checkpoint
    from cellseg_mm.models.embedded_config import embedded_config
    weights = read_checkpoint(checkpoint)
    config = embedded_config(weights, checkpoint)
    model = MODELS.build(stock(config.model)).eval()
    model.load_state_dict(weights['state_dict'])
    model.cfg = config
    steps = config.test_dataloader.dataset.pipeline
    pipeline = Compose([dict(type='LoadImageFromNDArray'),
                        *(step for step in steps if not step['type'].startswith('Load'))])
    times = [time.perf_counter()]
    slices = slice_image(read_image(image), slice_height=PATCH, slice_width=PATCH, auto_slice_resolution=False,
                         overlap_height_ratio=PATCH_OVERLAP, overlap_width_ratio=PATCH_OVERLAP)
    times.append(time.perf_counter())
    results = []
    for patch in slices.images:
        result = inference_detector(model, np.ascontiguousarray(patch), test_pipeline=pipeline)
        if forgets:
            result.pred_instances = result.pred_instances[[0]]  # a copy; NMS fails where there is none
        results.append(result)
    times.append(time.perf_counter())
    shape = slices.original_image_height, slices.original_image_width
    merged = merge_results_by_nms(results, slices.starting_pixels, shape,
                                  dict(type='nms', iou_threshold=0.25)).pred_instances
    times.append(time.perf_counter())
    for mask in merged.masks:
        coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
    times.append(time.perf_counter())
    seconds = Counter(dict(zip(('read', 'network', 'merge', 'export'), np.diff(times).tolist(), strict=True)))
    seconds['all'] = times[-1] - times[0]
    return seconds, len(merged)


def run(way, image, checkpoint, forgets, room):
    """What `way` returns, and the bytes that it took at its highest; None where the room does not suffice."""
    return within(room, with_peak, lambda: way(image, checkpoint, forgets))


def measured(way, image, checkpoint):
    """Seconds, cells, and bytes beside the network; None where it was stopped for memory."""
    taken = []
    for forgets in (True, False):
        room = free_memory() - RESERVE
        try:
            one = in_a_process(run, way, image, checkpoint, forgets, room, start='fork')
        except BrokenProcessPool:  # what is no Python ends the process where it gets no memory
            one = None
        if one is None:
            return None, room
        taken.append(one)
    (_, least), ((seconds, cells), most) = taken
    return (seconds, cells, most - least), None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument('root', type=Path, nargs='?', help='a data set, such as CoNSeP in whole tiles')
    parser.add_argument('--image', type=Path, help='in place of one that is made')
    parser.add_argument('--side', type=int, default=4000, help='pixels of the image (default: %(default)s)')
    parser.add_argument('--stock', action='store_true', help='compare with stock MMDetection and SAHI')
    args = parser.parse_args()
    register()  # once: the processes below are copies of this one, which computes nothing itself
    print(machine())
    ways = {'here': ours, 'mixed': partial(ours, amp=True)} | ({'stock': theirs} if args.stock else {})
    print(f'{"image":>12} {"":6} {"seconds":>8} {"Mpx/s":>6} {"read":>6} {"network":>8} {"merge":>6} {"export":>7} '
          f'{"rest":>6} {"cells":>7} {"MB beside the network":>22}')
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder, 'first.tif')
        write_mosaic(first, 300, args.root)
        in_a_process(ours, first, args.checkpoint, start='fork')  # compiles what is kept from then on
        for side in (*(STOCK_SIDES if args.stock and not args.image else ()), args.side):
            image = args.image or Path(folder, f'{side}.tif')
            if not args.image:
                write_mosaic(image, side, args.root)
            for name, way in ways.items():
                found, room = measured(way, image, args.checkpoint)
                report(f'{side} x {side}' if not args.image else image.stem, name, side, found, room)


def report(image, name, side, found, room):
    if found is None:
        print(f'{image:>12} {name:6} stopped: it asked for more than {room / 1e9:.1f} GB', flush=True)
        return
    seconds, cells, memory = found
    parts = [seconds[part] for part in ('read', 'network', 'merge', 'export')]
    shares = [f'{100 * part / seconds["all"]:.1f}%' for part in (*parts, seconds['all'] - sum(parts))]
    print(f'{image:>12} {name:6} {seconds["all"]:8.1f} {side**2 / 1e6 / seconds["all"]:6.2f} {shares[0]:>6} '
          f'{shares[1]:>8} {shares[2]:>6} {shares[3]:>7} {shares[4]:>6} {cells:7,} {memory / 1e6:22,.0f}', flush=True)


if __name__ == '__main__':
    main()
