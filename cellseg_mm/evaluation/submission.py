"""The file to submit: its form, and an MMEngine metric that writes it."""
import json
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mmdet.registry import METRICS

from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.evaluation.cell_metric import PredictionCollector
from cellseg_mm.evaluation.instances import is_number
from cellseg_mm.io.files import atomic_path, read_json
from cellseg_mm.structures.rle import measure

FILE_NAME = 'test-results.json'
MAX_PARAMETERS = 200e6
_FIELDS = 'image_id', 'category_id', 'bbox', 'score', 'segmentation'


@dataclass
class SubmissionSummary:
    """What a valid submission holds.

    Attributes:
        cells: How many for each category id.
        images: How many images there are.
        images_without_cells: In how many of them nothing was found.
        num_parameters: Of the model, where known.
        files: Size in bytes by path.
    """

    cells: dict[int, int]
    images: int
    images_without_cells: int
    num_parameters: int | None = None
    files: dict[str, int] = field(default_factory=dict)


@METRICS.register_module()
class Submission(PredictionCollector):
    """Writes `test-results.json`, and `test-results.zip` that holds just that file, once both have been checked.

    Args:
        ann_file (str): The test split in COCO form, without ground truth.
        out_dir (str): The folder to write to.
        **kwargs: Of `PredictionCollector`.

    Attributes:
        num_parameters (int | None): Of the model; set it before the test to have it checked.
        summary (SubmissionSummary | None): Of what was written, on the main process.
    """

    default_prefix = 'submission'

    def __init__(self, ann_file, out_dir='.', **kwargs):
        super().__init__(ann_file, **kwargs)
        self.out_dir = Path(out_dir)
        self.num_parameters = self.summary = None

    def compute_metrics(self, results):
        self.summary = write_submission(
            self.out_dir, [detection for _, of_image in results for detection in of_image], self.annotations['images'],
            len(self.annotations['categories']), self.num_parameters, {image_id for image_id, _ in results})
        return {'cells': sum(self.summary.cells.values()), 'images_without_cells': self.summary.images_without_cells}


def write_submission(out_dir, results, images, num_classes, num_parameters=None, predicted_ids=None):
    """Write `test-results.json` and `.zip` into `out_dir`, both or, where a check fails, neither.

    The arguments are those of `check_submission`, which checks what has been read back from the written file. The same
    results give the same bytes.

    Returns:
        SubmissionSummary: With the files' sizes.

    Raises:
        UserError: As `check_submission`.
    """
    json_path = Path(out_dir, FILE_NAME)
    zip_path = json_path.with_suffix('.zip')
    with atomic_path(json_path) as json_partial, atomic_path(zip_path) as zip_partial:
        json_partial.write_text(json.dumps(results), encoding='utf-8')
        with zipfile.ZipFile(zip_partial, 'w') as archive:
            member = zipfile.ZipInfo(FILE_NAME, date_time=(1980, 1, 1, 0, 0, 0))
            member.external_attr = 0o644 << 16
            archive.writestr(member, json_partial.read_bytes(), zipfile.ZIP_DEFLATED)
        summary = check_submission(_read_results(zip_partial), images, num_classes, num_parameters,
                                   predicted_ids=predicted_ids)
    summary.files = {str(path): path.stat().st_size for path in (json_path, zip_path)}
    return summary


def check_submission_file(path, id_list_path, num_classes):
    """Check a written submission.

    Args:
        path (str | Path): `test-results.json`, or a zip that holds just that file.
        id_list_path (str | Path): `test_image_name_to_ids.json`, or the test split in COCO form.
        num_classes (int): Categories are 1 to this.

    Returns:
        SubmissionSummary: With the file's size.

    Raises:
        UserError: A file cannot be read, or as `check_submission`.
    """
    images = read_json(id_list_path, 'give test_image_name_to_ids.json')
    try:
        images = images['images'] if isinstance(images, dict) else images
        images = [{key: image[key] for key in ('id', 'height', 'width')} for image in images]
    except (KeyError, TypeError) as error:
        raise CellDataError(id_list_path, 'it does not list images with id, height and width',
                            'give test_image_name_to_ids.json') from error
    summary = check_submission(_read_results(path), images, num_classes)
    summary.files = {str(path): Path(path).stat().st_size}
    return summary


