"""From the emitted files back to a model, and the comparison with the original."""
