"""The time of a training step on a CPU: python benchmarks/cpu_training.py [CONFIG] [--steps 12]

The model of CONFIG (default: configs/cell_maskrcnn_lite.py) takes steps on drawn cells, as training on a CPU does: in
channels_last, without and with --amp; and as MMEngine's own runner would, contiguous, in float32 and in bfloat16. They
take turns, so that what else the machine does falls on all alike. Medians are printed, and their ratios to the first.
"""
import argparse
import statistics
import time
from pathlib import Path

from measure import machine, register

CONFIG = Path(__file__).resolve().parents[1] / 'configs/cell_maskrcnn_lite.py'
BATCH, SIDE, CELLS = 2, 512, 60  # images of a step, their sides at the network's input, cells of each
KINDS = {'contiguous, as MMEngine has it': (False, False), 'channels_last': (True, False), '--amp': (True, True),
         'contiguous, bfloat16': (False, True)}


def build(path, is_ours, is_half):
    """The model in training mode and its optimizer."""
    import torch
    from mmdet.registry import MODELS
    from mmengine.optim import build_optim_wrapper

    from cellseg_mm.engine.amp import keep_depthwise_float32
    from cellseg_mm.engine.config import load_config
    from cellseg_mm.engine.preflight import drop_pretrained
    register()
    config = load_config(path)
    drop_pretrained(config.model)
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.train()
    if is_ours:
        model.to(memory_format=torch.channels_last)
        keep_depthwise_float32(model)
    if is_half:
        config.optim_wrapper.type = 'CPUAmpOptimWrapper'
    return model, build_optim_wrapper(model, config.optim_wrapper)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', type=Path, nargs='?', default=CONFIG)
    parser.add_argument('--steps', type=int, default=12, help='of each kind (default: %(default)s)')
    args = parser.parse_args()
    import scenes
    print(machine())
    batch = scenes.batch(CELLS, SIDE, False)
    batch = {key: value * BATCH for key, value in batch.items()}
    models = {kind: build(args.config, *how) for kind, how in KINDS.items()}
    seconds = {kind: [] for kind in KINDS}
    for step in range(args.steps + 1):
        for kind, (model, optimizer) in models.items():
            started = time.perf_counter()
            model.train_step(batch, optimizer)
            if step:  # the first makes plans
                seconds[kind].append(time.perf_counter() - started)
    first, *_ = (statistics.median(times) for times in seconds.values())
    for kind, times in seconds.items():
        median = statistics.median(times)
        print(f'{kind}: {median:.2f} s a step of {BATCH} images of {SIDE} px with {CELLS} cells, {median / first:.2f}')


if __name__ == '__main__':
    main()
