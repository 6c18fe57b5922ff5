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
from measure import free_memory, in_a_process, machine, register

CONFIG = Path(__file__).resolve().parents[1] / 'configs/cell_maskrcnn.py'
SCENES = ((150, 500), (600, 1000), (1500, 1800))
MAX_PEAK = 8e9  # bytes of a step with 1,500 cells at 1800 px
OUT_OF_MEMORY = "can't allocate memory", 'Insufficient memory', 'bad_alloc'  # in the words of torch, OpenCV and C++
RESERVE = 2e9  # bytes that stock leaves to the machine


def build(stock):
    """The model of the config in training mode, and its optimizer."""
    import torch
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.optim import build_optim_wrapper
    register()
    config = Config.fromfile(CONFIG)
    config.model.backbone.init_cfg = None
    if stock:
        config.model.type = 'MaskRCNN'
        config.model.roi_head.mask_head.type = 'FCNMaskHead'
        for stage in ('rpn', 'rcnn'):
            config.model.train_cfg[stage].assigner.type = 'MaxIoUAssigner'
    torch.manual_seed(0)
    model = MODELS.build(config.model).train()
    return model, build_optim_wrapper(model, config.optim_wrapper)


def batch(cells, side, stock):
    """One scene as the data loader gives it."""
    import torch
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    from cellseg_mm.structures.local_masks import LocalMasks
    image, labels = scenes.scene(cells, side)
    masks = LocalMasks.from_label_map(labels)
    boxes = masks.get_bboxes(HorizontalBoxes)
    if stock:
        masks = BitmapMasks(masks.to_ndarray(), side, side)
    sample = DetDataSample(metainfo=dict(img_id=0, img_shape=(side, side), ori_shape=(side, side), scale_factor=(1, 1)))
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.arange(cells) % scenes.CLASSES, masks=masks)
    return dict(inputs=[torch.from_numpy(image).permute(2, 0, 1)], data_samples=[sample])


def step(cells, side, stock, room):
    """Take a step within `room` bytes: seconds, peak bytes and losses, or None where the room does not suffice."""
    import torch
    model, optimizer = build(stock)
    model.train_step(batch(5, 128, stock), optimizer)
    # The limit is one of addresses; those that are reserved already and never used do not count.
    status = dict(line.split(':') for line in Path('/proc/self/status').read_text().splitlines())
    size, resident = (1024 * int(status[name].split()[0]) for name in ('VmSize', 'VmRSS'))
    resource.setrlimit(resource.RLIMIT_AS, (int(size - resident + room),) * 2)
    try:
        data = batch(cells, side, stock)
        torch.manual_seed(0)
        started = time.perf_counter()
        losses = model.train_step(data, optimizer)
    except Exception as error:
        if isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY):
            return None
        raise
    seconds = time.perf_counter() - started
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return seconds, peak, {name: float(value.detach()) for name, value in losses.items()}


def report(cells, side, stock):
    """Print what a scene takes; whether all is as it should be."""
    room = free_memory() - RESERVE
    ours = in_a_process(step, cells, side, False, room)
    if ours is None:
        print(f'{cells} cells at {side} px: ours needs more than {room / 1e9:.1f} GB')
        return False
    seconds, peak, losses = ours
    print(f'{cells} cells at {side} px: ours {seconds:.1f} s, peak {peak / 1e9:.2f} GB', flush=True)
    if stock:
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
