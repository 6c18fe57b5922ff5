"""The example of docs/adding-a-model.md works as it stands there."""
import re
import shutil

from conftest import REPOSITORY
from model_runs import batch, build, predict, tiny_scene


def test_the_example_trains_and_predicts(tmp_path, monkeypatch):
    page = (REPOSITORY / 'docs/adding-a-model.md').read_text()
    name, = re.findall(r'The whole of `configs/(\w+)\.py`', page)
    example, = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
    shutil.copytree(REPOSITORY / 'configs', tmp_path / 'configs')
    (tmp_path / f'configs/{name}.py').write_text(example)
    monkeypatch.setattr('model_runs.REPOSITORY', tmp_path)
    _, model, optim_wrapper = build(name, max_dets=20)
    assert type(model.neck).__name__ == 'PAFPN'
    assert float(model.train_step(batch(tiny_scene(3)), optim_wrapper)['loss'].detach()) > 0
    assert len(predict(model, batch(tiny_scene(3)))) == 1
