import json
import sys

import pytest
from conftest import TINY_CONFIG

from cellseg_mm.datasets.cell_dataset import read_cells
from cellseg_mm.engine import comparison
from cellseg_mm.engine.comparison import Terms, compare_models
from cellseg_mm.engine.comparison_items import parse_items
from cellseg_mm.engine.config import load_config
from cellseg_mm.engine.run_record import hardware
from cellseg_mm.errors import UserError
from cellseg_mm.evaluation.evaluate import evaluate, evaluate_evidence
from cellseg_mm.evaluation.evidence import compare, gather
from cellseg_mm.evaluation.instances import read_pairs
from cellseg_mm.io.image import write_image
from cellseg_mm.structures.local_masks import LocalMasks

# Predicts most cells, some under another class, and keeps its arguments; fails where `fail` beside the folder names it.
STAND_IN = """
import json, random, re, sys
from pathlib import Path
here, config = Path(__file__).parent, Path(sys.argv[1])
work_dir = Path(sys.argv[sys.argv.index('--work-dir') + 1])
out = work_dir.parent
with open(out / 'calls', 'a') as calls:
    calls.write(json.dumps([Path(__file__).stem, *sys.argv[1:]]) + chr(10))
if 'SpeedHook' in config.read_text():
    Path(re.search(r"'([^']*seconds.json)'", config.read_text())[1]).write_text('0.5')
    sys.exit()
fail = out / 'fail'
if fail.exists() and work_dir.name in fail.read_text().split():
    raise RuntimeError('it cannot be\\nlearnt')
truth = json.loads((here / 'truth.json').read_text())
rng = random.Random(work_dir.name)
results = json.dumps([
    dict(image_id=cell['image_id'], category_id=rng.choice([cell['category_id'], cell['category_id'], 1]),
         score=rng.random(), bbox=cell['bbox'], segmentation=cell['segmentation'])
    for cell in truth['annotations'] if rng.random() < 0.8])
(work_dir / 'val-results.json').write_text(results)
if Path(__file__).stem == 'train':
    (work_dir / 'best_epoch_2.results.json').write_text(results)
    (work_dir / 'run.json').write_text(json.dumps(dict(
        epochs=4, seconds=12.5, peak_memory_mb=dict(cpu=900.0, gpu=None), processes=1, epoch_images=10,
        data=dict(train_images=5), hardware=json.loads((here / 'hardware.json').read_text()))))
    (work_dir / 'epoch_4.pth').write_text('')
    (work_dir / 'best_epoch_2.pth').write_text(work_dir.name)
else:
    Path(sys.argv[2]).with_suffix('.thresholds.json').write_text('{}')
"""


@pytest.fixture(scope='module')
def tools(tmp_path_factory, tiny_data):
    folder = tmp_path_factory.mktemp('tools')
    for name in ('train', 'test'):
        (folder / f'{name}.py').write_text(STAND_IN)
    (folder / 'truth.json').write_text((tiny_data / 'annotations/val.json').read_text())
    (folder / 'hardware.json').write_text(json.dumps(hardware()))
    return folder


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    """The config without bases, which take time to read."""
    path = tmp_path_factory.mktemp('configs') / 'tiny.py'
    load_config(TINY_CONFIG).dump(path)
    return path


@pytest.fixture(scope='module')
def other(tiny):
    return written(tiny.with_name('other.py'), tiny, 'train_dataloader = dict(batch_size=1)')


def written(path, base, *lines):
    path.write_text('\n'.join([f'_base_ = {str(base)!r}', *lines]))
    return path


@pytest.fixture(scope='module')
def run(tools, tiny_data, tiny, other):
    """Compare, with trainings and predictions stood in for."""

    def run(out, *items, ground_truth=None, **terms):
        terms = Terms(**{'iterations': 7, 'cost': False, 'options': (f'data_root={tiny_data}', ), **terms})
        return compare_models([str(item) for item in items or (tiny, other)], out, tools, ground_truth,
                              terms)

    return run


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    """Evaluate briefly and leave out the report, but for `finished`, which is made before."""
    monkeypatch.setattr(comparison, 'evaluate_evidence', lambda *args: evaluate_evidence(*args, replicates=20))
    monkeypatch.setattr(comparison, 'compare', lambda *args: compare(*args, replicates=20))
    monkeypatch.setattr(comparison, 'write_comparison_report', lambda _, __, out, ___: [out / 'comparison.html'])


