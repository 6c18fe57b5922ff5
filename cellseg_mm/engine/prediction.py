"""Prediction of many images by one process or several, into files, resumable after a kill."""
import hashlib
import json
import re
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from torch import distributed

from cellseg_mm import __version__
from cellseg_mm.engine.distributed import open_process_group
from cellseg_mm.engine.preflight import check_work_dir
from cellseg_mm.errors import UserError
from cellseg_mm.export import DEFAULT_FORMATS, FORMATS
from cellseg_mm.export.coco import write_coco
from cellseg_mm.export.geojson import write_geojson
from cellseg_mm.export.label_map import write_class_map, write_label_map
from cellseg_mm.export.roi import write_rois
from cellseg_mm.export.table import measure, write_csv, write_parquet
from cellseg_mm.inference.predictor import Predictor
from cellseg_mm.inference.tile_store import TileStore
from cellseg_mm.io.files import read_json, write_json
from cellseg_mm.io.image_list import list_images
from cellseg_mm.progress import track
from cellseg_mm.visualization.overlay import class_colours
from cellseg_mm.visualization.prediction_overlay import write_overlay
from cellseg_mm.visualization.prediction_page import thumbnail, write_index, write_viewer

_INDEX, _RECORD = 'index', '.prediction.json'
_FEW = 8  # tiles, of which no progress is shown


