"""The files of a listener's TLS are read and checked at load; what is wrong is told at its place, and no message
shows a private key."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import trustme
from egress_gateway.check import check

from .conftest import Broken, Errors, place_of

HEAD = "egress: v1\nrules: []\nlisteners:\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Has `good.pem` with `good-key.pem`, `ca.pem`, another key, and files that are no good."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    for name in ("good", "other"):
        leaf = authority.issue_cert("proxy.example")
        (tmp_path / f"{name}.pem").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(str(tmp_path / f"{name}-key.pem"))
    (tmp_path / "empty.pem").write_text("")
    half = (tmp_path / "good.pem").read_text()
    (tmp_path / "half.pem").write_text(half[: len(half) // 3])
    (tmp_path / "large.pem").write_bytes(b"x" * 600_000)
    os.mkfifo(tmp_path / "pipe.pem")
    return tmp_path


def listener(tls: str, accept: str = "connect", before: str = "") -> str:
    return f'{HEAD}  - {{ name: a, bind: "127.0.0.1:1", accept: {accept}, {before}tls: {{ {tls} }} }}\n'


GOOD = "certificate: good.pem, key: good-key.pem"


@pytest.mark.parametrize(
    "case",
    [
        Broken("no file", "yaml", listener("certificate: ⟦no.pem, key: good-key.pem"), "cannot be read", "looked for"),
        Broken("a pipe", "yaml", listener("certificate: ⟦pipe.pem, key: good-key.pem"), "ot a regular file", ""),
        Broken("empty", "yaml", listener("certificate: ⟦empty.pem, key: good-key.pem"), "no certificate", "BEGIN"),
        Broken("half", "yaml", listener("certificate: ⟦half.pem, key: good-key.pem"), "not sound PEM", "BEGIN"),
        Broken("large", "yaml", listener("certificate: good.pem, key: ⟦large.pem"), "larger than", "PEM"),
        Broken("no key", "yaml", listener("certificate: good.pem, key: ⟦good.pem"), "no private key", "unencrypted"),
        Broken("another key", "yaml", listener("certificate: good.pem, key: ⟦other-key.pem"), "not that of", "key"),
        Broken("no roots", "yaml", listener(f"{GOOD}, client_ca: ⟦good-key.pem"), "no certificate", "BEGIN"),
        Broken("nobody to trust", "yaml", listener(f"{GOOD}, client: ⟦required"), "client_ca", "add `client_ca`"),
        Broken("no such word", "yaml", listener(f"{GOOD}, client_ca: ca.pem, client: ⟦maybe"), "maybe", "required"),
        Broken("key left out", "yaml", listener("⟦certificate: good.pem"), "key", ""),
        Broken(
            "tls listener", "yaml", listener(GOOD, "tls").replace("tls: {", "tls: ⟦{"), "TLS to the proxy", "connect"
        ),
    ],
    ids=lambda case: case.name,
)
def test_what_is_wrong_with_the_files_is_told_at_their_key(case: Broken, folder: Path, errors: Errors) -> None:
    text, line, column = place_of(case.text)
    (error, *more) = errors(policy_yaml=text)
    assert not more, "\n".join(each.render() for each in more)
    assert case.message in error.message and case.fix in error.fix, error.render()
    if case.name != "key left out":
        assert (error.line, error.column) == (line, column), error.render()
    secret = (folder / "good-key.pem").read_text().splitlines()[1]
    assert secret not in error.render()


def test_the_files_are_part_of_the_policy(folder: Path) -> None:
    (folder / "policy.yaml").write_text(listener(f"{GOOD}, client_ca: ca.pem"))
    first = check([str(folder / "policy.yaml")])
    assert [Path(path).name for path in first.loaded.files] == ["policy.yaml", "good.pem", "good-key.pem", "ca.pem"]
    (tls,) = [one["tls"] for one in json.loads(first.loaded.document)["settings"]["listeners"]]
    assert tls["certificate"] == (folder / "good.pem").read_text() and tls["client_required"] is True
    for name in ("good.pem", "good-key.pem"):
        (folder / name).write_text((folder / name.replace("good", "other")).read_text())
    second = check([str(folder / "policy.yaml")])
    assert second.policy.digest != first.policy.digest and second.loaded.hash != first.loaded.hash
