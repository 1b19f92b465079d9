"""A real gateway for a test: `egress run` as a process of its own, on free ports, with its decision log in a file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from egress_gateway import client

#: Seconds. Start-up is some 0.5 s here; a loaded machine may take many times that.
START = 20.0
#: Seconds. How long a test waits for something that is to happen "at once".
SOON = 10.0

Json = dict[str, Any]


def wait_for(what: str, probe: Callable[[], Any], seconds: float = SOON) -> Any:
    """The first true value of `probe`, which is asked again until the time is over."""
    until = time.monotonic() + seconds
    while True:
        if value := probe():
            return value
        if time.monotonic() > until:
            raise AssertionError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.02)


class Gateway:
    """One running gateway. `policy` is the text of the policy file, without listeners unless it names its own."""

    LISTENERS = """
listeners:
  - { name: tls, bind: "127.0.0.1:0", accept: tls, port: %(port)d }
  - { name: proxy, bind: "127.0.0.1:0", accept: connect }
"""

    def __init__(
        self,
        folder: Path,
        policy: str,
        *,
        port: int = 443,
        env: dict[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.policy_file = folder / "policy.yaml"
        self.log_file = folder / "decisions.jsonl"
        self.stderr_file = folder / "stderr.txt"
        self.control = folder / "egress.sock"
        self.port = port
        self.write(policy)
        command = [*prefix, sys.executable, "-m", "egress_gateway.cli", "run", "-c", str(self.policy_file)]
        with self.stderr_file.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*command, "--control", str(self.control)],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                env={**os.environ, **(env or {})},
            )

    def write(self, policy: str) -> None:
        """Replaces the policy file as an editor does: whole, by rename."""
        text = "egress: v1\n" if "egress:" not in policy else ""
        if "\nlisteners:" not in "\n" + policy:
            text += self.LISTENERS % {"port": self.port}
        if "\nlog:" not in "\n" + policy:
            text += f"log: {{ decisions: {json.dumps(str(self.log_file))} }}\n"
        if "\nadmin:" not in "\n" + policy:
            text += 'admin: { bind: "127.0.0.1:0" }\n'
        fresh = self.policy_file.with_suffix(".tmp")
        fresh.write_text(text + policy)
        fresh.replace(self.policy_file)

    def wait_ready(self) -> Gateway:
        def ready() -> Json | None:
            if self.process.poll() is not None:
                raise AssertionError(f"egress run exited with {self.process.returncode}:\n{self.stderr()}")
            with contextlib.suppress(client.NoGatewayError):
                code, told = client.ask_json(str(self.control), "GET", "/status")
                # Listeners are bound before a policy is in force, and that is before each worker serves.
                serving = [worker["generation"] for worker in told["workers"]] if code == 200 else []
                return told if serving and all(serving) else None
            return None

        told = wait_for("the gateway to be ready", ready, START)
        self.listeners = {one["name"]: one["bound"] for one in told["listeners"]}
        return self

    def address(self, listener: str) -> tuple[str, int]:
        host, _, port = self.listeners[listener].rpartition(":")
        return host.strip("[]"), int(port)

    def egress(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The CLI, aimed at this gateway."""
        command = [sys.executable, "-m", "egress_gateway.cli", *arguments]
        env = {**os.environ, "EGRESS_CONTROL": str(self.control)}
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)

    def status(self) -> Json:
        """As `egress status --json` prints it, without a process for each question."""
        result: Json = client.ask_json(str(self.control), "GET", "/status")[1]
        return result

    def reload(self, policy: str | None = None) -> subprocess.CompletedProcess[str]:
        if policy is not None:
            self.write(policy)
        return self.egress("reload", "--json")

    def stderr(self) -> str:
        return self.stderr_file.read_text(errors="replace")

    def records(self) -> list[Json]:
        """The decision log so far, whole lines only."""
        if not self.log_file.exists():
            return []
        text = self.log_file.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def record(self, seconds: float = SOON, *, after: int = 0, **wanted: Any) -> Json:
        """Waits for the first record, of those after the first `after`, whose fields are as wanted."""

        def found() -> Json | None:
            for record in self.records()[after:]:
                if all(record.get(key) == value for key, value in wanted.items()):
                    return record
            return None

        try:
            result: Json = wait_for(f"a record with {wanted}", found, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; there are {self.records()[-5:]}\n{self.stderr()[-2000:]}") from None
        return result

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def resident(self) -> int:
        """Resident memory of the data plane in bytes."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def control_pid(self) -> int | None:
        """The control process, while there is one."""
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            return int(children[0]) if children else None
        return None

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(2)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGTERM)
                try:
                    self.process.wait(10)
                except subprocess.TimeoutExpired:
                    self.process.kill()
                    self.process.wait()
                    raise
        return self.process.returncode


@contextlib.contextmanager
def running(folder: Path, policy: str, **options: Any) -> Iterator[Gateway]:
    folder.mkdir(parents=True, exist_ok=True)
    gateway = Gateway(folder, policy, **options)
    try:
        yield gateway.wait_ready()
    finally:
        gateway.stop()
