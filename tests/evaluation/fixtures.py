"""A few made-up questions of every benchmark, in the layout of its published annotations."""

from typing import Any


def _vnbench() -> list[dict[str, Any]]:
    words = ["pear", "lemon", "mango", "peach"]
    rows = []
    for attempt, arrangement in enumerate(("ABCD", "ACDB", "DACB", "CDBA")):
        options = [word for _, word in sorted(zip(arrangement, words, strict=True))]
        rows.append(
            {
                "video": "./VNBench/video0042_ret_insert1.mp4",
                "question": "What kind of fruit appears in this video?",
                "options": options,
                "gt": "lemon",
                "gt_option": arrangement[1],
                "type": "ret_insert2",
                "try": attempt,
                "length": 31.4,
                "needle_time": [3.2],
            }
        )
    return rows


def _mlvu() -> dict[str, list[dict[str, Any]]]:
    row = {
        "video": "count_77.mp4",
        "duration": 612.4,
        "question": "How many times does a kite appear?",
        "candidates": ["1", "4", "2", "7"],
        "answer": "2",
        "question_type": "count",
    }
    lost = row | {"video": "needle_3.mp4", "candidates": ["a dog", "a cat", "a dog", "rain"], "answer": "snow"}
    return {"4_count": [row], "2_needle": [lost | {"question_type": "findNeedle"}]}


def _videomme() -> list[dict[str, Any]]:
    return [
        {
            "video_id": "417",
            "duration": "medium",
            "domain": "Life Record",
            "sub_category": "Food",
            "url": "https://example.org",
            "videoID": "abcDEF12345",
            "question_id": f"417-{number}",
            "task_type": "Counting Problem",
            "question": "How many eggs are used?",
            "options": ["A. Two.", "B. Three.", "C. Four.", "D. Six."],
            "answer": "ABC"[number - 1],
        }
        for number in (1, 2, 3)
    ]


def _tempcompass() -> dict[str, Any]:
    speed = "How fast does the lift move?\nA. slowly\nB. very fast\nC. it stands still"
    lift, back = "1021488277", "1021488277_reverse"
    captions = "Which caption matches the video better?\nCaption A: The lift is slow.\nCaption B: The lift is fast."
    numbered = "Which description is a more suitable match?\nOption 1: A dog comes first.\nOption 2: Rain comes first."
    return {
        "multi-choice": {
            lift: {"speed": [{"question": speed, "answer": "B. very fast"}]},
            back: {"order": [{"question": "What is first?\nA. a dog\nB. rain", "answer": "A. a dog"}]},
        },
        "yes_no": {lift: {"speed": [{"question": "Is the lift slow?", "answer": "no"}]}},
        "caption_matching": {
            lift: {"speed": [{"question": captions, "answer": "Caption B: The lift is fast."}]},
            back: {"order": [{"question": numbered, "answer": "Option 1: A dog comes first."}]},
        },
        "captioning": {
            lift: {
                "speed": [
                    {
                        "question": "Describe the lift.\nInformation A: slow\nInformation B: fast\nGenerated Caption:",
                        "answer": "B. very fast",
                        "mc_question": speed,
                        "mc_answer": "B. very fast",
                    }
                ]
            }
        },
    }


def _activitynetqa() -> dict[str, list[dict[str, Any]]]:
    asked = [("does the man in blue hold a rake", "yes", 3), ("what colour is the rake", "green", 4)]
    names = [f"v_abcDEF12345_{number}" for number in range(len(asked))]
    return {
        "test_q": [
            {"video_name": "abcDEF12345", "question": question, "question_id": name}
            for name, (question, _, _) in zip(names, asked, strict=True)
        ],
        "test_a": [
            {"answer": answer, "type": kind, "question_id": name}
            for name, (_, answer, kind) in reversed(list(zip(names, asked, strict=True)))
        ],
    }