@pytest.fixture(scope='module')
def finished(run, tmp_path_factory):
    """A folder with a comparison that was not disturbed."""
    out = tmp_path_factory.mktemp('finished') / 'out'
    assert run(out) == 0
    return out


def calls(out):
    path = out / 'calls'
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(out):
    return json.loads((out / 'comparison.json').read_text())


def rows(out):
    return {row['name']: row for row in table(out)['rows']}


@pytest.fixture(scope='module')
def results_file(finished, tmp_path_factory):
    """Predictions of some other program."""
    path = tmp_path_factory.mktemp('results') / 'foreign.json'
    path.write_text((finished / 'tiny/val-results.json').read_text())
    return path


@pytest.fixture(scope='module')
def label_maps(tiny_data, tmp_path_factory):
    """Every true cell, without classes."""
    folder = tmp_path_factory.mktemp('cellpose') / 'masks'
    truth = read_cells(tiny_data / 'annotations/val.json')
    for image in truth['images']:
        masks = LocalMasks.from_rles([cell['segmentation'] for cell in truth['annotations']
                                      if cell['image_id'] == image['id']], image['height'], image['width'])
        name = image['file_name'].removesuffix('/image.tif').rpartition('/')[2]
        write_image(folder / f'{name}_cp_masks.png', masks.to_label_map().astype('uint16'))
    return folder


def test_items_are_told_apart_and_named(tmp_path):
    checkpoint, results, maps, work = (tmp_path / name for name in ('w.pth', 'results.json', 'maps', 'work'))
    checkpoint.touch()
    maps.mkdir()
    work.mkdir()
    for name in ('config.py', 'epoch_3.pth', 'best_epoch_2.pth', 'best_epoch_2.results.json', 'val-results.json'):
        (work / name).touch()
    config, trained, known, foreign, written = parse_items(
        ['a/model.py', f'a/model.py:{checkpoint}', str(work), f'my run={maps}', str(results)])
    assert (config.name, config.kind, str(config.config_path)) == ('model', 'trained', 'a/model.py')
    assert (trained.name, trained.kind, trained.checkpoint) == ('model_2', 'checkpoint', checkpoint)
    assert (known.name, known.kind, known.checkpoint) == ('work', 'work dir', work / 'best_epoch_2.pth')
    assert known.results == work / 'best_epoch_2.results.json'
    known.results.unlink()
    assert parse_items([str(work)])[0].results is None  # what else is there may be of another checkpoint
    assert (foreign.name, foreign.kind, foreign.source) == ('my run', 'label maps', str(maps))
    assert (written.name, written.kind, written.results) == ('results', 'results', results)


@pytest.mark.parametrize(('items', 'message'), [
    (['nothing'], 'nothing: there is no such file or folder; name a config'),
    (['a.py:b.pth'], 'b.pth: there is no such checkpoint'),
    (['../up=a.py'], r'\.\./up=a.py: there is no such config'),
    (['.hidden=a.py'], "'.hidden' cannot name a row"),
    (['comparison=a.py'], "'comparison' cannot name a row"),
    (['one=a.py', 'one=b.py'], 'two rows are named one'),
    (['a.py'], 'a.py: there is no such config'),
    (['results.json'], 'no config among these names the true cells: add --ground-truth JSON'),
])
def test_items_that_are_none_are_refused_before_any_work(run, tmp_path, items, message):
    with pytest.raises(UserError, match=message) as caught:
        run(tmp_path / 'out', *items)
    assert '\n' not in str(caught.value)
    assert not (tmp_path / 'out').exists()


