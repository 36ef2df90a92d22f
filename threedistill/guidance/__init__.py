"""Score-distillation rules: pure functions from gathered predictions to a direction in prior space."""
