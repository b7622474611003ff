"""A user's own objective: the one of the documentation, faulty ones, and first-edition files."""

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
from tpu_tlm.config import Config, MlmConfig, ModelConfig, cli
from tpu_tlm.data.dataset.dataset import open_dataset
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.registry import KINDS
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.objectives.base import LossSums, ObjectiveContext, ObjectiveOptions
from tpu_tlm.objectives.mlm import Specials
from tpu_tlm.objectives.registry import OBJECTIVES, objective_class
from tpu_tlm.planning.stand_in import stand_in
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
    again = cli.parse("train", "", Config.groups(), ["--config", str(trained.run / "config.yaml")])
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
NAMED = 'name, metrics = "mine", ()'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.replace("class Mine", "class Yours"), "subclass .*Objective.*'Mine'"),
        (GOOD.replace("class Mine", "clas Mine"), r"mine\.py, line 4: SyntaxError"),
        ("x = 1\ny = x.nothing\n", r"mine\.py, line 2: AttributeError"),
        ("\nfrom tpu_tlm.objectives.bas import Objective\n", r"line 2: ModuleNotFoundError"),
        (GOOD.replace("name, metrics", "title, metrics"), "no attribute name"),
        (GOOD.replace(NAMED, "name, metrics = 5, ()"), "name of Mine"),
        (GOOD.replace(NAMED, 'name, metrics = "mine", "good"'), "metrics of Mine"),
        (GOOD.replace("predictions", "prediction"), "no method predictions"),
        (GOOD.replace(NAMED, NAMED + '; kind = "none"'), "kind 'none'"),
        (GOOD.replace(NAMED, NAMED + "; kind = ['mlm']"), r"kind \['mlm'\]"),
        (GOOD + "\n    def make(cls, setting):\n        return cls()\n", "@classmethod"),
        (GOOD + "\n    def from_config(cls, context):\n        return cls()\n", "from_config"),
        (
            GOOD
            + "\n    @staticmethod\n    def configure_model(*given):\n        return given[0]\n",
            "configure_model of Mine must be a @classmethod",
        ),
        (
            "class Odd(Exception):\n    def __str__(self):\n        raise ValueError\nraise Odd\n",
            "line 4: Odd: .*text cannot be shown",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_line(text, words, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UsageError, match=words) as error:
        objective_class(f"{path}:Mine")
    assert f"--objective {path}:Mine" in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="there is no file"):
        objective_class(f"{tmp_path}/mine.py:Mine")


ENDS = [
    "import sys; sys.exit(0)",
    "raise SystemExit",
    "raise GeneratorExit('x')",
    "raise BaseException",
]


