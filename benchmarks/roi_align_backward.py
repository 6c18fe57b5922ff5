"""RoIAlign's backward on the CPU, ours beside torchvision's operator: python benchmarks/roi_align_backward.py.

Both give the same gradient, which is asserted. Times are medians of five after one warm-up, and ratios are what counts.
"""
import statistics
import time

import torch
import torchvision  # noqa: F401

import cellseg_mm  # noqa: F401

from mmcv import _ext  # isort: skip (after cellseg_mm, which provides it)

CASES = ((64, 7, 0), (64, 14, 0), (128, 7, 0), (128, 14, 0), (256, 7, 0), (256, 14, 0))
ROIS, IMAGES, SIDE, SCALE = 512, 4, 128, 0.25


def median_seconds(function):
    function()
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main():
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(ROIS, 2, generator=generator) * 400
    size = 16 + torch.rand(ROIS, 2, generator=generator) * 64  # cells of 8 to 40 px, enlarged twice
    image = torch.randint(IMAGES, (ROIS, 1), generator=generator)
    rois = torch.cat([image, corner, corner + size], 1)
    print(f'{ROIS} RoIs on {IMAGES} maps of {SIDE} x {SIDE}, {torch.get_num_threads()} threads, '
          f'torch {torch.__version__}')
    for channels, out, sampling in CASES:
        grad = torch.randn(ROIS, channels, out, out, generator=generator)
        shape = IMAGES, channels, SIDE, SIDE
        ours, nothing = torch.zeros(shape), torch.zeros(0)

        def run_ours(grad=grad, ours=ours, nothing=nothing, out=out, sampling=sampling):
            _ext.roi_align_backward(grad, rois, nothing, nothing, ours, out, out, SCALE, sampling, 1, True)

        def run_theirs(grad=grad, shape=shape, out=out, sampling=sampling):
            return torch.ops.torchvision._roi_align_backward(grad, rois, SCALE, out, out, *shape, sampling, True)

        own, other = median_seconds(run_ours), median_seconds(run_theirs)
        torch.testing.assert_close(ours, run_theirs(), atol=1e-4, rtol=1e-4)
        print(f'{channels:4} channels, {out:2} x {out:2}: ours {own:.3f} s, torchvision {other:.3f} s, '
              f'{other / own:.1f} times as fast')


if __name__ == '__main__':
    main()