def _chat_temporal() -> list[dict[str, Any]]:
    return [
        {"Q": "What does the skater do before the second jump?", "A": "She slows down.", "video_name": "v_abcDEF12345"},
        {"Q": "What happens last?", "A": "She bows {to all}.", "video_name": "v_abcDEF12345"},
        {"Q": "What happens last?", "A": "It rains.", "video_name": "v_ghi_1"},
    ]


def _lvbench() -> list[dict[str, Any]]:
    question = "Who serves first?\n(A) the left player\n(B) the right player\n(C) nobody\n(D) the coach"
    entry = {"uid": "1203", "question": question, "answer": "B", "time_reference": "22:10-24:05"}
    first = entry | {"question_type": ["event understanding", "key information retrieval"]}
    second = entry | {"uid": "1204", "answer": "D", "question_type": ["reasoning"]}
    return [{"key": "abcDEF12345", "type": "sport", "video_info": {"fps": 25.0}, "qa": [first, second]}]


def _nextqa() -> list[dict[str, Any]]:
    options = ("to scare a bird", "to warm his hands", "to call a dog", "the song was over", "he saw a friend")
    row = {"video": 4010069381, "frame_count": 369, "width": 640, "height": 480, "question": "why did the boy clap"}
    row |= {"answer": 3, "qid": 6, "type": "CW"} | {f"a{n}": text for n, text in enumerate(options)}
    return [row, row | {"qid": 7, "type": "TP", "answer": 0, "a4": options[0]}]


def _mvbench() -> dict[str, list[dict[str, Any]]]:
    row = {"video": "AB12C.mp4", "question": "What happened after the person opened the box?", "answer": "Closed it."}
    bound = row | {"candidates": ["Sat down.", "Ate it.", "Closed it.", "Threw it."], "start": 4.1, "end": 17.9}
    one = row | {"candidates": ["Closed it."]}
    scene = row | {"candidates": ["a", "b", "Closed it.", "c", "d"], "start": 0, "end": 61.5, "fps": 3}
    return {
        "action_sequence": [bound],
        "counterfactual_inference": [one, row | {"candidates": ["Closed it.", "Closed it."]}],
        "episodic_reasoning": [scene | {"video": "show_s01e01_seg02_clip_03", "subtitle": "", "show_name": "show"}],
    }


def _seed_image() -> dict[str, Any]:
    row = {"question_id": "104512", "question": "How many cups are on the shelf?", "answer": "C"}
    row |= {f"choice_{letter}": text for letter, text in zip("abcd", ("One", "Two", "Four", "Six"), strict=True)}
    image = row | {"data_id": "1454426_2591111986", "data_type": "image", "question_type_id": 5}
    video = row | {"question_id": "9", "data_id": "94328.webm", "data_type": "video", "question_type_id": 10}
    return {"questions": [image, video]}


def _mmstar() -> list[dict[str, Any]]:
    question = "Which room is it?\nOptions: A: a kitchen, B: a hall, with stairs, C: a cellar, D: none"
    row = {"index": 7, "question": question, "answer": "B", "category": "coarse perception", "meta_info": {}}
    row |= {"l2_category": "image scene and topic", "image": "images/7.jpg"}
    return [row, row | {"index": 8, "answer": "D", "category": "math", "l2_category": "geometry"}]


def _ai2d() -> list[dict[str, Any]]:
    row = {"question": "Which part absorbs water?", "options": ["leaf", "root", "stem", "petal"], "image": "3.png"}
    return [row | {"answer": "1"}, row | {"answer": "3"}]


ANNOTATIONS: dict[str, Any] = {
    "vnbench": _vnbench(),
    "mlvu": _mlvu(),
    "videomme": _videomme(),
    "videomme_subtitles": _videomme(),
    "tempcompass": _tempcompass(),
    "activitynetqa": _activitynetqa(),
    "chat_temporal": _chat_temporal(),
    "lvbench": _lvbench(),
    "nextqa": _nextqa(),
    "mvbench": _mvbench(),
    "seed_image": _seed_image(),
    "mmstar": _mmstar(),
    "ai2d": _ai2d(),
}
"""Parsed annotations by benchmark; a ``mini-`` suite has those of the benchmark it is named after."""
