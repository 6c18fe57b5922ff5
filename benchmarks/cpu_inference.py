"""What channels-last and bfloat16 features gain on CPUs: python benchmarks/cpu_inference.py CONFIG [CHECKPOINT]

Prediction of one image, with random weights or a checkpoint's, in three ways by turns: MMDetection's own float32,
float32 in the channels-last memory format, and bfloat16 in it (`model.cpu_bf16`). Times are medians after one warm-up,
of the whole and of its parts. With a checkpoint, AP50 on the validation split follows, of each way on the same images.
"""
import argparse
import statistics
import sys
import time
from contextlib import contextmanager

import torch
from measure import machine, register

WAYS = 'float32', 'channels-last', 'bfloat16'
PARTS = 'backbone', 'neck', 'rpn_head', 'roi_head.bbox_head', 'roi_head.mask_head'
MAX_DIFFERENCE = 0.002  # of AP50, for what is on by default


def build(config, checkpoint=None):
    """The detector of a config as a `CellDetector`, with random weights or a checkpoint's."""
    from mmdet.registry import MODELS

    from cellseg_mm.models.checkpoint import read_checkpoint
    config.model.type = f'Cell{config.model.type.removeprefix("Cell")}'
    config.model.backbone.init_cfg = None
    torch.manual_seed(0)
    model = MODELS.build(config.model).eval()
    if checkpoint:
        model.load_state_dict(read_checkpoint(checkpoint)['state_dict'])
    return model


@contextmanager
def in_way(model, way):
    """Let a model compute its features in one of the three ways."""
    from cellseg_mm.models.detectors.cell_detectors import CellDetector
    before, model.cpu_bf16 = model.cpu_bf16, way == 'bfloat16'
    if way == 'float32':
        model.extract_feat = super(CellDetector, model).extract_feat
    yield
    model.__dict__.pop('extract_feat', None)
    model.cpu_bf16 = before


@contextmanager
def timed_parts(model, seconds):
    """Add what each part of a model takes to `seconds`."""
    handles, started = [], {}
    for name in PARTS:
        try:
            part = model.get_submodule(name)
        except AttributeError:
            continue

        def before(*_, name=name):
            started[name] = time.perf_counter()

        def after(*_, name=name):
            seconds[name] = seconds.get(name, 0) + time.perf_counter() - started[name]

        handles += [part.register_forward_pre_hook(before), part.register_forward_hook(after)]
    yield
    for handle in handles:
        handle.remove()


def times(model, height, width, repeats):
    """Median seconds by way and part, `prediction` being the whole."""
    from mmdet.structures import DetDataSample
    image = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    shape = height, width
    taken = {way: [] for way in WAYS}
    for _ in range(repeats + 1):
        for way in WAYS:
            sample = DetDataSample(metainfo=dict(img_shape=shape, ori_shape=shape, batch_input_shape=shape,
                                                 scale_factor=(1.0, 1.0), img_id=0))
            seconds = {}
            with torch.no_grad(), in_way(model, way), timed_parts(model, seconds):
                started = time.perf_counter()
                model.predict(image, [sample])
                seconds['prediction'] = time.perf_counter() - started
            taken[way].append(seconds)
    return {way: {part: statistics.median(run.get(part, 0.0) for run in runs[1:]) for part in runs[0]}
            for way, runs in taken.items()}


def print_times(measured, title):
    print(f'\n{title:22}' + ''.join(f'{way:>24}' for way in WAYS))
    for part, base in measured[WAYS[0]].items():
        row = (f'{seconds:9.3f} s {base / seconds:5.2f} times' for seconds in (measured[way][part] for way in WAYS))
        print(f'{part:22}' + ''.join(f'{text:>24}' for text in row), flush=True)


def average_precisions(config, model):
    """Dense AP50 on the validation split by way, every image predicted in each way by turns."""
    from mmdet.registry import METRICS
    from mmengine.runner import Runner
    loader = Runner.build_dataloader(config.val_dataloader)
    metrics = {way: METRICS.build(config.val_evaluator) for way in WAYS}
    for batch in loader:
        for way, metric in metrics.items():
            metric.dataset_meta = loader.dataset.metainfo
            with torch.no_grad(), in_way(model, way):
                metric.process(batch, [sample.to_dict() for sample in model.test_step(batch)])
    return {way: metric.compute_metrics(metric.results)['AP50_dense'] for way, metric in metrics.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('checkpoint', nargs='?')
    parser.add_argument('--sizes', nargs='+', default=['800x800', '1333x800'], metavar='WxH',
                        help='of the images in pixels (default: %(default)s)')
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE')
    args = parser.parse_args()
    register()
    from mmengine.registry import init_default_scope

    from cellseg_mm.engine.config import load_config, parse_options
    from cellseg_mm.models.detectors.cell_detectors import has_fast_bf16
    init_default_scope('mmdet')
    config = load_config(args.config, parse_options(args.cfg_options))
    model = build(config, args.checkpoint)
    capabilities = torch.cpu.get_capabilities()
    print(f'{machine()}; avx512_bf16: {capabilities.get("avx512_bf16", False)}, amx_bf16: '
          f'{capabilities.get("amx_bf16", False)}, bfloat16 by default: {has_fast_bf16()}; {args.config}')
    for size in args.sizes:
        width, height = map(int, size.split('x'))
        print_times(times(model, height, width, args.repeats), f'{size} px')
    if not args.checkpoint:
        return
    scores = average_precisions(config, model)
    for way, score in scores.items():
        print(f'AP50 {way:14} {score:.5f} {score - scores["float32"]:+.5f}')
    default = 'bfloat16' if has_fast_bf16() else 'channels-last'
    if abs(scores[default] - scores['float32']) > MAX_DIFFERENCE:
        sys.exit(f'{default} is on by default and moves AP50 by more than {MAX_DIFFERENCE}')


if __name__ == '__main__':
    main()
