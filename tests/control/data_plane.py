"""The test is the data plane of a real control process."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from egress_gateway import messages

from tests.telemetry.segment_writer import SegmentWriter

POLICY = "egress: v1\nadmin: { bind: off }\nlog: { decisions: off }\nrules: []\n"


class DataPlane:
    """Says to a control process what a data plane says."""

    def __init__(self, folder: Path) -> None:
        policy = folder / "policy"
        policy.mkdir()
        (policy / "main.yaml").write_text(POLICY)
        self.policy = policy
        self.control = str(folder / "egress.sock")
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(20)
        self.generation = 0
        with theirs, (folder / "stderr.txt").open("wb") as stderr:
            command = [sys.executable, "-m", "egress_gateway", "--control-fd", str(theirs.fileno())]
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=stderr)
        options = {"config": [str(policy)], "control_socket": self.control}
        memory = SegmentWriter().fd
        self.say("hello", memory, pid=1, boot=1, generation=0, digest=None, options=options)
        os.close(memory)

    def say(self, kind: str, *fds: int, **fields: Any) -> None:
        socket.send_fds(self.sock, [json.dumps({"v": messages.VERSION, "type": kind, **fields}).encode()], fds)

    def hear(self, kind: str) -> int:
        """The id of the next request, which is one of these."""
        packet, fds, _, _ = socket.recv_fds(self.sock, messages.MAX_MESSAGE, 4)
        for fd in fds:
            os.close(fd)
        heard = json.loads(packet)
        assert heard["type"] == kind
        return int(heard["id"])

    def install(self) -> None:
        """Waits for a policy, and takes it."""
        self.generation += 1
        self.say("installed", id=self.hear("install"), generation=self.generation, changed=True)

    def nothing(self) -> None:
        """Nothing is asked of it for longer than the watcher's poll takes."""
        ready, _, _ = select.select([self.sock], [], [], 3)
        assert not ready

    def stop(self) -> None:
        self.sock.close()
        self.process.kill()
        self.process.wait()
