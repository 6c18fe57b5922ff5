"""Writing files so that an interrupted command leaves no half file, and reading JSON of whatever origin."""
import fcntl
import json
import logging
import os
import re
from contextlib import contextmanager, suppress
from pathlib import Path

from cellseg_mm.errors import CellDataError, UserError


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


@contextmanager
def alone_in(folder, work):
    """Hold a lock on a folder, which keeps out others that ask for it, and yield its descriptor.

    A process that inherits the descriptor holds the lock too, for as long as it runs.

    Args:
        folder (str | Path): It exists.
        work (str): What is done in it, such as 'a comparison'.

    Raises:
        UserError: If another process holds it.
    """
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f'{folder}: {work} is at work in it, or a process that it started; wait for its end, end '
                            'it, or name another folder') from None
        except OSError as error:  # some network file systems have no locks
            from mmengine.logging import print_log  # which the reading of images has no need of
            print_log(f'{folder}: it cannot be locked ({error.strerror}); see to it that {work} is alone in it',
                      'current', logging.WARNING)
        yield lock
    finally:
        os.close(lock)


def delete_partials(folder):
    """Delete what killed processes of this machine left half written in a folder."""
    for partial in Path(folder).glob('.*.partial*'):
        found = re.search(r'\.(\d+)\.partial', partial.name)
        if found and not _runs(int(found[1])):
            partial.unlink(missing_ok=True)


def _runs(pid):
    with suppress(PermissionError, OverflowError):  # another user's, or no number of a process
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True


def write_text(path, text):
    """Write `text` to `path` in UTF-8, whole or not at all."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding='utf-8')


def write_json(path, data, indent=None):
    """Write `data` to `path` as JSON, whole or not at all."""
    write_text(path, json.dumps(data, indent=indent))


def read_json(path, remedy):
    """Read a JSON file.

    Args:
        path (str | Path): The file, in UTF-8.
        remedy (str): What the user can do where that fails.

    Returns:
        What it holds, unchecked.

    Raises:
        CellDataError: If it cannot be read, or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding='utf-8-sig'))
    except FileNotFoundError as error:
        raise CellDataError(path, 'there is no such file', remedy) from error
    except OSError as error:
        raise CellDataError(path, f'it cannot be read ({error.strerror})', remedy) from error
    except (ValueError, RecursionError) as error:
        raise CellDataError(path, 'this is not JSON', remedy) from error