def test_each_config_is_trained_in_its_folder_with_the_budget(finished, capsys):
    for name, size, call in zip(('tiny', 'other'), (2, 1), calls(finished), strict=True):
        folder = finished / name
        assert call == ['train', str(folder / 'config.py'), '--work-dir', str(folder), '--resume']
        config = load_config(folder / 'config.py')
        assert config.train_dataloader.sampler == dict(type='BudgetSampler', iterations=7, per_epoch=2, batch_size=size)
        assert config.train_cfg.max_epochs == 4
        assert config.randomness.seed == 0


def test_the_table_is_that_of_each_evaluation_and_of_pairs_with_the_first(finished, tiny_data):
    found = table(finished)
    first, second = found['rows']
    truth, classes = read_cells(tiny_data / 'annotations/val.json'), found['classes']
    pairs = {row['name']: read_pairs(truth, finished / row['results']) for row in found['rows']}
    for row in found['rows']:
        assert row['results'] == f'{row["name"]}/val-results.json'
        expected = evaluate(pairs[row['name']], classes, 50, replicates=0)
        assert row['evaluation']['metrics'] == {
            name: None if value != value else value for name, value in expected['metrics'].items()}
        assert row['evaluation']['thresholds_from'] == 'these same images'
        assert row['problem'] is row['cost'] is None
        assert row['training'] == {'iterations': 7, 'epochs': {'tiny': 1.4, 'other': 0.7}[row['name']], 'seconds': 12.5,
                                   'peak_memory_mb': {'cpu': 900.0, 'gpu': None}}
    assert first['versus_first'] is None
    ap50 = [row['evaluation']['metrics']['AP50_dense'] for row in found['rows']]
    versus = second['versus_first']['AP50_dense']
    assert (versus['first'], versus['second']) == pytest.approx(ap50)
    evidences = [gather(of_row, classes, 50) for of_row in pairs.values()]
    assert versus['p'] == compare(*evidences, replicates=20)['AP50_dense']['p']
    assert (found['images'], found['cells'], found['max_dets']) == (
        len(truth['images']), len(truth['annotations']), 50)
    assert found['budget'] == {'iterations': 7, 'minutes': None, 'seed': 0}
    assert any('Batch sizes differ' in note and 'tiny 2, other 1' in note for note in found['notes'])
    assert all((finished / f'comparison.{suffix}').stat().st_size for suffix in ('csv', 'md', 'html'))


def test_the_same_call_again_does_nothing_anew_and_says_the_same(run, finished, capsys):
    run(finished)  # with fewer replicates than at first
    before, made = table(finished), calls(finished)
    assert run(finished) == 0
    assert table(finished) == before
    assert calls(finished) == made
    output = capsys.readouterr().out
    assert f'[1 of 2] tiny: done, in {finished}/tiny' in output
    assert f'{before["rows"][0]["evaluation"]["metrics"]["AP50_dense"]:.3f}' in output
    assert output.splitlines()[-1] == f'{finished}/comparison.html'


def test_items_may_be_added_to_a_comparison(run, tiny, other, results_file, tmp_path, capsys):
    assert run(tmp_path, tiny) == 0
    assert run(tmp_path, results_file, tiny, f'third={other}') == 0
    assert [call[3] for call in calls(tmp_path)] == [str(tmp_path / 'tiny'), str(tmp_path / 'third')]
    assert '[3 of 3] third: 7 iterations' in capsys.readouterr().out
    found = rows(tmp_path)
    assert list(found) == ['foreign', 'tiny', 'third']
    assert found['foreign']['kind'] == 'results'
    assert found['foreign']['results'] == str(results_file.resolve())
    assert found['foreign']['training'] is None
    same = found['tiny']['versus_first']['F1']
    assert (same['difference'], same['p']) == (0.0, 1.0)  # the foreign ones are its own


@pytest.mark.parametrize(('change', 'message'), [
    (dict(iterations=8), 'its --iterations were 7; undo that, or start another with --out'),
    (dict(iterations=None, minutes=1.0), 'its --iterations were 7'), (dict(seed=1), 'its --seed was 0'),
    (dict(validations=2), 'its --validations were 5'),
    (dict(amp=True), '--amp was not given'), (dict(processes=2), 'its --nproc-per-node was not given'),
    (dict(data='test'), 'its ground truth was another'), (dict(config='tiny'), 'it was made of another config')])
