"""The words between environment and model: observations rendered, answers parsed. Knows no model."""
