"""Words: how a family is shown to a model, and how the model's answer is read back."""
