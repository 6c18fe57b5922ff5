import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires, version

import cv2
import pytest
from conftest import REPOSITORY


def test_opencv_needs_no_desktop_libraries():
    """The desktop build of OpenCV does not import on a machine without libGL."""
    gui = re.search(r'GUI:\s+(\w+)', cv2.getBuildInformation())
    assert gui is None or gui[1] == 'NONE'


def test_every_pinned_version_is_within_the_ranges_of_the_package():
    from packaging.requirements import Requirement
    pins = dict(re.findall(r'^([\w-]+)==(\S+)$', (REPOSITORY / 'requirements.txt').read_text(), re.MULTILINE))
    for line in requires('cellseg_mm'):
        requirement = Requirement(line)
        assert pins[requirement.name] in requirement.specifier


@pytest.mark.parametrize('module', ['cellseg_mm', 'cellseg_mm.io.image', 'cellseg_mm.evaluation.coco_ap'])
def test_light_modules_import_without_torch(module):
    code = f'import sys, {module}; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], check=False, cwd=REPOSITORY).returncode == 0


def test_the_maintained_forks_are_the_ones_installed():
    assert version('onedl-mmdetection') == '3.5.1'
    for original in ('mmdet', 'mmcv', 'mmengine'):
        with pytest.raises(PackageNotFoundError):
            version(original)
