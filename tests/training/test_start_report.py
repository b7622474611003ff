"""What a run says before its first step, and a step that does not fit the memory."""

from __future__ import annotations

import dataclasses

import pytest

from tests.toy_runs import ToyRun, one_device, options_of
from tpu_tlm.config import Config
from tpu_tlm.devices.processor import multiplies_bfloat16
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.formats.writable import formats_line
from tpu_tlm.training import memory, setup, start_report
from tpu_tlm.training.next_steps import next_steps
from tpu_tlm.training.run import _naming_memory


def lines_of(config: Config, **changes: bool) -> str:
    """The lines of a run; changes: of what is known of the device."""
    device = dataclasses.replace(one_device(), **changes)
    return "\n".join(start_report.start_lines(config, setup.build(config, device), device))


def test_the_start_names_sizes_passes_and_formats(toy_run: ToyRun) -> None:
    config = options_of(toy_run.corpus, toy_run.run_dir, "--steps", 30, "--eval_steps", 30)
    experiment = setup.build(config, one_device())
    said = "\n".join(start_report.start_lines(config, experiment, one_device()))
    parameters = sum(v.numpy().size for v in experiment.step.model.trainable_variables)
    examples = experiment.datasets.train.num_samples
    assert f"{parameters:,} parameters" in said and f"{examples:,} examples" in said
    assert f"30 steps are {30 * 8 / examples:.2f} passes" in said
    assert f"{8 * experiment.spec.seq_length:,} tokens" in said
    assert "memory of a step" in said and "npz" in said and "no validation" not in said
    assert said in toy_run.output or "parameters" in toy_run.output


def test_without_validation_the_start_says_so(toy_run: ToyRun) -> None:
    config = options_of(toy_run.corpus, toy_run.run_dir, "--valid_dir", "none")
    assert "give --valid_dir" in lines_of(config)


CPUINFO = "processor\t: 0\nmodel name\t: A\nflags\t\t: fpu {}sse\n"


def test_a_processor_says_whether_it_multiplies_bfloat16(tmp_path) -> None:
    path = tmp_path / "cpuinfo"
    for flags, expected in {
        "avx512_bf16 ": True,
        "amx_bf16 amx_tile ": True,
        "avx512f avx512_bf16_not ": False,
        "": False,
    }.items():
        path.write_text(CPUINFO.format(flags) * 2)
        assert multiplies_bfloat16(path) is expected
    path.write_text(CPUINFO.format("amx_bf16 ") + CPUINFO.format(""))  # cores that differ
    assert not multiplies_bfloat16(path)
    path.write_text("Features\t: fp asimd bf16\n")
    assert multiplies_bfloat16(path)
    path.write_text("processor : 0\n")
    assert not multiplies_bfloat16(path) and not multiplies_bfloat16(tmp_path / "none")


def test_bfloat16_on_a_processor_is_advised_about(toy_run: ToyRun, monkeypatch) -> None:
    given = (toy_run.corpus, toy_run.run_dir, "--precision")
    words = "--precision float32"
    for has in (True, False):
        monkeypatch.setattr(start_report, "multiplies_bfloat16", lambda has=has: has)
        said = lines_of(options_of(*given, "bfloat16"), xla=True)
        assert words in said and ("--xla false" in said) is has
        assert words not in lines_of(options_of(*given, "float32"), xla=True)
        assert words not in lines_of(options_of(*given, "bfloat16", "--xla", "false"), xla=True)
        assert words not in lines_of(options_of(*given, "bfloat16"), xla=False)


def test_a_step_that_does_not_fit_is_refused_with_one_that_does(toy_run, monkeypatch) -> None:
    flags = ("--batch_size", 4096, "--d_model", 64, "--num_heads", 2)
    config = options_of(toy_run.corpus, toy_run.run_dir, "--steps", 30, *flags)
    experiment = setup.build(config, one_device())
    needed = memory.step_memory(
        config, experiment.spec, start_report.parameters_of(experiment), 1, "float32"
    )
    free = needed.fixed + needed.activations // 8
    monkeypatch.setattr(start_report, "available_memory", lambda kind: free)
    with pytest.raises(UsageError) as error:
        start_report.start_lines(config, experiment, one_device())
    text = str(error.value)
    assert "4096" in text and "--batch_size" in text and "--grad_accum" in text
    smaller = int(text.split("give --batch_size ")[1].split(",")[0])
    accum = int(text.split("--grad_accum ")[1].split()[0])
    for change in ({"batch_size": smaller}, {"grad_accum": accum}):
        fits = config.replace(**change)
        again = memory.step_memory(fits, experiment.spec, 0, 1, "float32")
        assert again.activations <= free - needed.fixed
    assert smaller >= 256


def test_memory_is_read_from_this_machine() -> None:
    free = memory.available_memory("cpu")
    assert free is not None and 0 <= free < 1 << 45
    assert memory.available_memory("tpu") is None


def test_out_of_memory_anyhow_is_one_line() -> None:
    import tensorflow as tf

    with pytest.raises(TlmError, match="--batch_size 128.*--grad_accum 2"):
        with _naming_memory(Config()):
            raise tf.errors.ResourceExhaustedError(None, None, "RESOURCE_EXHAUSTED")
    with pytest.raises(TlmError, match="^/cache/x; No space left on device: make room$"):
        with _naming_memory(Config()):
            text = "/cache/x; No space left on device"
            raise tf.errors.ResourceExhaustedError(None, None, text)
    with pytest.raises(TlmError, match="out of memory"):
        with _naming_memory(Config()):
            raise tf.errors.InternalError(None, None, "Out of memory allocating 8 bytes")
    with pytest.raises(tf.errors.InternalError):
        with _naming_memory(Config()):
            raise tf.errors.InternalError(None, None, "something else")


@pytest.mark.parametrize("preset", ["modernbert-tiny", "bert-tiny"])
def test_presets_can_be_written_for_huggingface(preset: str, toy_run: ToyRun) -> None:
    datasets = setup.build(options_of(toy_run.corpus, toy_run.run_dir), one_device()).datasets
    spec = setup.spec_of(Config.preset(preset), datasets)
    assert f"hf ({preset.split('-')[0]})" in formats_line(spec)


def test_a_model_without_a_place_in_huggingface_names_the_option(toy_run: ToyRun) -> None:
    config = options_of(toy_run.corpus, toy_run.run_dir, "--position_encoding", "shaw")
    spec = setup.build(config, one_device()).spec
    line = formats_line(spec)
    assert "npz" in line and "not for HuggingFace" in line and "--position_encoding" in line


def test_the_end_names_the_next_commands() -> None:
    lines = "\n".join(next_steps(Config(run_dir="my run", valid_dir="v")))
    for part in ("predict fill-mask --model 'my run'", "evaluate", "convert", "finetune"):
        assert part in lines
    assert "predict generate" in "\n".join(next_steps(Config(objective="clm")))
