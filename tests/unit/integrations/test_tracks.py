"""What may be given out of a log, message by message, and against a model of a lossy bus."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ensue.integrations.channels.bus import Entry, Stamp, page_of
from ensue.integrations.channels.tracks import Caught, Track


def track_at(offset: int, epoch: str = "e") -> Track:
    track = Track()
    assert track.begin(Stamp(epoch, offset)) == []
    return track


def entry(offset: int) -> Entry:
    return Entry(offset, f"m{offset}")


def come(track: Track, offset: int, epoch: str = "e") -> list[Entry]:
    return track.received(Stamp(epoch, offset), f"m{offset}")


def test_the_next_is_given_out_and_repeats_are_not() -> None:
    track = track_at(4)
    assert come(track, 5) == [entry(5)]
    assert come(track, 5) == []
    assert come(track, 3) == []
    assert come(track, 6) == [entry(6)]
    assert not track.behind


def test_a_hole_is_read_from_the_log_and_what_came_meanwhile_follows() -> None:
    track = track_at(4)
    assert come(track, 7) == []
    assert track.behind
    assert track.reading() == Stamp("e", 4)
    assert come(track, 9) == come(track, 10) == []
    page = page_of(Stamp("e", 9), Stamp("e", 4), [entry(number) for number in range(5, 10)])
    assert track.caught(page) == Caught([entry(number) for number in range(5, 11)], gap=False)
    assert not track.behind


def test_a_page_that_ends_early_leaves_more_to_read() -> None:
    track = track_at(0)
    come(track, 9)
    track.reading()
    page = page_of(Stamp("e", 9), Stamp("e", 0), [entry(1), entry(2)])
    assert track.caught(page).entries == [entry(1), entry(2)]
    assert track.behind
    assert track.reading() == Stamp("e", 2)


def test_what_the_log_no_longer_has_is_a_gap() -> None:
    track = track_at(4)
    come(track, 700)
    track.reading()
    come(track, 701)
    page = page_of(Stamp("e", 700), Stamp("e", 4), [entry(200)])
    assert track.caught(page) == Caught([entry(701)], gap=True)
    assert track.stamp == Stamp("e", 701)


def test_another_epoch_is_a_gap() -> None:
    track = track_at(4)
    assert come(track, 5, epoch="f") == []
    track.reading()
    assert track.caught(page_of(Stamp("f", 1), Stamp("e", 4), [])) == Caught([], gap=True)
    assert come(track, 2, epoch="f") == [entry(2)]


def test_nothing_is_given_out_before_its_place_is_known() -> None:
    track = Track()
    assert come(track, 8) == come(track, 9) == []
    assert track.begin(Stamp("e", 8)) == [entry(9)]


def test_a_look_at_the_log_finds_what_never_came() -> None:
    track = track_at(4)
    assert not track.seen(Stamp("e", 4))
    assert not track.seen(Stamp("e", 3)), "the look was older than a message"
    assert track.seen(Stamp("e", 5))
    track.reading()
    page = page_of(Stamp("e", 5), Stamp("e", 4), [entry(5)])
    assert track.caught(page).entries == [entry(5)]


def test_too_much_held_is_read_instead() -> None:
    track = track_at(0)
    for offset in range(2, 3_000):
        assert come(track, offset) == []
    track.reading()
    page = page_of(Stamp("e", 2_999), Stamp("e", 0), [entry(number) for number in range(1, 3_000)])
    assert len(track.caught(page).entries) == 2_999


class Scene:
    """A log that keeps little, a bus that loses some, and what a track made of it."""

    def __init__(self, kept: int) -> None:
        self.kept = kept
        self.log: list[int] = []
        self.top = Stamp("0", 0)
        self.track = track_at(0, epoch="0")
        self.given_out: list[tuple[str, int]] = []

    def send(self) -> None:
        self.lose()
        self._note(self.track.received(self.top, f"m{self.top.offset}"))

    def lose(self) -> None:
        self.top = Stamp(self.top.epoch, self.top.offset + 1)
        self.log.append(self.top.offset)

    def repeat(self) -> None:
        if self.top.offset:
            self._note(come(self.track, max(1, self.top.offset - 1), epoch=self.top.epoch))

    def look(self) -> None:
        self.track.seen(self.top)

    def forget(self) -> None:
        self.top, self.log = Stamp(f"{int(self.top.epoch) + 1}", 0), []

    def read(self) -> None:
        if not self.track.behind:
            return
        stamp = self.track.reading()
        assert stamp is not None
        after = [entry(each) for each in self.log[-self.kept :] if each > stamp.offset]
        caught = self.track.caught(page_of(self.top, stamp, after[:3]))
        if caught.gap:
            self.given_out.append(("gap", 0))
        self._note(caught.entries)

    def _note(self, entries: list[Entry]) -> None:
        assert self.track.stamp is not None
        self.given_out.extend((self.track.stamp.epoch, each.offset) for each in entries)


@given(
    steps=st.lists(st.sampled_from(["send", "lose", "repeat", "look", "read", "forget"]), max_size=60),
    kept=st.integers(1, 8),
)
def test_whatever_is_lost_on_the_way_nothing_is_missing_without_a_gap(steps: list[str], kept: int) -> None:
    scene = Scene(kept)
    for step in [*steps, "look"]:
        getattr(scene, step)()
    while scene.track.behind:
        scene.read()
    assert scene.track.stamp == scene.top
    last = ("0", 0)
    for each in scene.given_out:
        assert each[0] == "gap" or last[0] == "gap" or each == (last[0], last[1] + 1), scene.given_out
        last = each