def check_submission(results, images, num_classes, num_parameters=None, predicted_ids=None):
    """Check everything about a submission that does not need the ground truth.

    Args:
        results (list[dict]): COCO results.
        images (list[dict]): All test images, with `id`, `height` and `width`.
        num_classes (int): Categories are 1 to this.
        num_parameters (int, optional): Of the model, which must stay below `MAX_PARAMETERS`, the rules' limit.
        predicted_ids (Collection[int], optional): The images the model has seen, those without a cell too; all test
            images must be among them.

    Returns:
        SubmissionSummary: Without files.

    Raises:
        UserError: One line that lists all that is wrong, how often, and where it is first.
    """
    sizes = {image['id']: (image['height'], image['width']) for image in images}
    problems = []
    if predicted_ids is not None and (unseen := sizes.keys() - set(predicted_ids)):
        problems.append(f'{len(unseen)} of {len(sizes)} test images were not predicted, first image {min(unseen)}')
    if num_parameters is not None and num_parameters >= MAX_PARAMETERS:
        problems.append(f'the model has {num_parameters:,} parameters, not under {MAX_PARAMETERS:,.0f}')
    if not isinstance(results, list):
        problems.append('it is not a list of results')
    elif not results:
        problems.append('it holds no cell at all')
    else:
        entries = {}
        for number, result in enumerate(results):
            if problem := _problem(result, sizes, num_classes):
                entries.setdefault(problem, []).append(number)
        problems += [f'{len(numbers)} of {len(results)} entries {problem}, first entry {numbers[0]}'
                     for problem, numbers in entries.items()]
    if problems:
        raise UserError(f'not a valid submission: {"; ".join(problems)}')
    cells = Counter(result['category_id'] for result in results)
    return SubmissionSummary(
        cells={category: cells[category] for category in range(1, num_classes + 1)}, images=len(sizes),
        images_without_cells=len(sizes.keys() - {result['image_id'] for result in results}),
        num_parameters=num_parameters)


def format_summary(summary, classes):
    """Lines to print about a checked submission.

    Args:
        summary (SubmissionSummary): What it holds.
        classes (Sequence[str]): The name of each category, from 1 on.

    Returns:
        str: Cells of each class, images, parameters and files.
    """
    with_cells = summary.images - summary.images_without_cells
    lines = [f'{name}: {count:,} cells' for name, count in zip(classes, summary.cells.values(), strict=True)]
    lines += [f'total: {sum(summary.cells.values()):,} cells in {with_cells} of {summary.images} images']
    if summary.num_parameters is not None:
        lines += [f'model: {summary.num_parameters / 1e6:.1f} M parameters']
    lines += [f'{path}: {size / 1e6:.2f} MB, checked' for path, size in summary.files.items()]
    return '\n'.join(lines)


def _problem(result, sizes, num_classes):
    """What is wrong with one entry, as the rest of a sentence, or None."""
    if not isinstance(result, dict) or not all(key in result for key in _FIELDS):
        return f'lack one of {", ".join(_FIELDS)}'
    image_id, category_id, box, score, segmentation = (result[key] for key in _FIELDS)
    # Numbers are told by their exact type: true is no id, though Python counts it as 1.
    if type(image_id) is not int or image_id not in sizes:
        return 'have an image id that is not in the test list'
    if type(category_id) is not int or not 1 <= category_id <= num_classes:
        return f'have a category that is not 1 to {num_classes}'
    if not is_number(score) or not 0 <= score <= 1:
        return 'have a score that is not a number from 0 to 1'
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)) or box[2] < 0 or box[3] < 0:
        return 'have a bbox that is not [x, y, width, height]'
    if not isinstance(segmentation, dict) or not isinstance(segmentation.get('counts'), str):
        return 'have a segmentation that is not an RLE with text counts'
    if segmentation.get('size') != list(sizes[image_id]):
        return 'have a mask of another size than their image'
    _, areas, broken = measure([segmentation], *sizes[image_id])
    if broken:
        return "have RLE counts that cannot be decoded or do not add up to their image's pixels"
    return None if areas[0] else 'have an empty mask'


def _read_results(path):
    if Path(path).suffix != '.zip':
        return read_json(path, 'write it by tools/test.py --format-only')
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.namelist() != [FILE_NAME]:
                raise CellDataError(path, f'it does not hold just {FILE_NAME}', 'make the zip of that one file')
            return json.loads(archive.read(FILE_NAME))
    except FileNotFoundError as error:
        raise CellDataError(path, 'there is no such file', 'write it by tools/test.py --format-only') from error
    except (ValueError, RecursionError) as error:
        raise CellDataError(path, f'its {FILE_NAME} is not JSON', 'write it anew') from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise CellDataError(path, 'it is not a zip file that can be read', 'write it anew') from error
