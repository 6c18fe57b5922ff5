import sys

import numba
import numpy as np
import pytest

SOURCE = """
from cellseg_mm.structures.compiled import compiled

def count_set(pixels):
    count = 0
    for pixel in pixels:
        count += pixel != 0
    return count

compiled_count = compiled(count_set)
"""


def test_where_no_folder_can_be_written_functions_are_compiled_all_the_same(tmp_path, monkeypatch):
    # A file where the folder should be stops root, too.
    blocked = tmp_path / '__pycache__'
    blocked.write_text('')
    monkeypatch.setattr(numba.config, 'CACHE_DIR', '')
    monkeypatch.setenv('XDG_CACHE_HOME', str(blocked))
    (tmp_path / 'count_set_module.py').write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    import count_set_module as module
    monkeypatch.delitem(sys.modules, 'count_set_module')
    with pytest.raises(RuntimeError, match='cannot cache'):
        numba.njit(cache=True)(module.count_set)
    assert module.compiled_count(np.uint8([0, 1, 2])) == 2
    assert module.compiled_count.signatures
