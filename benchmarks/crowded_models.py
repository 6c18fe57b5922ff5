"""What every model takes on crowded images: python benchmarks/crowded_models.py [CONFIG ...] [--stock]

Parameters, operations, and time and memory of one training step and one prediction on scenes of 150 cells at 500 px
and 600 at 1000 px, at full resolution, one image at a time, on the CPU. Memory is the most over what the process held
before the image was loaded. Each model first learns a small scene for some steps: masks that random weights draw on
the whole image cover much of it, which changes what a prediction takes.

--stock does the same with MMDetection's own classes and BitmapMasks, the same weights and settings, except for those
that only ours know: limits to the masks that RTMDet-Ins and SOLOv2 train, and Mask2Former's points near cells. Where
they ask for more than the machine has to give, they are stopped, and that is what is printed. Both see whole images,
where some light models would see tiles.

Operations are 10^9 multiply-adds of a prediction with random weights for a scene of 1000 px, resized as the config's
test pipeline does; for heads on proposals and masks they depend on how many there are, so detections are printed, too.
--sizes prints only these and the parameters.
"""
import argparse
import logging
import sys
import tempfile
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import scenes
from measure import RESERVE, free_memory, in_a_process, machine, register, stock, with_peak, within

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
SCENES = ((150, 500), (600, 1000))
LEARNT = (40, 256)  # as large as the crops that light models learn from
ROW = '{:26} {:>6} {:>6} {:>11} {:>10} | {:15} {:>21} {:>22} {:>21} {:>22} {:>11}'


def build(path, is_stock=False, weights=None):
    """The config, its model with those weights, random ones where None, and its optimizer."""
    import torch
    from mmdet.registry import MODELS
    from mmengine.optim import build_optim_wrapper

    from cellseg_mm.engine.config import load_config
    from cellseg_mm.engine.preflight import drop_pretrained
    config = load_config(path)
    drop_pretrained(config.model)
    config.model.pop('tiles', None)
    if is_stock:
        queries = config.model.get('rpn_head', {}).get('num_proposals')
        if queries:  # MMDetection's QueryInst fails with any other number
            config.model.test_cfg.rcnn.max_per_img = queries
        config.model = stock(config.model)
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    if weights:
        model.load_state_dict(torch.load(weights))
    else:
        model.init_weights()
    return config, model, build_optim_wrapper(model, config.optim_wrapper)


def size(path):
    """Millions of parameters, 10^9 multiply-adds, height and width of the input, and detections."""
    from mmengine.dataset import Compose, pseudo_collate

    from cellseg_mm.engine.config import dataset_config
    from cellseg_mm.engine.model_cost import count_flops
    config, model, _ = build(path)
    model.eval()
    image, _ = scenes.scene(*SCENES[-1])
    transforms = [step for step in dataset_config(config, 'test').pipeline if not step['type'].startswith('Load')]
    shape = image.shape[:2]
    results = dict(img=image, img_shape=shape, ori_shape=shape, img_id=0, img_path='')
    data, found = pseudo_collate([Compose(transforms)(results)]), []
    flops = count_flops(lambda: found.extend(model.test_step(data)))
    height, width = data['inputs'][0].shape[1:]
    return (sum(parameter.numel() for parameter in model.parameters()) / 1e6, flops / 1e9, (height, width),
            len(found[0].pred_instances))


def learn(path, weights, steps):
    """Train for so many steps on a small scene and save the weights."""
    import torch
    _, model, optimizer = build(path)
    model.train()
    data = scenes.batch(*LEARNT)
    for _ in range(steps):
        model.train_step(data, optimizer)
    torch.save(model.state_dict(), weights)


