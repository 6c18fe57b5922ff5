"""Memory and time of one training step on dense images: python benchmarks/training_step.py [--stock]

The model of configs/cell_maskrcnn.py with random weights takes one step (masks padded, losses, gradients, SGD) on one
scene at full resolution, on the CPU, in a fresh process. --stock does the same with MMDetection's BitmapMasks,
FCNMaskHead and MaxIoUAssigner, compares the losses and prints ratios. Peak is the resident memory of the whole process
at its highest, libraries and model included; the time is that of one step after one on a small image. Where stock asks
for more than the machine has to give, it is stopped and that is what is printed.
"""
import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np
import scenes
from measure import RESERVE, free_memory, in_a_process, machine, register, stock, within

CONFIG = Path(__file__).resolve().parents[1] / 'configs/cell_maskrcnn.py'
SCENES = ((150, 500), (600, 1000), (1500, 1800))
MAX_PEAK = 8e9  # bytes of a step with 1,500 cells at 1800 px


def build(is_stock):
    """The model of the config in training mode, and its optimizer."""
    import torch
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.optim import build_optim_wrapper
    register()
    config = Config.fromfile(CONFIG)
    config.model.backbone.init_cfg = None
    torch.manual_seed(0)
    model = MODELS.build(stock(config.model) if is_stock else config.model).train()
    return model, build_optim_wrapper(model, config.optim_wrapper)


def step(cells, side, is_stock, room):
    """Take a step within `room` bytes: seconds, peak bytes and losses, or None where the room does not suffice."""
    import torch
    model, optimizer = build(is_stock)
    model.train_step(scenes.batch(5, 128, is_stock), optimizer)

    def measured():
        data = scenes.batch(cells, side, is_stock)
        torch.manual_seed(0)
        started = time.perf_counter()
        losses = model.train_step(data, optimizer)
        seconds = time.perf_counter() - started
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return seconds, peak, {name: float(value.detach()) for name, value in losses.items()}

    return within(room, measured)


def report(cells, side, with_stock):
    """Print what a scene takes; whether all is as it should be."""
    room = free_memory() - RESERVE
    ours = in_a_process(step, cells, side, False, room)
    if ours is None:
        print(f'{cells} cells at {side} px: ours needs more than {room / 1e9:.1f} GB')
        return False
    seconds, peak, losses = ours
    print(f'{cells} cells at {side} px: ours {seconds:.1f} s, peak {peak / 1e9:.2f} GB', flush=True)
    if with_stock:
        room = free_memory() - RESERVE
        theirs = in_a_process(step, cells, side, True, room)
        if theirs is None:
            print(f'    stock needs more than the {room / 1e9:.1f} GB that are free: more than '
                  f'{room / peak:.1f} times the memory')
        else:
            print(f'    stock {theirs[0]:.1f} s, peak {theirs[1] / 1e9:.2f} GB: {theirs[0] / seconds:.1f} times the '
                  f'time, {theirs[1] / peak:.1f} times the memory')
            np.testing.assert_allclose(list(losses.values()), [theirs[2][name] for name in losses], rtol=1e-4)
    return (cells, side) != (1500, 1800) or peak < MAX_PEAK


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--stock', action='store_true', help='compare with stock MMDetection')
    parser.add_argument('--cells', type=int, help='one scene of so many cells, with --side')
    parser.add_argument('--side', type=int, default=1000, help='pixels of a side; 1000 by default')
    args = parser.parse_args()
    print(machine())
    wanted = ((args.cells, args.side), ) if args.cells else SCENES
    results = [report(cells, side, args.stock) for cells, side in wanted]
    if not all(results):
        sys.exit(f'a step with 1,500 cells at 1800 px must stay below {MAX_PEAK / 1e9:.0f} GB')


if __name__ == '__main__':
    main()
