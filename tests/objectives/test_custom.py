"""A regime of the user's own: the one that the documentation walks through, and what is said of one that is wrong."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.objectives import contract
from tests.objectives.contract import Case, prepare
from tests.paths import ROOT
from tests.toy import toy_dataset
from tpu_tlm import train
from tpu_tlm.config import cli
from tpu_tlm.data.dataset.dataset import open_dataset
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.objectives.base import LossSums, ObjectiveOptions
from tpu_tlm.objectives.mlm import Specials
from tpu_tlm.objectives.registry import objective_class
from tpu_tlm.training.evaluation import naming_input

PAGE = ROOT / "docs" / "own_objective.md"


def code_of_the_page():
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return block


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "shuffled.py"
    path.write_text(code_of_the_page())
    return f"{path}:ShuffledTokens"


def test_it_is_as_short_as_promised():
    assert len([line for line in code_of_the_page().splitlines() if line.strip()]) < 55


def test_tokens_trade_places(shuffled):
    """The text keeps its tokens, special ones and padding stay, and what is asked is what moved."""
    specials = Specials(50, 0, 4, (0, 1, 2, 3, 4))
    objective = objective_class(shuffled)(specials, 0.25)
    x = (
        np.random.default_rng(0)
        .permuted(np.tile(np.arange(5, 21), (6, 1)), axis=1)
        .astype(np.int32)
    )
    x[:, 0], x[1, 9:] = 2, 0

    def model(features, key=None):
        seen.append(features["x"].numpy())
        return tf.where(features["x"] != x, 9.0, -9.0)

    for training in (True, False):
        seen: list[np.ndarray] = []
        batch = {"x": tf.constant(x), "position": tf.range(6, dtype=tf.int64)}
        sums = objective(model, batch, Key.of(0, batch["position"]), training=training)
        (text,) = seen
        np.testing.assert_array_equal(np.sort(text, axis=1), np.sort(x, axis=1))
        np.testing.assert_array_equal(text[x < 5], x[x < 5])
        moved = (text != x).sum()
        assert moved == sum(round(0.25 * (row > 4).sum()) for row in x)
        assert (
            sums.metrics["accuracy"] == (sums.weight, sums.weight)
            and sums.metrics["moved"][0] == moved
        )
        assert sums.weight == (x != 0).sum() and sums.loss < 0.02


@pytest.mark.slow
def test_the_page_trains_continues_and_is_measured(shuffled, tmp_path):
    trained = prepare(Case(shuffled, measure=shuffled), tmp_path / "run")
    for check in (
        contract.check_static,
        contract.check_continued,
        contract.check_replicas,
        contract.check_exported,
        contract.check_batch_size,
    ):
        directory = tmp_path / check.__name__
        directory.mkdir()
        check(trained, directory)
    again = cli.parse("train", "", train.CLASSES, ["--config", str(trained.run / "config.yaml")])
    assert again == trained.options(trained.run).parts()


GOOD = """
from tpu_tlm.objectives.base import Objective

class Mine(Objective):
    name, metrics = "mine", ()

    def predictions(self, seq_length):
        return seq_length

    def __call__(self, model, batch, key, *, training):
        return undefined
