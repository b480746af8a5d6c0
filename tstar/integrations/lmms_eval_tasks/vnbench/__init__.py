"""VNBench for lmms-eval, which has no task of that name."""
