"""A password in the address of a store is in no error, in whatever form that is shown: it would end up in logs."""

from __future__ import annotations

from pathlib import Path

import pytest
from egress_gateway.check import check
from egress_gateway.errors import ConfigErrors

POLICIES = {
    "a port that is none": 'cluster: {{ store: "redis://egress:{password}@valkey:99999/0", replicas: 3 }}\n',
    "two passwords": 'cluster: {{ store: "redis://:{password}@valkey", replicas: 3, password_file: p }}\n',
    "another mistake in its line": 'cluster: {{ store: "rediss://egress:{password}@valkey", replicas: many }}\n',
    "a line that is no YAML": 'cluster: {{ store: "redis://egress:{password}@valkey", replicas: [ }}\n',
}


@pytest.mark.parametrize("case", POLICIES)
@pytest.mark.parametrize("password", ["hunter2", "s3cr%40t", "with@sign"])
def test_a_password_is_in_no_error(tmp_path: Path, case: str, password: str) -> None:
    (tmp_path / "p").write_text("other\n")
    (tmp_path / "policy.yaml").write_text("egress: v1\nrules: []\n" + POLICIES[case].format(password=password))
    with pytest.raises(ConfigErrors) as caught:
        check([str(tmp_path / "policy.yaml")])
    for shown in (caught.value.render(), caught.value.as_json()):
        assert "valkey" in shown and password not in shown
        assert "*" * len(password) in shown
