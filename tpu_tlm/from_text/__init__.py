"""From a user's own text to a trained, exported model in one call."""
