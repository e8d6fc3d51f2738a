from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from made_evaluation import MODELS, write
from vesalius.cli import main
from vesalius.core.errors import ReadError, WriteError
from vesalius.evaluation.galleries import choose_cases, choose_complex, choose_crowded
from vesalius.evaluation.report import write_report
from vesalius.evaluation.results import schema, write_table
from vesalius.evaluation.sections import read_evaluation, references_of


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("made"), cases=3, images=1)


@pytest.fixture(scope="module")
def html(made: Path) -> str:
    assert write_report(made) == made / "report.html"
    return (made / "report.html").read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Every element with its attributes; raises on one that is closed out of order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def columns(made: Path, *names: str) -> pd.DataFrame:
    return pq.read_table(made / "scores.parquet", columns=list(names)).to_pandas()


def test_the_report_is_one_file_that_needs_no_other(html: str) -> None:
    elements = Elements(html).found
    pictures = [about for tag, about in elements if tag == "img"]
    assert len(pictures) > 50
    for about in pictures:
        assert (about["src"] or "").startswith("data:image/")
        assert about["alt"]
    assert not [tag for tag, _ in elements if tag in ("script", "link", "iframe", "object")]
    assert {about["href"][0] for tag, about in elements if tag == "a" and about["href"]} == {"#"}
    assert "url(" not in html
    anchors = {about["href"][1:] for tag, about in elements if tag == "a" and about["href"]}
    assert anchors == {about["id"] for tag, about in elements if tag == "section"}


def test_the_report_has_every_section_and_no_number_that_is_none(html: str) -> None:
    titles = re.findall(r"<h2>(.*?)</h2>", html)
    assert titles == [
        "All data sets",
        "More points",
        "Generalisation",
        "Objects and strategies",
        "Modalities",
        "Clicks and corrections",
        "What Dice depends on",
        "Robustness to the prompt",
        "Everything mode",
        "Internal and external validation",
        "Breakdowns",
        "Inference time",
        "Volumes",
        "Pictures",
        "Every prompt in detail",
        "The run",
    ]
    cells = re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", re.sub(r"data:image/[^\"]*", "", html))
    assert not [cell for cell in cells if re.search(r"\bnan\b|\bNone\b|NaN", cell)]
    # Every table and figure says from which rows it is; pictures of cases say how they were chosen.
    assert html.count("Undefined and left out:") >= len(re.findall(r"<h3>Table", html)) - 3
    assert "c0ffee" in html


def test_numbers_are_those_of_the_rows(made: Path, html: str) -> None:
    scores = columns(made, "object", "model", "protocol", "strategy", "dice")
    chosen = scores[(scores["protocol"] == "sam-med2d") & (scores["strategy"] == "box") & (scores["model"] == "ours")]
    by_set = chosen["dice"].groupby(chosen["object"].str.split("/").str[0]).mean()
    assert len(by_set) == 3
    first = html.index("Table 1.")
    row = re.search(r"<th scope='row'>ours</th><td>([\d.]+) \[", html[first:])
    assert row is not None
    assert row[1] == f"{100 * by_set.mean():.1f}"
    table = pd.read_csv(made / "report_tables" / "overall.csv", index_col="model")
    assert table.loc["ours", "box"] == pytest.approx(100 * by_set.mean())
    assert table.index.tolist() == list(MODELS)


def test_what_a_model_cannot_do_has_its_reason(html: str) -> None:
    first = html.index("Table 1.")
    part = html[first : html.index("Table 2.")]
    assert part.count("–<sup>a</sup>") == 3
    assert "<p><sup>a</sup> takes a box alone</p>" in part
    assert "Not listed, as there is no answer: text sam (takes no words)." in html


def test_rows_without_an_answer_are_counted_where_they_are_shown(made: Path, html: str) -> None:
    rows = columns(made, "protocol", "choice", "reason")
    silent = rows[(rows["protocol"] == "cosmos") & rows["reason"].notna()]["choice"].value_counts()
    assert set(silent.index) == {"matched", "own"}
    counted = re.findall(r"protocol cosmos, choice (\w+)[^<]*Without an answer: (\d+)\.", html)
    assert counted == [("matched", str(silent.sum()))] * 2 + [("own", str(silent["own"]))] * 2


