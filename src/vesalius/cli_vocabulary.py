"""The commands ``vesalius vocabulary`` and ``vesalius datasets``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vesalius.vocabulary.datasets import Dataset, Use


def vocabulary(
    name: Annotated[list[str], typer.Argument(metavar="NAME", help="Target or modality, such as right kidney or t1.")],
) -> None:
    """Show what the vocabulary knows of a target or a modality."""
    from vesalius.core.errors import ConfigError
    from vesalius.vocabulary.modalities import find_modality
    from vesalius.vocabulary.targets import find_target, similar_targets

    asked = " ".join(name)
    target, modality = find_target(asked), find_modality(asked)
    if target is None and modality is None:
        near = ", ".join(found.name for found in similar_targets(asked))
        raise ConfigError(
            f"the vocabulary has no {asked!r}", remedy=f"names like it: {near}" if near else "nothing is like it"
        )
    if target is not None:
        print(f"target: {target.name}")
        for key in ("group", "organ", "body_part", "laterality", "snomed"):
            if getattr(target, key):
                print(f"{key}: {getattr(target, key)}")
        if target.synonyms:
            print(f"synonyms: {', '.join(target.synonyms)}")
    if modality is not None:
        print(f"modality: {modality.name}")
        if modality.lineage[1:]:
            print(f"kind of: {', '.join(modality.lineage[1:])}")
        if modality.synonyms:
            print(f"synonyms: {', '.join(modality.synonyms)}")


def datasets(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Data set to show.")] = None,
    modality: Annotated[str | None, typer.Option(metavar="NAME", help="Only of this modality or a kind of it.")] = None,
    paper: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only of sa-med2d-20m, cosmos, imed-361m, medsam or sam-med2d.")
    ] = None,
    dimension: Annotated[str | None, typer.Option(metavar="2D|3D", help="Only of this dimension.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the data sets that the papers use, or show one."""
    from vesalius.core.errors import ConfigError
    from vesalius.vocabulary.datasets import find_datasets, select_datasets

    found = select_datasets(modality, paper, dimension)
    if name is not None:
        found = [one for one in find_datasets(name) if one in found]
        if not found:
            raise ConfigError(f"there is no data set {name!r} here", remedy="vesalius datasets lists them")
    if json_:
        import json
        from dataclasses import asdict

        print(json.dumps([asdict(one) for one in found], indent=2, ensure_ascii=False))
    elif name is not None:
        print("\n\n".join(_about(one) for one in found))
    else:
        _print_table(found)


def _print_table(found: list[Dataset]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "modality", "dimension", "targets", "papers", box=None)
    for one in found:
        targets = ", ".join(one.targets[:4]) + (f" and {len(one.targets) - 4} more" if len(one.targets) > 4 else "")
        shown = targets or ", ".join(one.structures)
        table.add_row(one.name, ", ".join(one.modalities), one.dimension or "", shown, ", ".join(one.papers))
    console = Console()
    console.print(table)
    console.print(f"{len(found)} data sets")


def _about(one: Dataset) -> str:
    facts = {
        "name": one.name,
        "also called": ", ".join(one.names[1:]),
        "modality": ", ".join(one.modalities),
        "dimension": one.dimension,
        "structures": ", ".join(one.structures),
        "targets": ", ".join(one.targets),
        "note": one.note,
    }
    lines = [f"{key}: {value}" for key, value in facts.items() if value]
    return "\n".join(lines + [_row(use) for use in one.uses])


def _row(use: Use) -> str:
    where = f"table {use.table}" if use.table != "text" else "text"
    said = [f"{use.name}, {' and '.join(use.roles)}"]
    if use.modalities:
        said.append(" and ".join(use.modalities))
    if use.count is not None:
        said.append(f"{use.count} {use.unit}")
    if use.classes is not None:
        said.append(f"{use.classes} {'class' if use.classes == 1 else 'classes'}")
    if use.redistributable is not None:
        said.append("may be redistributed" if use.redistributable else "may not be redistributed")
    if use.link:
        said.append(use.link)
    return f"{use.paper} ({where}): {', '.join(said)}"
