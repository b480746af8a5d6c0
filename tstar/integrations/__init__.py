"""Other people's tools: tstar as a model of lmms-eval and VLMEvalKit, and a run's answers in their and the official layouts.

Importing this needs none of their packages.
"""

from pathlib import Path

TASKS = Path(__file__).parent / "lmms_eval_tasks"
"""What lmms-eval's ``--include_path`` is given."""
