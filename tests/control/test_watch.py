"""Each way in which a file changes is seen, and seen once."""

from __future__ import annotations

import asyncio
import os
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


def changes(folder: Path, path: Path, act: Callable[[Path], None]) -> int:
    async def count() -> int:
        seen = 0

        async def on_change() -> None:
            nonlocal seen
            seen += 1

        watcher = Watcher([str(path)], on_change, poll=0.3)
        watcher.baseline = await watcher.look()
        task = asyncio.create_task(watcher.run())
        await asyncio.sleep(0.3)
        act(folder / "policy.yaml")
        await asyncio.sleep(2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return seen

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(count())


@pytest.mark.parametrize("directory", [False, True])
@pytest.mark.parametrize(("act", "times"), [(rename, 1), (rewrite, 1), (recreate, 1), (os.utime, 0)])
def test_a_change_is_seen_once(tmp_path: Path, act: Callable[[Path], None], times: int, directory: bool) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("one")
    assert changes(tmp_path, tmp_path if directory else file, act) == times


def test_the_swap_of_a_mounted_config_map_is_seen_once(tmp_path: Path) -> None:
    (tmp_path / "..1").mkdir()
    (tmp_path / "..1" / "policy.yaml").write_text("one")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "policy.yaml").symlink_to("..data/policy.yaml")
    assert changes(tmp_path, tmp_path, swap) == 1