def test_tables_lie_beside_the_report(made: Path, html: str) -> None:
    names = {path.name for path in (made / "report_tables").iterdir()}
    stems = {name.rpartition(".")[0] for name in names}
    assert names == {f"{stem}.{suffix}" for stem in stems for suffix in ("csv", "md", "tex")}
    assert len(stems) == html.count("<h3>Table")
    assert {"overall", "jitter", "grid", "correlations", "validation_external_rgb", "volumes"} <= stems


def test_every_table_says_what_becomes_of_values_that_are_not_there(made: Path, html: str) -> None:
    told = {"manifest": "Nothing is left out", "times": "There are no undefined times."}
    files = sorted((made / "report_tables").iterdir())
    assert {path.suffix for path in files} == {".csv", ".md", ".tex"}
    for path in files:
        policy = told.get(path.stem, "What has no answer is left out, and is no zero.")
        assert path.read_text(encoding="utf-8").count(policy) == 1, path
    assert html.count("is no zero.") == html.count("<h3>Table") - 1
    # Programs that read CSV need not be told.
    assert pd.read_csv(made / "report_tables" / "overall.csv")["notes"].notna().tolist() == [True, False, False]


def test_pictures_say_which_rows_they_show(made: Path, html: str) -> None:
    scores = columns(made, "object", "model", "protocol", "strategy", "round", "reason")
    answered = scores[scores["reason"].isna()]
    notes = re.findall(r"<div class=\"gallery\">.*?<div class=\"notes\">(.*?)</div>\n\n", html, re.DOTALL)
    assert len(notes) == 5
    for note in notes[:2]:
        told = re.search(
            r"<p>From scores\.parquet, protocol sam-med2d, strategy (\w+), choice own, round 1: "
            r"(\d+) rows of the objects ([^<]*)\.</p>",
            note,
        )
        assert told is not None
        way = (answered["protocol"] == "sam-med2d") & (answered["strategy"] == told[1]) & (answered["round"] == 1)
        objects = told[3].split(", ")
        assert int(told[2]) == len(answered[way & answered["object"].isin(objects)]) > 0
    assert notes[2].count("From scores.parquet, protocol sam-med2d") == 2
    assert " rows of the images " in notes[2]
    assert "model sam: 6 rows of the objects " in notes[3]
    assert re.search(r"From saliency\.parquet: \d+ rows of the images ", notes[4])


