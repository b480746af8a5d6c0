"""What lmms-eval's VNBench task asks and how it scores: by tstar's own reader of the annotations and official rule.

The harness hands over "" for an answer that failed, which is wrong here; the official scorer leaves failures out.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tstar.errors import DataError
from tstar.evaluation import Item, ItemScore
from tstar.evaluation.responses import ResponseLine
from tstar.evaluation.statistics import aggregate
from tstar.evaluation.vnbench import VNBench

SUITE = VNBench("vnbench")


def vnbench_doc_to_visual(doc: Mapping[str, Any]) -> list[str]:
    """Path of the video; DataError if it is not there."""
    path = Path(os.environ.get("VNBENCH_DIR", ".")) / item_of(doc).media
    if not path.is_file():
        raise DataError(f"no such video: {path}; set VNBENCH_DIR to the folder that holds VNBench/")
    return [str(path)]


def vnbench_doc_to_text(doc: Mapping[str, Any], lmms_eval_specific_kwargs: Mapping[str, Any] | None = None) -> str:
    """The official prompt, between what a model's own settings put round it."""
    own = lmms_eval_specific_kwargs or {}
    return f"{own.get('pre_prompt', '')}{item_of(doc).prompt}{own.get('post_prompt', '')}"


def vnbench_process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, dict[str, Any]]:
    """One answer by the official rule, as what the two aggregations need."""
    item = item_of(doc)
    verdict = SUITE.official(item, ResponseLine(item.id, results[0]))
    shared = {"id": item.id, "type": item.categories["type"], "correct": bool(verdict.correct)}
    shared |= {"pred_answer": verdict.extracted, "answer": item.answer}
    return {"vnbench_circular": {"group": item.cluster, **shared}, "vnbench_independent": shared}


def vnbench_circular(results: Sequence[Mapping[str, Any]]) -> float:
    """Groups with all four tries right, mean over the types."""
    return aggregate(SUITE.cells([_score(entry, str(entry["group"])) for entry in results])["circular"])


def vnbench_independent(results: Sequence[Mapping[str, Any]]) -> float:
    """Tries that are right."""
    return aggregate(SUITE.cells([_score(entry, str(entry["id"])) for entry in results])["independent"])


def item_of(doc: Mapping[str, Any]) -> Item:
    """A record of the annotation file as a question."""
    return SUITE.load([doc])[0]


def _score(entry: Mapping[str, Any], cluster: str) -> ItemScore:
    return ItemScore(
        id=str(entry["id"]),
        response=None,
        extracted=entry["pred_answer"],
        how="lmms-eval",
        correct=bool(entry["correct"]),
        answer=str(entry["answer"]),
        categories={"type": str(entry["type"]), "family": str(entry["type"]).split("_")[0]},
        cluster=cluster,
        chance=0.25,
    )
