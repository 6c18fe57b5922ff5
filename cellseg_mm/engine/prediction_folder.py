"""The folder that predictions are written to: what it holds of which image, and what is still to be done."""
import os
import re
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path

from cellseg_mm.errors import CellDataError
from cellseg_mm.export import FORMATS
from cellseg_mm.io.files import read_json, write_json
from cellseg_mm.visualization.prediction_page import write_index

_INDEX, _RECORD = 'index', '.prediction.json'


@dataclass
class Outcome:
    """What came of an image.

    Attributes:
        name (str): Its name in all that is written.
        path (str): Its file.
        image_id (int): In COCO results.
        counts (dict[str, int] | None): Cells by class; None where it failed, or is not done yet.
        note (str): What there is to say of it, such as that its pixel size is unknown; or why it failed.
        files (list[str]): Names of what was written, in the folder of all.
        height (int): Pixels; 0 where it is not done, as the width.
        width (int): Pixels.
        mpp (float | None): Micrometres per pixel.
        thumbnail (str): A small picture, as an address that holds it.
    """

    name: str
    path: str
    image_id: int
    counts: dict | None = None
    note: str = ''
    files: list = field(default_factory=list)
    height: int = 0
    width: int = 0
    mpp: float | None = None
    thumbnail: str = ''


class PredictionFolder:
    """Records of the images that were predicted into a folder, by one call or several.

    A record holds the outcome, and the plan: all that the cells of the image depend on. Where the outcome has no
    counts, it was begun, and its files may be there or not.

    Args:
        path (str | Path): The folder.
    """

    def __init__(self, path):
        self.path = Path(path)

    def survey(self, paths, plan_of, endings):
        """Name and number images: those that are known keep what they have.

        Args:
            paths (Sequence[Path]): The images.
            plan_of (Callable): Gives the plan of a path.
            endings (Sequence[str]): What the names of the files that are wanted of each end in.

        Returns:
            tuple[list[Outcome], dict[str, dict]]: In the order of the paths, with counts if all is done as planned; and
                the plan of each, by name.

        Raises:
            CellDataError: If a record is none that this version wrote.
        """
        records = self._records()
        named = {record['outcome'].path: name for name, record in records.items()}
        following = count(max((record['outcome'].image_id for record in records.values()), default=0) + 1)
        outcomes, plans = [], {}
        for name, path in zip(_names(paths, named), map(_absolute, paths), strict=True):
            record, plan = records.get(name), plan_of(path)
            plans[name] = plan
            if record and record['plan'] == plan and self._is_whole(record) and {
                    name + ending for ending in endings} <= set(record['outcome'].files):
                outcomes.append(record['outcome'])
            else:
                outcomes.append(Outcome(name, path, record['outcome'].image_id if record else next(following)))
        return outcomes, plans

    def begin(self, outcome, plan):
        """Record that files of an image are about to be written, and delete those of another plan.

        Args:
            outcome (Outcome): With the files that will be written.
            plan (dict): Of the image.

        Returns:
            list[str]: Files of this plan that are there already.
        """
        record = self._read(outcome.name)
        before = record['outcome'].files if record else []
        kept = [file for file in before if (self.path / file).is_file()] if record and record['plan'] == plan else []
        for file in {*before, *outcome.files} - set(kept):
            (self.path / file).unlink(missing_ok=True)
        self._write(replace(outcome, files=sorted({*kept, *outcome.files}), counts=None), plan)
        return kept

    def complete(self, outcome, plan):
        """Record that all files of an image are there."""
        self._write(outcome, plan)

    def write_lists(self, failed, classes):
        """List what the folder holds: `index.html`, and `images.json` for the ids in COCO results, if there are any.

        Args:
            failed (Sequence[Outcome]): Images of the last call that are listed as failed.
            classes (Sequence[str]): Of COCO results; those of other classes are not listed.
        """
        done = {name: record['outcome'] for name, record in self._records().items() if self._is_whole(record)}
        write_index(self.path / f'{_INDEX}.html', [
            outcome for _, outcome in sorted({**done, **{outcome.name: outcome for outcome in failed}}.items())])
        images = [
            {'id': outcome.image_id, 'file_name': outcome.path, 'height': outcome.height, 'width': outcome.width,
             'mpp': outcome.mpp} for outcome in done.values()
            if outcome.name + FORMATS['coco'] in outcome.files and list(outcome.counts) == list(classes)]
        if images:
            categories = [{'id': number, 'name': name} for number, name in enumerate(classes, 1)]
            write_json(self.path / 'images.json', {'images': images, 'categories': categories}, indent=1)

    def _write(self, outcome, plan):
        write_json(self.path / f'{outcome.name}{_RECORD}', {'plan': plan, 'outcome': asdict(outcome)}, indent=1)

    def _records(self):
        names = [path.name.removesuffix(_RECORD) for path in sorted(self.path.glob(f'*{_RECORD}'))]
        return {name: self._read(name) for name in names}

    def _read(self, name):
        path = self.path / f'{name}{_RECORD}'
        if not path.is_file():
            return None
        record = read_json(path, 'delete it')
        try:
            outcome = Outcome(**record['outcome'])
            kinds = [(outcome.name, str), (outcome.path, str), (outcome.image_id, int), (outcome.files, list),
                     (outcome.counts, dict | None), (record['plan'], dict)]
            if outcome.name != name or not all(isinstance(value, kind) for value, kind in kinds):
                raise ValueError('another form')
        except (KeyError, TypeError, ValueError) as error:
            raise CellDataError(path, 'no prediction of this version wrote this',
                                'delete it, or name another folder with --out') from error
        return {'plan': record['plan'], 'outcome': outcome}

    def _is_whole(self, record):
        outcome = record['outcome']
        return outcome.counts is not None and all((self.path / file).is_file() for file in outcome.files)


def as_text(name):
    """A file's name where file systems hold bytes that are no text."""
    return name.encode('utf-8', 'replace').decode()


def _absolute(path):
    # Links keep their own names, which are those that users know.
    return os.path.abspath(path)  # noqa: PTH100


def _names(paths, named):
    """A name for the files of each path: its own, with as much of its suffix and folders as tells it from others.

    Args:
        paths (Sequence[Path]): Some images.
        named (dict[str, str]): Names, by absolute path, that are taken.

    Returns:
        list[str]: All different.
    """
    candidates = [_candidates(Path(as_text(_absolute(path)))) for path in paths]
    names = {index: named[_absolute(path)] for index, path in enumerate(paths) if _absolute(path) in named}
    for level in range(max(map(len, candidates), default=0)):
        asked = {index: candidates[index][min(level, len(candidates[index]) - 1)]
                 for index in range(len(paths)) if index not in names}
        times = Counter([*asked.values(), *{*names.values(), *named.values(), _INDEX}])
        names |= {index: name for index, name in asked.items() if times[name] == 1}
    for index in range(len(paths)):
        if index not in names:  # a/b_c.png and a_b/c.png
            taken = {*names.values(), *named.values()}
            numbered = (f'{candidates[index][0]}_{number}' for number in count(2))
            names[index] = next(name for name in numbered if name not in taken)
    return [names[index] for index in range(len(paths))]


def _candidates(path):
    stem, full = re.sub(r'(\.ome)?\.\w+$', '', path.name), path.name.replace('.', '_')
    folders = path.parts[1:-1]
    names = []
    for level in range(len(folders) + 1):  # a, folder_a, a_png, more_folder_a, folder_a_png, ...
        names.append('_'.join([*folders[len(folders) - level:], stem]))
        if level:
            names.append('_'.join([*folders[len(folders) - level + 1:], full]))
    return names
