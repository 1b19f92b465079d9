"""Ready is: a policy is in force and nothing is drained. Who asks when the data plane goes is told so."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from egress_gateway import client

from tests.control.data_plane import DataPlane
from tests.e2e.gateway import wait_for


def ready(data_plane: DataPlane) -> tuple[int, bytes]:
    return client.ask(data_plane.control, "GET", "/readyz")


def test_ready_is_from_the_first_policy_to_the_drain(data_plane: DataPlane) -> None:
    request = data_plane.hear("install")
    assert ready(data_plane) == (503, b"no policy is in force\n")
    data_plane.say("installed", id=request, generation=1, changed=True)
    wait_for("the gateway to be ready", lambda: ready(data_plane) == (200, b"ok\n"))
    data_plane.say("draining")
    wait_for("the drain to be seen", lambda: ready(data_plane) == (503, b"draining\n"))


@pytest.mark.parametrize(("garbage", "code"), [(None, 0), (b"{}", 70)])
def test_who_asks_while_the_data_plane_goes_is_told_so(
    data_plane: DataPlane, tmp_path: Path, garbage: bytes | None, code: int
) -> None:
    data_plane.install()
    answers: list[tuple[int, bytes]] = []
    asking = threading.Thread(target=lambda: answers.append(client.ask(data_plane.control, "GET", "/status")))
    asking.start()
    data_plane.hear("status")
    if garbage is None:
        data_plane.sock.close()
    else:
        data_plane.sock.send(garbage)
    asking.join(20)
    [(status, body)] = answers
    assert status == 503 and "error" in json.loads(body)
    assert data_plane.process.wait(20) == code
    assert "Traceback" not in (tmp_path / "stderr.txt").read_text()
    assert not Path(data_plane.control).exists()
