import os

from training_folders import CLASSES, write_log, write_work_dir


def test_the_report_is_written_and_named(tmp_path, call_tool):
    work = write_work_dir(tmp_path)
    status, out, err = call_tool('report', work)
    assert (status, err) == (0, '')
    assert out.splitlines()[-1] == str(work / 'report.html')
    assert '<h2>Images</h2>' in (work / 'report.html').read_text(encoding='utf-8')


def test_an_evaluation_that_is_missing_or_older_than_the_predictions_is_made_anew(tmp_path, call_tool):
    work = write_work_dir(tmp_path)
    evaluation = work / 'val-evaluation.json'
    whole = evaluation.read_text()
    evaluation.unlink()
    assert call_tool('report', work)[0] == 0
    assert evaluation.is_file()
    evaluation.write_text(whole.replace('"AP50_dense": ', '"AP50_dense": 0'))
    os.utime(evaluation, (1, 1))
    assert call_tool('report', work, '--out', tmp_path / 'other.html')[0] == 0
    assert '"AP50_dense": 00' not in evaluation.read_text()
    assert (tmp_path / 'other.html').is_file()


def test_a_training_that_was_stopped_early_has_a_report(tmp_path, call_tool):
    write_log(tmp_path, CLASSES, epochs=1, validated=False)
    assert call_tool('report', tmp_path)[0] == 0


def test_a_folder_without_a_training_is_told_in_one_line(tmp_path, call_tool):
    for folder in (tmp_path, tmp_path / 'nowhere'):
        status, out, err = call_tool('report', folder)
        assert (status, out) == (2, '')
        assert err.startswith('error: ')
        assert err.count('\n') == 1
        assert str(folder) in err