def test_other_terms_in_the_same_folder_are_refused(run, tiny, finished, tiny_data, tmp_path, change, message):
    ground_truth, items, change = None, (), dict(change)
    if change.pop('data', None):
        ground_truth = tmp_path / 'fewer.json'
        truth = json.loads((tiny_data / 'annotations/val.json').read_text())
        ground_truth.write_text(json.dumps(truth | {'annotations': truth['annotations'][1:]}))
    if change.pop('config', None):
        items = tmp_path / 'tiny.py',
        written(items[0], tiny, 'train_dataloader = dict(batch_size=3)')
    before = table(finished)
    with pytest.raises(UserError, match=message) as caught:
        run(finished, *items, ground_truth=ground_truth, **change)
    assert '\n' not in str(caught.value)
    assert table(finished) == before
    assert len(calls(finished)) == 2


def test_a_training_that_fails_is_a_problem_of_its_row_and_tried_again(run, finished, tmp_path, capfd):
    tmp_path.joinpath('fail').write_text('tiny')
    assert run(tmp_path) == 1
    found = rows(tmp_path)
    assert found['tiny']['problem'] == 'RuntimeError: it cannot be'
    assert found['tiny']['evaluation'] is found['other']['versus_first'] is None
    assert found['other']['evaluation']['metrics']['AP50_dense'] > 0
    assert any('tiny has no figures' in note for note in table(tmp_path)['notes'])
    errors = capfd.readouterr().err
    assert 'Traceback' in errors
    assert 'tiny: RuntimeError: it cannot be' in errors
    (tmp_path / 'fail').unlink()
    assert run(tmp_path) == 0
    assert len(calls(tmp_path)) == 3
    assert rows(tmp_path) == rows(finished)


def test_a_config_that_could_not_train_may_be_mended(run, tiny, tmp_path):
    tmp_path.joinpath('fail').write_text('tiny')
    assert run(tmp_path, tiny) == 1
    (tmp_path / 'fail').unlink()
    mended = written(tmp_path / 'tiny.py', tiny, 'train_dataloader = dict(batch_size=1)')
    assert run(tmp_path, mended) == 0
    assert load_config(tmp_path / 'tiny/config.py').train_dataloader.batch_size == 1


def test_a_training_that_was_killed_midway_is_resumed_and_one_in_its_first_epoch_begun_anew(run, tmp_path):
    tmp_path.joinpath('fail').write_text('tiny other')
    assert run(tmp_path) == 1
    (tmp_path / 'tiny/epoch_1.pth').touch()
    (tmp_path / 'other/best_epoch_1.pth').touch()
    (tmp_path / 'fail').unlink()
    assert run(tmp_path) == 0
    assert (tmp_path / 'tiny/epoch_1.pth').exists()
    assert not (tmp_path / 'other/best_epoch_1.pth').exists()


def test_minutes_become_iterations_at_the_speed_measured_once(run, tiny, tmp_path, capsys):
    assert run(tmp_path, tiny, iterations=None, minutes=0.1) == 0
    output = capsys.readouterr().out
    assert '[1 of 1] tiny: measuring how long an iteration takes' in output
    assert '[1 of 1] tiny: 12 iterations, 0.50 s each' in output
    assert load_config(tmp_path / 'tiny/config.py').train_dataloader.sampler.iterations == 12
    assert not (tmp_path / '.speed').exists()
    (tmp_path / 'tiny/val-results.json').unlink()
    assert run(tmp_path, tiny, iterations=None, minutes=0.1) == 0
    output = capsys.readouterr().out
    assert 'measuring' not in output
    assert '12 iterations, 0.50 s each' in output
    assert table(tmp_path)['budget'] == {'iterations': None, 'minutes': 0.1, 'seed': 0}


def test_without_a_budget_a_config_trains_as_it_says(run, tiny, tmp_path, capsys):
    assert run(tmp_path, tiny, iterations=None) == 0
    assert '[1 of 1] tiny: 9 iterations' in capsys.readouterr().out
    config = load_config(tmp_path / 'tiny/config.py')
    assert config.train_dataloader.sampler.type == 'DefaultSampler'
    assert config.train_cfg.max_epochs == 3


