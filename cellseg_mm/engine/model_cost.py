"""What a prediction costs: parameters, operations, time and memory, of several models side by side."""
import logging
import multiprocessing
import os
import signal
import time
import warnings
from contextlib import contextmanager
from math import prod
from pathlib import Path
from statistics import median

import torch
import torchvision  # noqa: F401 -- has an operator that is named below
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.utils import import_modules_from_strings
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, sdpa_flop_count

from cellseg_mm.engine.config import dataset_config, load_config
from cellseg_mm.engine.preflight import drop_pretrained
from cellseg_mm.engine.run_record import peak_resident_bytes
from cellseg_mm.errors import UserError
from cellseg_mm.models.checkpoint import check_weights, read_checkpoint
from cellseg_mm.processes import end_with_parent
from cellseg_mm.progress import track
from cellseg_mm.structures.local_masks import as_local_masks


def measure_costs(models, image_paths, rounds=3):
    """Measure what predictions of several models cost on the same images.

    Each model lives in a process of its own, so that its memory is not another's, on the GPU if there is one. After a
    first image for warming up, they take turns, so that what else the machine does hits all alike. Time runs from the
    decoded image to its masks as `LocalMasks`: the transforms of the test pipeline, the network and its
    post-processing, one image at a time.

    Args:
        models (list[tuple]): (name, config, checkpoint): a config from `load_config` or its path; the weights' path, or
            None for random ones, with which time and memory of what depends on detections mean little.
        image_paths (list[str | Path]): The images.
        rounds (int): How often each model predicts all images.

    Returns:
        dict[str, dict]: By name, {'problem': one line} for a model that failed, else

            - `parameters` (int).
            - `gflops` (float): 10^9 multiply-adds, as `count_flops` counts them, of one image of `input_size`; of all
              tiles where the model sees such, with what they share.
            - `input_size` ([h, w]): The network's input, in pixels with padding, for the image that is the median by
              its pixels.
            - `images_per_second` (float): Of the median round.
            - `seconds` (list[float]): For an image, the mean of each round.
            - `peak_memory_mb` (float): 10^6 bytes; on a CPU the largest resident memory of the process, Python's and
              libraries' data among it but not their code, on a GPU what PyTorch held at most.
            - `device` (str): The GPU's name, or 'CPU, 2 threads'.

    Raises:
        UserError: If there is no image.
    """
    if not image_paths:
        raise UserError('there is no image to measure the cost of predictions with')
    workers, costs = {}, {}

    def ask(name, message):
        """What the process of a model answers; with its cost, or a problem, it is done."""
        answer = workers[name].ask(message)
        if isinstance(answer, dict):
            costs[name] = answer
            workers.pop(name).end()
        return answer

    try:
        for name, config, checkpoint in models:
            workers[name] = _Worker(config, checkpoint, [str(path) for path in image_paths])
        # One after another: what loading takes might, all at once, be more memory than there is.
        for name in track(list(workers), 'loading models to measure their cost', len(workers)):
            ask(name, 'load')
        seconds = {name: [] for name in workers}
        turns = [name for _ in range(rounds) for name in workers]
        for name in track(turns, 'measuring the cost of predictions', len(turns)):
            if name in workers:
                seconds[name].append(ask(name, 'predict'))
        for name in track(list(workers), 'counting operations', len(workers)):
            cost = ask(name, 'count')
            if 'problem' not in cost:
                cost |= {'images_per_second': 1 / median(seconds[name]), 'seconds': seconds[name]}
    finally:
        for worker in workers.values():
            worker.end()
    return {name: costs[name] for name, _, _ in models}


