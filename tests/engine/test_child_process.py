import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from cellseg_mm.engine import child_process
from cellseg_mm.engine.child_process import run_child


@pytest.fixture
def run(tmp_path):
    """Run a Python program as a child."""
    lock = os.open(tmp_path, os.O_RDONLY)
    yield lambda program: run_child([sys.executable, '-c', program], lock)
    os.close(lock)


@pytest.mark.parametrize(('program', 'status', 'reason'), [
    ('', 0, None),
    ('import sys; sys.exit(3)', 3, 'it ended with status 3'),
    ('import sys; print("warning: odd\\nerror: no.pth: it is\\tmissing; name it", file=sys.stderr); sys.exit(2)', 2,
     'no.pth: it is missing; name it'),
    ('raise ValueError("first\\nsecond")', 1, 'ValueError: first'),
    ('try:\n    1 / 0\nexcept ArithmeticError:\n    raise KeyError("x")', 1, "KeyError: 'x'"),
    ('import concurrent.futures as c\nraise c.BrokenExecutor("x")', 1, 'it ended with status 1'),
    ('import sys; print("torch.OutOfMemoryError: CUDA out of memory", file=sys.stderr); sys.exit(1)', 1,
     'torch.OutOfMemoryError: CUDA out of memory'),
    ('import sys; print("RuntimeError: the cause", file=sys.stderr); raise type("ChildFailedError", (Exception, ), {})',
     1, 'RuntimeError: the cause'),
    ('import os; os.kill(os.getpid(), 9)', 128 + 9, 'it was killed, perhaps for lack of memory'),
    ('import os; os.kill(os.getpid(), 11)', 128 + 11, 'it was ended by signal 11'),
    ('raise ValueError("x" * 999)', 1, f'ValueError: {"x" * 288}'),
])
def test_why_a_command_failed_is_a_status_and_one_line(run, program, status, reason):
    assert run(program) == (status, reason)


def test_what_it_writes_is_passed_on_while_it_runs(run, capfd, tmp_path):
    seen = []

    def read():
        time.sleep(0.1)
        while not seen:
            time.sleep(0.1)
            seen.extend(capfd.readouterr().err)
        (tmp_path / 'seen').touch()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert run(f'import os, sys, time; print("é first", file=sys.stderr, flush=True)\n'
               f'while not os.path.exists({str(tmp_path / "seen")!r}): time.sleep(0.05)\n'
               'print("last", file=sys.stderr)') == (0, None)
    reader.join()
    assert ''.join(seen) == 'é first\n'
    assert capfd.readouterr().err == 'last\n'


@pytest.mark.parametrize(('told', 'patience', 'end'), [
    (True, 60, signal.SIGINT), (False, 1, signal.SIGTERM), (False, 0.1, None)])
def test_ctrl_c_waits_for_the_command_and_ends_it_if_it_was_not_told(told, patience, end, run, tmp_path, monkeypatch):
    """In a terminal both processes get the signal; `kill -INT` reaches one of them only. At last it is killed."""
    monkeypatch.setattr(child_process, 'PATIENCE', patience)
    program = f"""
import os, signal, sys, time
from pathlib import Path
def end(number, frame):
    time.sleep(0.4)
    Path({str(tmp_path)!r}, 'end').write_text(str(number))
    sys.exit(130)
signal.signal(signal.SIGINT, end)
signal.signal(signal.SIGTERM, end)
Path({str(tmp_path)!r}, 'pid').write_text(str(os.getpid()))
time.sleep(60)
"""

    def interrupt():
        pid = tmp_path / 'pid'
        while not pid.exists() or not pid.read_text():
            time.sleep(0.02)
        if told:
            os.kill(int(pid.read_text()), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            run(program)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert [path.read_text() for path in tmp_path.glob('end')] == ([str(int(end))] if end else [])
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / 'pid').read_text()), 0)


def test_the_command_holds_what_it_inherits(tmp_path):
    lock = os.open(tmp_path, os.O_RDONLY)
    assert run_child([sys.executable, '-c', f'import os; os.fstat({lock})'], lock) == (0, None)
    os.close(lock)
    assert subprocess.run([sys.executable, '-c', f'import os; os.fstat({lock})'], check=False,
                          stderr=subprocess.DEVNULL).returncode