"""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            GOOD.replace("class Mine", "class Yours"),
            "no subclass of tpu_tlm.objectives.base.Objective called 'Mine'",
        ),
        (GOOD.replace("class Mine", "clas Mine"), r"mine\.py, line 4: SyntaxError"),
        ("x = 1\ny = x.nothing\n", r"mine\.py, line 2: AttributeError"),
        (
            "\nfrom tpu_tlm.objectives.bas import Objective\n",
            r"mine\.py, line 2: ModuleNotFoundError",
        ),
        (GOOD.replace("name, metrics", "title, metrics"), "does not say its name"),
        (GOOD.replace("predictions", "prediction"), "has no method predictions"),
        (
            GOOD.replace('name, metrics = "mine", ()', 'name, metrics, kind = "mine", (), "none"'),
            "'none' is no kind of model",
        ),
        (
            GOOD + "\n    def make(cls, setting):\n        return cls()\n",
            "make of Mine must be a @classmethod",
        ),
        (
            GOOD + "\n    @staticmethod\n    def adapt(*given):\n        return given[0]\n",
            "adapt of Mine must be a @classmethod",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_line(text, says, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UsageError, match=says) as error:
        objective_class(f"{path}:Mine")
    assert f"--objective {path}:Mine" in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="there is no file"):
        objective_class(f"{tmp_path}/mine.py:Mine")


def test_an_error_inside_names_file_and_line(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    found = objective_class(f"{path}:Mine")
    with pytest.raises(
        TlmError,
        match=rf"--objective .*: {re.escape(str(path))}, line 11: NameError: name 'undefined'",
    ) as error:
        found()(None, {}, None, training=True)
    assert isinstance(error.value.__cause__, NameError)
    path.write_text(
        GOOD
        + "\n    @classmethod\n    def make(cls, setting):\n        return cls(setting.nothing)\n"
    )
    with pytest.raises(TlmError, match=r"line 15: AttributeError"):
        objective_class(f"{path}:Mine").make(ObjectiveOptions())
    refuse = GOOD.replace(
        "return undefined", "from tpu_tlm.errors import UsageError; raise UsageError('not so')"
    )
    path.write_text(refuse)
    with pytest.raises(UsageError, match="^not so$"):
        objective_class(f"{path}:Mine")()(None, {}, None, training=True)


ONE = tf.constant(1.0)


@pytest.mark.parametrize(
    ("declared", "given", "says"),
    [
        ("()", (ONE, ONE, {}), r"must return Sums\(loss, weight, metrics\), not tuple"),
        (
            "('good', 'bad')",
            LossSums(ONE, ONE, {"good": (ONE, ONE)}),
            "metrics of its Sums lacks 'bad'",
        ),
        (
            "('good',)",
            LossSums(ONE, ONE, {"good": (ONE, ONE), "bad": (ONE, ONE)}),
            "metrics of its Sums has 'bad'",
        ),
        ("('good',)", LossSums(ONE, ONE, {"good": ONE}), "'good' must be a pair"),
        (
            "(); parts = ('a', 'b')",
            LossSums({"a": ONE}, {"a": ONE, "b": ONE}, {}),
            "loss of its Sums lacks 'b', which its parts",
        ),
        (
            "(); parts = ('a',)",
            LossSums({"a": ONE}, ONE, {}),
            "weight of its Sums lacks 'a', which its parts",
        ),
        ("()", LossSums({"a": ONE}, {"a": ONE}, {}), "loss of its Sums has 'a', which its parts"),
        (
            "()",
            LossSums(tf.ones(3), ONE, {}),
            r"loss of its Sums must be float32 scalars .*, not float32 of shape \(3,\)",
        ),
        (
            "()",
            LossSums(ONE, tf.constant(3), {}),
            "weight of its Sums must be float32 scalars .*, not int32 of shape",
        ),
    ],
)
def test_other_sums_than_it_says_are_refused(declared, given, says, tmp_path):
    path = tmp_path / "mine.py"
    text = GOOD.replace('name, metrics = "mine", ()', f'name = "mine"; metrics = {declared}')
    path.write_text(text.replace("return undefined", "return batch['given']"))
    with pytest.raises(UsageError, match=says) as error:
        objective_class(f"{path}:Mine")()(None, {"given": given}, None, training=True)
    assert f"--objective {path}:Mine" in str(error.value)


def test_the_sums_that_it_says_are_taken(tmp_path):
    path = tmp_path / "mine.py"
    text = GOOD.replace(
        'name, metrics = "mine", ()', "name, metrics, parts = 'mine', ('good',), ('a', 'b')"
    )
    path.write_text(text.replace("return undefined", "return batch['given']"))
    given = LossSums({"b": ONE, "a": ONE}, {"a": ONE, "b": ONE}, {"good": (ONE, ONE)})
    assert objective_class(f"{path}:Mine")()(None, {"given": given}, None, training=True) is given


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("tf.reduce_sum(tf.strings.to_number(tf.strings.as_string(batch['x'])))", "AsString"),
        (
            "tf.reduce_sum(tf.ones(tf.random.uniform([1], 1, 4, tf.int32)))",
            "must be a compile-time constant",
        ),
    ],
)
def test_what_xla_cannot_compile_names_file_and_line(line, says, tmp_path):
    path = tmp_path / "mine.py"
    head = "import tensorflow as tf; from tpu_tlm.objectives.base import LossSums\n"
    path.write_text(
        head + GOOD.replace("return undefined", f"return LossSums({line}, tf.constant(1.0), {{}})")
    )
    dataset, objective = (
        open_dataset(str(toy_dataset(tmp_path / "data", examples=2, shards=1))),
        objective_class(f"{path}:Mine")(),
    )
    compiled = tf.function(
        lambda x: objective(None, {"x": x}, None, training=True), jit_compile=True, autograph=False
    )
    with pytest.raises(tf.errors.OpError) as raised:
        compiled(tf.constant([3, 4]))
    with pytest.raises(TlmError) as found, naming_input(dataset, objective):
        raise raised.value
    told = rf"--objective {re.escape(str(path))}:Mine: {re.escape(str(path))}, line 12: XLA cannot compile this: .*{says}"
    assert re.match(told, str(found.value)) and "\n" not in str(found.value)
    with pytest.raises(tf.errors.UnavailableError), naming_input(dataset, objective):
        raise tf.errors.UnavailableError(None, None, str(raised.value))


def test_a_module_beside_the_file_can_be_imported(tmp_path):
    (tmp_path / "beside_mine.py").write_text("CALLED = 'named beside'\n")
    path = tmp_path / "mine.py"
    path.write_text("from beside_mine import CALLED\n" + GOOD.replace('"mine"', "CALLED"))
    before = list(sys.path)
    assert objective_class(f"{path}:Mine").name == "named beside"
    path.write_text("import beside_nothing\n")
    with pytest.raises(UsageError, match="line 1: ModuleNotFoundError"):
        objective_class(f"{path}:Mine")
    assert sys.path == before
