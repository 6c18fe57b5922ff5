import errno
import os
import signal
import subprocess
import sys

import pytest

from cellseg_mm import cli
from cellseg_mm.errors import CellDataError, UserError


class OutOfMemoryError(RuntimeError):
    """Named as PyTorch's."""


def raising(error):
    def main():
        raise error
    return main


def run(main, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.run(main)
    return caught.value.code, capsys.readouterr().err


@pytest.mark.parametrize(('error', 'line'), [
    (UserError('set x'), 'error: set x\n'),
    (UserError('two\n  lines'), 'error: two lines\n'),
    (CellDataError('a.tif', 'it is empty', 'write it again'), 'error: a.tif: it is empty; write it again\n'),
    (OSError(errno.ENOSPC, 'No space', 'out.pth'),
     'error: out.pth: the disk is full: free some space, or name another folder\n'),
    (PermissionError(errno.EACCES, 'denied', 'out'),
     'error: out: permission denied: name a folder that you may write to\n'),
    (RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed. '), (
        'error: memory ran out, and the system ended a data loading process: try a smaller batch and fewer processes, '
        '--cfg-options train_dataloader.batch_size=1 train_dataloader.num_workers=1\n')),
    (OutOfMemoryError('CUDA'), (
        'error: the GPU has too little memory: try --amp, or a smaller batch by --cfg-options '
        'train_dataloader.batch_size=1\n')),
    *[(error, ('error: memory ran out: try smaller images or crops, or a smaller batch by --cfg-options '
               'train_dataloader.batch_size=1\n'))
      for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"))],
])
def test_what_the_user_can_mend_is_one_line_and_exit_status_2(error, line, capsys):
    assert run(raising(error), capsys) == (2, line)


def fails_to_read():
    raise CellDataError('a.tif', 'it is empty', 'write it again')


def reaches_for_canvases():
    from cellseg_mm.structures.local_masks import LocalMasks
    return LocalMasks.empty(1, 1).masks


@pytest.mark.parametrize(('read', 'line'), [
    (fails_to_read, 'error: a.tif: it is empty; write it again\n'),
    (reaches_for_canvases, "error: LocalMasks have no array 'masks'"),
])
def test_what_a_data_loading_process_meets_is_one_line(read, line, capsys):
    from torch.utils.data import DataLoader

    class Broken:
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return read()

    status, message = run(lambda: list(DataLoader(Broken(), num_workers=1)), capsys)
    assert status == 2
    assert message.startswith(line)
    assert message.count('\n') == 1


@pytest.mark.parametrize('error', [ValueError('a bug'), RuntimeError('a bug'), OSError('a bug')])
def test_our_own_bugs_keep_their_traceback(error):
    with pytest.raises(type(error), match='a bug'):
        cli.run(raising(error))


def test_the_exit_status_is_what_main_returns(capsys):
    assert run(lambda: 1, capsys) == (1, '')
    assert run(lambda: None, capsys) == (None, '')
    assert run(raising(KeyboardInterrupt()), capsys)[0] == 130


def test_what_all_ranks_meet_is_told_once(capsys, monkeypatch):
    from torch.distributed import TCPStore
    store = TCPStore('localhost', 0, is_master=True, wait_for_workers=False)
    for key, value in dict(TORCHELASTIC_USE_AGENT_STORE='True', MASTER_ADDR='localhost', MASTER_PORT=str(store.port),
                           TORCHELASTIC_RESTART_COUNT='0').items():
        monkeypatch.setenv(key, value)
    waits = []
    monkeypatch.setattr(cli.time, 'sleep', waits.append)
    lost = RuntimeError('[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:1')
    told = [run(raising(error), capsys) for error in (UserError('set x'), UserError('set x'), UserError('set y'), lost)]
    assert told == [(2, 'error: set x\n'), (2, ''), (2, 'error: set y\n'), (2, '')]
    assert len(waits) == 3
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
    assert run(raising(lost), capsys) == (2, 'error: another process of this run has ended: see what it said\n')


def test_a_terminated_command_removes_its_half_written_file(tmp_path):
    code = ('import time\nfrom cellseg_mm import cli\nfrom cellseg_mm.io.files import atomic_path\n'
            'def main():\n'
            f'    with atomic_path({str(tmp_path / "a.txt")!r}) as path:\n'
            '        path.write_text("half")\n        print("writing", flush=True)\n        time.sleep(60)\n'
            'cli.run(main)')
    process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, env={
        **os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)})
    assert process.stdout.readline() == b'writing\n'
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())


def test_a_reader_that_leaves_is_no_error():
    code = ('from cellseg_mm import cli\n'
            'cli.run(lambda: [print(number, flush=True) for number in range(100_000)] and None)')
    process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={
        **os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)})
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b''
    assert process.wait(timeout=30) == 1
