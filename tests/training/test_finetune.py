import copy
import csv
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from tests.training.conftest import tiny

import made_corpus
import vesalius as vs
from golden.networks import CONFIG, sam
from made_sam2 import small_sam2
from vesalius import finetune as module
from vesalius.cli import main
from vesalius.core.errors import ConfigError, ReadError, WriteError
from vesalius.core.types import Prompt
from vesalius.corpus.split import place_of, split_of
from vesalius.corpus.store import Corpus
from vesalius.evaluation.comparison import compare
from vesalius.evaluation.scores import Score
from vesalius.finetune import divide, finetune, settings
from vesalius.models.baseline_sam2 import load_sam2
from vesalius.models.checkpoint import load_checkpoint, save_checkpoint
from vesalius.models.presets import PRESETS
from vesalius.predict.predictor import Predictor
from vesalius.prompts.sample import tight_box
from vesalius.training.run import cases_seen
from vesalius.training.samples import SampleSource
from words import imis, write_tokenizer

CASES = 10
STRATEGIES = ["box", "1 point", "3 points", "5 points"]


def write_pairs(folder: Path, name: str = "discs", cases: int = CASES) -> Path:
    """A set of pairs of ``cases`` patients with two images of a disc and a square each."""
    for part in ("images", "labels"):
        (folder / name / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:48, 0:64]
    for case in range(cases):
        for number in range(2):
            cx, cy = rng.uniform(14, 30), rng.uniform(14, 34)
            labels = ((x - cx) ** 2 + (y - cy) ** 2 < 80).astype(np.uint8)
            labels[8:20, 44:58] = 2
            grey = np.clip(80 + 60 * labels + rng.normal(0, 10, labels.shape), 0, 255).astype(np.uint8)
            Image.fromarray(grey).save(folder / name / "images" / f"p{case}_{number}.png")
            Image.fromarray(labels).save(folder / name / "labels" / f"p{case}_{number}.png")
    about = {"modality": "mr", "labels": {"1": "disc", "2": "square"}, "cases": cases, "instances": False}
    (folder / name / "set.json").write_text(json.dumps(about))
    return folder


def shorten(patch: pytest.MonkeyPatch) -> None:
    for name, value in {"LEAST_STEPS": 4, "MOST_STEPS": 4, "VALIDATIONS": 2}.items():
        patch.setattr(module, name, value)


@dataclasses.dataclass
class Done:
    folder: Path
    corpus: Path
    start: Path
    told: list[str]
    drawn: set[str]
    asked: dict[str, list[str]]


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Done:
    """A short run, with the cases of the samples that were drawn and the prompts that were asked at the end."""
    root = tmp_path_factory.mktemp("finetune")
    found = Done(root / "run", write_pairs(root / "data"), root / "start", [], set(), {})
    save_checkpoint(tiny(), found.start)
    division = divide(found.corpus)
    draw, ask = SampleSource.__getitem__, Predictor.predict

    def drawn(source, number):
        sample = draw(source, number)
        found.drawn.add(division.images[sample.index].case)
        return sample

    def asked(predictor, embedding, prompts):
        for prompt in prompts:
            if len(np.asarray(prompt.points)) < 2:  # what follows depends on the answers
                told = f"{embedding.digest} {prompt.box} {np.asarray(prompt.points).tolist()}"
                found.asked.setdefault(predictor.name, []).append(told)
        return ask(predictor, embedding, prompts)

    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        patch.setattr(SampleSource, "__getitem__", drawn)
        patch.setattr(Predictor, "predict", asked)
        finetune(found.corpus, found.folder, found.start, tell=found.told.append)
    return found


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_held_out_cases_are_never_trained_on(done: Done) -> None:
    division = json.loads((done.folder / "run.json").read_text())["division"]
    parts = [{name.split("/")[1] for name in division[split]} for split in ("train", "val", "test")]
    assert set.union(*parts) == {f"p{case}" for case in range(CASES)}
    assert sum(map(len, parts)) == CASES
    assert len(parts[2]) == 2
    assert done.drawn <= parts[0]
    assert len(done.drawn) > 1
    assert {row["case"] for row in rows(done.folder / "before.csv")} == parts[2]


def test_before_and_after_are_asked_the_same(done: Done) -> None:
    assert done.asked["start"] == done.asked["best"]
    assert len(set(done.asked["start"])) == 2 * 8  # eight objects, a box and a first click each


