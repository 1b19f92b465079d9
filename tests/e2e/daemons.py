"""A real PostgreSQL, sshd and Redis on a host of the tests, without anything of this machine's own configuration."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from .gateway import wait_for
from .net import Host

#: TCP_LISTEN, in the kernel's include/net/tcp_states.h.
_LISTENING = "0A"


def program(name: str, package: str, *folders: str) -> str:
    """Its path; the test is skipped where it is not installed, or fails where it has to be."""
    found = shutil.which(name, path=os.pathsep.join([*folders, os.environ["PATH"], "/usr/sbin"]))
    if found is None:
        missing = f"{name} is not installed (Debian package {package})"
        if os.environ.get("EGRESS_REQUIRE_TOOLS") == "1":
            pytest.fail(f"{missing}, and EGRESS_REQUIRE_TOOLS=1")
        pytest.skip(missing)
    return found


@contextlib.contextmanager
def listening(host: Host, command: list[str], port: int) -> Iterator[None]:
    """A server from the time on that both its sockets of `port` are there, until the block ends."""
    running = subprocess.Popen([*host.prefix, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def ready() -> bool:
        if running.poll() is not None:
            raise AssertionError(f"{command[0]}: {running.communicate()[0].decode()}")
        tables = host.inside(lambda: [Path("/proc/thread-self/net", name).read_text() for name in ("tcp", "tcp6")])
        return all(re.search(rf":{port:04X} \S+ {_LISTENING} ", table) for table in tables)

    try:
        wait_for(f"{command[0]} on port {port}", ready)
        yield
    finally:
        running.terminate()
        try:
            running.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.communicate()


@contextlib.contextmanager
def postgres(host: Host, authority: trustme.CA, name: str) -> Iterator[None]:
    """A database on port 5432 of all of the host's addresses that trusts everybody, with TLS and a certificate for
    `name`."""
    folders = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    initdb, server = (program(tool, "postgresql", *folders) for tool in ("initdb", "postgres"))
    with tempfile.TemporaryDirectory(prefix="egress-pg") as folder:
        base = Path(folder)
        leaf = authority.issue_cert(name)
        (base / "server.pem").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        (base / "key.pem").write_bytes(leaf.private_key_pem.bytes())
        # It does not run as root.
        shutil.chown(base, "postgres", "postgres")
        (base / "key.pem").chmod(0o600)
        shutil.chown(base / "key.pem", "postgres", "postgres")
        user = [program("setpriv", "util-linux"), "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        make = [*user, initdb, "-D", f"{folder}/data", "-A", "trust", "-U", "tester", "--no-sync", "-E", "UTF8"]
        done = subprocess.run(make, capture_output=True, text=True, check=False, cwd="/")
        assert done.returncode == 0, done.stdout + done.stderr
        with (base / "data" / "pg_hba.conf").open("a") as access:
            access.write("host all all all trust\n")
        settings = {
            "listen_addresses": "*",
            "unix_socket_directories": folder,
            "ssl": "on",
            "ssl_cert_file": f"{folder}/server.pem",
            "ssl_key_file": f"{folder}/key.pem",
            "fsync": "off",
        }
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        with listening(host, [*user, server, "-D", f"{folder}/data", *options], 5432):
            yield


@contextlib.contextmanager
def sshd(host: Host, folder: Path) -> Iterator[Path]:
    """A server on port 22 of all of the host's addresses; the key of somebody whom it knows."""
    server, keygen = program("sshd", "openssh-server"), program("ssh-keygen", "openssh-client")
    for name in ("host", "client"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    # Where it gives up its rights (PRIVSEP_PATH of Debian's).
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    config = folder / "sshd_config"
    config.write_text(
        f"Port 22\nListenAddress 0.0.0.0\nListenAddress ::\nHostKey {folder}/host\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {folder}/client.pub\nStrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\n"
    )
    with listening(host, [server, "-D", "-e", "-f", str(config)], 22):
        yield folder / "client"


class Redis:
    """A store on a loopback port of its own, without persistence; it can be stopped, killed and started again."""

    def __init__(self, folder: Path, authority: trustme.CA | None = None) -> None:
        self._program = program("redis-server", "redis-server")
        self._folder = folder
        self.tls_port = self.free_port()
        self._tls: list[str] = []
        if authority is not None:
            leaf = authority.issue_cert("localhost")
            (folder / "redis.pem").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
            leaf.private_key_pem.write_to_path(str(folder / "redis-key.pem"))
            self._tls = ["--tls-port", str(self.tls_port), "--tls-auth-clients", "no"]
            self._tls += ["--tls-cert-file", str(folder / "redis.pem"), "--tls-key-file", str(folder / "redis-key.pem")]
            # It asks for one, and uses it for clients and replicas only.
            self._tls += ["--tls-ca-cert-file", str(folder / "redis.pem")]
        self.port = self.free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._running: subprocess.Popen[bytes] | None = None
        self._password: str | None = None

    @staticmethod
    def free_port() -> int:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port: int = free.getsockname()[1]
            return port

    def start(self) -> None:
        settings = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *self._tls]
        with (self._folder / "redis.txt").open("ab") as log:
            command = [self._program, *settings, "--dir", str(self._folder)]
            self._running = subprocess.Popen(command, stdout=log, stderr=log)

        def answers() -> bool:
            with contextlib.suppress(OSError):
                return self.command("PING") == "PONG"
            return False

        wait_for("redis", answers)

    def command(self, *words: str) -> object:
        """What the store answers: a number, a text, or None for anything else."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            answers = connection.makefile("rb")
            for command in ([("AUTH", self._password)] if self._password else []) + [words]:
                parts = [b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in command]
                connection.sendall(b"*%d\r\n%s" % (len(parts), b"".join(parts)))
                line = answers.readline().decode().strip()
        if line.startswith("-"):
            raise AssertionError(line)
        return int(line[1:]) if line.startswith(":") else line[1:] if line.startswith("+") else None

    def set_password(self, password: str) -> None:
        self.command("CONFIG", "SET", "requirepass", password)
        self._password = password

    def _signal(self, number: int) -> None:
        assert self._running is not None
        self._running.send_signal(number)

    def stop(self) -> None:
        """It is there, and answers nothing."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._running is not None:
            self._running.kill()
            self._running.wait()
            self._running = None


@contextlib.contextmanager
def redis(folder: Path, authority: trustme.CA | None = None) -> Iterator[Redis]:
    """With an authority it speaks TLS on a second port, as `localhost`."""
    running = Redis(folder, authority)
    running.start()
    try:
        yield running
    finally:
        running.kill()