def test_label_maps_without_classes_make_all_cells_one_class(run, tiny, label_maps, tmp_path, capsys):
    assert run(tmp_path, tiny, f'cellpose={label_maps}') == 0
    found = table(tmp_path)
    assert (found['class_agnostic'], found['classes']) == (True, ['cell'])
    assert rows(tmp_path)['cellpose']['evaluation']['metrics']['AP50_cap100'] == 1
    assert rows(tmp_path)['cellpose']['results'] == 'cellpose.results.json'
    assert rows(tmp_path)['tiny']['evaluation']['cells'] == found['cells']
    assert 'all cells count as of one class' in capsys.readouterr().out
    assert [note[:36] for note in found['notes'] if 'same score' in note] == ['cellpose: all cells have the same sc']


def test_class_agnostic_takes_results_of_unknown_categories(run, tiny, results_file, tiny_data, tmp_path):
    nuclei = tmp_path / 'nuclei.json'
    results = json.loads(results_file.read_text())
    nuclei.write_text(json.dumps([result | {'category_id': 77} for result in results]))
    truth = tiny_data / 'annotations/val.json'
    with pytest.raises(UserError, match=r'nuclei.json: result 0 is of category 77'):
        run(tmp_path / 'out', tiny, nuclei)
    assert not (tmp_path / 'out').exists()
    assert run(tmp_path / 'out', results_file, nuclei, ground_truth=truth, class_agnostic=True) == 0
    first, second = (row['evaluation']['metrics'] for row in rows(tmp_path / 'out').values())
    assert first == second
    assert table(tmp_path / 'out')['budget'] is None


def test_a_cap_below_the_cells_of_an_image_is_told(run, results_file, tiny_data, tmp_path):
    assert run(tmp_path, results_file, ground_truth=tiny_data / 'annotations/val.json', max_dets=3) == 0
    note, = table(tmp_path)['notes']
    assert ' cells of one class, of which the dense cap leaves 3: give --max-dets ' in note


def test_a_work_dir_is_taken_as_it_is_where_its_predictions_are_of_the_split(run, finished, tmp_path):
    assert run(tmp_path, finished / 'tiny') == 0
    row, = rows(tmp_path).values()
    assert (row['kind'], row['results']) == ('work dir', str(finished / 'tiny/best_epoch_2.results.json'))
    assert row['evaluation'] == rows(finished)['tiny']['evaluation']
    assert row['training'] == rows(finished)['tiny']['training']
    assert not calls(tmp_path)


def test_a_work_dir_of_another_split_is_predicted_anew_once(run, finished, tiny_data, tmp_path):
    truth = tmp_path / 'split.json'
    truth.write_text((tiny_data / 'annotations/val.json').read_text())
    out = tmp_path / 'out'
    for _ in range(2):
        assert run(out, finished / 'tiny', ground_truth=truth) == 0
    call, = calls(out)
    folder = out / 'tiny'
    assert call == ['test', str(folder / 'config.py'), str(folder / 'best_epoch_2.pth'), '--work-dir', str(folder)]
    config = load_config(folder / 'config.py')
    assert config.val_evaluator.ann_file == config.val_dataloader.dataset.ann_file == str(truth)
    assert rows(out)['tiny']['training']['seconds'] == 12.5


def test_a_checkpoint_is_predicted_and_its_folder_left_alone(run, tiny, tmp_path):
    checkpoint = tmp_path / 'mine/weights.pth'
    checkpoint.parent.mkdir()
    checkpoint.write_text('1')
    item = f'{tiny}:{checkpoint}'
    assert run(tmp_path / 'new', item) == 0
    assert run(tmp_path / 'new', item) == 0
    assert list(checkpoint.parent.iterdir()) == [checkpoint]
    assert (tmp_path / 'new/tiny/weights.thresholds.json').is_file()
    assert len(calls(tmp_path / 'new')) == 1
    checkpoint.write_text('22')
    assert run(tmp_path / 'new', item) == 0
    assert len(calls(tmp_path / 'new')) == 2
    assert rows(tmp_path / 'new')['tiny']['kind'] == 'checkpoint'


