import sys

import cv2
import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image
from slide_checks import random_windows
from tifffile import TiffWriter

from cellseg_mm.errors import CellDataError
from cellseg_mm.io.slide import open_slide

IMAGE = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (256, 512, 3), np.uint8), (0, 0), 4)


@pytest.fixture
def vms(tmp_path):
    """A slide of Hamamatsu's older scanners: a text that names JPEG files."""
    for name, image in (('image.jpg', IMAGE), ('map.jpg', IMAGE[::4, ::4])):
        Image.fromarray(image).save(tmp_path / name, quality=90, subsampling='4:4:4', restart_marker_blocks=8)
    path = tmp_path / 'slide.vms'
    path.write_text('[Virtual Microscope Specimen]\nNoLayers=1\nNoJpegColumns=1\nNoJpegRows=1\nImageFile=image.jpg\n'
                    'MapFile=map.jpg\nSourceLens=20\nPhysicalWidth=256000\nPhysicalHeight=128000\n')
    return path


def representation(number, width, height, millimetres):
    return (f'<DataObject ObjectType="PixelDataRepresentation"><Attribute Name="DICOM_PIXEL_SPACING">"{millimetres}" '
            f'"{millimetres}"</Attribute><Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_COLUMNS">{width}</Attribute>'
            f'<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_NUMBER">{number}</Attribute><Attribute '
            f'Name="PIIM_PIXEL_DATA_REPRESENTATION_ROWS">{height}</Attribute></DataObject>')


@pytest.fixture
def philips(tmp_path):
    """A slide of Philips' scanners: a TIFF whose first tile was not scanned."""
    path = tmp_path / 'slide.tiff'
    xml = ('<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport"><Attribute '
           'Name="PIM_DP_SCANNED_IMAGES"><Array><DataObject ObjectType="DPScannedImage"><Attribute '
           'Name="DICOM_PIXEL_SPACING">"0.00025" "0.00025"</Attribute><Attribute '
           'Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE"><Array>'
           f'{representation(0, 512, 256, 0.00025)}{representation(1, 256, 128, 0.0005)}</Array></Attribute><Attribute '
           'Name="PIM_DP_IMAGE_TYPE">WSI</Attribute></DataObject></Array></Attribute></DataObject>')
    options = {'photometric': 'rgb', 'tile': (64, 64), 'compression': 'jpeg', 'compressionargs': {'level': 95},
               'metadata': None}
    with TiffWriter(path) as writer:
        writer.write(IMAGE, description=xml, software='Philips DP v1.0', **options)
        writer.write(IMAGE[::2, ::2], subfiletype=1, **options)
    with tifffile.TiffFile(path) as tif:
        tags = [tif.pages[0].tags[name] for name in ('TileOffsets', 'TileByteCounts')]
    data = path.read_bytes()
    for tag in tags:
        data = data[:tag.valueoffset] + bytes(4) + data[tag.valueoffset + 4:]
    path.write_bytes(data)
    return path


def test_slides_that_only_openslide_knows_are_read_with_it(vms):
    with open_slide(vms) as slide:
        assert (slide.path, slide.width, slide.height, slide.mpp) == (vms, 512, 256, 0.5)
        for x, y, width, height in random_windows(256, 512, 0, 9):
            window = slide.read(x, y, width, height)
            assert window.dtype == np.uint8
            assert np.abs(window.astype(int) - IMAGE[y:y + height, x:x + width, ::-1]).max() <= 8
        view = slide.overview(256)
        expected = cv2.resize(IMAGE[..., ::-1], (256, 128), interpolation=cv2.INTER_AREA)
        assert np.abs(view.astype(int) - expected).max() <= 12


def test_what_was_not_scanned_is_white(philips):
    with open_slide(philips) as slide:
        assert (slide.width, slide.height, slide.mpp) == (512, 256, 0.25)
        assert (slide.read(0, 0, 64, 64) == 255).all()
        assert np.abs(slide.read(64, 0, 400, 256).astype(int) - IMAGE[:, 64:464, ::-1]).max() <= 8


def test_the_bounds_of_what_was_scanned_are_the_image(philips, monkeypatch):
    properties, bounds = dict(openslide.OpenSlide(philips).properties), (70, 41, 301, 150)
    names = [f'openslide.bounds-{name}' for name in ('x', 'y', 'width', 'height')]
    monkeypatch.setattr(openslide.OpenSlide, 'properties',
                        {**properties, **dict(zip(names, map(str, bounds), strict=True))})
    scanned = IMAGE[41:191, 70:371, ::-1]
    with open_slide(philips) as slide:
        assert (slide.width, slide.height, slide.mpp) == (301, 150, 0.25)
        for x, y, width, height in random_windows(150, 301, 0, 9):
            window = slide.read(x, y, width, height)
            assert np.abs(window.astype(int) - scanned[y:y + height, x:x + width]).max() <= 8
        expected = cv2.resize(scanned, (140, 70), interpolation=cv2.INTER_AREA)
        assert np.abs(slide.overview(140).astype(int) - expected).max() <= 12
    monkeypatch.setattr(openslide.OpenSlide, 'properties', {**properties, names[0]: '70'})
    with open_slide(philips) as slide:
        assert (slide.width, slide.height) == (512, 256)


def test_the_smallest_level_gives_the_overview(philips, monkeypatch):
    levels, read = [], openslide.OpenSlide.read_region

    def read_region(slide, location, level, size):
        levels.append(level)
        return read(slide, location, level, size)

    monkeypatch.setattr(openslide.OpenSlide, 'read_region', read_region)
    with open_slide(philips) as slide:
        assert slide.overview(200).shape == (100, 200, 3)
        assert set(levels) == {1}
        slide.overview(300)
        assert set(levels) == {0, 1}


def test_damage_deep_inside_a_slide_shows_when_it_is_read(philips):
    with tifffile.TiffFile(philips) as tif:
        offset, size = tif.pages[0].dataoffsets[20], tif.pages[0].databytecounts[20]
    data = bytearray(philips.read_bytes())
    data[offset:offset + size] = bytes(size)
    philips.write_bytes(data)
    with open_slide(philips) as slide, pytest.raises(CellDataError, match=r'is damaged \(.*\); copy or export'):
        slide.read(0, 0, 512, 256)


def test_without_openslide_its_slides_say_what_to_install(vms, philips, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'openslide', None)
    mirax = tmp_path / 'slide.mrxs'
    mirax.write_bytes((tmp_path / 'map.jpg').read_bytes())
    for path in (vms, philips, mirax):
        with pytest.raises(CellDataError, match=r"; install OpenSlide .*: pip install 'cellseg_mm\[slides\]'"):
            open_slide(path)


def test_what_nothing_reads_is_refused(tmp_path):
    path = tmp_path / 'notes.txt'
    path.write_text('not an image')
    with pytest.raises(CellDataError, match='BMP or Zarr image, nor a slide that OpenSlide reads; save'):
        open_slide(path)
    path = tmp_path / 'slide.mrxs'
    path.write_bytes(b'\xff\xd8\xff' + bytes(50))
    with pytest.raises(CellDataError, match='nor a slide that OpenSlide reads'):
        open_slide(path)
