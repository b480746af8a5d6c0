"""Public annotation files as records: what each set leaves out, that nothing is lost unsaid, and that a million rows fit."""

import json
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tstar.data.annotations import read_annotations
from tstar.data.public_sets import SETS, about_boxes, about_boxes_or_flan, get_set
from tstar.data.records import read_records
from tstar.errors import ConfigError, DataError

HUMAN = {"from": "human", "value": "<image>\nWhat?"}
ANSWER = {"from": "gpt", "value": "A dog."}


def row(name, media="coco/train2017/1.jpg", turns=(HUMAN, ANSWER), kind="image", **more):
    return {"id": name, **({kind: media} if media else {}), "conversations": list(turns), **more}


def asked(question, answer="Yes."):
    return ({"from": "human", "value": question}, {"from": "gpt", "value": answer})


def save(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(map(json.dumps, rows)) if path.suffix == ".jsonl" else json.dumps(rows)
    path.write_text(text)
    return path


def read(sources, name="plain", **more):
    return read_records([Path(s) for s in sources], get_set(name), **more)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_records_are_those_of_a_plain_reading_and_survive_pickling(tmp_path, name):
    path = save(tmp_path / name, [row(str(n), f"{n} ä.jpg") for n in range(20)] + [row("t", None)])
    records = read([path]).records
    expected = read_annotations(path)
    assert list(records) == expected
    assert [records[n] for n in range(len(records))] == expected
    assert records[3:17:4] == expected[3:17:4]
    assert list(pickle.loads(pickle.dumps(records))) == expected
    assert len(pickle.dumps(records)) < 2000  # places, not texts


def test_several_files_follow_each_other(tmp_path):
    paths = [save(tmp_path / f"{k}.json", [row(f"{k}{n}") for n in range(3)]) for k in "ab"]
    reading = read(paths)
    assert [r.id for r in reading.records] == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert reading.records.origin(4) == (paths[1], 1)


def test_what_is_asked_about_one_medium_follows_each_other(tmp_path):
    """As LLaVA-Video has it: captions of all videos in one file, questions about them in the next."""
    names = ["a", "b", "c", None, "b", "a", "d", None, "b"]
    rows = [row(f"r{n}", name and f"{name}.mp4", kind="video") for n, name in enumerate(names)]
    paths = [save(tmp_path / "1.json", rows[:4]), save(tmp_path / "2.json", rows[4:])]
    order = [r.id for r in read(paths).records]
    assert order == ["r0", "r5", "r1", "r4", "r8", "r2", "r3", "r6", "r7"]


def test_malformed_rows_are_named_counted_and_stored(tmp_path):
    rows = [row(str(n)) for n in range(300)]
    rows[7] = {"id": 7}
    rows[9] = row("9", turns=[HUMAN])
    rows[11] = row("11", turns=[HUMAN, HUMAN])
    path = save(tmp_path / "a.jsonl", rows)
    path.write_text(path.read_text() + '\n{"id": "cut')
    reading = read([path], max_bad_fraction=0.02)
    assert (reading.rows, len(reading.records)) == (301, 297)
    assert [(d.row, d.kind) for d in reading.dropped] == [(n, "malformed") for n in (7, 9, 11, 300)]
    assert sum(reading.counts()["dropped"].values()) == 4
    assert reading.counts()["dropped"]["malformed: 'conversations' must be a non-empty list"] == 1
    reading.save(tmp_path)
    stored = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert [d["row"] for d in stored] == [7, 9, 11, 300]
    assert all(d["file"] == str(path) and d["reason"] for d in stored)
    counts = json.loads((tmp_path / "records.json").read_text())
    assert counts["rows"] == counts["records"] + sum(counts["dropped"].values())


def test_too_many_malformed_rows_are_an_error_that_names_the_first(tmp_path):
    path = save(tmp_path / "a.json", [row("0"), {"id": 1}, row("2")])
    with pytest.raises(DataError, match=r"1 of 3 records are malformed.* row 1: 'conversations'.*--max-bad-fraction"):
        read([path])
    assert len(read([path], max_bad_fraction=0.5).records) == 2


def test_the_other_file_of_llava_pretrain_is_recognized(tmp_path):
    path = save(tmp_path / "meta.json", [{"id": "1", "image": "1.jpg", "blip_caption": "x", "url": "y"}])
    with pytest.raises(DataError, match=r"_meta\.json of LLaVA-Pretrain"):
        read([path], "llava_pretrain")


BOXES = {
    "kept": [
        row("plain"),
        row("list", turns=asked("Which of [1, 2, 3, 4]?")),
        row("bits", turns=asked("Sort [1, 0, 0, 1].", "[0, 0, 1, 1]; done.")),
        row("three", turns=asked("Where?", "[0.1, 0.2, 0.3]")),
        row("five", turns=asked("Where?", "[0.1, 0.2, 0.3, 0.4, 0.5]")),
        row("large", turns=asked("Where?", "[10.5, 0.2, 0.3, 0.4]")),
        row("gqa", "gqa/images/1.jpg", asked("Is the region large?")),
        row("text", None, asked("What is a bounding box?")),
        row("vgg", "vgg/1.jpg"),
    ],
    "region of Visual Genome": [row("v1", "vg/VG_100K/1.jpg"), row("v2", "vg/VG_100K_2/2.jpg")],
    "box in the text": [
        row("b1", turns=asked("Where is it?", "[0.12, 0.3, 1.0, 0.99]")),
        row("b2", turns=asked("What is in [0.0,.25,0.5,1]?")),
        row("b3", turns=(*asked("Hm?"), *asked("Where?", "at [0.1, 0.2, 0.3, 0.4], I think"))),
    ],
    "question about a box": [
        row(
            "q1", turns=asked("Please provide the bounding box coordinate of the region this sentence describes: a cat")
        ),
        row("q2", turns=asked("Please provide a short description for this region.")),
        row("q3", turns=asked("Give me the Bounding-Box coordinates.")),
    ],
}


def test_boxes_are_left_out_of_llavas_mixture(tmp_path):
    path = save(tmp_path / "mix.json", [r for rows in BOXES.values() for r in rows])
    reading = read([path], "llava_mix665k")
    assert [r.id for r in reading.records] == [r["id"] for r in BOXES["kept"]]
    expected = {reason: len(rows) for reason, rows in BOXES.items() if reason != "kept"}
    assert reading.counts()["dropped"] == dict(sorted(expected.items(), key=lambda item: -item[1]))
    assert "published with 665,298 records, these files hold 17" in reading.notes[0]


def test_an_answer_about_regions_is_not_a_question_about_one(tmp_path):
    (record,) = read([save(tmp_path / "a.json", [row("1", turns=asked("Hm?", "Vote for this region."))])]).records
    assert about_boxes(record) is None


def test_vision_flan_is_left_out_of_the_substitute(tmp_path):
    rows = [row("1"), row("2", "vflan/images_191task_1k/2.jpg"), row("3", "vg/3.jpg")]
    path = save(tmp_path / "a.json", rows)
    reading = read([path], "elva_substitute")
    assert [r.id for r in reading.records] == ["1"]
    assert reading.counts()["dropped"] == {"Vision-Flan": 1, "region of Visual Genome": 1}
    assert reading.counts()["set"] == "elva_substitute"
    assert about_boxes_or_flan(reading.records[0]) is None


def test_conversations_that_were_cut_into_pieces_are_mended_as_llava_does(tmp_path):
    turns = [ANSWER, *asked("One?", "1"), *asked("Two?", "2"), {"from": "human", "value": "Three?"}]
    path = save(tmp_path / "a.json", [row("s", None, turns)])
    (record,) = read([path], "llava_mix665k").records
    assert [t["value"] for t in record.conversations] == ["One?", "1", "Two?", "2"]
    with pytest.raises(DataError, match="turn 0 must be"):
        read([path])
    path = save(tmp_path / "b.json", [row("s", None, [ANSWER]), *[row(str(n)) for n in range(200)]])
    assert read([path], "llava_mix665k").counts()["dropped"] == {
        "malformed: 'conversations' must be a non-empty list": 1
    }


FILES = {
    "0_30_s_academic_v0_1/0_30_s_academic_v0_1_cap_processed.json": 40,
    "0_30_s_academic_v0_1/0_30_s_academic_oe_v0_1_qa_processed.json": 300,
    "0_30_s_academic_v0_1/0_30_s_academic_mc_v0_1_qa_processed.json": 90,
    "1_2_m_youtube_v0_1/1_2_m_youtube_oe_v0_1_qa_processed.json": 150,
    "2_3_m_nextqa/2_3_m_nextqa_mc_qa_processed.json": 50,
    "30_60_s_activitynetqa/30_60_s_activitynetqa_oe_qa_processed.json": 20,
    "0_30_s_perceptiontest/0_30_s_perceptiontest_mc_qa_processed.json": 10,
    "llava_hound/sharegptvideo_qa_255k_processed.json": 500,
}


@pytest.fixture
def videos(tmp_path):
    """LLaVA-Video-178K's folders and file names, few records."""
    root = tmp_path / "llava_video"
    for name, count in FILES.items():
        stem = Path(name).stem
        rows = [
            row(f"{stem}-{n}", f"source/{n}.mp4", kind="video", data_source=Path(name).parent.name)
            for n in range(count)
        ]
        save(root / name, rows)
    (root / "0_30_s_academic_v0_1" / "notes.json").write_text("{}")
    return root


def test_all_folders_of_llava_video_but_hound_are_read(videos):
    reading = read([videos], "llava_video_178k")
    by_file = Counter(str(reading.records.origin(n)[0].relative_to(videos)) for n in range(len(reading.records)))
    assert by_file == Counter({name: count for name, count in FILES.items() if "hound" not in name})


def test_the_base_set_is_drawn_from_folders_and_kinds_in_proportion_and_listed(videos, tmp_path, monkeypatch):
    from dataclasses import replace

    monkeypatch.setitem(SETS, "llava_video_base", replace(SETS["llava_video_base"], draw=124))
    reading = read([videos], "llava_video_base")
    assert len(reading.records) == 124
    by_file = Counter(reading.records.origin(n)[0].name for n in range(124))
    media = [r.media for r in reading.records]
    assert len({m for n, m in enumerate(media) if n and m != media[n - 1]} | {media[0]}) == len(set(media))
    questions = {Path(n).name: c for n, c in FILES.items() if "hound" not in n and "_cap_" not in n}
    assert {n: by_file[n] for n in questions} == {n: c * 124 // 620 for n, c in questions.items()}  # they divide evenly
    assert reading.counts()["dropped"] == {"not drawn": 620 - 124}
    reading.save(tmp_path)
    drawn = [json.loads(line) for line in (tmp_path / "drawn.jsonl").read_text().splitlines()]
    assert [d["id"] for d in drawn] == [r.id for r in reading.records]
    assert len({d["id"] for d in drawn}) == 124
    assert [r.id for r in read([videos], "llava_video_base").records] == [d["id"] for d in drawn]
    numbers = np.array([d["row"] for d in drawn if "academic_oe" in d["file"]])
    assert numbers.max() > 200  # not the first ones
    assert len(set(numbers)) == len(numbers)


def test_a_base_set_of_too_few_records_says_so(videos):
    assert (
        "only 620 records could be drawn from where 131,000 are wanted" in read([videos], "llava_video_base").notes[0]
    )


@pytest.mark.parametrize("where", ["beside the annotations", "in one folder"])
def test_videos_are_found_beside_their_annotations_or_in_one_folder(videos, where):
    folders = {Path(n).parent for n in FILES}
    for folder in folders if where.startswith("beside") else {Path()}:
        (videos / folder / "source").mkdir()
        (videos / folder / "source" / "0.mp4").touch()
    reading = read([videos], "llava_video_178k", media_root=videos)
    prefix = "0_30_s_academic_v0_1/" if where.startswith("beside") else ""
    assert reading.records[0].media == f"{prefix}source/0.mp4"


@pytest.mark.parametrize(
    ("source", "name", "error", "message"),
    [
        ("nowhere", "llava_video_base", DataError, "reads the folder of LLaVA-Video-178K"),
        (".", "llava_video_178k", DataError, "no annotation files of cap, mc, oe"),
        (".", "llava_pretrain", DataError, "is a folder; --set llava_pretrain reads blip_laion_cc_sbu_558k.json"),
        ("none.json", "plain", DataError, "no such annotation file"),
        (".", "llava_vidoe_base", ConfigError, "did you mean 'llava_video_base'"),
    ],
)
def test_wrong_sources_are_named(tmp_path, source, name, error, message):
    with pytest.raises(error, match=message):
        read([tmp_path / source], name)


def mutated(rng, text: bytes) -> bytes:
    """A row with a few bytes changed, left out or doubled; no line ends, so that rows stay rows."""
    data = bytearray(text)
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(len(data)))
        kind = rng.integers(4)
        if kind == 0:
            data[place] = rng.integers(256)
        elif kind == 1:
            del data[place : place + int(rng.integers(1, 8))]
        elif kind == 2:
            data[place:place] = data[place : place + int(rng.integers(1, 30))]
        else:
            data[place:place] = bytes(rng.choice(list(b'{}[]",:\\ 0e\x00'), 2).astype(np.uint8))
        data = bytearray(data.replace(b"\n", b" ").replace(b"\r", b" ")) or bytearray(b"x")
    return bytes(data)


def acceptable(data: bytes) -> bool:
    """By the definition of a record, with the standard library's JSON."""

    def refuse(name):
        raise ValueError(name)

    try:
        found = json.loads(data.decode(), parse_constant=refuse)
        json.dumps(found, ensure_ascii=False).encode()
    except ValueError:
        return False
    if not isinstance(found, dict):
        return False
    media = [found[k] for k in ("image", "video") if found.get(k) is not None]
    turns = found.get("conversations")
    name = found.get("id")
    return (
        ((isinstance(name, str) and name != "") or (isinstance(name, int) and not isinstance(name, bool)))
        and len(media) < 2
        and all(isinstance(m, str) and m and "\0" not in m and m[0] != "/" and ".." not in m.split("/") for m in media)
        and isinstance(turns, list)
        and len(turns) > 0
        and len(turns) % 2 == 0
        and all(
            isinstance(t, dict) and t.get("from") == ("human", "gpt")[n % 2] and isinstance(t.get("value"), str)
            for n, t in enumerate(turns)
        )
    )


def test_a_thousand_damaged_records_are_each_used_or_named(tmp_path):
    rng = np.random.default_rng(6)
    texts = [row(f"n{n}", f"a/{n}.jpg", asked(f"Question é {n}?", "\\u00e9 \n yes")) for n in range(4)]
    good = [json.dumps(text, ensure_ascii=bool(n % 2)).encode() for n, text in enumerate(texts)]
    rows = [mutated(rng, good[n % 4]) for n in range(1000)]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(rows))
    kept = [n for n, data in enumerate(rows) if acceptable(data)]
    assert 50 < len(kept) < 950  # both kinds are among them
    reading = read([path], max_bad_fraction=1.0)
    assert sorted(reading.records.origin(n)[1] for n in range(len(reading.records))) == kept
    assert len(reading.records) + len(reading.dropped) == reading.rows == 1000 - sum(not r.strip() for r in rows)
    assert all(d.reason and "\n" not in d.reason for d in reading.dropped)
