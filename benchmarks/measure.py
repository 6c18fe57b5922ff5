"""Times, memory and the machine they were measured on."""
import ctypes
import os
import platform
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from io import StringIO
from multiprocessing import get_context
from pathlib import Path


def register():
    """Register MMDetection's classes and ours, without the lines that MMDetection's import prints."""
    with redirect_stdout(StringIO()):
        from mmdet.utils import register_all_modules

        import cellseg_mm.register  # noqa: F401
        register_all_modules()


def median_seconds(function, repeats=5):
    """Median wall-clock seconds of `repeats` calls, after one that is not counted."""
    function()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def in_a_process(function, *args):
    """What a function of a module's top level returns in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
        return pool.submit(function, *args).result()


def peak_memory(prepare, *args):
    """Bytes that a call takes at its highest, over what its process holds before, in a fresh process.

    This is the high-water mark of resident memory, reset before the call: what the system really gives, whichever
    library asks for it. Only Linux can reset it.

    Args:
        prepare (Callable): Of a module's top level; returns the function to call, having warmed it up.
        *args: Of `prepare`.
    """
    return in_a_process(_peak, prepare, args)


def _peak(prepare, args):
    function = prepare(*args)
    ctypes.CDLL(None).malloc_trim(0)  # else the call could use what the warm-up has freed, unseen
    Path('/proc/self/clear_refs').write_text('5')
    before = _status('VmRSS')
    function()
    return _status('VmHWM') - before


def _status(name):
    lines = Path('/proc/self/status').read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f'{name}:'))


def free_memory():
    """Bytes that new programs can take without swapping."""
    lines = Path('/proc/meminfo').read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith('MemAvailable:'))


def machine():
    """One line: processor, cores, threads, accelerator, versions."""
    import torch
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        model = next(line.split(':')[1].strip() for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else 'no accelerator'
    return (f'{model}, {len(os.sched_getaffinity(0))} cores, {torch.get_num_threads()} threads, {accelerator}, '
            f'Python {platform.python_version()}, torch {torch.__version__}')
