"""Small encoders learnt from large ones: what `builtin:speech` and `builtin:text` were made with."""