def test_what_was_not_run_is_left_out(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    chosen = [("protocol", "=", "medsam"), ("model", "=", "sam")]
    pq.write_table(pq.read_table(made / "scores.parquet", filters=chosen), out / "scores.parquet")
    for name in ("volumes", "times", "saliency"):
        pq.write_table(schema(name).empty_table(), out / f"{name}.parquet")
    for name in ("objects.parquet", "prompts.parquet"):
        (out / name).write_bytes((made / name).read_bytes())
    run = json.loads((made / "run.json").read_text()) | {"corpus": {"path": str(tmp_path / "gone")}}
    (out / "run.json").write_text(json.dumps(run))
    html = write_report(out).read_text(encoding="utf-8")
    assert re.findall(r"<h2>(.*?)</h2>", html) == [
        "All data sets",
        "Modalities",
        "What Dice depends on",
        "Internal and external validation",
        "Breakdowns",
        "Pictures",
        "Every prompt in detail",
        "The run",
    ]
    assert "There are no pictures of cases, as the corpus cannot be read" in html
    assert "Models: sam." in html


def test_a_folder_that_is_no_finished_evaluation(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ReadError, match="is no finished evaluation"):
        write_report(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ReadError, match="is no finished evaluation"):
        write_report(tmp_path)
    (tmp_path / "run.json").write_text('{"finished": true}')
    with pytest.raises(ReadError, match=r"scores\.parquet.*not a table of a finished evaluation"):
        write_report(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["report", str(tmp_path)])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    with pytest.raises(WriteError, match="does not exist"):
        write_report(made, tmp_path / "absent" / "r.html")


def test_the_command_writes_the_same_report(
    made: Path, html: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stale = tmp_path / "r_tables" / "stale.csv"
    stale.parent.mkdir()
    stale.touch()
    with pytest.raises(SystemExit) as stop:
        main(["report", str(made), "-o", str(tmp_path / "r.html")])
    assert not stop.value.code
    assert capsys.readouterr() == (f"{tmp_path / 'r.html'}\n", "")
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == html
    assert not stale.exists()


def test_which_cases_are_shown() -> None:
    dices = [0.1, 0.9, 0.5, 0.95, 0.52, 0.05, 0.48, 0.2, 0.85, 0.51]
    rows = pd.DataFrame({"object": [f"i{n}#0" for n in range(10)], "dice": dices, "modality": ["ct", "mr"] * 5})
    rows["image"], rows["fourier_order"] = rows["object"].str[:-2], range(10)
    # The best and the worst tenth are one object each; of those nearest the median, both modalities come first.
    assert choose_cases(rows) == [
        ("good", "i3#0"),
        ("typical", "i2#0"),
        ("typical", "i9#0"),
        ("typical", "i6#0"),
        ("bad", "i5#0"),
    ]
    assert choose_complex(rows, 4) == ["i0#0", "i3#0", "i6#0", "i9#0"]
    crowd = pd.DataFrame(
        {"object": ["a#0", "a#1", "a#2", "b#0", "b#1", "c#0", "d#0", "d#1"], "modality": [*"xxxxxyyy"]}
    )
    crowd["image"] = crowd["object"].str[0]
    assert choose_crowded(crowd, 2) == ["a", "d"]


def test_who_models_are_compared_with() -> None:
    assert references_of(["sam", "ours", "specialist-unet"]) == {"*": "sam", "†": "specialist-unet"}
    assert references_of(["unet", "sam", "ours"]) == {"*": "unet", "†": "sam"}
    assert references_of(["sam", "ours"]) == {"*": "sam", "†": "ours"}
    assert references_of(["sam"]) == {"*": "sam"}
    assert references_of([]) == {}


def test_signs_are_explained_as_they_were_computed(made: Path, tmp_path: Path) -> None:
    def noted(names: list[str], silent: str) -> list[str]:
        """The notes of signs where one model has no answer to a box, the models being listed in an order."""
        out = tmp_path / names[0]
        shutil.copytree(made, out)
        rows = pq.read_table(made / "scores.parquet", filters=[("protocol", "=", "medsam")]).to_pylist()
        refused = {"dice": None, "nsd": None, "rle": None, "reason": "takes words alone"}
        write_table(out, "scores", (row | (refused if row["model"] == silent else {}) for row in rows))
        run = json.loads((made / "run.json").read_text())
        (out / "run.json").write_text(json.dumps(run | {"models": [{"name": name} for name in names]}))
        html = write_report(out).read_text(encoding="utf-8")
        assert html.count("Form of MedSAM, supplement, tables 5 to 11") == 3
        return sorted(set(re.findall(r"<p>([^<]*better than[^<]*) \(p &lt; 0\.05\)", html)))

    assert noted(["sam", "unet", "ours"], "sam") == ["* better than unet; † better than ours"]
    assert noted(["unet", "sam", "ours"], "") == ["* better than unet; † better than sam"]


def test_rows_know_their_objects(made: Path) -> None:
    rows = read_evaluation(made).rows
    assert len(rows) == len(columns(made, "object"))
    assert set(rows["size"].unique()) <= {"1 to 5 %", "5 to 20 %"}
    shares = rows.groupby("size", observed=True)["share"].agg(["min", "max"])
    assert shares.loc["1 to 5 %", "max"] < 0.05 <= shares.loc["5 to 20 %", "min"]
