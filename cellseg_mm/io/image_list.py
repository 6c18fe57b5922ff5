"""Which images a command line means."""
import hashlib
from glob import glob
from pathlib import Path

from cellseg_mm.errors import UserError

# Slides of many files, DICOM's and Hamamatsu's VMS, are named one by one.
SUFFIXES = ('.tif', '.tiff', '.btf', '.png', '.jpg', '.jpeg', '.bmp', '.zarr', '.svs', '.ndpi', '.scn', '.bif', '.mrxs')


def list_images(paths, written=()):
    """List the images that files, folders and patterns name.

    A file is taken whatever its name; a folder whose name ends in .zarr, or that holds Zarr metadata, is one image. Of
    other folders, what lies directly in them, and of patterns, what matches, is taken if its name has one of `SUFFIXES`
    and is not hidden. Other label maps than those in `written` are not told from images: keep them in folders of their
    own.

    Args:
        paths (Sequence[str | Path]): Files, folders and patterns with * ? [] or **.
        written (Collection[str]): Ends of names that are left out of folders and patterns, as no images but made of
            them, such as '_overlay.png'.

    Returns:
        list[Path]: Each file once, by whatever names and links it is reached, sorted.

    Raises:
        UserError: If one of them does not exist, or has no image.
    """
    found = {image for path in paths for image in _images(Path(path), tuple(written))}
    # Of several names, the first stays.
    return sorted({image.resolve(): image for image in sorted(found, reverse=True)}.values())


def is_zarr(path):
    """Whether a folder is a Zarr group or array."""
    return any((Path(path) / name).is_file() for name in ('zarr.json', '.zgroup', '.zarray'))


def fingerprint(path):
    """What tells an image from others, and from what it was before: its path, and the sizes and times of its files.

    Args:
        path (str | Path): An image, of one file or of several: a folder of Zarr, a MIRAX slide and the folder beside
            it, a DICOM or Hamamatsu slide and what lies beside it.

    Returns:
        list[str]: Path, and digest of the rest.

    Raises:
        OSError: If it cannot be looked at.
    """
    path = Path(path).resolve()
    files = [path]
    if path.is_dir():
        files += path.rglob('*')
    elif path.suffix.lower() == '.mrxs':
        files += path.with_suffix('').rglob('*')
    elif path.suffix.lower() in ('.dcm', '.vms', '.vmu'):
        files += path.parent.iterdir()
    digest = hashlib.sha256()
    for file in sorted(file for file in files if file == path or file.is_file()):
        stat = file.stat()
        digest.update(repr((str(file), stat.st_size, stat.st_mtime_ns)).encode('utf-8', 'surrogateescape'))
    return [str(path), digest.hexdigest()]


def _images(path, written):
    try:
        return _images_of(path, written)
    except PermissionError as error:
        raise UserError(f'{error.filename or path} may not be read: change its permissions') from error


def _images_of(path, written):
    if path.is_dir() and path.suffix.lower() != '.zarr' and not is_zarr(path):
        found = _known(path.iterdir(), written)
        problem = f'has no image in it; the names of images end in {", ".join(SUFFIXES)}'
    elif path.is_file() or path.is_dir():
        return [path]
    elif path.exists():
        raise UserError(f'{path} is neither a file nor a folder: save it as one')
    elif any(character in str(path) for character in '*?['):
        # Unlike Path.glob, it takes absolute patterns, and passes over hidden folders.
        found = _known(map(Path, glob(str(path), recursive=True)), written)  # noqa: PTH207
        problem = f'matches no image; the names of images end in {", ".join(SUFFIXES)}'
    else:
        found, problem = [], 'does not exist; check the name and the folder'
    if not found:
        raise UserError(f'{path} {problem}')
    return found


def _known(paths, written):
    return [path for path in paths if path.suffix.lower() in SUFFIXES and not path.name.startswith('.')
            and not path.name.endswith(written) and (path.suffix.lower() == '.zarr' or path.is_file() or (
                path.is_symlink() and not path.exists()))]  # a broken link is told when it is opened
