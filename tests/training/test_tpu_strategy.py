"""The loop under a `TPUStrategy` for two cores that do not exist: built and traced, not run."""

from __future__ import annotations

import json
import sys
import textwrap

import pytest

from tests import preloaded
from tests.paths import ROOT
from tests.toy import toy_dataset

# The strategy is told of two cores, and puts their variables on two logical processors.
TRACED = """
    import json, sys
    from collections import Counter
    import numpy as np
    import tensorflow as tf
    from tensorflow.python.tpu.tpu_system_metadata import TPUSystemMetadata

    place = "/job:localhost/replica:0/task:0/device"
    cores, stand_ins = ([f"{place}:{kind}:{i}" for i in (0, 1)] for kind in ("TPU", "CPU"))
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )

    class Core:
        def __init__(self, name):
            self.name, self.device_type = name, "TPU"

    class Resolver:
        def get_tpu_system_metadata(self):
            return TPUSystemMetadata(2, 1, 2, topology=None, devices=[Core(name) for name in cores])
        def get_job_name(self):
            return "localhost"
        def cluster_spec(self):
            return None
        def master(self):
            return ""

    strategy = tf.distribute.TPUStrategy(Resolver())
    strategy.extended._tpu_devices = np.array([[name] for name in stand_ins], dtype=object)

    from tests.planning.steps import SIZES
    from tpu_tlm.config import cli
    from tpu_tlm.data.dataset.stream import Stream, in_order
    from tpu_tlm.config import Config
    from tpu_tlm.training.setup import experiment_of, open_datasets
    from tpu_tlm.training.device_feed import feed
    from tpu_tlm.training.loop import Loop
    from tpu_tlm.training.state import TrainState

    objective, accum, directory = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    given = {**SIZES, "objective": objective, "grad_accum": accum}
    given |= {"shard_optimizer": sys.argv[4] == "sharded"}
    given |= {"train_dir": directory, "run_dir": "-"}
    everything = Config(*cli.build(Config.groups(), given, "test"))
    corpora = open_datasets(everything.data, everything.tokenizer)
    step = experiment_of(everything, corpora, 100, "bfloat16", replicas=2).step
    state = TrainState(step, strategy)
    random = np.random.default_rng(0)
    given = {n: random.normal(size=v.shape) for n, v in state.snapshot().items()}
    given = {name: value.astype(np.float32) for name, value in given.items()}
    state.restore(given, 7, "x")
    back = {name: v.numpy() for name, v in state.snapshot().items()}
    restored = list(back) == list(given) and all(np.array_equal(back[n], given[n]) for n in given)
    one, two = (copy.values() for copy in state.copies())
    equal = all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    loop = Loop(step, state, on_tpu=True)
    stream = Stream(corpora.train, seed=0, batch_size=8)
    batches = iter(feed(lambda n, i: stream.batches(0, hosts=n, host=i), strategy))
    traced = loop._train_call.get_concrete_function(batches, tf.constant(3))
    loop._evaluate_call.get_concrete_function(
        iter(feed(lambda n, i: in_order(corpora.train, 8, hosts=n, host=i), strategy)),
        tf.constant(2),
    )
    functions = traced.graph._functions.values()
    graphs = [traced.graph, *(f.graph for f in functions if hasattr(f, "graph"))]
    every = [op for graph in graphs for op in graph.get_operations()]
    times = [op for op in every if op.type == "Timestamp"]
    marks = {"_tpu_replicate", "_replication_info"}
    on_core = [op for op in every if marks & set(op.node_def.attr)]
    wide = [op.name for op in on_core for t in op.outputs if t.dtype == tf.float64]
    print(json.dumps({
        "kinds": Counter(op.type for op in every), "equal": equal, "variables": len(state.values),
        "restored": restored, "communicates": state.communicates,
        "kept": sum(int(np.prod(v.shape)) for v in tf.nest.flatten(state.slots))
        / sum(v.size for n, v in given.items() if n.startswith("slots/")),
        "ordered": sum(bool(op.control_inputs) for op in times), "times": len(times),
        "float64 on a core": wide,
        "shapes": [str(spec) for spec in tf.nest.flatten(batches.element_spec)],
    }))
"""


@pytest.mark.parametrize(
    ("objective", "accum", "optimizer"),
    [("mlm", 1, "whole"), ("electra", 2, "whole"), ("mlm", 2, "sharded")],
)
def test_a_step_is_traced_for_every_core(objective, accum, optimizer, tmp_path):
    data = toy_dataset(tmp_path / "data")
    command = [sys.executable, "-c", textwrap.dedent(TRACED), objective, str(accum), str(data)]
    command += [optimizer]
    done = preloaded.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    kinds = found["kinds"]
    assert found["restored"] and not found["communicates"]
    assert (0.5 <= found["kept"] < 0.7) if optimizer == "sharded" else found["kept"] == 1.0
    assert found["equal"] and kinds["CrossReplicaSum"] >= 1 and kinds["TPUReplicateMetadata"] >= 1
    # Each core writes all that it has, and reads nothing back.
    assert (
        kinds["AssignVariableOp"] >= found["variables"]
        and kinds["ReadVariableOp"] <= 2 * kinds["AssignVariableOp"]
    )
    # The wait for input is timed after the step before, also where the loss has parts.
    assert found["times"] == found["ordered"] == 2
    assert found["float64 on a core"] == [] and "(None" not in "".join(found["shapes"])
