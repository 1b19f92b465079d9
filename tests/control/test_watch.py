"""Each way in which a file changes is seen, and seen once."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop
from egress_gateway.watch import Watcher


def rename(file: Path) -> None:
    file.with_name("new.tmp").write_text("two")
    file.with_name("new.tmp").replace(file)


def rewrite(file: Path) -> None:
    file.write_text("two")


def recreate(file: Path) -> None:
    file.unlink()
    file.write_text("two")


def swap(file: Path) -> None:
    """As the kubelet does: a new folder, and the link `..data` replaced."""
    folder = file.parent
    (folder / "..2").mkdir()
    (folder / "..2" / file.name).write_text("two")
    (folder / "..data.tmp").symlink_to("..2")
    (folder / "..data.tmp").replace(folder / "..data")


def put_another_folder_in_place(file: Path) -> None:
    other = file.parent.with_name("other")
    other.mkdir()
    (other / file.name).write_text("two")
    file.parent.replace(file.parent.with_name("old"))
    other.replace(file.parent)


#: By events alone, and by the poll alone.
EVENTS, POLL = 60.0, 0.3


def deaf(**_: int) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.fixture(params=[EVENTS, POLL], ids=["events", "poll"])
def poll(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    if request.param == POLL:
        monkeypatch.setattr("egress_gateway.watch.Inotify", deaf)
    return float(request.param)


def changes(folder: Path, path: Path, poll: float, *acts: Callable[[Path], None]) -> int:
    async def count() -> int:
        seen = 0

        async def on_change() -> None:
            nonlocal seen
            seen += 1

        watcher = Watcher([str(path)], on_change, poll)
        watcher.baseline = await watcher.look()
        task = asyncio.create_task(watcher.run())
        await asyncio.sleep(0.3)
        for act in acts:
            act(folder / "policy.yaml")
            await asyncio.sleep(2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return seen

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(count())


@pytest.mark.parametrize("directory", [False, True])
@pytest.mark.parametrize(("act", "times"), [(rename, 1), (rewrite, 1), (recreate, 1), (os.utime, 0)])
def test_a_change_is_seen_once(
    tmp_path: Path, act: Callable[[Path], None], times: int, directory: bool, poll: float
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("one")
    assert changes(tmp_path, tmp_path if directory else file, poll, act) == times


@pytest.mark.parametrize("directory", [False, True])
def test_a_folder_that_was_replaced_is_watched_like_the_one_before(
    tmp_path: Path, directory: bool, poll: float
) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "policy.yaml").write_text("one")

    def write_again(file: Path) -> None:
        file.write_text("three")

    path = folder if directory else folder / "policy.yaml"
    assert changes(folder, path, poll, put_another_folder_in_place, write_again) == 2


def looks(file: Path, *acts: Callable[[Path], None]) -> list[int]:
    """How many looks each act costs, by events alone. The loop takes nothing in before an act is over."""
    file.write_text("one")

    async def count() -> list[int]:
        watcher = Watcher([str(file)], lambda: asyncio.sleep(0), EVENTS)
        watcher.baseline = await watcher.look()
        task = asyncio.create_task(watcher.run())
        await asyncio.sleep(0.3)
        found = [watcher.looks]
        for act in acts:
            act(file)
            await asyncio.sleep(1.5)
            found.append(watcher.looks)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return [after - before for before, after in itertools.pairwise(found)]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(count())


def fill(files: int) -> Callable[[Path], None]:
    def act(file: Path) -> None:
        for number in range(files):
            file.with_name(f"{number}.txt").touch()

    return act


def test_what_happens_beside_the_policy_costs_no_look(tmp_path: Path) -> None:
    beside, change = looks(tmp_path / "policy.yaml", fill(5000), rewrite)
    assert beside == 0 and change > 0


def test_events_that_were_lost_are_as_good_as_one(tmp_path: Path) -> None:
    # Each file is two events and more.
    kept = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    assert looks(tmp_path / "policy.yaml", fill(kept // 2 + 500))[0] > 0


def test_the_swap_of_a_mounted_config_map_is_seen_once(tmp_path: Path, poll: float) -> None:
    (tmp_path / "..1").mkdir()
    (tmp_path / "..1" / "policy.yaml").write_text("one")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "policy.yaml").symlink_to("..data/policy.yaml")
    assert changes(tmp_path, tmp_path, poll, swap) == 1


@pytest.mark.parametrize("edited", [False, True])
def test_a_list_that_was_just_loaded_is_no_change_and_its_edit_is(tmp_path: Path, edited: bool) -> None:
    policy, names = tmp_path / "policy.yaml", tmp_path / "names.txt"
    policy.write_text("one")
    names.write_text("one.example")

    async def count() -> int:
        watcher = Watcher([str(policy)], lambda: asyncio.sleep(0))
        watcher.baseline = await watcher.look()
        # The clock of a file system may be a tick behind.
        await asyncio.sleep(0.05)
        watcher.set_paths([str(policy), str(names)], time.time())
        await asyncio.sleep(0.05)
        if edited:
            names.write_text("two.example")
        return sum([await watcher._settled_change() for _ in range(2)])

    assert asyncio.run(count()) == edited


class Scripted(Watcher):
    """Sees one text after the other, the last one for ever; a text in capitals is loaded by somebody else at once."""

    def __init__(self, *texts: str) -> None:
        super().__init__(["policy"], lambda: asyncio.sleep(0))
        self.texts = list(texts)
        self.baseline = {"policy": "one"}

    async def look(self) -> dict[str, str]:
        text = self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]
        seen = {"policy": text.lower()}
        if text.isupper():
            self.baseline = seen
        return seen


@pytest.mark.parametrize(
    ("texts", "times"),
    [
        (("one",), 0),
        (("two",), 1),
        (("two", "one"), 0),
        (("two", "three"), 1),
        (("two", "TWO"), 0),
        (("two", "THREE"), 0),
        (("two", "TWO", "three"), 1),
        (("two", "three", "THREE"), 0),
        (("two", "TWO", "three", "THREE"), 0),
    ],
)
def test_a_change_that_another_loads_meanwhile_is_not_loaded_again_and_a_later_one_is(
    monkeypatch: pytest.MonkeyPatch, texts: tuple[str, ...], times: int
) -> None:
    monkeypatch.setattr("egress_gateway.watch.SETTLE", 0)

    async def run() -> int:
        watcher = Scripted(*texts)
        return sum([await watcher._settled_change() for _ in range(5)])

    assert asyncio.run(run()) == times


@pytest.mark.parametrize("steps", range(5))
def test_the_watcher_can_be_cancelled_while_it_is_woken(tmp_path: Path, steps: int) -> None:
    (tmp_path / "policy.yaml").write_text("one")

    async def run() -> None:
        watcher = Watcher([str(tmp_path)], lambda: asyncio.sleep(0), poll=30)
        watcher.baseline = await watcher.look()
        task = asyncio.create_task(watcher.run())
        await asyncio.sleep(0.3)
        watcher._wake.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=10)
        assert task.cancelled()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
