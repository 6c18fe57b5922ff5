"""What processes agree on."""
import subprocess
import sys

from cellseg_mm.engine.distributed import broadcast, gather, on_all


def test_one_process_has_what_it_has():
    assert gather('a', 1) == ['a']
    assert broadcast('a', 1) == 'a'
    assert on_all(lambda: 3, 1) == 3


def test_an_error_of_any_process_is_told_by_the_first_and_ends_all(tmp_path):
    (tmp_path / 'work.py').write_text("""
from cellseg_mm import cli
from cellseg_mm.engine.distributed import on_all, open_process_group
from cellseg_mm.errors import UserError

rank, world = open_process_group('pytorch')


def work():
    if rank == 1:
        raise UserError('rank 1 has no such file: name another')


def main():
    on_all(lambda: print(f'rank {rank} of {world}', flush=True), world)
    on_all(work, world)
    print('went on')


cli.run(main)
""")
    run = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2',
                          tmp_path / 'work.py'], capture_output=True, text=True, check=False, timeout=280)
    assert run.returncode != 0
    assert sorted(run.stdout.split('\n')) == ['', 'rank 0 of 2', 'rank 1 of 2']
    assert run.stderr.count('error: rank 1 has no such file: name another\n') == 1
    assert 'work.py", line' not in run.stderr
