"""Progress of long work: a bar on a terminal, a plain line every few seconds elsewhere."""
import sys
import time

SECONDS_BETWEEN_LINES = 10.0


def track(iterable, description, total):
    """Yield from `iterable`, showing on stderr how far it is.

    Args:
        iterable: What to go through.
        description (str): What is being done, such as 'reading images'.
        total (int): How many items there are.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track as rich_track
        yield from rich_track(iterable, description, total, console=Console(stderr=True))
        return
    last = time.monotonic()
    for number, item in enumerate(iterable, 1):
        yield item
        now = time.monotonic()
        if number == total or now - last >= SECONDS_BETWEEN_LINES:
            print(f'{description}: {number} of {total}', file=sys.stderr, flush=True)
            last = now