@pytest.mark.parametrize("line", ENDS)
def test_a_file_that_ends_the_process_is_an_error_with_its_line(line, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(f"\n{line}\n")
    with pytest.raises(TlmError, match=r"mine\.py, line 2") as error:
        objective_class(f"{path}:Mine")
    assert error.value.exit_code == 1
    path.write_text(GOOD.replace("return undefined", line))
    with pytest.raises(TlmError, match=r"mine\.py, line 11") as error:
        objective_class(f"{path}:Mine")()(None, {}, None, training=True)
    assert error.value.exit_code == 1


def test_an_error_inside_names_file_and_line(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    found = objective_class(f"{path}:Mine")
    where = rf"--objective .*: {re.escape(str(path))}, line 11: NameError: .*'undefined'"
    with pytest.raises(TlmError, match=where) as error:
        found()(None, {}, None, training=True)
    assert isinstance(error.value.__cause__, NameError)
    method = (
        "\n    @classmethod\n    def from_config(cls, context):\n        return context.nothing\n"
    )
    path.write_text(GOOD + method)
    with pytest.raises(TlmError, match=r"line 15: AttributeError"):
        objective_class(f"{path}:Mine").from_config(ObjectiveOptions())
    refuse = "from tpu_tlm.errors import UsageError; raise UsageError('not so')"
    path.write_text(GOOD.replace("return undefined", refuse))
    with pytest.raises(UsageError, match="^not so$"):
        objective_class(f"{path}:Mine")()(None, {}, None, training=True)


ONE = tf.constant(1.0)


@pytest.mark.parametrize(
    ("declared", "given", "words"),
    [
        ("()", (ONE, ONE, {}), "must return LossSums.*tuple"),
        ("('good', 'bad')", LossSums(ONE, ONE, {"good": (ONE, ONE)}), "metrics .*lacks 'bad'"),
        ("()", LossSums(ONE, ONE, {"bad": (ONE, ONE)}), "metrics .*has 'bad'"),
        ("('good',)", LossSums(ONE, ONE, {"good": ONE}), "'good' must be a pair"),
        (
            "(); loss_terms = ('a', 'b')",
            LossSums({"a": ONE}, {"a": ONE, "b": ONE}, {}),
            "loss .*lacks 'b'.* loss_terms",
        ),
        ("(); loss_terms = ('a',)", LossSums({"a": ONE}, ONE, {}), "weight .*lacks 'a'"),
        ("()", LossSums({"a": ONE}, {"a": ONE}, {}), "loss .*has 'a'.* loss_terms"),
        ("()", LossSums(tf.ones(3), ONE, {}), r"loss .*float32 scalars.* shape \(3,\)"),
        ("()", LossSums(ONE, tf.constant(3), {}), "weight .*float32 scalars.* int32"),
    ],
)
def test_sums_that_differ_from_the_declaration_are_refused(declared, given, words, tmp_path):
    path = tmp_path / "mine.py"
    text = GOOD.replace(NAMED, f'name = "mine"; metrics = {declared}')
    path.write_text(text.replace("return undefined", "return batch['given']"))
    with pytest.raises(UsageError, match=words) as error:
        objective_class(f"{path}:Mine")()(None, {"given": given}, None, training=True)
    assert f"--objective {path}:Mine" in str(error.value)


def test_sums_as_declared_are_returned(tmp_path):
    path = tmp_path / "mine.py"
    text = GOOD.replace(NAMED, "name, metrics, loss_terms = 'mine', ('good',), ('a', 'b')")
    path.write_text(text.replace("return undefined", "return batch['given']"))
    given = LossSums({"b": ONE, "a": ONE}, {"a": ONE, "b": ONE}, {"good": (ONE, ONE)})
    assert objective_class(f"{path}:Mine")()(None, {"given": given}, None, training=True) is given


FIRST_EDITION = """
from dataclasses import replace

from tpu_tlm.models.random import Key
from tpu_tlm.objectives.base import Objective, ObjectiveOptions, Setting, Sums
from tpu_tlm.objectives.mlm import MaskedLanguageModeling, is_special, specials_of

class Old(Objective):
    name, metrics, parts, gathers = "old", ("good",), ("a", "b"), True

    def __init__(self, rate):
        self.rate, self.key = rate, Key

    @classmethod
    def make(cls, setting: Setting):
        return cls(setting.options.mlm.mask_rate)

    @classmethod
    def adapt(cls, spec, options: ObjectiveOptions, lengths):
        return replace(super().adapt(spec, options, lengths), eol_id=lengths["x"])

    def predictions(self, nctx):
        return nctx

    def __call__(self, model, batch, key, *, training, replicas):
        one = batch["one"]
        return Sums({part: one for part in self.parts}, {"a": one, "b": one}, {"good": (one, one)})

class Child(MaskedLanguageModeling):
    name = "child"

    @classmethod
    def make(cls, setting):
        made = super().make(setting)
        made.seen = True
        return made
"""


def test_a_file_of_the_first_edition(tmp_path):
    """Its names are aliases: Sums, Setting, make, adapt, parts, gathers, and moved modules."""
    path = tmp_path / "old.py"
    path.write_text(FIRST_EDITION)
    old = objective_class(f"{path}:Old")
    assert old.loss_terms == ("a", "b") and old.cross_replica is True
    spec = ModelSpec(ModelConfig(), 50, 16)
    tokenizer = stand_in(50, {"x": 16}).tokenizer
    options = ObjectiveOptions(mlm=MlmConfig(mask_rate=0.3))
    context = ObjectiveContext(spec, tokenizer, options)
    assert old.configure_model(spec, options, {"x": 16}).eol_id == 16
    made = old.from_config(context)
    assert made.rate == 0.3 and made.key is Key and made.predictions(7) == 7
    sums = made(None, {"one": ONE}, None, training=True, replicas=None)
    assert isinstance(sums, LossSums) and set(sums.loss) == {"a", "b"}
    child = objective_class(f"{path}:Child").from_config(context)
    assert child.seen and child.config.mask_rate == 0.3


def test_the_registry_has_the_choices_of_the_option():
    for name in OBJECTIVES:
        found = objective_class(name)
        assert found.name == name and found.metrics and found.kind in KINDS
    with pytest.raises(UsageError, match="--objective bert"):
        objective_class("bert")


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
    name = re.escape(str(path))
    told = rf"--objective {name}:Mine: {name}, line 12: XLA cannot compile this: .*{says}"
    assert re.match(told, str(found.value)) and "\n" not in str(found.value)
    with pytest.raises(tf.errors.UnavailableError), naming_input(dataset, objective):
        raise tf.errors.UnavailableError(None, None, str(raised.value))


def test_a_module_of_the_same_directory_can_be_imported(tmp_path):
    (tmp_path / "next_to_mine.py").write_text("CALLED = 'named there'\n")
    path = tmp_path / "mine.py"
    path.write_text("from next_to_mine import CALLED\n" + GOOD.replace('"mine"', "CALLED"))
    before = list(sys.path)
    assert objective_class(f"{path}:Mine").name == "named there"
    path.write_text("import next_to_nothing\n")
    with pytest.raises(UsageError, match="line 1: ModuleNotFoundError"):
        objective_class(f"{path}:Mine")
    assert sys.path == before
