"""The pages of the site: those of the repository under their own paths, and the reference made of the code.

Links between pages hold in the repository and on the site alike, because MkDocs knows every page and picture by its
path in the repository. Only the addresses of the site lack the folder `docs/`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

log = logging.getLogger("mkdocs.hooks.pages")
ROOT = Path(__file__).parents[2]

#: What of the repository is shown or linked.
PATTERNS = (
    "*.md",
    "LICENSE",
    "docs/**/*.md",
    "docs/**/*.svg",
    "docs/**/*.png",
    "bench/results/*.md",
    "bench/results/*.png",
    "examples/*",
    "export/data/*.yaml",
)

#: Import place → what its page is called, and how it begins where the module's docstring is not enough.
PLACES = {
    "pepnet_infer": "docs/reference/pepnet_infer.md",
    "pepnet_infer.schema": "docs/reference/schema.md",
    "pepnet_infer.stores": "docs/reference/stores.md",
    "pepnet_infer.sync": "docs/reference/sync.md",
    "pepnet_infer.export": "docs/reference/export.md",
}

#: What has fields or methods of a class that nobody imports.
INHERITED = dict.fromkeys(
    (
        "pepnet_infer.CachedRows",
        "pepnet_infer.Summary",
        "pepnet_infer.stores.LmdbStore",
        "pepnet_infer.stores.MemoryStore",
        "pepnet_infer.stores.MmapStore",
        "pepnet_infer.stores.RedisStore",
    ),
    "\n    options: {inherited_members: true}",
)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the repository's pages and the generated ones."""
    for pattern in PATTERNS:
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file():
                name = path.relative_to(ROOT).as_posix()
                _add(files, File.generated(config, name, abs_src_path=str(path)))
    package = griffe.load(
        "pepnet_infer", try_relative_path=False, resolve_aliases=True, resolve_external=False, extensions=_extensions()
    )
    for place, page in PLACES.items():
        module = package[place.removeprefix("pepnet_infer").lstrip(".")] if "." in place else package
        assert isinstance(module, griffe.Module)
        for symbol in undocumented(module):
            log.warning(f"{symbol}: a public symbol needs a docstring")
        _add(files, File.generated(config, page, content=_reference(place, module)))
    _add(files, File.generated(config, "docs/reference/cli.md", content=_command_line()))
    return files


def _extensions() -> griffe.Extensions:
    return griffe.load_extensions(str(Path(__file__).with_name("comments.py")))


def _add(files: Files, file: File) -> None:
    file.dest_uri = file.dest_uri.removeprefix("docs/")
    files.append(file)


def public_names(module: griffe.Module) -> list[str]:
    """Returns what a module's `__all__` names, without dunders."""
    return [name for name in map(str, module.exports or ()) if not name.startswith("__")]


def undocumented(module: griffe.Module) -> Iterator[str]:
    """Yields paths of what can be imported from a module, and of its public members, that have no docstring.

    An attribute of a class may be described in the class's own docstring, by its name.
    """
    if not module.has_docstring:
        yield module.path
    for name in public_names(module):
        symbol = module[name]
        target = symbol.final_target if isinstance(symbol, griffe.Alias) else symbol
        described = target.docstring.value if target.docstring else ""
        if not described:
            yield f"{module.path}.{name}"
        if not isinstance(target, griffe.Class):
            continue
        for member in target.members.values():
            if member.name.startswith("_") or member.is_alias or member.has_docstring:
                continue
            if member.is_attribute and re.search(rf"\b{member.name}\b", described):
                continue
            yield f"{module.path}.{name}.{member.name}"


def _reference(place: str, module: griffe.Module) -> str:
    docstring = module.docstring.value if module.docstring else ""
    symbols = [f"::: {place}.{name}{INHERITED.get(f'{place}.{name}', '')}" for name in public_names(module)]
    return "\n\n".join([f"# {place}", docstring, *symbols]) + "\n"


def _command_line() -> str:
    import typer
    from typer.cli import get_docs_for_click

    from pepnet_infer.cli import main

    main.add_commands()
    command = typer.main.get_command(main.app)
    context = command.make_context("pepnet-infer", [], resilient_parsing=True)
    return get_docs_for_click(obj=command, ctx=context, name="pepnet-infer", title="Command line")
