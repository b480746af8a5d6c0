"""Options and help of the commands that evaluate, score, compare and report."""

import argparse

from tstar.cli.option_types import numbers
from tstar.cli.parser import MOVED_HELP, SETTINGS_HELP, Parser
from tstar.cli.profile_options import add_profile_options

RESPONSES_HELP = """responses:
  .jsonl, .json   one {"id": ..., "response": "..."} a line or a list of them; null is a failure, an absent line was not asked
  .csv, .tsv, .xlsx   columns id and response; an empty cell is a failure (xlsx needs openpyxl)
  lmms-eval's samples (..._samples_TASK.jsonl), joined by id or row and checked against the question they show
  VLMEvalKit's result tables (.xlsx, .tsv, .json), joined likewise
  tstar's stored predictions, and the result files of the benchmark's own scorer
"""


def add_validate(commands: "argparse._SubParsersAction[Parser]") -> None:
    validate = commands.add_parser(
        "validate",
        help="run the benchmarks on a checkpoint",
        description="Run benchmarks on a checkpoint, which knows its recipe and frozen parts, and print the table with baselines.",
        epilog=MOVED_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    validate.add_argument("--ckpt", required=True, metavar="PATH", help="a checkpoint, or the folder of a stage or run")
    validate.add_argument("--benchmarks", metavar="A,B", help="only these suites of the recipe")
    validate.add_argument("--max-frames", type=int, metavar="N", help="frames of one video, also more than in training")
    validate.add_argument("--rules", choices=("official", "strict", "lmms-eval"), help="whose scoring rules")
    validate.add_argument("--limit", type=int, metavar="N", help="about so many questions of each suite")
    validate.add_argument(
        "--no-baselines", action="store_true", help="leave out shuffled frames, single frame and blind"
    )
    validate.add_argument(
        "--devices",
        type=int,
        default=1,
        metavar="N",
        help="processes that ask, each its share of the videos, on a GPU of its own where there are any (default: 1)",
    )
    validate.add_argument("--out", metavar="DIR", help="folder for predictions and report; default the run's")
    validate.add_argument("--json", action="store_true", help="print the table as JSON and nothing else")


def add_score(commands: "argparse._SubParsersAction[Parser]") -> None:
    score = commands.add_parser(
        "score",
        help="score stored responses of a benchmark; no model needed",
        description="Score responses against a benchmark's annotations: by its official rules, by strict ones that count whatever "
        "is failed, missing or unreadable as wrong, and by lmms-eval's where it has the benchmark. All are printed side by side "
        "with intervals, and the questions on which they differ.",
        epilog=RESPONSES_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    score.add_argument("benchmark", help="vnbench, mlvu, videomme, tempcompass, …, or a mini- suite")
    score.add_argument("--annotations", required=True, metavar="PATH", help="official file, or the folder of several")
    score.add_argument(
        "--responses", required=True, nargs="+", metavar="FILE", help="see below; several are read as one"
    )
    score.add_argument(
        "--rules",
        choices=("official", "strict", "lmms-eval"),
        help="whose report is written, and printed first, official and strict beside it (default: all the benchmark has)",
    )
    score.add_argument(
        "--frames", metavar="TEXT", help="of stored predictions on several numbers of frames, those with this 'frames'"
    )
    score.add_argument("--judge-replies", metavar="FILE", help='what a judge said: JSON Lines of {"id", "reply"}')
    score.add_argument("--judge-url", metavar="URL", help="OpenAI-compatible server that is asked to judge")
    score.add_argument("--judge-model", metavar="NAME", help="the judge, as the server calls it")
    score.add_argument("--judge-template", metavar="FILE", help="YAML with the judge's prompt (default: tstar's own)")
    score.add_argument("--judge-cache", metavar="FILE", help="where replies are kept (default: RESPONSES.judge.jsonl)")
    score.add_argument("--out", metavar="FILE", help="write all of it as JSON, every verdict and difference included")
    score.add_argument("--json", action="store_true", help="print that JSON and nothing else")


def add_compare(commands: "argparse._SubParsersAction[Parser]") -> None:
    compare = commands.add_parser(
        "compare",
        help="compare two models on the same questions",
        description="Compare two models question by question: both values with intervals, the paired difference, McNemar's test, "
        "the visual tokens each was given, and how many questions would show a difference of this size.",
        epilog="Each is a run's folder, a file of predictions (runs/NAME/predictions/SUITE/full.jsonl), a report that `tstar score "
        "--out` wrote, or a file of responses with --annotations. Runs of one model with different seeds: PATH,PATH,PATH.",
    )
    compare.add_argument("first", metavar="A", help="a model's run, or its runs separated by commas")
    compare.add_argument("second", metavar="B", help="the other's")
    compare.add_argument("--benchmarks", metavar="NAME,NAME", help="only these suites (default: all that both have)")
    compare.add_argument(
        "--rules",
        choices=("official", "strict", "lmms-eval"),
        help="whose rules (default: those the reports were made by)",
    )
    compare.add_argument(
        "--annotations",
        action="append",
        default=[],
        type=_named_path,
        metavar="NAME=PATH",
        help="where a suite's annotations lie, if responses have to be scored; may be given several times",
    )
    compare.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def _named_path(text: str) -> tuple[str, str]:
    """ "mlvu=DIR" as ("mlvu", "DIR")."""
    name, _, path = text.partition("=")
    if not name or not path:
        raise argparse.ArgumentTypeError(f"must be like mlvu=PATH, got {text!r}")
    return name, path


def add_report(commands: "argparse._SubParsersAction[Parser]") -> None:
    report = commands.add_parser(
        "report",
        help="tables, curves and examples of finished runs",
        description="Write one page about finished runs: by recipe every seed with its baselines, intervals and differences, "
        "other frame counts, categories, times, loss curves and examples. All is read from the runs; what they lack is listed.",
    )
    report.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs; seeds of one recipe are grouped")
    report.add_argument("--out", required=True, metavar="DIR", help="folder of the page, results.json and pictures")
    report.add_argument("--title", help="of the page")
    report.add_argument("--json", action="store_true", help="print what results.json holds and nothing else")


def add_export(commands: "argparse._SubParsersAction[Parser]") -> None:
    export = commands.add_parser(
        "export",
        help="write a run's answers in the layout of lmms-eval, VLMEvalKit or the official scorers",
        description="Write the stored answers of a run as another tool leaves its own, for it to read or to score again.",
    )
    export.add_argument("run", metavar="RUN", help="folder of a run, or the --out of `tstar validate`")
    export.add_argument("--layout", required=True, choices=("lmms-eval", "vlmevalkit", "official"), help="whose layout")
    export.add_argument("--out", required=True, metavar="DIR", help="folder to write into")
    export.add_argument("--benchmarks", metavar="A,B", help="only these suites")
    export.add_argument(
        "--annotations",
        action="append",
        default=[],
        type=_named_path,
        metavar="NAME=PATH",
        help="where a suite's annotations lie, if not where the recipe says; may be given several times",
    )
    export.add_argument(
        "--judge-replies",
        action="append",
        default=[],
        type=_named_path,
        metavar="NAME=FILE",
        help="what a judge said about a suite's answers, as `tstar score` takes it; may be given several times",
    )
    export.add_argument("--mode", default="full", help="full (default), shuffled, single_frame or blind")
    export.add_argument("--frames", metavar="TEXT", help="which answers, where several are stored: their 'frames'")
    export.add_argument(
        "--format",
        default="tsv",
        choices=("tsv", "json", "xlsx"),
        help="of VLMEvalKit's tables (default: %(default)s); xlsx needs openpyxl",
    )
    export.add_argument("--json", action="store_true", help="print the written files as JSON and nothing else")


def add_audit(commands: "argparse._SubParsersAction[Parser]") -> None:
    audit = commands.add_parser(
        "audit",
        help="ask whether a score means what it says: baselines, training videos in the benchmark",
        description="Checks of what a benchmark's number may hide.",
    )
    kinds = audit.add_subparsers(dest="audit", metavar="AUDIT", required=True, parser_class=Parser)
    baselines = kinds.add_parser(
        "baselines",
        help="what the question alone, and a single frame, already give",
        description="Ask a checkpoint a benchmark's questions without the video and with its middle frame only, beside all frames: "
        "`tstar validate` with these modes. Answers that are stored already are used again.",
        epilog=MOVED_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    baselines.add_argument(
        "--ckpt", required=True, metavar="PATH", help="a checkpoint, or the folder of a stage or run"
    )
    baselines.add_argument("--benchmarks", metavar="A,B", help="only these suites of the recipe")
    baselines.add_argument("--limit", type=int, metavar="N", help="about so many questions of each suite")
    baselines.add_argument("--out", metavar="DIR", help="folder for predictions and report; default the run's")
    baselines.add_argument("--json", action="store_true", help="print the table as JSON and nothing else")
    duplicates = kinds.add_parser(
        "duplicates",
        help="training clips that show what a benchmark's videos show",
        description="Compare the frames of training shards with those of a benchmark's videos by perceptual hashes, which outlast "
        "scaling and encoding. A clip cut out of a longer video is found, too. Cropped, mirrored or recoloured copies are not.",
    )
    duplicates.add_argument("--shards", nargs="+", required=True, metavar="DIR", help="folders of training shards")
    duplicates.add_argument("--videos", required=True, metavar="PATH", help="folder of a benchmark, or one video")
    duplicates.add_argument(
        "--threshold",
        type=float,
        default=0.4,
        metavar="X",
        help="share of matching frames, of the shorter of the two, from which a pair is listed (default: %(default)s)",
    )
    duplicates.add_argument(
        "--clip-frames", type=int, default=64, metavar="N", help="most frames of a training clip (default: %(default)s)"
    )
    duplicates.add_argument(
        "--fps",
        type=float,
        default=2.0,
        metavar="X",
        help="frames a second, of clips and videos (default: %(default)s)",
    )
    duplicates.add_argument(
        "--max-frames", type=int, default=512, metavar="N", help="most frames of a video (default: %(default)s)"
    )
    duplicates.add_argument(
        "--cache",
        default="data_shards/.frame_hashes",
        metavar="DIR",
        help="folder of the hashes; a killed search goes on from them (default: %(default)s)",
    )
    duplicates.add_argument("--out", metavar="FILE", help="write the whole report there as JSON")
    duplicates.add_argument("--json", action="store_true", help="print the whole report as JSON and nothing else")


def add_ablate(commands: "argparse._SubParsersAction[Parser]") -> None:
    ablate = commands.add_parser(
        "ablate",
        help="train and evaluate the models of one of the paper's tables, and write the table",
        description="Train every model of a table's file once a seed, evaluate it at the frames of each of its rows, and write the "
        "table beside the published numbers: Markdown, CSV, JSON and plots. Stopped or killed, the same command goes on; several "
        "calls, also on several machines, may share one run folder. A model that fails does not stop the others. What was made "
        "with other settings is not used but named. Progress goes to stderr.",
        epilog="settings:\n  Any --section.key VALUE is laid over every model's recipe, as --trainer.devices 4; see fit.\n"
        "  Seeds, names and evaluation.max_frames are the table's. The published scales need suites:\n"
        "  --evaluation.benchmarks.mlvu DIR and so on.\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    ablate.add_argument("file", metavar="FILE", help="as configs/ablations/table1.yaml")
    ablate.add_argument(
        "--scale",
        default="miniature",
        metavar="NAME",
        help="miniature (default); paper, which is the file's own published scale; or a name in configs/scale, as paper_7b",
    )
    ablate.add_argument(
        "--rows",
        metavar="A,B",
        help="train only these models (default: all; --list names them); the table has all rows",
    )
    ablate.add_argument(
        "--seeds", type=numbers, metavar="N[,N]", help="train these (default: the file's); the table has all there are"
    )
    ablate.add_argument("--workers", type=int, default=1, metavar="N", help="models trained at once (default: 1)")
    ablate.add_argument("--runs", default="runs", metavar="DIR", help="the runs are in DIR/TABLE (default: runs)")
    ablate.add_argument("--out", metavar="DIR", help="folder of the table (default: reports/TABLE)")
    ablate.add_argument(
        "--records",
        metavar="FILE",
        help="take finished models and seeds from an earlier report's records.tar.xz, where DIR/TABLE has none, and train the rest",
    )
    ablate.add_argument("--list", action="store_true", help="list models, rows and what is finished, and stop")
    ablate.add_argument("--report-only", action="store_true", help="write the table of what is finished, train nothing")
    ablate.add_argument("--json", action="store_true", help="print the table's data at the end")


def add_profile(commands: "argparse._SubParsersAction[Parser]") -> None:
    profile = commands.add_parser(
        "profile",
        help="measure what an answer costs: seconds and memory of every part, against frames",
        description="Measure what an answer costs against the frames of a clip: by the paper's protocol, all from decoded frames "
        "to the first token; and part by part (decode, preprocess, encode, compress, prefill, first token), with their sum and "
        "the total. Every case runs in a process of its own. Finished cases are kept in --out and not measured again.",
        epilog=SETTINGS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_profile_options(profile)
