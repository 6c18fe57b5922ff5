"""`make demo` as a user sees it: minutes, so outside the fast suite."""
import json
import re
import resource
import time

import pytest
from conftest import REPOSITORY, run_tool


@pytest.mark.slow
def test_the_demo_learns_what_a_threshold_cannot_and_says_so_twice_alike(tmp_path):
    (tmp_path / 'configs').symlink_to(REPOSITORY / 'configs')
    reports = []
    for _ in range(2):
        started = time.monotonic()
        run = run_tool('demo', cwd=tmp_path, timeout=1800)
        assert run.returncode == 0, run.stderr
        assert time.monotonic() - started < 480
        reports.append(run.stdout[run.stdout.index('cells of any class, AP50'):run.stdout.rindex('written:')])
    assert reports[0] == reports[1]
    # The largest process; the data loader's workers share its pages.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < 4e9

    model, watershed = (float(re.search(rf'{name} +([\d.]+)', reports[0])[1])
                        for name in ('this model', 'Otsu threshold and watershed'))
    evaluation = json.loads((tmp_path / 'work_dirs/demo/val-evaluation.json').read_text())
    assert evaluation['metrics']['AP50_dense'] >= 0.60
    assert model - watershed >= 0.15
    truth = json.loads((tmp_path / 'data/demo/annotations/val.json').read_text())
    for category in truth['categories']:
        assert sum(cell['category_id'] == category['id'] for cell in truth['annotations']) >= 20
    written = run.stdout[run.stdout.rindex('written:'):].splitlines()[1:-1]
    assert len(written) == 8
    assert all((tmp_path / line.strip()).exists() for line in written)
