"""Several corpora as one, and one corpus split anew."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import vesalius
from vesalius.core.errors import ConfigError, WriteError
from vesalius.core.files import locked, remove_stand_ins, replacing
from vesalius.corpus.resplit import resplit
from vesalius.corpus.schema import DESCRIPTION, CorpusInfo, reject_schema
from vesalius.corpus.split import SPLITS, split_among
from vesalius.corpus.store import PSEUDO, SPLITTING, TABLES, Corpus


def merge(corpora: Sequence[Corpus], folder: str | Path, name: str) -> CorpusInfo:
    """Copies the shards of corpora into a new one, which is there whole or not at all.

    Args:
        corpora: In the order of the new corpus.
        folder: Of the new corpus; it must not exist yet.
        name: Of the new corpus.

    Raises:
        ConfigError: Two of them hold a data set of the same name.
        WriteError: The folder is there already or cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = Path(folder)
    if folder.exists():
        raise WriteError("is there already", path=folder, remedy="choose another folder")
    seen: dict[str, Path] = {}
    for corpus in corpora:
        for dataset in corpus.images["dataset"].unique().to_pylist():
            if dataset in seen:
                raise ConfigError(
                    f"{seen[dataset]} and {corpus.folder} both hold a data set named {dataset}",
                    remedy="curate one of them under another name in its recipe; annotations are named after the "
                    "folder that was annotated: rename that and export them again",
                )
            seen[dataset] = corpus.folder
    left_out: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as made:
            place = Path(made) / folder.name
            for table in (*TABLES, PSEUDO):
                sources = [path for corpus in corpora for path in corpus.shards(table)]
                for number, source in enumerate(sources):
                    # Pseudo masks may lack; they can be drawn for the rest afterwards.
                    if table != PSEUDO or source.is_file():
                        (place / table).mkdir(parents=True, exist_ok=True)
                        shutil.copyfile(source, place / table / f"{number:05d}.parquet")
            for corpus in corpora:
                left_out.update(corpus.info.left_out)
                unknown.update(corpus.info.unknown_targets)
            rejects = [pq.read_table(corpus.folder / "rejects.parquet", schema=reject_schema()) for corpus in corpora]
            pq.write_table(pa.concat_tables(rejects), place / "rejects.parquet")
            info = CorpusInfo(
                name=name,
                recipe=None,
                made_by={"vesalius": vesalius.__version__},
                images=sum(corpus.info.images for corpus in corpora),
                masks=sum(corpus.info.masks for corpus in corpora),
                rejects=sum(corpus.info.rejects for corpus in corpora),
                left_out=dict(sorted(left_out.items())),
                unknown_targets=dict(sorted(unknown.items())),
                shards=sum(corpus.info.shards for corpus in corpora),
            )
            (place / DESCRIPTION).write_text(info.model_dump_json(indent=2) + "\n", encoding="utf-8")
            place.rename(folder)
    except OSError as error:
        raise WriteError(f"the corpus cannot be written ({error.strerror or error})", path=folder) from error
    return info


def split(folder: str | Path, shares: tuple[float, float, float], seed: int = 0) -> dict[str, int]:
    """Splits a corpus anew, by case; its files are changed.

    Interrupted, it leaves a corpus that cannot be opened until it has been split again.

    Args:
        folder: The corpus.
        shares: Expected shares of cases in training, validation and test.
        seed: Another one gives another split.

    Returns:
        Split -> number of images.

    Raises:
        ConfigError: The shares do not sum to 1.
        ReadError: It is not a whole corpus.
        WriteError: The corpus cannot be written, or another process splits it.
    """
    if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ConfigError(f"the shares {shares} do not sum to 1", remedy="give three, such as 0.8 0.1 0.1")
    corpus = Corpus(folder, splitting=True)
    mark = corpus.folder / SPLITTING

    def drawn(_dataset: str, case: str, _split: str | None) -> str:
        return split_among(f"{seed}:{case}" if seed else case, shares)

    try:
        with locked(corpus.folder / DESCRIPTION):
            for place in (corpus.folder, *(corpus.folder / name for name in (*TABLES, PSEUDO))):
                remove_stand_ins(place)
            with replacing(mark) as part:
                part.write_text(json.dumps({"shares": shares, "seed": seed}), encoding="utf-8")
            # All cases are given a split, whatever an interrupted run has done to some.
            counts = resplit(corpus.folder, corpus.info.shards, drawn)
            mark.unlink()
    except OSError as error:
        raise WriteError(
            f"the corpus cannot be written ({error.strerror or error})",
            path=corpus.folder,
            remedy="make room, and run the same command again",
        ) from error
    return {name: counts[name] for name in SPLITS if counts[name]}
