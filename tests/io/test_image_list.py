import os
from pathlib import Path

import pytest

from cellseg_mm.errors import UserError
from cellseg_mm.io.image_list import fingerprint, list_images


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Images among other things; the current folder."""
    for name in ('b.tif', 'a.PNG', 'c.ome.tiff', 'slide.svs', 'notes.txt', 'cells.geojson', '.hidden.tif', 'deep/d.jpg',
                 '.cache/e.tif', 'old.zarr/.zattrs', 'array/zarr.json', 'array/c/0/0', 'no.tif/readme', 'empty/x.csv'):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_folders_give_what_lies_directly_in_them_by_known_names(folder):
    names = ['a.PNG', 'b.tif', 'c.ome.tiff', 'old.zarr', 'slide.svs']
    assert list_images([folder]) == [folder / name for name in names]
    assert list_images(['.']) == [Path(name) for name in names]


def test_links_to_nowhere_are_listed_so_that_they_are_told(folder):
    (folder / 'lost.png').symlink_to(folder / 'nowhere.png')
    assert folder / 'lost.png' in list_images([folder])


def test_what_may_not_be_read_is_told(folder, monkeypatch):
    def refused(path):
        raise PermissionError(13, 'Permission denied', str(path))

    monkeypatch.setattr(Path, 'iterdir', refused)
    with pytest.raises(UserError, match=r'may not be read: change its permissions'):
        list_images([folder])


def test_a_pipe_is_no_image(folder):
    os.mkfifo(folder / 'pipe')
    with pytest.raises(UserError, match='neither a file nor a folder'):
        list_images(['pipe'])


def test_files_are_taken_whatever_their_names(folder):
    assert list_images(['notes.txt', '.hidden.tif', 'b.tif']) == [Path('.hidden.tif'), Path('b.tif'), Path('notes.txt')]


def test_zarr_folders_are_images(folder):
    assert list_images(['old.zarr', folder / 'array']) == [folder / 'array', Path('old.zarr')]


def test_patterns_give_matches_by_known_names(folder):
    assert list_images(['*.tif*']) == [Path('b.tif'), Path('c.ome.tiff')]
    assert list_images([str(folder / '*')]) == list_images([folder])
    assert list_images(['**/*.[jt]*']) == [Path('b.tif'), Path('c.ome.tiff'), Path('deep/d.jpg')]
    assert list_images(['?.tif', 'dee*/*']) == [Path('b.tif'), Path('deep/d.jpg')]


def test_a_name_that_looks_like_a_pattern_is_a_name_first(folder):
    (folder / 'well[1].tif').touch()
    assert list_images(['well[1].tif']) == [Path('well[1].tif')]


def test_each_image_is_listed_once(folder):
    assert list_images(['b.tif', './b.tif', '*.tif', '.']) == list_images(['.'])
    assert len(list_images(['b.tif', folder / 'b.tif', 'deep/../b.tif'])) == 1
    (folder / 'z.tif').symlink_to('b.tif')
    (folder / 'other').symlink_to(folder, target_is_directory=True)
    assert list_images(['z.tif', 'b.tif', 'other/b.tif', '*.tif']) == [Path('b.tif')]
    assert list_images(['z.tif']) == [Path('z.tif')]


def test_what_was_written_of_images_is_left_out_of_folders_and_patterns(folder):
    for name in ('b_overlay.png', 'b_labels.ome.tif'):
        (folder / name).touch()
    written = ['_labels.ome.tif', '_overlay.png', '.csv']
    assert list_images(['.', '*'], written) == list_images(['a.PNG', 'b.tif', 'c.ome.tiff', 'old.zarr', 'slide.svs'])
    assert list_images(['b_overlay.png'], written) == [Path('b_overlay.png')]
    with pytest.raises(UserError, match=r'\*_overlay.png matches no image'):
        list_images(['*_overlay.png'], written)


@pytest.mark.parametrize(('name', 'problem'), [
    ('none.tif', 'none.tif does not exist; check the name and the folder'),
    ('empty', 'empty has no image in it; the names of images end in .tif'),
    ('*.jpg', r'\*.jpg matches no image; the names of images end in .tif'),
    ('*.txt', r'\*.txt matches no image')])
def test_names_without_images_are_named(folder, name, problem):
    with pytest.raises(UserError, match=problem) as caught:
        list_images(['b.tif', name])
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(('image', 'part'), [
    ('a.zarr', 'a.zarr/0/c/0/0'), ('a.mrxs', 'a/Data0001.dat'), ('a.dcm', 'b.dcm'), ('a.tif', 'a.tif')])
def test_an_image_of_several_files_is_another_when_one_of_them_changes(tmp_path, image, part):
    for name in (image, part):
        path = tmp_path / name
        if name != 'a.zarr':
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text('x')
    before = fingerprint(tmp_path / image)
    assert fingerprint(tmp_path / image) == before
    (tmp_path / part).write_text('xy')
    assert fingerprint(tmp_path / image) != before
    assert fingerprint(tmp_path / image)[0] == str(tmp_path / image)


def test_a_file_of_the_same_size_written_later_is_another(tmp_path):
    (tmp_path / 'a.tif').write_text('x')
    before = fingerprint(tmp_path / 'a.tif')
    os.utime(tmp_path / 'a.tif', (1, 1))
    assert fingerprint(tmp_path / 'a.tif') != before
