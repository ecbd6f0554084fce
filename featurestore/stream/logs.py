"""The local logs of a project's sources, for whoever looks after them: how large they are, and what may be taken out.

Nothing here waits for a stream or stops one: a log may be looked at, mended and pruned while it is written and read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from featurestore.config import Config
from featurestore.errors import LogCorrupt, LogUnread
from featurestore.ir import Source, View
from featurestore.layout import layout_of
from featurestore.log.eventlog import LogStats, Pruned, Skipped, segment_offsets
from featurestore.online.codec import codec_of
from featurestore.stream.feeds import LogFeed, log_directory, naming_the_way_out, open_log
from featurestore.stream.state import Shelf, directory_of


@dataclass(frozen=True, slots=True)
class LogStatus:
    """One source's log. `read` has for each view of the source the offset up to which its stream read, None before the first.

    `stats` is None where nothing was ever pushed, and where the log is so damaged that nobody can count. `damage` is the
    first damage of each segment, as errors that say the command which sets it aside.
    """

    source: str
    stats: LogStats | None
    read: Mapping[str, int | None]
    damage: tuple[LogCorrupt, ...] = ()


def log_statuses(
    config: Config, sources: Sequence[Source], views: Sequence[View], *, check: bool = False
) -> Iterator[LogStatus]:
    """The log of each source. `check` reads all events and compares their checksums; else only frames are looked at.

    Writes nothing. Raises LogError where a directory cannot be read.
    """
    for source in sources:
        read = readers(config, source, views)
        directory = log_directory(config, source)
        if not directory.is_dir() or not segment_offsets(directory):
            yield LogStatus(source.name, None, read)
            continue
        damage: list[LogCorrupt] = []
        stats = None
        with open_log(config, source) as log:
            try:
                with naming_the_way_out(source.name):
                    stats = log.stats()
            except LogCorrupt as error:
                damage.append(error)
            if check:
                damage.clear()
                for found in log.check():
                    try:
                        with naming_the_way_out(source.name):
                            raise found
                    except LogCorrupt as error:
                        damage.append(error)
        yield LogStatus(source.name, stats, read, tuple(damage))


def readers(config: Config, source: Source, views: Sequence[View]) -> dict[str, int | None]:
    """The offset up to which the stream of each view has read the source's log; None where it has not begun."""
    found: dict[str, int | None] = {}
    for view in views:
        if view.source.name != source.name:
            continue
        shelf = Shelf.open(directory_of(config.root, view, codec_of(view, layout_of(view))))
        if shelf is None:
            found[view.name] = None
            continue
        with shelf:
            meta = shelf.meta()
        found[view.name] = None if meta is None else meta.positions.get(LogFeed.name)
    return found


def skip_damage(config: Config, source: Source, offset: int) -> Skipped:
    """Sets damaged bytes of a source's log aside: see `EventLog.skip`. Raises LogError where nothing is damaged."""
    with open_log(config, source) as log:
        return log.skip(offset)


def prune_log(
    config: Config,
    source: Source,
    views: Sequence[View],
    *,
    before: int | None = None,
    older_than: int | None = None,
    force: bool = False,
) -> Pruned:
    """Removes whole segments from the start of a source's log: see `EventLog.prune`; `older_than` in UTC microseconds.

    Raises LogUnread, with nothing removed, where the stream of one of `views` has not read all of it, unless `force`.
    """
    with open_log(config, source) as log, naming_the_way_out(source.name):
        would = log.prune(before_offset=before, older_than=older_than, dry_run=True)
        if not would.segments:
            return would
        behind = {
            name: read
            for name, read in readers(config, source, views).items()
            if read is None or read < would.start
        }
        if behind and not force:
            raise LogUnread(
                f"source '{source.name}': streams have still to read events before offset {would.start}; nothing was removed\n"
                f"  {', '.join(_behind(name, read) for name, read in behind.items())}\n"
                "  let `fs stream run` read them first; with --force they are lost to these views until `fs materialize`",
                tuple(behind),
            )
        # Appends may have sealed more segments since the streams were looked at: those stay.
        return log.prune(before_offset=would.start)


def _behind(name: str, read: int | None) -> str:
    return f"view '{name}' has {'read none' if read is None else f'read up to {read}'}"
