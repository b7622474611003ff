"""TF_CONFIG -> who trains together; as Kubeflow's TFJob controller writes it."""

from __future__ import annotations

import json

import pytest

from tpu_tlm.distributed import tf_config
from tpu_tlm.errors import UsageError


def environment(kind: str, index: int, **counts: int) -> dict[str, str]:
    """An environment with a cluster of so many hosts of each kind, named as a TFJob's services
    are.
    """
    hosts = {
        name: [f"job-{name}-{i}.team.svc:2222" for i in range(count)]
        for name, count in counts.items()
    }
    return {
        "TF_CONFIG": json.dumps(
            {"cluster": hosts, "task": {"type": kind, "index": index}, "environment": "cloud"}
        )
    }


@pytest.mark.parametrize(
    ("environ", "host", "hosts"),
    [
        (environment("worker", 2, worker=4), 2, 4),
        (environment("chief", 0, chief=1, worker=3), 0, 4),
        (environment("worker", 0, chief=1, worker=3), 1, 4),
        (environment("worker", 1, worker=2, ps=3), 1, 2),
        (environment("master", 0, master=1, worker=2), 0, 3),
        (environment("worker", 1, worker=2, master=1), 2, 3),
    ],
)
def test_place_among_the_workers(environ: dict[str, str], host: int, hosts: int) -> None:
    found = tf_config.cluster_of(environ)
    assert (found.host, len(found.addresses)) == (host, hosts) and tf_config.workers(
        environ
    ) == hosts


def test_names_are_those_of_the_pods() -> None:
    found = tf_config.cluster_of(environment("worker", 0, chief=1, worker=2))
    titles = [found.title(host) for host in range(3)]
    assert titles == [
        "chief (job-chief-0.team.svc:2222)",
        "worker 0 (job-worker-0.team.svc:2222)",
        "worker 1 (job-worker-1.team.svc:2222)",
    ]
    assert found.endpoint(2) == ("job-worker-1.team.svc", 2222)
    assert tf_config.Cluster(("[::1]:80",), ("chief",), 0).endpoint(0) == ("::1", 80)
    assert tf_config.cluster_of(environment("worker", 0, worker=1, master=1)).names == (
        "master",
        "worker 0",
    )
    assert tf_config.workers({}) == 0


@pytest.mark.parametrize("text", ["", "{}", '{"environment": "cloud", "cluster": {}, "task": {}}'])
def test_a_tf_config_that_names_nobody(text: str) -> None:
    assert (
        tf_config.named({"TF_CONFIG": text}) is None and tf_config.workers({"TF_CONFIG": text}) == 0
    )


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "TF_CONFIG is not set"),
        ({"TF_CONFIG": "{not json"}, "TF_CONFIG: line 1: is not JSON"),
        ({"TF_CONFIG": "[1]"}, "must be an object"),
        (environment("ps", 0, worker=2, ps=1), "task type 'ps' does not train"),
        (environment("evaluator", 0, worker=2), "task type 'evaluator' does not train"),
        (environment("worker", 2, worker=2), "task index 2 is not one of the cluster's 2 workers"),
        (
            {"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker"}}'},
            "task index None",
        ),
        (
            {"TF_CONFIG": '{"cluster": ["a:1", "b:1"], "task": {"type": "worker", "index": 0}}'},
            "cluster must be an object; write it like",
        ),
        (
            {"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}, "task": ["worker", 0]}'},
            "task must be an object; write it like",
        ),
        (
            {
                "TF_CONFIG": '{"cluster": {"worker": {"0": "a:1", "1": "b:1"}}, '
                '"task": {"type": "worker", "index": 0}}'
            },
            "worker must be the list",
        ),
        (
            {
                "TF_CONFIG": '{"cluster": {"worker": [["a:1"]]}, '
                '"task": {"type": "worker", "index": 0}}'
            },
            "worker must be the list",
        ),
        (environment("ps", 0, worker=1, ps=1), "task type 'ps' does not train"),
        (
            {
                "TF_CONFIG": json.dumps(
                    {
                        "cluster": {"chief": ["127.0.0.1:\u00b2"], "worker": ["127.0.0.1:1"]},
                        "task": {"type": "worker", "index": 0},
                    }
                )
            },
            "is not host:port",
        ),
        (
            {
                "TF_CONFIG": json.dumps(
                    {
                        "cluster": {"chief": ["127.0.0.1:99999"], "worker": ["127.0.0.1:1"]},
                        "task": {"type": "chief", "index": 0},
                    }
                )
            },
            "99999.*port from 1 to 65535",
        ),
        ({"TF_CONFIG": "[" * 100_000}, "TF_CONFIG: is nested more"),
        (
            {"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}, "task": {"type": [], "index": 0}}'},
            "type",
        ),
        (
            {
                "TF_CONFIG": '{"cluster": {"worker": ["a:1"]}, '
                '"task": {"type": "worker", "index": true}}'
            },
            "task index True",
        ),
        (
            {
                "TF_CONFIG": '{"sparseCluster": {"worker": {"0": "a:1"}, "ps": []}, '
                '"task": {"type": "worker", "index": 0}}'
            },
            "enableDynamicWorker",
        ),
    ],
)
def test_what_cannot_be(environ: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tf_config.cluster_of(environ)
    if environ:
        with pytest.raises(UsageError, match=message):
            tf_config.named(environ)


def test_an_address_without_a_port() -> None:
    with pytest.raises(UsageError, match="'a' is not host:port"):
        tf_config.Cluster(("a",), ("chief",), 0).endpoint(0)
