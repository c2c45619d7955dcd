"""TF_CONFIG is checked before TensorFlow is imported."""

import json

import pytest

from cvrl_tf import tf_config

HOSTS = {"worker": ["a:1", "[::1]:2"]}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"task": {}}',
        json.dumps({"cluster": HOSTS, "task": {"type": "worker", "index": 1}}),
    ],
)
def test_well_formed(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    tf_config.check()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "no JSON"),
        ("[]", "no JSON object"),
        ('{"cluster": ["a:1"]}', "cluster is no object"),
        ('{"cluster": {"worker": "a:1"}}', "no list of addresses for 'worker'"),
        ('{"cluster": {"worker": ["a"]}}', "address 'a', which is not HOST:PORT"),
        ('{"cluster": {"worker": ["a:99999"]}}', "address 'a:99999'"),
        ('{"cluster": {"worker": ["a:1"]}}', "task has no type, one of worker"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}', "no type"),
        (
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
            "index 1, which is not in 0..0",
        ),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": "0"}}', "index '0'"),
    ],
)
def test_malformed(text: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match="^TF_CONFIG=.*Unset it, or write it like") as error:
        tf_config.check()
    assert problem in str(error.value)
