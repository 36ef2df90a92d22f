"""The run: one Lightning system, its data, optimizers, callbacks, checkpoints and folder."""
