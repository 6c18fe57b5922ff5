"""Worker processes that do not outlive the one that started them."""
import multiprocessing
import os
import threading


def end_with_parent():
    """End this process as soon as its parent has ended, however that ended. Call it in a worker process.

    A worker whose parent was killed can otherwise wait for ever to hand over what it has made.
    """

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