def test_the_numbers_of_the_report_are_those_of_the_models(done: Done) -> None:
    held_out = {name.split("/")[1] for name in divide(done.corpus).cases["test"]}
    tables = {}
    for when, folder in (("before", done.start), ("after", done.folder / "best")):
        tables[when] = rows(done.folder / f"{when}.csv")
        model = vs.load_model(folder)
        expected = []
        for path in sorted((done.corpus / "discs" / "labels").glob("*.png")):
            if path.stem.split("_")[0] in held_out:
                labels = np.asarray(Image.open(path))
                embedding = model.encode(np.asarray(Image.open(done.corpus / "discs" / "images" / path.name)))
                for value in (1, 2):
                    truth = labels == value
                    (answer,) = model.predict(embedding, [Prompt(box=tight_box(truth))])
                    expected.append(2 * (answer.mask & truth).sum() / (answer.mask.sum() + truth.sum()))
        assert [float(row["dice"]) for row in tables[when] if row["strategy"] == "box"] == pytest.approx(expected)
    report = (done.folder / "report.md").read_text()
    for change in json.loads((done.folder / "report.json").read_text()):
        dice = [
            [float(row["dice"]) for row in tables[when] if row["strategy"] == change["strategy"]]
            for when in ("before", "after")
        ]
        gaps = [after - before for before, after in zip(*dice, strict=True)]
        assert change["before"]["mean"] == pytest.approx(fmean(dice[0]))
        assert change["after"]["mean"] == pytest.approx(fmean(dice[1]))
        assert change["difference"]["mean"] == pytest.approx(fmean(gaps))
        assert (change["better"], change["worse"]) == (sum(g > 0 for g in gaps), sum(g < 0 for g in gaps))
        assert f"| {change['strategy']} | {fmean(dice[0]):.3f} [" in report
        by_case = [fmean(gaps[i] for i in members) for members in ([0, 1, 2, 3], [4, 5, 6, 7])]
        # Of two cases, a quarter of the resamples holds one of them alone.
        assert change["difference"]["low"] == pytest.approx(min(by_case))
        assert change["difference"]["high"] == pytest.approx(max(by_case))


def test_the_run_leaves_a_model_pictures_and_words(done: Done) -> None:
    report = (done.folder / "report.md").read_text()
    assert report.startswith(f"# Fine-tuning of {done.start}\n")
    assert "Held out (drawn by their names from all cases): 2 cases, 4 images." in report
    assert "| disc | 4 |" in report
    assert done.told[0] in report
    for name in ("box", "1_point"):
        with Image.open(done.folder / f"before_after_{name}.png") as sheet:
            assert sheet.width > 4 * 320
    model = vs.load_model(done.folder / "best")
    assert model.predict(model.encode(np.zeros((60, 80), np.uint8)), [Prompt(box=(10, 10, 50, 50))])


