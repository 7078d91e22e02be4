"""Score tables and every figure that is computed from them; needs no torch."""
