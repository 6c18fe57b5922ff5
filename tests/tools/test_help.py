import subprocess
import sys

import pytest
from conftest import REPOSITORY, run_tool

TOOLS = sorted(path.stem for path in (REPOSITORY / 'tools').glob('*.py'))


@pytest.mark.parametrize('tool', TOOLS)
def test_help_is_shown_without_heavy_imports(tool):
    """Importing torch or MMDetection takes seconds; --help must answer at once."""
    run = run_tool(tool, '--help', launch=(sys.executable, '-X', 'importtime'))
    assert run.returncode == 0
    assert run.stdout.startswith('usage: ')
    imported = {line.rsplit('|', 1)[-1].strip() for line in run.stderr.splitlines()}
    assert not imported & {'torch', 'mmengine', 'mmdet', 'matplotlib', 'scipy'}


def test_unknown_arguments_exit_with_2():
    run = subprocess.run([sys.executable, REPOSITORY / 'tools/train.py', '--nonsense'], check=False,
                         capture_output=True, env={'PYTHONPATH': str(REPOSITORY)})
    assert run.returncode == 2
