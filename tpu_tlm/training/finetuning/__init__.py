"""Fine-tuning runs: data and model of a task, the run, its report, and what uses its result."""
