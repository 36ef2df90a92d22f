"""Our own kernels for CUDA in Triton, for machines where the specialised library of an operator is missing."""
