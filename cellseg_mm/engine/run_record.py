"""What a training took, and what it ran with."""
import os
import platform
import re
import resource
import shlex
import sys
import time
from datetime import datetime
from pathlib import Path

import mmcv
import mmdet
import mmengine
import numpy as np
import torch
import torchvision
from mmengine.dist import all_gather_object, get_world_size, is_main_process
from mmengine.hooks import Hook

import cellseg_mm
from cellseg_mm.io.files import write_json
from cellseg_mm.io.work_dir import RECORD_NAME

_UNIT = 1 if sys.platform == 'darwin' else 1024  # bytes, of getrusage


class RunRecordHook(Hook):
    """Write `run.json` to the work dir after each epoch.

    `seconds` counts training with its validation, over all resumed runs; what a killed run did after its last whole
    epoch is left out. `peak_memory_mb` (10^6 bytes) has as `cpu` the largest resident memory of the training process,
    summed over those of a distributed run, without the data loading processes, which share most of it; and as `gpu`
    what PyTorch held at most on one. `epoch_images` counts images as often as an epoch has them. The home directory is
    written as `~`.

    Args:
        data (dict): What `data_record` returned.
    """

    def __init__(self, data):
        self._data = data
        self._gpu_bytes = 0

    def before_train(self, runner):
        # Kept in checkpoints, so that a resumed run goes on from what led to its weights.
        self._earlier = runner.message_hub.runtime_info.get('run', {
            'started': datetime.now().astimezone().isoformat(timespec='seconds'), 'seconds': 0.0,
            'peak_memory_mb': {'cpu': 0.0, 'gpu': None}})
        self._start = time.monotonic()

    def before_train_epoch(self, runner):
        if runner.epoch:
            self._write(runner)

    def _after_iter(self, *args, **kwargs):  # noqa: ARG002 -- MMEngine's signature
        # The log processor resets the peak.
        if torch.cuda.is_available():
            self._gpu_bytes = max(self._gpu_bytes, torch.cuda.max_memory_allocated())

    def after_train_epoch(self, runner):
        self._after_iter()
        peaks = all_gather_object((peak_resident_bytes(), self._gpu_bytes))
        earlier = self._earlier['peak_memory_mb']
        cpu = max(earlier['cpu'], sum(cpu for cpu, _ in peaks) / 1e6)
        gpu = max(earlier['gpu'] or 0, *(gpu / 1e6 for _, gpu in peaks)) if torch.cuda.is_available() else None
        seconds = self._earlier['seconds'] + time.monotonic() - self._start
        runner.message_hub.update_info('run', {
            'started': self._earlier['started'], 'seconds': seconds, 'peak_memory_mb': {'cpu': cpu, 'gpu': gpu}})

    def after_val_epoch(self, runner, metrics=None):  # noqa: ARG002
        self.after_train_epoch(runner)

    def after_train(self, runner):
        self._write(runner)

    def _write(self, runner):
        if not is_main_process():
            return
        write_json(Path(runner.work_dir, RECORD_NAME), {
            'command': _without_home(shlex.join(['python', *sys.argv])),
            **runner.message_hub.runtime_info.get('run', self._earlier),
            'epochs': runner.epoch,
            'epoch_images': len(runner.train_dataloader.dataset),
            'seed': runner.seed,
            'parameters': sum(parameter.numel() for parameter in runner.model.parameters()),
            'hardware': hardware(),
            'processes': get_world_size(),
            'versions': versions(),
            'data': self._data}, indent=2)


def data_record(config, annotations):
    """Count what the annotations of a training hold.

    Args:
        config (Config): A config from `load_config`.
        annotations (dict[str, dict]): Of `train` and `val`, as `check_data` returns them.

    Returns:
        dict: `root`, `train_images`, `train_cells`, `val_images`, `val_cells`, and as `grouping` how the images were
        split, in words, empty where the files do not say.
    """
    record = {'root': _without_home(config.data_root)}
    for split in ('train', 'val'):
        record |= {f'{split}_images': len(annotations[split]['images']),
                   f'{split}_cells': len(annotations[split]['annotations'])}
    info = annotations['val'].get('info')
    return record | {'grouping': str(info.get('grouping', '')) if isinstance(info, dict) else ''}


def hardware():
    """Describe this machine: `processor`, `cores` that this process may use, `memory_gb` (10^9 bytes) and `gpus`."""
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {'processor': _processor(), 'cores': cores, 'memory_gb': round(memory, 1), 'gpus': gpus}


def versions():
    """Return the version of each package that results depend on, and of Python."""
    packages = cellseg_mm, torch, torchvision, mmdet, mmcv, mmengine, np
    return {'python': platform.python_version()} | {package.__name__: package.__version__ for package in packages}


def peak_resident_bytes():
    """The largest resident memory that this process has had."""
    # getrusage also counts what the process was before it became this program, a copy of the one that started it.
    status = Path('/proc/self/status')
    peak = status.is_file() and re.search(r'^VmHWM:\s*(\d+) kB', status.read_text(encoding='utf-8'), re.MULTILINE)
    return 1024 * int(peak[1]) if peak else _UNIT * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _processor():
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8', errors='replace').splitlines()
    except OSError:
        lines = []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()


def _without_home(text):
    return re.sub(rf'(?<![\w./-]){re.escape(str(Path.home()))}(?![\w.-])', '~', text)
