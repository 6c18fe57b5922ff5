"""Lets MMDetection run on an mmcv that was installed without its compiled ops."""
import importlib.util
import sys
from pathlib import Path


class _Finder:
    """Finds the module `mmcv._ext`, and no other, in `mmcv_ext.py` beside this file."""

    @staticmethod
    def find_spec(name, path=None, target=None):  # noqa: ARG004 (the import system's signature)
        if name == 'mmcv._ext':
            return importlib.util.spec_from_file_location(name, Path(__file__).with_name('mmcv_ext.py'))
        return None


def install():
    """Make `import mmcv._ext` fall back on our own ops.

    The finder goes last: a compiled `_ext` in mmcv's own folder is found before it is asked.
    """
    if _Finder not in sys.meta_path:
        sys.meta_path.append(_Finder)
