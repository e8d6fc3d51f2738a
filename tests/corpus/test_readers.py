"""A corpus opens in other tools as it is; the code is that of docs/corpus.md."""

import re
from pathlib import Path

import numpy as np
import pytest

from made_corpus import masks_of, picture
from vesalius.corpus.store import Corpus

PAGE = Path(__file__).parents[2] / "docs" / "corpus.md"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_every_example_of_the_page_runs(corpus: Corpus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(corpus.folder.parent)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["found"].num_rows == 0
    shown = names["images"]
    assert len(shown) == len(corpus)
    for index in (1, 3):
        np.testing.assert_array_equal(np.asarray(shown[index]["image"]), picture(index))
    assert shown[3]["modality"] == "ct"


def test_sql_joins_images_and_masks(corpus: Corpus) -> None:
    import duckdb

    query = f"""
        select i.id, count(m.rle) from '{corpus.folder}/images/*.parquet' i
        left join '{corpus.folder}/masks/*.parquet' m using (id) group by i.id
    """
    counts = dict(duckdb.sql(query).fetchall())
    assert counts == {f"set/{name}/2d_none": len(masks_of(int(name))) for name in corpus.images["name"].to_pylist()}