def measure(path, weights, is_stock, trains, cells, side, room):
    """Seconds, detections and bytes of a training step or a prediction; None where the room does not suffice."""
    import torch
    _, model, optimizer = build(path, is_stock, weights)
    model.train(trains)

    def run(cells, side):
        data = scenes.batch(cells, side, is_stock)
        started = time.perf_counter()
        if trains:
            model.train_step(data, optimizer)
            return time.perf_counter() - started, None
        with torch.no_grad():
            found, = model.test_step(data)
        return time.perf_counter() - started, len(found.pred_instances)

    run(5, 128)
    taken = within(room, with_peak, lambda: run(cells, side))
    return taken and (*taken[0], taken[1])


def take(path, weights, is_stock, trains, cells, side):
    """What `measure` gives, in a process of its own; without seconds where stopped, without bytes too where failed."""
    room = free_memory() - RESERVE
    try:
        taken = in_a_process(measure, path, weights, is_stock, trains, cells, side, room, start='fork')
    except BrokenProcessPool:  # what is no Python ends the process where it gets no memory
        taken = None
    except Exception as error:
        if not is_stock:
            raise
        print(f'{path.stem}: stock fails: {type(error).__name__}: {error}', file=sys.stderr, flush=True)
        return None, None, None
    return taken or (None, None, room)


def cells_of(ours, theirs):
    """Two table cells, time and memory: ours, and with stock its own and how many times ours that is."""
    def pair(mine, other, digits, sign=''):
        text = f'{mine:.{digits}f}'
        return text if other is None else f'{text} / {sign}{other:.{digits}f} ({sign}{other / mine:.1f}x)'
    if ours[0] is None:
        return '-', f'>{ours[2] / 1e9:.2f}'
    if theirs is None:
        return pair(ours[0], None, 1), pair(ours[2] / 1e9, None, 2)
    if theirs[2] is None:
        return f'{ours[0]:.1f} / fails', pair(ours[2] / 1e9, None, 2)
    if theirs[0] is None:
        return f'{ours[0]:.1f} / stopped', pair(ours[2] / 1e9, theirs[2] / 1e9, 2, '>')
    return pair(ours[0], theirs[0], 1), pair(ours[2] / 1e9, theirs[2] / 1e9, 2)


def report(path, with_stock, steps, only_sizes):
    """Print the rows of a model."""
    parameters, gflops, (height, width), found = in_a_process(size, path, start='fork')
    sizes = f'{parameters:.1f}', f'{gflops:.0f}', f'{height} x {width}', found
    if only_sizes:
        print(ROW.format(path.stem, *sizes, *[''] * 6).split('|')[0], flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, 'weights.pth')
        in_a_process(learn, path, weights, steps, start='fork')
        for cells, side in SCENES:
            row = []
            for trains in (True, False):
                ours = take(path, weights, False, trains, cells, side)
                theirs = take(path, weights, True, trains, cells, side) if with_stock else None
                row += cells_of(ours, theirs)
            detections = '-' if ours[1] is None else str(ours[1])
            if theirs and theirs[1] is not None:
                detections += f' / {theirs[1]}'
            print(ROW.format(path.stem, *sizes, f'{cells} at {side} px', *row, detections), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='*', type=Path, help='all configs/*_lite.py by default')
    parser.add_argument('--stock', action='store_true', help='compare with stock MMDetection')
    parser.add_argument('--steps', type=int, default=100, help='how long each model learns before; 100 by default')
    parser.add_argument('--sizes', action='store_true', help='parameters and operations alone')
    args = parser.parse_args()
    register()  # once: the processes below are copies of this one, which computes nothing itself
    logging.disable()  # each weight's initialisation is logged
    print(machine() + (', here / stock MMDetection (ratio)' if args.stock else ''))
    titles = ('config', 'Mparam', 'GFLOPs', 'of input', 'detections', 'cells', 'step, s', 'GB', 'prediction, s', 'GB',
              'detections')
    heading = ROW.format(*titles)
    print(heading.split('|')[0] if args.sizes else heading)
    for path in args.configs or sorted(CONFIGS.glob('*_lite.py')):
        report(path, args.stock, args.steps, args.sizes)


if __name__ == '__main__':
    main()
