"""Worker processes that do not outlive the one that started them."""
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from cellseg_mm.errors import UserError
from cellseg_mm.progress import track


def end_with_parent():
    """End this process as soon as its parent has ended, however that ended. Call it in a worker process.

    A worker whose parent was killed can otherwise wait for ever to hand over what it has made.
    """

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def in_processes(function, items, workers, description):
    """Yield the results of a function for each item, in their order, showing progress.

    Args:
        function: What to call with one item; importable by name, as worker processes need it.
        items (Sequence): What to go through.
        workers (int | None): Processes; None for one a core. One works in this process.
        description (str): What is being done, such as 'reading images'.

    Raises:
        UserError: If a worker died.
    """
    workers = min(workers or os.cpu_count(), len(items))
    if workers < 2:
        yield from track(map(function, items), description, len(items))
        return
    with pool(workers) as executor:
        # Which items take long is not known beforehand, so they are handed out one by one.
        yield from track(executor.map(function, items), description, len(items))


@contextmanager
def pool(workers):
    """Processes that end with this one, however it ends."""
    others = multiprocessing.active_children()
    # A spawned process, unlike a forked one, inherits no lock that a thread of this one holds.
    executor = ProcessPoolExecutor(workers, multiprocessing.get_context('spawn'), end_with_parent)
    # It does inherit that interrupts are ignored, which leaves Ctrl-C to this process alone.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for _ in range(workers):
            executor.submit(os.getpid)
    finally:
        signal.signal(signal.SIGINT, handler)
    try:
        yield executor
    except BrokenProcessPool:
        raise UserError('a worker process died, perhaps for lack of memory: try again with --workers 1') from None
    except BaseException:
        # An interrupt does not wait for the images at hand.
        for process in set(multiprocessing.active_children()) - set(others):
            process.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)
