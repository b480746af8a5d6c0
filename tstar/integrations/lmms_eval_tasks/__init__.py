"""Tasks for lmms-eval's ``--include_path``."""
