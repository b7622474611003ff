"""Fine-tuning: the supervised tasks, their data, heads, metrics and training."""
