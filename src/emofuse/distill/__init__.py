"""Distillation of small encoders; `builtin:speech` and `builtin:text` were made by it."""