@dataclass
class Outcome:
    """What came of an image.

    Attributes:
        name (str): Its name in all that is written.
        path (str): Its file.
        image_id (int): In COCO results.
        counts (dict[str, int] | None): Cells by class; None where it failed.
        note (str): What there is to say of it, such as that its pixel size is unknown; or why it failed.
        files (list[str]): Names of what was written, in the folder of all.
        height (int): Pixels; 0 where it failed, as the width.
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


def predict_images(images, checkpoints, out, *, formats=DEFAULT_FORMATS, mpp=None, threshold=None, overwrite=False,
                   launcher='none', **settings):
    """Predict images and write what was asked for, each image for itself: one that fails does not stop the others.

    A second call with the same settings leaves alone what is done, and goes on with the tiles of what is not. Under
    `torchrun`, processes share out the images, and the tiles of those that are large; the result is the same.

    Args:
        images (Sequence[str]): Files, folders and patterns, as `list_images` takes them.
        checkpoints (Sequence[str | Path]): Of `Predictor`.
        out (str | Path): Folder for all that is written; all processes have to see it.
        formats (Sequence[str]): Of `FORMATS`.
        mpp (float, optional): Micrometres per pixel, in place of what files say.
        threshold (float, optional): The score from which on a cell counts, in place of those beside the checkpoints.
        overwrite (bool): Whether to do again what is done.
        launcher (str): `none` or `pytorch`.
        **settings: Of `Predictor`.

    Returns:
        list[Outcome]: Of each image; on the first process alone, others return an empty list.

    Raises:
        UserError: Before any work is done, for all that the user can mend.
    """
    if unknown := sorted(set(formats) - set(FORMATS)):
        raise UserError(f'there is no format {", ".join(unknown)}; there are {", ".join(FORMATS)}')
    jobs = _named(list_images(images, FORMATS.values()))
    for _, path in jobs:
        if Path(path).resolve().parent == Path(out).resolve():
            raise UserError(f'{out}: {path} lies there, and what is written could take the place of files beside it: '
                            'name another folder with --out')
    rank, world = open_process_group(launcher)
    predictor = Predictor(*checkpoints, **settings)
    if threshold is not None:
        predictor.thresholds = np.full(len(predictor.classes), threshold)
    check_work_dir(out, option='--out')
    work = _Work(predictor, Path(out), [name for name in FORMATS if name in formats], mpp, {
        'version': __version__, 'checkpoints': list(map(_digest, checkpoints)), 'mpp': mpp,
        **{name: value for name, value in sorted(settings.items()) if name not in ('device', 'trusted', 'batch_size')}})
    done, todo, large = _broadcast(work.survey(jobs, world, overwrite) if rank == 0 else None, world)

    outcomes = list(done)
    for job in large:
        problems = [problem for problem in _gather(work.look(*job, rank, world), world) if problem]
        if rank == 0:
            outcomes.append(_said(Outcome(*job, note=problems[0]) if problems else work.finish(*job)))
    mine = [_said(work.predict(*job)) for job in todo[rank::world]]
    outcomes += [outcome for part in _gather(mine, world) for outcome in part]
    if rank:
        return []
    by_name = {outcome.name: outcome for outcome in outcomes}
    outcomes = [by_name[name] for name, _ in jobs]
    if 'coco' in formats:
        write_json(work.out / 'images.json', _coco_images(outcomes, predictor.classes), indent=1)
    write_index(work.out / f'{_INDEX}.html', outcomes)
    return outcomes


class _Work:
    """What is to be done with each image: a job is its name in all that is written, its file, and its id."""

    def __init__(self, predictor, out, formats, mpp, settings):
        self.out = out
        self._predictor, self._formats, self._mpp, self._settings = predictor, formats, mpp, settings
        self._thresholds = predictor.thresholds.tolist()

    def survey(self, jobs, world, overwrite):
        """Outcomes of what is done, jobs to be done by one process each, and those to be shared by all."""
        for partial in self.out.glob('.*.partial.*'):  # of a run killed while it wrote
            partial.unlink()
        done, todo, large = [], [], []
        records = {name: self._record(name) for name, _ in jobs}
        # What has been written by a number keeps it, whatever comes before it now.
        ids = {name: record['outcome']['image_id'] for name, record in records.items() if record}
        following = count(max(ids.values(), default=0) + 1)
        for name, path in jobs:
            if not overwrite and self._is_done(records[name], path):
                done.append(Outcome(**records[name]['outcome']))
            else:
                job = name, path, ids.get(name) or next(following)
                shared = world > 1 and self._is_large(path, 2 * world)
                if shared:
                    self._store(name, path)  # made by one process, then found by all
                (large if shared else todo).append(job)
        return done, todo, large

    def predict(self, name, path, image_id):
        problem = self.look(name, path, image_id)
        return Outcome(name, path, image_id, note=problem) if problem else self.finish(name, path, image_id)

    def look(self, name, path, image_id, rank=0, world=1):  # noqa: ARG002 -- a job's parts
        """Look at every `world`-th tile that has not been looked at; returns what went wrong, or nothing."""
        with _told() as problem, self._predictor.open(path) as slide:
            plan = self._predictor.plan(slide, self._mpp)
            store = self._store(name, path)
            tiles = [tile for tile in plan.shown[rank::world] if tile not in store]
            looked = self._predictor.look(slide, plan, tiles)
            for tile, cells in track(looked, f'{name}: tiles', len(tiles)) if len(tiles) > _FEW else looked:
                store.write(tile, cells)
        return problem.text

    def finish(self, name, path, image_id):
        """Merge what was found in the tiles of an image, and write it."""
        outcome = Outcome(name, path, image_id)
        with _told() as problem, self._predictor.open(path) as slide:
            plan = self._predictor.plan(slide, self._mpp)
            store = self._store(name, path)
            found = self._predictor.merged(plan, {tile: store.read(tile) for tile in plan.shown})
            cells = self._predictor.confident(found)
            outcome.height, outcome.width, outcome.mpp = slide.height, slide.width, self._mpp or slide.mpp
            outcome.thumbnail = thumbnail(slide)
            outcome.files = self._write(outcome, slide, cells, found)
            names = self._predictor.classes
            outcome.counts = dict(zip(names, np.bincount(cells.labels, minlength=len(names)).tolist(), strict=True))
            outcome.note = '; '.join(filter(None, [plan.note, '' if plan.shown else 'no tissue was found']))
            write_json(self.out / f'{name}{_RECORD}', {'plan': self._plan(path), 'outcome': asdict(outcome)}, indent=1)
            store.delete()
        return Outcome(name, path, image_id, note=problem.text) if problem.text else outcome

    def _write(self, outcome, slide, cells, found):
        classes, mpp = self._predictor.classes, outcome.mpp
        colors = [colour[::-1] for colour in class_colours(len(classes))]
        columns = measure(cells, classes, slide, mpp) if {'csv', 'parquet', 'geojson'} & set(self._formats) else None
        writers = {
            'labels': lambda path: write_label_map(path, cells, mpp),
            'classes': lambda path: write_class_map(path, cells, classes, mpp),
            'geojson': lambda path: write_geojson(path, cells, classes, colors, columns),
            'rois': lambda path: write_rois(path, cells, classes, colors),
            'csv': lambda path: write_csv(path, columns),
            'parquet': lambda path: write_parquet(path, columns),
            'coco': lambda path: write_coco(path, [(outcome.image_id, found)]),
            'overlay': lambda path: write_overlay(path, slide, cells, classes, mpp=mpp),
            'viewer': lambda path: write_viewer(path, slide, cells, classes, self._thresholds, mpp)}
        files = [outcome.name + FORMATS[form] for form in self._formats]
        for form, file in zip(self._formats, files, strict=True):
            writers[form](self.out / file)
        return files

    def _record(self, name):
        """What was written of an image that is done, if it is."""
        path = self.out / f'{name}{_RECORD}'
        if not path.is_file():
            return None
        record = read_json(path, 'delete it')
        if not isinstance(record, dict) or not {'plan', 'outcome'} <= record.keys():
            raise UserError(f'{path}: no prediction wrote this; delete it, or name another folder with --out')
        return record

    def _is_done(self, record, path):
        return record is not None and record['plan'] == self._plan(path) and all(
            (self.out / file).is_file() for file in record['outcome']['files'])

    def _is_large(self, path, tiles):
        tiling = None
        with _told(), self._predictor.open(path) as slide:
            tiling = self._predictor.plan(slide, self._mpp).tiling
        return tiling is not None and len(tiling.tiles) >= tiles

    def _store(self, name, path):
        plan = self._plan(path)
        return TileStore(self.out / f'.{name}.tiles', {key: plan[key] for key in ('image', 'settings')})

    def _plan(self, path):
        """What the files of an image depend on, as JSON gives it back."""
        file = Path(path)
        stat = file.stat()
        image = [str(file.resolve()), stat.st_size, stat.st_mtime_ns]
        return json.loads(json.dumps({'image': image, 'settings': self._settings, 'thresholds': self._thresholds,
                                      'formats': self._formats}))

@contextmanager
def _told():
    """Keep what a user can mend, of one image, as `text`: the other images are done all the same."""
    problem = SimpleNamespace(text='')
    try:
        yield problem
    except UserError as error:
        problem.text = ' '.join(str(error).split())
    except OSError as error:
        problem.text = f'{error.filename or "writing"}: {error.strerror or error}'
    except MemoryError:
        problem.text = 'memory ran out: try smaller tiles by --tile'
    except RuntimeError as error:
        if type(error).__name__ != 'OutOfMemoryError' and "can't allocate memory" not in str(error):
            raise
        problem.text = 'memory ran out: try smaller tiles by --tile, or --batch-size 1'


def _said(outcome):
    """Tell what came of an image, in one line."""
    path = _as_text(outcome.path)
    if outcome.counts is None:
        print(_as_text(f'{path}: failed: {outcome.note}'), file=sys.stderr, flush=True)
    else:
        classes = ', '.join(f'{count:,} {name}' for name, count in outcome.counts.items() if count)
        cells = f'{sum(outcome.counts.values()):,} cells' + (f' ({classes})' if classes else '')
        print('; '.join(filter(None, [f'{path}: {cells}', outcome.note])), flush=True)
    return outcome


def _as_text(name):
    """A file's name where file systems hold bytes that are no text."""
    return name.encode('utf-8', 'replace').decode()


