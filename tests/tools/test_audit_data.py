import pytest
from conftest import TINY_CONFIG


def test_the_page_is_written_where_it_is_asked_for(call_tool, tiny_data, tmp_path):
    path = tmp_path / 'page.html'
    status, out, _ = call_tool('audit_data', tiny_data, '--config', TINY_CONFIG, '--out', path, '--workers', 1,
                               '--cfg-options', 'max_dets=77')
    assert (status, out) == (0, f'{path}\n')
    assert 'max_dets = 77' in path.read_text()


def test_what_is_not_prepared_is_told_in_one_line(call_tool, tmp_path):
    status, _, err = call_tool('audit_data', tmp_path)
    assert status == 2
    assert err.splitlines()[-1] == (f'error: {tmp_path}/annotations/train.json: there are no annotations yet; '
                                    f'run: python tools/prepare_data.py {tmp_path}')


@pytest.mark.parametrize(('arguments', 'message'), [
    (['nowhere'], 'error: nowhere: there is no such folder'), (['.', '--workers', '0'], '--workers must be above 0'),
    (['.', '--config', 'nowhere.py'], 'error: nowhere.py: there is no such config')])
def test_mistakes_exit_with_2(call_tool, arguments, message):
    status, _, err = call_tool('audit_data', *arguments)
    assert status == 2
    assert message in err
