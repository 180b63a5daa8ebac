"""Cutting scenes into a tile set: planning, sharing out the work, resuming, and putting the index together."""

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tiles.archive.index import ABOUT_FILE, INDEX_FILE, SCHEMA, About, write_about, write_tables
from tiles.archive.split import assign
from tiles.archive.statistics import merge
from tiles.cutting import plan as planning
from tiles.cutting.folder import clear, move_foreign, prepare, remove_if_empty, remove_partial, write_failures
from tiles.cutting.plan import PARTS, PLAN_FILE, CutSettings, Entry, Plan, Request, Source, Unit
from tiles.cutting.unit import Failure, is_done, part_path, read_receipt
from tiles.cutting.work import Job, run
from tiles.errors import InputError, OutputError
from tiles.progress import Progress, Silent
from tiles.scenes.images import is_image_set, open_images
from tiles.scenes.opening import open_scene
from tiles.scenes.scene import Scene
from tiles.scenes.torchgeo_set import TORCHGEO, open_torchgeo
from tiles.writing.outputs import locked, locked_folder, part_of, replace_folder


@dataclass(frozen=True)
class CutReport:
    """What a cut did.

    Attributes:
        folder: The tile set.
        tiles: Tiles in it now.
        added: Tiles that this run added.
        seen: Tiles that this run looked at.
        notes: What was decided, by source.
        repeated: Sources given that the set held already, or that were given twice.
        failures: Sources or images that could not be read.
    """

    folder: Path
    tiles: int
    added: int
    seen: int
    notes: tuple[tuple[str, tuple[str, ...]], ...]
    repeated: tuple[str, ...]
    failures: tuple[Failure, ...]


def open_source(request: Request, settings: CutSettings) -> Source:
    """Open a source as the settings want it: its bands, its grid.

    Raises:
        InputError: Where it cannot be read or lacks a band.
    """
    if request.source.startswith(TORCHGEO):
        return open_torchgeo(request.source, settings.gsd_m, settings.bands)
    if is_image_set(request.source):
        return open_images(request.source, settings.gsd_m, settings.bands)
    scene = open_scene(
        request.source,
        bands=settings.bands,
        sensor=request.sensor,
        band_names=request.band_names,
        gsd_m=settings.gsd_m,
        mask=request.mask,
    )
    return scene if settings.gsd_m is None else scene.at_gsd(settings.gsd_m)


