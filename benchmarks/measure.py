"""Times, memory and the machine they were measured on."""
import ctypes
import os
import platform
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from functools import wraps
from inspect import signature
from io import StringIO
from multiprocessing import get_context
from pathlib import Path

from cellseg_mm.errors import is_out_of_memory

RESERVE = 2e9  # bytes that limited calls leave to the machine


def register():
    """Register MMDetection's classes and ours, without the lines that MMDetection's import prints."""
    with redirect_stdout(StringIO()):
        from mmdet.utils import register_all_modules

        import cellseg_mm.register  # noqa: F401
        register_all_modules()


def stock(node):
    """A model's config with MMDetection's class in place of each of ours, and without what only ours knows.

    Args:
        node: The config, or any part of it.
    """
    from mmdet.registry import MODELS, TASK_UTILS
    if isinstance(node, (list, tuple)):
        return type(node)(map(stock, node))
    if not isinstance(node, dict):
        return node
    node = type(node)({key: stock(value) for key, value in node.items()})
    name = node.get('type', '')
    ours = next((found for found in (kind.module_dict.get(name) for kind in (MODELS, TASK_UTILS)) if found), object)
    theirs = next((cls for cls in ours.__mro__ if cls.__module__.startswith('mmdet.')), ours)
    if theirs is ours:  # MMDetection's already, or of a kind that it has none of
        return node
    known = {'type', *(key for cls in theirs.__mro__ for key in signature(cls.__init__).parameters)}
    return type(node)({**{key: value for key, value in node.items() if key in known}, 'type': theirs.__name__})


def median_seconds(function, repeats=5):
    """Median wall-clock seconds of `repeats` calls, after one that is not counted."""
    function()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def time_calls(seconds, name, owner, function):
    """Add up, in `seconds[name]`, what calls of a function of a module or class take from now on."""
    inner = getattr(owner, function)

    @wraps(inner)
    def timed(*args, **kwargs):
        started = time.perf_counter()
        try:
            return inner(*args, **kwargs)
        finally:
            seconds[name] += time.perf_counter() - started

    setattr(owner, function, timed)


def in_a_process(function, *args, start='spawn'):
    """What a function of a module's top level returns in a fresh process, which may `start` as a `fork` of this one."""
    with ProcessPoolExecutor(1, mp_context=get_context(start)) as pool:
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
    return with_peak(prepare(*args))[1]


def with_peak(function):
    """What a call returns, and the bytes that it takes at its highest, in this process; as `peak_memory`."""
    ctypes.CDLL(None).malloc_trim(0)  # else the call could use what the warm-up has freed, unseen
    Path('/proc/self/clear_refs').write_text('5')
    before = _status('VmRSS')
    result = function()
    return result, _status('VmHWM') - before


def within(room, function, *args):
    """What a call returns; None where it asks for more than `room` bytes over what this process holds."""
    # The limit is one of addresses; those that are reserved already and never used do not count.
    limit = int(_status('VmSize') - _status('VmRSS') + room)
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        return function(*args)
    except Exception as error:
        if is_out_of_memory(error):
            return None
        raise
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


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
