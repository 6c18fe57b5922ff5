"""Writing files so that an interrupted command leaves no half file."""
import json
import os
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path):
    """Yield a path beside `path` to write to; it takes its name only when the block ends without an error.

    The temporary name keeps the suffix, since libraries choose the format by it. Missing parent folders are made.

    Args:
        path (str | Path): The file to write.

    Yields:
        Path: Where to write.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'.{path.stem}.{os.getpid()}.partial{path.suffix}')
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path, text):
    """Write `text` to `path` in UTF-8, whole or not at all."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding='utf-8')


def write_json(path, data, indent=None):
    """Write `data` to `path` as JSON, whole or not at all."""
    write_text(path, json.dumps(data, indent=indent))
