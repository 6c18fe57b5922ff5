import errno
import os
import resource
import signal
import subprocess
import sys

import pytest

from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.io.files import alone_in, atomic_path, delete_partials, read_json, write_json, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    target = tmp_path / 'new' / 'folder' / 'data.json'
    with atomic_path(target) as partial:
        assert partial.suffix == '.json'
        assert partial.parent == target.parent
        partial.write_text('whole')
        assert not target.exists()
    assert target.read_text() == 'whole'
    assert names(target.parent) == ['data.json']


def test_an_error_while_writing_keeps_the_old_file_and_leaves_nothing(tmp_path):
    target = tmp_path / 'data.json'
    target.write_text('old')

    def fail():
        with atomic_path(target) as partial:
            partial.write_text('half')
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert target.read_text() == 'old'
    assert names(tmp_path) == ['data.json']


def test_an_error_before_anything_is_written_is_the_error_that_is_seen(tmp_path):
    def fail():
        with atomic_path(tmp_path / 'data.json'):
            raise ValueError('nothing written')

    with pytest.raises(ValueError, match='nothing written'):
        fail()
    assert names(tmp_path) == []


def run(code, *arguments, **kwargs):
    return subprocess.Popen([sys.executable, '-c', code, *map(str, arguments)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, **kwargs)


def test_a_process_killed_while_writing_keeps_the_old_file(tmp_path):
    target = tmp_path / 'data.json'
    target.write_text('old')
    process = run("""
import sys, time
from cellseg_mm.io.files import atomic_path
with atomic_path(sys.argv[1]) as partial, partial.open('w') as file:
    file.write('half')
    file.flush()
    print('written', flush=True)
    time.sleep(60)
""", target)
    assert process.stdout.readline() == 'written\n'
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert target.read_text() == 'old'
    assert process.returncode == -signal.SIGKILL
    # What is left has a hidden name that nobody takes for data, and a later run is not in its way.
    assert all(name.startswith('.') and '.partial' in name for name in names(tmp_path) if name != 'data.json')
    write_text(target, 'new')
    assert target.read_text() == 'new'


def test_a_full_disk_keeps_the_old_file_and_leaves_nothing(tmp_path):
    target = tmp_path / 'data.json'
    target.write_text('old')
    process = run("""
import sys
from cellseg_mm.io.files import write_json
write_json(sys.argv[1], list(range(100000)))
""", target, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)))
    _, errors = process.communicate()
    assert process.returncode == 1
    assert 'File too large' in errors
    assert target.read_text() == 'old'
    assert names(tmp_path) == ['data.json']


def test_two_processes_write_one_file_without_mixing(tmp_path):
    target = tmp_path / 'data.json'
    code = """
import sys
from cellseg_mm.io.files import write_text
for _ in range(100):
    write_text(sys.argv[1], sys.argv[2] * 100_000)
"""
    processes = [run(code, target, letter) for letter in 'ab']
    while any(process.poll() is None for process in processes):
        assert not target.exists() or target.read_text() in ('a' * 100_000, 'b' * 100_000)
    assert [process.communicate()[1] for process in processes] == ['', '']
    assert names(tmp_path) == ['data.json']


def test_json_that_cannot_be_written_keeps_the_old_file(tmp_path):
    target = tmp_path / 'data.json'
    write_json(target, {'cells': 2})
    with pytest.raises(TypeError):
        write_json(target, {'cells': object()})
    assert target.read_text() == '{"cells": 2}'


def test_json_is_read_as_it_was_written_and_with_a_byte_order_mark_too(tmp_path):
    target = tmp_path / 'data.json'
    write_json(target, {'größe': [1, 2.5, None]})
    assert read_json(target, '') == {'größe': [1, 2.5, None]}
    target.write_bytes(b'\xef\xbb\xbf[1]')
    assert read_json(target, '') == [1]


@pytest.mark.parametrize(('content', 'problem'), [
    (None, 'there is no such file'), (b'', 'not JSON'), (b'[{', 'not JSON'), (b'\xff\xfe\x00', 'not JSON'),
    (b'[' * 100_000, 'not JSON')])
def test_json_that_cannot_be_read_is_named_with_its_remedy(tmp_path, content, problem):
    target = tmp_path / 'data.json'
    if content is not None:
        target.write_bytes(content)
    with pytest.raises(CellDataError, match=f'data.json: .*{problem}; write it again$'):
        read_json(target, 'write it again')


def test_a_folder_is_no_json_file(tmp_path):
    with pytest.raises(CellDataError, match='it cannot be read'):
        read_json(tmp_path, 'name a file')


def test_what_killed_processes_left_is_deleted_and_what_others_write_is_not(tmp_path):
    killed = subprocess.Popen([sys.executable, '-c', ''])
    killed.wait()
    for name in (f'.a.{killed.pid}.partial.csv', f'.b.{os.getpid()}.partial.csv', f'.c.{killed.pid}.partial', 'd.csv',
                 '.notes.partial.txt'):
        (tmp_path / name).touch()
    delete_partials(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f'.b.{os.getpid()}.partial.csv', 'd.csv',
                                                          '.notes.partial.txt'}


def is_taken(folder):
    try:
        with alone_in(folder, 'a comparison'):
            return False
    except UserError as error:
        return f'{folder}: a comparison is at work in it, or a process that it started' in str(error)


def test_a_command_that_outlives_the_process_that_started_it_keeps_others_out(tmp_path):
    with alone_in(tmp_path, 'a comparison') as lock:
        training = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE, pass_fds=(lock, ))
        assert is_taken(tmp_path)
    assert is_taken(tmp_path)
    training.communicate(b'\n')
    assert not is_taken(tmp_path)


def test_a_folder_without_locks_is_worked_in_with_a_warning(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, 'No locks available')

    said = []
    monkeypatch.setattr('fcntl.flock', no_locks)
    monkeypatch.setattr('mmengine.logging.print_log', lambda message, *_: said.append(message))
    with alone_in(tmp_path, 'a comparison') as lock:
        os.fstat(lock)
    assert said == [f'{tmp_path}: it cannot be locked (No locks available); see to it that a comparison is alone in it']
