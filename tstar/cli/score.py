"""``tstar score``: stored responses to a benchmark's numbers, by every rule side by side."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tstar.cli.progress import bar
from tstar.cli.tables import print_table
from tstar.errors import ConfigError

if TYPE_CHECKING:
    from tstar.evaluation import Benchmark, Differing, Item, JudgeReplies, Report

SHOWN = 20
"""Most questions that are listed by name."""
LONGEST = 40
"""Most characters of a response that are shown."""


def run(arguments: argparse.Namespace) -> int:
    """Score and print; returns the exit status."""
    from tstar.data.files import write_whole
    from tstar.evaluation import differing, get_benchmark
    from tstar.evaluation.base import BOTH

    benchmark = get_benchmark(arguments.benchmark)
    wanted = tuple(dict.fromkeys((arguments.rules, *BOTH))) if arguments.rules else benchmark.rule_names
    for name in wanted:
        benchmark.check_rules(name)
    out = Path(arguments.out) if arguments.out else None
    if out is not None and not out.absolute().parent.is_dir():
        raise ConfigError(f"--out: there is no folder {out.absolute().parent}")
    items = benchmark.load(Path(arguments.annotations))
    paths = [Path(path) for path in arguments.responses]
    responses = benchmark.responses(_with_frames(paths, arguments.frames) if arguments.frames else paths, items)
    replies = _judge_replies(arguments, benchmark, items, responses)
    reports = benchmark.score_all(items, responses, replies, wanted)
    differ = differing(reports)
    text = reports[arguments.rules].to_json() if arguments.rules else whole_json(reports, differ)
    if out is not None:
        write_whole(out, f"{text}\n".encode("utf-8", "backslashreplace"))
    if arguments.json:
        print(text)
        return 0
    _print_values(benchmark, reports)
    _print_named(next(iter(reports.values())))
    _print_differing(differ, reports)
    _print_letters(next(iter(reports.values())))
    if out is not None:
        print(f"written to {out}")
    return 0


def whole_json(reports: Mapping[str, "Report"], differ: Sequence["Differing"]) -> str:
    """Reports by all rules and the questions on which they differ, as one JSON object."""
    lead = next(iter(reports.values()))
    return json.dumps(
        {
            "benchmark": lead.benchmark,
            "split": lead.split,
            "fingerprint": lead.fingerprint,
            "reports": {rules: asdict(report) for rules, report in reports.items()},
            "differ": [asdict(one) for one in differ],
        },
        ensure_ascii=False,
        indent=1,
    )


def split_text(report: "Report") -> str:
    """Which questions a report is about."""
    n = report.counts["n"]
    if report.split:
        return f"split {report.split}, {n} questions"
    return f"{n} generated questions" if report.benchmark.startswith("mini-") else f"part of a split: {n} questions"


def _with_frames(paths: Sequence[Path], frames: str) -> list[Any]:
    """Rows of stored predictions that were given on these frames."""
    from tstar.evaluation.files import read_json_lines

    rows = [row for path in paths for row in read_json_lines(path) if isinstance(row, Mapping)]
    kept = [row for row in rows if row.get("frames") == frames]
    if not kept:
        known = dict.fromkeys(str(row["frames"]) for row in rows if "frames" in row)
        raise ConfigError(f"--frames: no prediction has '{frames}' (there are: {', '.join(known) or 'none'})")
    return kept


def _judge_replies(
    arguments: argparse.Namespace, benchmark: "Benchmark", items: Sequence["Item"], responses: Mapping[str, str | None]
) -> "JudgeReplies | None":
    """What a judge said, from a file or asked for now; None where none is named."""
    asking = [name for name in ("url", "model", "template", "cache") if getattr(arguments, f"judge_{name}")]
    if arguments.judge_replies and asking:
        raise ConfigError(
            f"--judge-replies is what a judge said, and --judge-{asking[0]} is for asking one; give either"
        )
    if arguments.judge_replies:
        from tstar.evaluation.judging import read_replies

        return read_replies(arguments.judge_replies)
    if arguments.judge_url or arguments.judge_model:
        from tstar.evaluation.judge_client import JudgeSettings, judge_with

        settings = JudgeSettings(
            url=arguments.judge_url or "", model=arguments.judge_model or "", template=arguments.judge_template
        )
        cache = arguments.judge_cache or f"{arguments.responses[0]}.judge.jsonl"
        with bar("judging", "questions", quiet=arguments.json) as told:
            return judge_with(benchmark, items, responses, settings, cache, told)
    if arguments.judge_template or arguments.judge_cache:
        raise ConfigError("--judge-template and --judge-cache go with a judge to ask: --judge-url and --judge-model")
    if benchmark.judged:
        raise ConfigError(
            f"{benchmark.name} is judged: give --judge-replies FILE with what a judge said, or --judge-url and --judge-model"
        )
    return None


def _print_values(benchmark: "Benchmark", reports: Mapping[str, "Report"]) -> None:
    from tstar.evaluation.statistics import LEVEL
    from tstar.evaluation.table import value_text

    lead = next(iter(reports.values()))
    clusters = len({item.cluster for item in lead.items})
    title = f"{benchmark.name}: {split_text(lead)} in {clusters} clusters, fingerprint {lead.fingerprint}"
    title += f", judged by {lead.judge} ({lead.judge_dates})" if lead.judge else ""
    names = dict.fromkeys((*benchmark.main_values, *(name for report in reports.values() for name in report.aggregate)))
    rows = []
    for name in names:
        cells = [
            value_text(benchmark.name, name, report.aggregate.get(name), report.intervals.get(name))
            for report in reports.values()
        ]
        rows.append([name, *cells, value_text(benchmark.name, name, lead.chance.get(name))])
    print_table(title, ["", *(f"{rules} rules" for rules in reports), "chance"], rows)
    counts = dict.fromkeys(name for report in reports.values() for name in report.counts if name != "n")
    rows = [[name, *(str(report.counts.get(name, 0)) for report in reports.values())] for name in counts]
    print_table("", ["questions", *(f"{rules} rules" for rules in reports)], rows)
    print(f"[a, b]: {LEVEL:.0%} interval, bootstrap over clusters; Wilson's where all verdicts are alike")


def _print_named(report: "Report") -> None:
    from tstar.evaluation.items import FAILED, MISSING, UNJUDGED
    from tstar.evaluation.table import by_reason

    for how in (FAILED, MISSING, UNJUDGED):
        _print_ids(how, report.named(how))
    for reason, ids in by_reason(report.reasons).items():
        _print_ids(f"no answer of the judge ({reason})", ids)


def _print_ids(what: str, ids: Sequence[str]) -> None:
    if ids:
        more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
        print(f"{what}: {', '.join(ids[:SHOWN])}{more}")


def _print_differing(differ: Sequence["Differing"], reports: Mapping[str, "Report"]) -> None:
    if len(reports) < 2:
        return
    n = next(iter(reports.values())).counts["n"]
    read = [one for one in differ if one.answered]
    print(f"\nthe rules differ on {len(differ)} of {n} questions", end="")
    print(f", {len(differ) - len(read)} of them failed or missing" if len(differ) > len(read) else "")
    if read:
        rows = []
        for one in read[:SHOWN]:
            found = [
                f"{'–' if r.extracted is None else shortened(r.extracted)}, {r.outcome}" for r in one.readings.values()
            ]
            rows.append([one.id, shortened(one.response or ""), one.answer, *found])
        print()
        print_table("", ["question", "response", "truth", *reports], rows, texts=3 + len(reports))
    if len(read) > SHOWN:
        print(f"and {len(read) - SHOWN} more; --out FILE and --json have all of them")


def shortened(text: str) -> str:
    """One line of at most :data:`LONGEST` characters, the middle left out."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2 - 1]} … {line[-(LONGEST // 2 - 2) :]}"


def _print_letters(report: "Report") -> None:
    from tstar.evaluation.audits import letter_bias
    from tstar.evaluation.table import number_text

    rows: list[list[str]] = []
    for row in letter_bias(report):
        cells: list[Any] = [
            100 * row.truth_share,
            100 * row.answer_share,
            None if row.accuracy is None else 100 * row.accuracy,
        ]
        rows.append([row.letter or "none", str(row.n), *map(number_text, cells)])
    if rows:
        print()
        header = ["letter", "questions", "is right, %", "was answered, %", "right where it is, %"]
        print_table(f"answers by letter, {report.rules} rules", header, rows)