def cut(
    requests: Sequence[Request],
    folder: str | Path,
    settings: CutSettings | None = None,
    *,
    workers: int = 1,
    dask: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> CutReport:
    """Cut sources into a tile set, or add them to one, or finish an interrupted cut.

    The same sources and settings give the same bytes, however often interrupted and with any number of workers.

    Args:
        requests: What to cut.
        folder: The tile set; made when absent.
        settings: What all tiles have in common.
        workers: Processes; 1 works in this one, 0 takes one a core where the work is worth it.
        dask: Address of a Dask scheduler to use in their place; its workers must see the same paths.
        overwrite: Replace an existing tile set, when the new one is whole.
        progress: Told the share of tiles looked at, 0 to 1.

    Raises:
        InputError: Where no source can be read or no tile passes the filters.
        OutputError: Where the folder holds something else, or a tile set with other settings.
    """
    settings, target = settings or CutSettings(), Path(folder)
    prepare(target)
    how = workers, dask, progress or Silent()
    if overwrite and (target / PLAN_FILE).exists():
        return _replace(requests, target.resolve(), settings, how)
    with locked_folder(target):
        try:
            plan = planning.load(target) or Plan(settings)
            if plan.settings != settings:
                raise OutputError(_difference(target, plan.settings, settings))
            return _cut(target, plan, _open_new(requests, plan), how)
        finally:
            remove_if_empty(target)


_How = tuple[int, str | None, Progress]


def _cut(target: Path, plan: Plan, opened: "_Opened", how: _How) -> CutReport:
    """Cut into a folder that this process alone writes to."""
    if not plan.entries and not opened.new:
        raise InputError(opened.failures[0].reason if opened.failures else "Nothing to cut was given.")
    sources = dict(opened.known)
    if opened.new:
        sources |= {i: source for i, (_, source) in enumerate(opened.new, len(plan.entries))}
        plan = plan.extended(opened.new)
    (target / PARTS).mkdir(exist_ok=True)
    plan.save(target)
    pending = [unit for unit in plan.units if not is_done(target, unit.number)]
    jobs = [_job(target, plan, unit, sources) for unit in pending]
    remove_partial(target)  # of a run that was killed
    try:
        receipts = run(jobs, *how)
    except BaseException:
        remove_partial(target)
        raise
    about, failures = finish(target, plan)
    failures = (*opened.failures, *failures)
    write_failures(target, failures)
    _refuse_empty(target, about, plan, failures)
    return CutReport(
        folder=target,
        tiles=about.tiles,
        added=sum(receipt.kept for receipt in receipts),
        seen=sum(receipt.seen for receipt in receipts),
        notes=tuple((entry.request.source, source.notes) for entry, source in opened.new),
        repeated=tuple(opened.repeated),
        failures=failures,
    )


def _replace(requests: Sequence[Request], target: Path, settings: CutSettings, how: _How) -> CutReport:
    """Cut beside a tile set and put the new one in its place when it is whole; files that are not the set's stay.

    What an interrupted run of this kind left beside it is gone on from where it is of the same sources and settings.
    """
    whole, plan = (target / ABOUT_FILE).exists(), Plan(settings)
    if whole and (target.is_mount() or not os.access(target.parent, os.W_OK)):
        raise OutputError(f"{target} cannot be replaced as a whole; choose another folder, such as one inside it.")
    opened = _open_new(requests, plan)
    if not opened.new:
        raise InputError(opened.failures[0].reason if opened.failures else "Nothing to cut was given.")
    place = part_of(target) if whole else target
    with locked(target if whole else None), locked_folder(target):
        place.mkdir(exist_ok=True)
        begun = _begun(place)
        if begun is not None and begun.settings == settings and list(begun.entries) == [e for e, _ in opened.new]:
            known = {i: source for i, (_, source) in enumerate(opened.new)}
            plan, opened = begun, replace(opened, new=[], known=known)
        else:
            clear(place)
        try:
            report = _cut(place, plan, opened, how)
        finally:
            remove_if_empty(place)
        if whole:
            old = replace_folder(place, target)
            assert old is not None  # the set that was whole
            move_foreign(old, target)
            shutil.rmtree(old, ignore_errors=True)
    return replace(report, folder=target)


def _begun(folder: Path) -> Plan | None:
    """The plan of an unfinished cut; one that is damaged counts for nothing."""
    try:
        return planning.load(folder)
    except OutputError:
        return None


def _difference(folder: Path, old: CutSettings, new: CutSettings) -> str:
    changed = [
        f"{name} {getattr(old, name)} → {getattr(new, name)}"
        for name in CutSettings.__dataclass_fields__
        if getattr(old, name) != getattr(new, name)
    ]
    return f"{folder} was cut with other settings ({'; '.join(changed)}); choose another folder or --overwrite."


@dataclass
class _Opened:
    new: list[tuple[Entry, Source]]
    known: dict[int, Source]
    repeated: list[str]
    failures: list[Failure]


def _open_new(requests: Sequence[Request], plan: Plan) -> _Opened:
    """Open what was asked for, and tell what the plan does not hold yet."""
    opened = _Opened([], {}, [], [])
    by_print = {entry.fingerprint: i for i, entry in enumerate(plan.entries)}
    by_source = {entry.request.source: entry for entry in plan.entries}
    by_content: dict[str, Source] = {}
    for request in requests:
        try:
            source = open_source(request, plan.settings)
            entry = planning.entry_of(request, source, plan.settings.size)
        except InputError as error:
            opened.failures.append(Failure(request.source, str(error)))
            continue
        if entry.fingerprint in by_print:
            number = by_print[entry.fingerprint]
            if number < len(plan.entries) and number not in opened.known:
                opened.known[number] = source
            opened.repeated.append(f"{request.source} is in the tile set already")
        elif request.source in by_source:
            raise OutputError(
                f"{request.source} is not what it was when it was cut, or is read otherwise; "
                "choose another folder or --overwrite."
            )
        elif (copy := _copy_of(source, entry, by_content, plan, opened)) is not None:
            opened.repeated.append(f"{request.source} is a copy of {copy}")
        else:
            by_print[entry.fingerprint] = len(plan.entries) + len(opened.new)
            if entry.content:
                by_content[entry.content] = source
            opened.new.append((entry, source))
    return opened


def _copy_of(source: Source, entry: Entry, seen: dict[str, Source], plan: Plan, opened: _Opened) -> str | None:
    """The source of which this one is a byte-for-byte copy, or None."""
    if not entry.content or not isinstance(source, Scene):
        return None
    other = seen.get(entry.content)
    if other is None:
        number = next((i for i, e in enumerate(plan.entries) if e.content == entry.content), None)
        if number is None:
            return None
        try:
            other = opened.known.get(number) or open_source(plan.entries[number].request, plan.settings)
        except InputError:
            return None  # the original is gone: nothing to compare with
    same = isinstance(other, Scene) and planning.same_content(source, other)
    return other.source if same else None


def _job(folder: Path, plan: Plan, unit: Unit, sources: dict[int, Source]) -> Job:
    numbers = {piece[0] for piece in unit.pieces}
    for number in numbers - sources.keys():
        # Planned by an earlier run and not given again: finish it all the same.
        source = open_source(plan.entries[number].request, plan.settings)
        if planning.entry_of(plan.entries[number].request, source, plan.settings.size) != plan.entries[number]:
            raise OutputError(
                f"{source.source} has changed since its cut into {folder} was interrupted; --overwrite starts afresh."
            )
        sources[number] = source
    return Job(folder, plan.settings, unit, {n: plan.entries[n] for n in numbers}, {n: sources[n] for n in numbers})


def finish(folder: Path, plan: Plan) -> tuple[About, tuple[Failure, ...]]:
    """Put the index and ``tiles.json`` together from the parts of all units."""
    receipts = {unit.number: read_receipt(folder, unit.number) for unit in plan.units}
    failures = [pair for receipt in receipts.values() for pair in receipt.failures]
    # Images fail one by one; a scene that failed in one unit goes with all its tiles.
    lost = {number for number, failure in failures if failure.source == plan.entries[number].request.source}
    gone = {plan.entries[number].request.source for number in lost}
    counted: dict[str, Counter] = {name: Counter() for name in ("shard", "sensor", "label")}

    def tables() -> Iterator[pa.Table]:
        for number in receipts:
            table = assign(_without(part_path(folder, number), gone).unify_dictionaries(), plan.split)
            for name, counts in counted.items():
                counts.update(table.column(name).to_pylist())
            yield table

    write_tables(tables(), folder / INDEX_FILE)
    moments = merge(m for r in receipts.values() for i, m in r.moments.items() if i not in lost)
    about = About(
        size=plan.settings.size,
        bands=plan.settings.bands,
        tiles=counted["shard"].total(),
        valid_pixels=moments.pixels,
        mean=tuple(moments.mean.tolist()),
        std=tuple(moments.std.tolist()),
        shards=dict(sorted(counted["shard"].items())),
        sensors=dict(sorted(counted["sensor"].items())),
        labels=tuple(sorted(label for label in counted["label"] if label is not None)),
        split=plan.split,
    )
    write_about(about, folder)
    unique = {failure.source: failure for _, failure in failures}
    return about, tuple(unique.values())


def _without(path: Path, sources: set[str]) -> pa.Table:
    table = pq.ParquetFile(path).read()
    table = table.replace_schema_metadata(None)
    if sources and len(table):
        keep = [source not in sources for source in table.column("source").to_pylist()]
        table = table.filter(pa.array(keep))
    return table.cast(SCHEMA)


def _refuse_empty(folder: Path, about: About, plan: Plan, failures: Sequence[Failure]) -> None:
    """A tile set without a tile is no tile set: it leaves nothing, so that other settings may follow at once."""
    if about.tiles:
        return
    clear(folder)
    settings = plan.settings
    if failures:
        raise InputError(failures[0].reason)
    raise InputError(
        f"No tile of {settings.size} × {settings.size} pixels passed the filters (at least {settings.min_valid:.0%} "
        "valid); choose a smaller --size or --min-valid."
    )


def set_split(folder: Path, split: dict[str, Any] | None) -> About:
    """Store the settings of a split in the plan and apply them to the index."""
    with locked_folder(folder):
        plan = planning.load(folder)
        if plan is None:
            raise InputError(f"{folder} is no tile set; make one with `geodino tile`.")
        plan = replace(plan, split=split)
        plan.save(folder)
        about, _ = finish(folder, plan)
    return about