def _named(paths):
    """Each path with a name for its files: its own, with as much of its folders as tells it from others.

    Returns:
        list[tuple[str, str]]: Name and path.
    """
    parts = [list(map(_as_text, Path(path).resolve().parts)) for path in paths]
    candidates = [[re.sub(r'(\.ome)?\.\w+$', '', '_'.join(part[-count:]))
                   for count in range(1, len(part))] + ['_'.join(part[1:])] for part in parts]
    names = {}
    for level in range(max(map(len, candidates), default=0)):
        asked = {index: candidates[index][min(level, len(candidates[index]) - 1)]
                 for index in range(len(paths)) if index not in names}
        times = Counter([*asked.values(), *names.values(), _INDEX])
        names |= {index: name for index, name in asked.items() if times[name] == 1}
    return [(names[index], str(path)) for index, path in enumerate(paths)]


def _coco_images(outcomes, classes):
    """Images and categories, which COCO results refer to by their ids."""
    images = [{'id': outcome.image_id, 'file_name': outcome.path, 'height': outcome.height, 'width': outcome.width,
               'mpp': outcome.mpp} for outcome in outcomes if outcome.counts is not None]
    return {'images': images, 'categories': [{'id': number, 'name': name} for number, name in enumerate(classes, 1)]}


def _digest(path):
    with Path(path).open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def _gather(value, world):
    """What each process has, on all of them."""
    if world == 1:
        return [value]
    values = [None] * world
    distributed.all_gather_object(values, value)
    return values


def _broadcast(value, world):
    """What the first process has, on all of them."""
    values = [value]
    if world > 1:
        distributed.broadcast_object_list(values)
    return values[0]