def count_flops(function, *args):
    """Call a function and count the multiply-adds of what it computes.

    One FLOP is one multiply-add, as in MMDetection's `get_flops` and in papers on detection; PyTorch's own counter,
    which does the work, takes it for two. Counted are convolutions, deformable ones too, linear layers, matrix products
    and attention, as they ran: heads on proposals count those of this image. Not counted are activations, RoIAlign, the
    sampling of deformable attention, and what MMDetection adds, a few operations a pixel: normalisation, interpolation.

    Args:
        function: What to call.
        *args: Of it.

    Returns:
        int: Multiply-adds.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operator for all of a layer, which has no formula
    try:
        with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
            function(*args)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return counter.get_total_flops() // 2


def _deform_conv_flops(x_shape, w_shape, *args, out_shape=None, **kwargs):  # noqa: ARG001 -- the counter's signature
    return conv_flop_count(x_shape, w_shape, out_shape)


def _attention_flops(query_shape, key_shape, value_shape, *args, **kwargs):  # noqa: ARG001
    return sdpa_flop_count(query_shape, key_shape, value_shape)


def _matmul_flops(_, a_shape, b_shape, *args, **kwargs):  # noqa: ARG001
    return 2 * prod(a_shape) * b_shape[-1]


# What PyTorch's counter has no formula for; mmcv's compiled deformable convolutions multiply in place.
_FORMULAS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.torchvision.deform_conv2d: _deform_conv_flops,
    **dict.fromkeys((torch.ops.aten.addmm_, torch.ops.aten.baddbmm_), _matmul_flops)}

# Processes are copies of one that has imported all and computed nothing, so that they start at once and share its
# memory. It asks the driver about GPUs by NVML, since what has called CUDA cannot be copied.
_CONTEXT = multiprocessing.get_context('forkserver')
_CONTEXT.set_forkserver_preload([__name__, 'cellseg_mm.register', 'mmdet.datasets', 'mmdet.evaluation', 'mmdet.models'])
_WITHOUT_CUDA = 'PYTORCH_NVML_BASED_CUDA_CHECK'


class _Worker:
    """The process of one model, as the one that started it sees it."""

    def __init__(self, *args):
        self._pipe, other = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(other, *args), daemon=True)
        with _inherited_by_children():
            self._process.start()
        other.close()  # so that the process's death is the end of the pipe

    def ask(self, message):
        try:
            self._pipe.send(message)
            return self._pipe.recv()
        except (EOFError, OSError):
            return {'problem': 'the process that measured its cost died, perhaps for lack of memory'}

    def end(self):
        self._pipe.close()
        self._process.terminate()
        self._process.join()


@contextmanager
def _inherited_by_children():
    """Leave Ctrl-C to this process, and stdout: what libraries print there as they are imported is no result."""
    handler, stdout = signal.signal(signal.SIGINT, signal.SIG_IGN), os.dup(1)
    before = os.environ.get(_WITHOUT_CUDA)
    os.environ[_WITHOUT_CUDA] = '1'
    try:
        with Path(os.devnull).open('w') as nowhere:
            os.dup2(nowhere.fileno(), 1)
            yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        signal.signal(signal.SIGINT, handler)
        os.environ.pop(_WITHOUT_CUDA)
        os.environ |= {_WITHOUT_CUDA: before} if before else {}


def _serve(pipe, config, checkpoint, image_paths):
    """Answer 'load', then each 'predict' by the seconds that an image took, at last 'count' by the cost."""
    end_with_parent()
    warnings.simplefilter('ignore')
    logging.disable(logging.WARNING)
    try:
        pipe.recv()
        predictor = _Predictor(config, checkpoint)
        predictor.predict(image_paths[0])
        answer = 'loaded'
        while not isinstance(answer, dict):
            pipe.send(answer)
            if pipe.recv() == 'predict':
                answer = predictor.predict_all(image_paths)
            else:
                answer = predictor.cost()
    except UserError as error:
        answer = {'problem': str(error)}
    except Exception as error:  # whatever is wrong with one model, the others are measured
        answer = {'problem': ' '.join(f'{type(error).__name__}: {error}'.split())[:300]}
    pipe.send(answer)


class _Predictor:
    """A model and its test pipeline, on the device that predictions run on here."""

    def __init__(self, config, checkpoint):
        config = config if isinstance(config, Config) else load_config(config)
        import_modules_from_strings(**config.get('custom_imports', dict(imports=[])))
        register_all_modules()
        drop_pretrained(config.model)
        torch.manual_seed(0)
        self._model = MODELS.build(config.model)
        if checkpoint is None:
            self._model.init_weights()
        else:
            weights = read_checkpoint(checkpoint)
            check_weights(self._model, weights, checkpoint)
            self._model.load_state_dict(weights['state_dict'])
        self._has_gpu = torch.cuda.is_available()
        self._model.to('cuda' if self._has_gpu else 'cpu').eval()
        steps = dataset_config(config, 'test').pipeline
        self._load = Compose([step for step in steps if step['type'].startswith('Load')])
        self._transform = Compose([step for step in steps if not step['type'].startswith('Load')])
        self._input_sizes = {}

    def predict(self, path):
        """Predict one image; returns the seconds from the decoded image to local masks."""
        image = self._load({'img_path': path, 'img_id': 0})
        self._synchronize()
        start = time.perf_counter()
        with torch.no_grad():
            sample, = self._model.test_step(pseudo_collate([self._transform(image)]))
        as_local_masks(sample.pred_instances.masks, *sample.ori_shape)
        self._synchronize()
        seconds = time.perf_counter() - start
        self._input_sizes[path] = list(map(int, sample.metainfo.get('batch_input_shape', sample.img_shape)))
        return seconds

    def predict_all(self, paths):
        """Mean of the seconds for an image. GPU memory kept for reuse is then left to the models that come next."""
        if self._has_gpu:
            self.predict(paths[0])  # takes memory anew, which is slow
        seconds = sum(map(self.predict, paths)) / len(paths)
        torch.cuda.empty_cache()
        return seconds

    def cost(self):
        """All of the cost but the time."""
        threads = torch.get_num_threads()
        # Before counting, which takes memory of its own.
        peak = torch.cuda.max_memory_allocated() if self._has_gpu else peak_resident_bytes()
        by_size = sorted(self._input_sizes, key=lambda path: prod(self._input_sizes[path]))
        path = by_size[(len(by_size) - 1) // 2]
        return {'parameters': sum(parameter.numel() for parameter in self._model.parameters()),
                'gflops': count_flops(self.predict, path) / 1e9, 'input_size': self._input_sizes[path],
                'peak_memory_mb': peak / 1e6,
                'device': torch.cuda.get_device_name() if self._has_gpu else
                f'CPU, {threads} thread{"s" if threads > 1 else ""}'}

    def _synchronize(self):
        if self._has_gpu:
            torch.cuda.synchronize()