def test_what_annotators_have_outlined_is_learned_from(tmp_path: Path, model_folder, monkeypatch, capsys) -> None:
    """The corpus that `vesalius annotate` exports: grey and coloured pictures of several sizes, and a volume."""
    pytest.importorskip("fastapi")
    from vesalius.server.annotator import Annotator
    from vesalius.server.messages import Export
    from vesalius.server.workspace import Workspace

    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for number, (height, width) in enumerate([(48, 64), (80, 50), (64, 64), (90, 120), (33, 47)]):
        size = (height, width, 3) if number % 2 else (height, width)
        pixels = rng.integers(0, 255, size, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / f"picture {number}.png")
    voxels = rng.normal(0, 200, (40, 36, 15)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([0.7, 0.8, 2.5, 1])), tmp_path / "data" / "scan.nii.gz")
    annotator = Annotator(Workspace([tmp_path / "data"]), vs.load_model(model_folder))
    try:
        for image in annotator.workspace.items:
            disc, block = np.zeros((2, *annotator.workspace.volume(image).voxels.shape[:3]), bool)
            disc[:18, 5:20, 8:25] = True
            block[:, 15:30, 15:30] = True  # over a part of the disc
            annotator.replace_objects(image, [("disc", disc), ("", block)], "me", done=True)
        told = annotator.export(Export(format="corpus", states=["done"]))
    finally:
        annotator.close()
    assert (told["images"], told["left_out"]) == (20, [])
    save_checkpoint(tiny(), tmp_path / "start")
    for name in ("LEAST_STEPS", "MOST_STEPS", "VALIDATIONS"):
        monkeypatch.setattr(module, name, 1)
    line = ["finetune", "--corpus", told["folder"], "--model", str(tmp_path / "start"), "-o", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as ended:
        main([*line, "--prompts", "box"])
    assert ended.value.code == 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert sorted(map(len, run["division"].values())) == [1, 2, 3]
    assert run["step"] == 1
    assert "| disc |" in capsys.readouterr().out


def test_the_same_command_ends_as_it_did_and_only_if_asked(done: Done, monkeypatch) -> None:
    shorten(monkeypatch)
    files = ["report.md", "report.json", "before.csv", "after.csv", "validation.csv", "best/model.safetensors"]
    before = [(done.folder / name).read_bytes() for name in files]
    with pytest.raises(ConfigError, match="--resume"):
        finetune(done.corpus, done.folder, done.start)
    finetune(done.corpus, done.folder, done.start, resume=True)
    assert [(done.folder / name).read_bytes() for name in files] == before
    with pytest.raises(ConfigError, match="prompts was any, and is box"):
        finetune(done.corpus, done.folder, done.start, prompts="box", resume=True)


def test_scores_of_another_run_are_not_taken(done: Done, tmp_path: Path, monkeypatch) -> None:
    shorten(monkeypatch)
    shutil.copytree(done.folder, tmp_path / "run")
    (tmp_path / "run" / "state.pt").unlink()
    expected = (done.folder / "before.csv").read_text()
    (tmp_path / "run" / "before.csv").write_text(expected.splitlines()[0] + "\n")
    (tmp_path / "run" / "after.csv.part").write_text("of another model")
    finetune(done.corpus, tmp_path / "run", done.start)
    assert (tmp_path / "run" / "before.csv").read_text() == expected


def test_cases_that_a_start_was_trained_by_are_told(done: Done, tmp_path: Path, monkeypatch) -> None:
    shorten(monkeypatch)
    assert cases_seen(done.start) == set()
    division = json.loads((done.folder / "run.json").read_text())["division"]
    assert cases_seen(done.folder / "best") == {*division["train"], *division["val"]}
    shutil.copytree(done.folder, tmp_path / "first")
    record = json.loads((tmp_path / "first" / "run.json").read_text())
    record["division"]["train"].append(division["test"][0])
    (tmp_path / "first" / "run.json").write_text(json.dumps(record))
    told: list[str] = []
    report = finetune(done.corpus, tmp_path / "second", tmp_path / "first" / "best", tell=told.append)
    sentence = f"1 of {len(division['test'])} held-out cases have names of cases that"
    assert any(sentence in line for line in told)
    assert sentence in report.read_text()
    assert division["test"][0] in json.loads((tmp_path / "second" / "run.json").read_text())["seen_before"]


def test_files_of_one_s_own_are_not_removed(done: Done, tmp_path: Path) -> None:
    (tmp_path / "before.csv").write_text("mine")
    with pytest.raises(WriteError, match=r"before.csv: is there, and is of no run"):
        finetune(done.corpus, tmp_path, done.start)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before.csv"]


def test_scores_beside_the_record_of_something_else_are_not_removed(done: Done, tmp_path: Path) -> None:
    (tmp_path / "before.csv").write_text("mine")
    (tmp_path / "run.json").write_text('{"protocols": []}')
    with pytest.raises(WriteError, match=r"run.json: is there, and is of no training run"):
        finetune(done.corpus, tmp_path, done.start)
    assert (tmp_path / "before.csv").read_text() == "mine"


def test_a_start_beside_the_record_of_something_else_has_seen_nothing(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("[]")
    assert cases_seen(tmp_path / "best") == set()


def test_a_run_on_other_labels_is_another_run(done: Done, tmp_path: Path, monkeypatch) -> None:
    shorten(monkeypatch)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(done.corpus, tmp_path / "data")
    save_checkpoint(tiny(), tmp_path / "start")
    finetune("data", "run", "start")
    label = next((tmp_path / "data").glob("*/labels/*.png"))
    Image.fromarray(np.array(Image.open(label))[::-1]).save(label)
    with pytest.raises(ConfigError, match="corpus_digest was"):
        finetune("data", "run", "start", resume=True)


def test_a_network_that_gets_no_better_is_kept_as_it_was(tmp_path: Path, monkeypatch) -> None:
    shorten(monkeypatch)
    falling = iter(np.linspace(0.9, 0.1, 9))
    monkeypatch.setattr(module, "validation", lambda *_, **__: lambda _: {"dice": float(next(falling))})
    save_checkpoint(tiny(), tmp_path / "start")
    report = finetune(write_pairs(tmp_path / "data"), tmp_path / "run", tmp_path / "start")
    kept, start = (load_checkpoint(tmp_path / name).state_dict() for name in ("run/best", "start"))
    assert all(torch.equal(kept[name], value) for name, value in start.items())
    assert "No step was better in validation than the untouched network" in report.read_text()
    assert "too few cases" in report.read_text()
    tables = [[row["dice"] for row in rows(tmp_path / "run" / f"{when}.csv")] for when in ("before", "after")]
    assert tables[0] == tables[1]


def score(value: float, case: int, strategy: str = "box") -> Score:
    return Score("set", "mr", f"{case}", f"case{case}", "disc", 1, 0.1, "m", strategy, value, value, 0.5)


def test_what_is_worse_is_called_worse() -> None:
    before = [score(0.8, case, strategy) for case in range(7) for strategy in ("box", "1 point")]
    after = [
        dataclasses.replace(one, dice=one.dice + (-0.1 if one.strategy == "box" else 0.05 * (int(one.image) - 3)))
        for one in before
    ]
    box, point = compare(before, after)
    assert (box.verdict, box.worse, box.better) == ("worse", 7, 0)
    assert (point.verdict, point.worse, point.better) == ("no clear difference", 3, 3)
    assert compare(after, before)[0].verdict == "better"
    # Five cases that all get worse are still too few; so are seven objects of them.
    few = [dataclasses.replace(one, case=f"case{min(int(one.image), 4)}") for one in before]
    told = compare(few, [dataclasses.replace(one, case=of.case) for one, of in zip(after, few, strict=True)])[0]
    assert (told.verdict, told.cases, told.objects) == ("too few cases", 5, 7)


def test_a_verdict_without_a_difference_is_rare() -> None:
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(200):
        shifts = rng.normal(0, 0.05, 6)
        before = [score(0.7, case) for case in range(6)]
        after = [dataclasses.replace(one, dice=0.7 + shifts[int(one.image)]) for one in before]
        verdicts.append(compare(before, after)[0].verdict)
    assert sum(verdict in ("better", "worse") for verdict in verdicts) < 20


def test_five_cases_are_told_to_be_too_few() -> None:
    before = [score(0.8, case) for case in range(5)]
    after = [dataclasses.replace(one, dice=0.9) for one in before]
    (change,) = compare(before, after)
    assert change.verdict == "too few cases"
    assert change.p > 0.05
    with pytest.raises(ConfigError, match="same objects"):
        compare(before, after[1:])


def test_splits_that_a_corpus_states_are_kept(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "LEAST_IMAGES", 8)
    # Images i of case i // 2 have i % 4 objects; those of which i is a multiple of 5 are of the test split.
    numbers = [i for i in range(40) if i % 10 in (0, 2, 3, 4, 6, 7)]
    corpus = made_corpus.write(tmp_path / "corpus", [numbers[:12], numbers[12:]])
    division = divide(corpus.folder)
    found = {split: sorted(image.name for image in division.read(split)) for split in ("train", "val", "test")}
    assert found["test"] == sorted(f"set/{i}/2d_none" for i in (10, 30))
    assert division.told.startswith("Trained on: ")
    assert "Held out (the test split of the corpus): 2 cases, 2 images." in division.told
    assert "Validated on (drawn by their names from the others): " in division.told
    cases = [name.split("/")[1] for name in division.cases["train"] + division.cases["val"]]
    assert sorted(cases, key=place_of)[: len(division.cases["val"])] == sorted(
        (name.split("/")[1] for name in division.cases["val"]), key=place_of
    )
    assert {image.case for image in division.read("val")} == {name.split("/")[1] for name in division.cases["val"]}
    assert [entry.instance for image in division.read("test") for entry in image.masks] == [1, 2, 1, 2]
    assert {image.split for image in division.images.stream() if image.name in found["val"]} == {"val"}
    # What trains has a copy of its own.
    assert copy.copy(division.images).images["split"].equals(division.images.images["split"])
    # The files stay as they are.
    assert set(Corpus(corpus.folder).images["split"].to_pylist()) == {"train", "test"}


def test_splits_that_pairs_state_are_kept(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path, "stating") / "stating"
    write_pairs(tmp_path, "other", CASES + 2)
    splits = {f"p{case}": "test" if case < 2 else "train" for case in range(CASES)}
    rows = {
        f"images/{case}_{number}.png": {"case": case, "split": splits[case]} for case in splits for number in (0, 1)
    }
    (folder / "cases.json").write_text(json.dumps(rows))
    division = divide(tmp_path)
    assert division.cases["test"] == ["stating/p0", "stating/p1"]
    assert "Held out (the test split of the corpus): 2 cases, 4 images." in division.told
    # The other set states none: its cases train or validate as they do for `train` and `evaluate`.
    for split in ("train", "val"):
        names = [f"other/p{case}" for case in range(CASES + 2) if split_of(f"p{case}") == split]
        assert {*names} <= {*division.cases[split]}
    # Of one case, two images are stated apart.
    rows["images/p5_1.png"]["split"] = "val"
    (folder / "cases.json").write_text(json.dumps(rows))
    with pytest.raises(ReadError, match=r"cases\.json: has the case p5 in the splits train and val; correct it"):
        divide(tmp_path)


def test_a_case_in_two_splits_is_refused(tmp_path: Path) -> None:
    corpus = made_corpus.write(tmp_path / "corpus", [list(range(40))])
    with pytest.raises(ConfigError, match=r"several splits; .*vesalius corpus split"):
        divide(corpus.folder)


def test_patients_of_one_name_stay_together(tmp_path: Path) -> None:
    write_pairs(tmp_path / "data", "first")
    division = divide(write_pairs(tmp_path / "data", "second"))
    for cases in division.cases.values():
        names = [{name.split("/")[1] for name in cases if name.startswith(data)} for data in ("first", "second")]
        assert names[0] == names[1]


def test_too_little_is_one_clear_error(tmp_path: Path, capsys) -> None:
    data = write_pairs(tmp_path / "data", cases=4)
    with pytest.raises(ReadError, match=r"8 labelled images of 4 cases, too few.*at least 20 images of at least 5"):
        divide(data)
    with pytest.raises(SystemExit) as stop:
        main(["finetune", "--corpus", str(data), "-o", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert "too few" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("large", "images"), [(1, 14), (2, 8)])
def test_cases_of_very_different_size_leave_enough_to_train_on(tmp_path: Path, large: int, images: int) -> None:
    data = write_pairs(tmp_path / "data", cases=5)
    # The first ones would be held out.
    names = sorted((f"p{case}" for case in range(5)), key=place_of)
    for name in names[:large]:
        for part in ("images", "labels"):
            for number in range(2, images):
                shutil.copy(data / "discs" / part / f"{name}_0.png", data / "discs" / part / f"{name}_{number}.png")
    if large == 2:
        with pytest.raises(ReadError, match="leaves 4 images to train on, of 2 cases"):
            divide(data)
    else:
        assert divide(data).cases == {
            "test": sorted(f"discs/{name}" for name in names[1:3]),
            "val": [f"discs/{names[3]}"],
            "train": sorted(f"discs/{name}" for name in (names[0], names[4])),
        }


def test_settings_follow_the_data() -> None:
    few, many = settings("tiny", 20), settings("tiny", 2000)
    assert (few.total_steps(20), many.total_steps(2000)) == (module.LEAST_STEPS, module.MOST_STEPS)
    assert few.validate_every == few.total_steps(20) // module.VALIDATIONS
    assert few.patience
    assert settings("sam", 100).network.tuning == "lora"
    assert settings("sam", 100, "box").interaction.first.box == 1
    told = "unet networks cannot be fine-tuned; give one of these kinds: imis, sam, sam2, tiny"
    with pytest.raises(ConfigError, match=told):
        settings("unet", 100)


def test_the_command_prints_the_report(tmp_path: Path, capsys, monkeypatch) -> None:
    shorten(monkeypatch)
    save_checkpoint(tiny(), tmp_path / "start")
    line = ["finetune", "--corpus", str(write_pairs(tmp_path / "data")), "--model", str(tmp_path / "start")]
    line += ["-o", str(tmp_path / "run"), "--device", "cpu"]
    with pytest.raises(SystemExit) as stop:
        main([*line, "--prompts", "words"])
    assert stop.value.code == 2
    assert "any, box, point" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main([*line, "--prompts", "point"])
    assert not stop.value.code
    told = capsys.readouterr()
    assert told.out.strip() == (tmp_path / "run" / "report.md").read_text().strip()
    assert re.search(r"^encoder: ([\d,]+) of \1 parameters train$", told.err, re.MULTILINE)
    table = rows(tmp_path / "run" / "validation.csv")
    assert table[0]["step"] == "0"
    points = [float(table[0][name]) for name in ("1_point", "3_points", "5_points")]
    assert float(table[0]["dice"]) == pytest.approx(fmean(points), abs=1e-5)


def test_a_sam_is_tuned_by_few_parameters_and_kept_as_one_network(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("peft")
    shorten(monkeypatch)
    rising = iter(np.linspace(0.1, 0.9, 9))
    monkeypatch.setattr(module, "validation", lambda *_, **__: lambda _: {"dice": float(next(rising))})
    save_checkpoint(sam(CONFIG, PRESETS["sam"].model_copy(update={"side": 64, "mask_side": 16})), tmp_path / "start")
    told: list[str] = []
    finetune(write_pairs(tmp_path / "data"), tmp_path / "run", tmp_path / "start", tell=told.append)
    assert any(line.startswith("image_encoder: 0 of ") for line in told)
    start, best = (load_checkpoint(tmp_path / name).state_dict() for name in ("start", "run/best"))
    assert start.keys() == best.keys()
    changed = {name for name in start if not torch.equal(start[name], best[name])}
    assert {name.split(".")[0] for name in changed} == {"image_encoder", "prompt_encoder", "mask_decoder"}
    assert all(".attn." in name for name in changed if name.startswith("image_encoder."))


@pytest.mark.parametrize("kind", ["imis", "sam2"])
def test_networks_of_transformers_parts_are_tuned_and_go_on_from_best(kind: str, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("transformers")
    shorten(monkeypatch)
    rising = iter(np.linspace(0.1, 0.9, 9))
    monkeypatch.setattr(module, "validation", lambda *_, **__: lambda _: {"dice": float(next(rising))})
    folder = tmp_path / "start"
    if kind == "imis":
        save_checkpoint(imis(), folder)
        write_tokenizer(folder)
    else:
        small_sam2().save_pretrained(folder)
    finetune(write_pairs(tmp_path / "data"), tmp_path / "run", folder)
    best = tmp_path / "run" / "best"
    start = load_checkpoint(folder) if kind == "imis" else load_sam2(folder)
    before, after = start.state_dict(), load_checkpoint(best).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.removeprefix("network.").split(".")[0] for name in changed} == {"prompt_encoder", "mask_decoder"}
    model = vs.load_model(best)
    prompt = vs.Prompt(text="disc") if kind == "imis" else vs.Prompt(box=(5, 5, 30, 30))
    model.predict(model.encode(vs.Slice(np.zeros((48, 64), np.uint8))), [prompt])


SCRIPT = """
import sys, torch
from pathlib import Path
from vesalius import finetune as module
torch.set_num_threads(1)
module.LEAST_STEPS = module.MOST_STEPS = 60
module.finetune(*map(Path, sys.argv[1:4]), resume=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kill -9 is a POSIX signal")
def test_a_killed_run_ends_as_if_it_had_not_been_killed(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(SCRIPT)
    save_checkpoint(tiny(), tmp_path / "start")
    data = write_pairs(tmp_path / "data")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def start(folder: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(tmp_path / "run.py"), str(data), str(folder), str(tmp_path / "start")]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole).wait() == 0
    # While it trains, and while the held-out cases are measured.
    for mark in ("state.pt", "before.csv.part"):
        process = start(killed)
        deadline = time.monotonic() + 300
        while not (killed / mark).exists():
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (killed / "report.md").exists()
    assert start(killed).wait() == 0
    for name in ("validation.csv", "before.csv", "after.csv", "report.json", "best/model.safetensors"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
