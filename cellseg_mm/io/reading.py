"""Whatever goes wrong while an image file is read, as one line that says what to do."""
from contextlib import contextmanager

from cellseg_mm.errors import CellDataError

AGAIN = 'copy or export it again'


@contextmanager
def reading(path):
    """Turn whatever goes wrong while `path` is read into a CellDataError that says what to do."""
    try:
        yield
    except CellDataError:
        raise
    except FileNotFoundError as error:
        raise CellDataError(path, 'does not exist', 'check the name and the folder') from error
    except IsADirectoryError as error:
        raise CellDataError(path, 'is a folder', 'name an image file') from error
    except PermissionError as error:
        raise CellDataError(path, 'may not be read', 'change its permissions') from error
    except MemoryError as error:
        raise CellDataError(path, 'does not fit into memory', 'cut it into tiles') from error
    except Exception as error:
        # Decoders raise anything at all on broken bytes; the reason helps, whatever its type.
        reason = ' '.join(f'{type(error).__name__}: {error}'.split())[:200]
        raise CellDataError(path, f'is damaged or of an unsupported form ({reason})', AGAIN) from error


def check_size(path, height, width, bytes_needed, most):
    """Raise a CellDataError if an image that cannot be read by parts needs more than `most` bytes."""
    if bytes_needed > most:
        raise CellDataError(path, f'is {width} x {height} pixels in a form that cannot be read by parts',
                            'save it as a TIFF file in tiles, for instance with: vips tiffsave IN OUT.tif --tile '
                            '--compression deflate --bigtiff')
