"""Data, configs and command lines that many tests share."""
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from browser import launched
from hypothesis import settings

import cellseg_mm  # noqa: F401 -- before any MMDetection, which keeps in mind whether mmcv has its ops

# A first call may compile, and other processes may hold the processor: time says nothing here.
settings.register_profile('untimed', deadline=None)
settings.load_profile('untimed')

# The suite runs on several processes: one thread each, set before torch is imported.
os.environ.setdefault('OMP_NUM_THREADS', '1')

REPOSITORY = Path(__file__).parents[1]
TINY_CONFIG = REPOSITORY / 'tests/configs/tiny.py'


@pytest.fixture(scope='session')
def tiny_data(tmp_path_factory):
    """A prepared data set of 8 training and 3 test images; read it only."""
    return prepared_data(tmp_path_factory, test=3, folds=0)


@pytest.fixture(scope='session')
def folded_data(tmp_path_factory):
    """A prepared data set of 8 training images and 1 test image, in 2 folds; read it only."""
    return prepared_data(tmp_path_factory, test=1, folds=2)


def prepared_data(tmp_path_factory, test, folds):
    from cellseg_mm.datasets.prepare import prepare
    from cellseg_mm.datasets.synthetic import write_demo_data
    root = tmp_path_factory.mktemp('data')
    write_demo_data(root, train=8, test=test)
    prepare(root, val_fraction=0.3, folds=folds, workers=1)
    return root


@pytest.fixture
def tiny_config(tiny_data):
    """A config that trains on `tiny_data` in seconds."""
    from cellseg_mm.engine.config import load_config
    return load_config(TINY_CONFIG, {'data_root': str(tiny_data)})


@pytest.fixture(scope='module')
def chromium():
    """A browser for the pages of a module."""
    with launched() as browser:
        yield browser


@pytest.fixture
def call_tool(monkeypatch, capsys):
    """Call a command line in this process, short work alone: exit status, stdout, stderr."""

    def call(name, *arguments):
        monkeypatch.setattr(sys, 'argv', [f'{name}.py', *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(REPOSITORY / f'tools/{name}.py'), run_name='__main__')
        output = capsys.readouterr()
        return caught.value.code or 0, output.out, output.err

    return call


def run_tool(name, *arguments, launch=(sys.executable, ), **options):
    """Run a command line in a process of its own."""
    environment = {**os.environ, 'PYTHONPATH': str(REPOSITORY)}
    return subprocess.run([*launch, REPOSITORY / f'tools/{name}.py', *map(str, arguments)], env=environment, text=True,
                          capture_output=True, check=False, **{'timeout': 280, **options})


def kill_tool_when(path, name, *arguments):
    """Run a command line, and kill it with all that it has started once a file is there."""
    process = subprocess.Popen([sys.executable, REPOSITORY / f'tools/{name}.py', *map(str, arguments)],
                               env={**os.environ, 'PYTHONPATH': str(REPOSITORY)}, start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