def test_costs_are_all_of_one_run(run, tiny, other, tmp_path, monkeypatch):
    measured = []

    def measure(models, image_paths):
        assert all(path.is_file() for path in image_paths)
        measured.append([name for name, _, _ in models])
        return {name: {'problem': 'no'} if name == fails else {'parameters': 1, 'images_per_second': len(measured)}
                for name in measured[-1]}

    monkeypatch.setattr(comparison, 'measure_costs', measure)
    fails = None
    for items in ([tiny], [tiny], [tiny, other], [other]):
        assert run(tmp_path, *items, cost=True) == 0
    assert measured == [['tiny'], ['tiny', 'other']]
    assert rows(tmp_path)['other']['cost'] == {'parameters': 1, 'images_per_second': 2}
    (tmp_path / 'tiny/best_epoch_2.pth').write_text('another')
    fails = 'tiny'
    for _ in range(2):
        assert run(tmp_path, cost=True) == 0
    assert len(measured) == 4
    assert rows(tmp_path)['tiny']['cost'] is None
    assert 'tiny: its cost could not be measured: no.' in table(tmp_path)['notes']
    fails = None
    monkeypatch.setattr(comparison, 'hardware', lambda: {'processor': 'another'})
    assert run(tmp_path, cost=True) == 0
    assert len(measured) == 5
    assert 'tiny: it was trained on another machine, so' in ' '.join(table(tmp_path)['notes'])


def test_options_that_change_what_a_work_dir_predicts_make_predictions_and_costs_anew_once(
        run, finished, tiny_data, tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(comparison, 'measure_costs',
                        lambda models, _: measured.append(models) or {name: {} for name, _, _ in models})
    found = []
    for option in 'val_dataloader.num_workers=0', *['model.test_cfg.rcnn.score_thr=0.3'] * 2:
        options = [f'data_root={tiny_data}', option]
        assert run(tmp_path, finished / 'tiny', cost=True, options=options) == 0
        found.append((len(calls(tmp_path)), rows(tmp_path)['tiny']['results'].endswith('best_epoch_2.results.json')))
    assert found == [(0, True), (1, False), (1, False)]
    _, ((_, config, _), ) = measured
    assert config.model.test_cfg.rcnn.score_thr == 0.3


def test_folders_of_something_else_are_left_alone(run, tmp_path):
    (tmp_path / 'tiny').mkdir()
    with pytest.raises(UserError, match='tiny: this is not of this comparison; name the row otherwise by NAME='):
        run(tmp_path)
    assert not any((tmp_path / 'tiny').iterdir())
    (tmp_path / 'comparison-plan.json').write_text('[]')
    with pytest.raises(UserError, match='this is no record of a comparison'):
        run(tmp_path)


def test_configs_of_other_data_or_classes_are_refused(run, tiny, tiny_data, tmp_path):
    elsewhere, here = (written(tmp_path / f'{name}.py', tiny, f'data_root = {str(root)!r}')
                       for name, root in (('elsewhere', tmp_path), ('here', tiny_data)))
    with pytest.raises(UserError, match=r'elsewhere.py: its data_root is .* give one to all by --cfg-options'):
        run(tmp_path / 'out', here, elsewhere, options=())
    fewer = written(tmp_path / 'fewer.py', tiny, 'classes = ("a", "b")')
    with pytest.raises(UserError, match='its classes are'):
        run(tmp_path / 'out', tiny, fewer)
    assert not (tmp_path / 'out').exists()


def test_several_processes_are_started_by_torchrun(run, tiny, tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(comparison, 'run_child', lambda command, _: commands.append(command) or (1, 'no'))
    assert run(tmp_path, tiny, processes=2, amp=True) == 1
    command, = commands
    assert command[:6] == [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', 2]
    assert command[-5:] == [tmp_path / 'tiny', '--resume', '--amp', '--launcher', 'pytorch']
