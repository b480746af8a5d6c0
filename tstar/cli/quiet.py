"""Keeps libraries from talking over the run's own lines."""

import logging
import warnings

HUSHED = (
    ".*args parameter is intended to run from within Python.*",
    ".*does not have many workers.*",
    ".*Checkpoint directory .* exists.*",
    ".*LeafSpec.*",
    ".*isinstance.treespec.*",
    ".*module.s. in eval mode.*",  # the frozen parts
    ".*smaller than the logging interval.*",
    ".*Total length of .list. across ranks is zero.*",  # no held-out data
    ".*sync_dist=True.* when logging on epoch level.*",  # scores are of all processes' answers, and one logs them
    ".*You have overridden .transfer_batch_to_device.*",
    ".*recommended to use .Trainer.devices=1.*",  # every process answers its share, each question once
)


def quiet_libraries() -> None:
    """Advice meant for the authors of a training loop is of no use to its users."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for text in HUSHED:
        warnings.filterwarnings("ignore", text)
