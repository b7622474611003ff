"""Programs that `benchmarks.step_on_gpu` times; none of them needs TensorFlow."""
