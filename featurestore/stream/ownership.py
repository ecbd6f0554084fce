"""Whose a view's heads are, and what their stream says of itself: the writers of one tile topic together are one owner."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from featurestore.errors import StreamConflict
from featurestore.ir import View
from featurestore.online.codec import NEVER, Codec
from featurestore.online.state import StreamState, load_states, load_stream, stream_name
from featurestore.online.store import OnlineStore
from featurestore.stream.positions import OWNER
from featurestore.stream.upserts import Now
from featurestore.time import SECOND


class Ownership:
    """Of one view. `since` is from when on its heads are complete, `cut` where its base ends, `proven` the stream's clock."""

    def __init__(
        self, online: OnlineStore, view: View, codec: Codec, clock: Callable[[], int], *, take_over: bool
    ) -> None:
        self._online, self._view, self._codec, self._clock = online, view, codec, clock
        self._take_over = take_over
        self._owner = ""
        self.since: int | None = None
        self.cut = self.proven = NEVER

    @property
    def now(self) -> Now:
        """How heads are written now."""
        # High, so that no materialisation ever bears the same number.
        return Now(1 << 31 | zlib.crc32(self._owner.encode()) & 0x7FFFFFFF, self.cut, self.proven)

    def check(self) -> StreamState | None:
        """What the stream said last. Raises StreamConflict when another one feeds the view, unless it is to be taken over."""
        found = load_stream(self._online, self._codec)
        if found is None or self._take_over:
            return found
        if found.owner == self._owner or (not self._owner and found.owner.startswith(OWNER)):
            return found
        ago = (self._clock() - found.updated_at) / SECOND
        raise StreamConflict(
            f"view '{self._view.name}' is fed by another stream, which last said so {ago:,.0f} seconds ago\n"
            "  stop it; or, if it is gone for good, run this one with --take-over"
        )

    def own(self, topic: str, removed_until: Callable[[], int | None]) -> None:
        """Says that the writers of a tile topic of this id own the heads. Raises StreamConflict.

        `removed_until` says from when on the source's topic still has all events, None from its first: what was removed
        before the job began, it never read.
        """
        self._owner = f"{OWNER}{topic}"
        found = self.check()
        mine = found is not None and found.owner == self._owner
        self.since = found.since if found is not None and mine else removed_until()
        self._look_at_base()
        self.say(NEVER if found is None else found.clock)
        self._take_over = False

    def say(self, clock: int, *, afresh: bool = False) -> None:
        """Moves the clock, which steps back only where two say it for a moment (less is as true), and `afresh`, after a loss."""
        found = load_stream(self._online, self._codec)
        if found is not None and not afresh:
            clock = max(clock, found.clock)
        said = StreamState(self._owner, clock, self.since, self._clock())
        self._online.set_metas({stream_name(self._codec): said.to_bytes()})
        self.proven = max(self.proven, clock)

    def incomplete_until(self, moment: int) -> None:
        """What was written before a moment may lack something."""
        self.since = moment if self.since is None else max(self.since, moment)
        self.say(NEVER)

    def look(self) -> None:
        """Learns where base ends now, and of the clock that another writer has moved. Raises StreamConflict."""
        self._look_at_base()
        found = self.check()
        if found is None:
            self.say(NEVER)
        else:
            self.proven = max(self.proven, found.clock)

    def _look_at_base(self) -> None:
        base = load_states(self._online, {"": self._codec}).get("")
        self.cut = NEVER if base is None else base.cut


__all__ = ["Ownership"]
