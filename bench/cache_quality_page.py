"""A study of policies by the quality of scores, made readable."""

from __future__ import annotations

from typing import Any

from pepnet_infer.bench.cache_quality import BASES
from pepnet_infer.bench.machine_table import machine_line, machine_table
from pepnet_infer.bench.report import Page, Result, Table

_SAYS = {
    "refilled": "an evicted row comes back with its id's next exposure",
    "lost": "an evicted row is gone: its id begins again from the default row",
}
#: How many tasks are compared with the bases, in the order of the bundle.
_COMPARED = 2
_WORDS = frozenset({"policy", "task", "domain", "memory"})


def quality_page(result: Result, picture: bytes | None = None) -> Page:
    """Returns the page of a result of kind "cache-quality"."""
    data = result.data
    groups = list(dict.fromkeys((case["evicted"], case["share"]) for case in data["cases"]))
    after = data["exposures"]
    return Page(
        title=f"What cached rows are worth on {data['data']}",
        lead=f"{after['test days']:,} exposures of the test days after {after['training days']:,} to warm up on, "
        f"{data['rows']:,} rows, {data['bundles']} bundle(s). {machine_line(result.machine)}.",
        command=result.command,
        tables=[_ends_table(data), *(_table(data, *group) for group in groups)],
        details=(*(_domain_table(data, *group) for group in groups), machine_table(result.machine)),
        notes=_notes(data),
        picture=picture,
        picture_says="Hit rate and AUC by memory, a curve for each policy; the tables give the figures.",
    )


def quality_figure(result: Result) -> bytes:
    """Returns a PNG: hit rate, and AUC of each stable task, by memory. Needs matplotlib."""
    from pepnet_infer.bench.lines import Chart, Line, draw_lines

    data = result.data
    charts = []
    for evicted in dict.fromkeys(case["evicted"] for case in data["cases"]):
        cases = [case for case in data["cases"] if case["evicted"] == evicted]
        shares = sorted({case["share"] for case in cases})
        ticks = [(100 * share, f"{share:.0%}") for share in shares]
        xs = [100 * share for share in shares]
        policies = list(dict.fromkeys(case["policy"] for case in cases))
        by = {(case["policy"], case["share"]): case for case in cases}
        best = [100 * data["min_hit_rate"][f"{share:g}"] for share in shares]
        hits = [Line(p, xs, [100 * by[p, share]["hit_rate"] for share in shares], p) for p in policies]
        if evicted == "refilled":
            charts.append(
                Chart("Hit rate", "memory, of all rows", "%", [Line("MIN", xs, best, "MIN"), *hits], ticks, log=True)
            )
        else:
            kept = [Line(p, xs, [100 * by[p, share]["trained_rate"] for share in shares], p) for p in policies]
            charts.append(Chart("Trained rows found", "memory, of all rows", "%", kept, ticks, log=True))
        for task in data["tasks"][:2]:
            lines = []
            for policy in policies:
                cells = [_cell(by[policy, share]["cells"], task) for share in shares]
                lines.append(Line(policy, xs, [cell["auc"] for cell in cells], policy))
            charts.append(Chart(f"AUC of {task}, {evicted}", "memory, of all rows", "AUC", lines, ticks, log=True))
    says = "; ".join(f"{name}: {meaning}" for name, meaning in _SAYS.items())
    tested = data["exposures"]["test days"]
    subtitle = f"{tested:,} exposures of the test days, {data['bundles']} bundle(s).\n{says}."
    return draw_lines(f"What cached rows are worth on {data['data']}", subtitle, charts)


def _cell(cells: list[dict[str, Any]], task: str, domain: str = "all") -> dict[str, Any]:
    return next(cell for cell in cells if cell["task"] == task and cell["domain"] == domain)


def _ends_table(data: dict[str, Any]) -> Table:
    rows = []
    for name, cells in data["ends"].items():
        rows.append((f"{name} of the rows", *(_auc(_cell(cells, task)) for task in data["tasks"])))
    return Table("Without a cache", ("memory", *(f"AUC {task}" for task in data["tasks"])), rows, _WORDS)


def _table(data: dict[str, Any], evicted: str, share: float) -> Table:
    cases = [case for case in data["cases"] if (case["evicted"], case["share"]) == (evicted, share)]
    bases = [base for base in BASES if any(base in case["against"] for case in cases)]
    compared = [(task, base) for task in data["tasks"][:_COMPARED] for base in bases]
    rows = []
    for case in cases:
        row = [case["policy"], f"{100 * case['hit_rate']:.2f}", f"{100 * case['trained_rate']:.2f}"]
        row += [_auc(_cell(case["cells"], task)) for task in data["tasks"]]
        for task, base in compared:
            entry = next((entry for entry in case["against"].get(base, ()) if entry["task"] == task), None)
            row.append("" if entry is None else f"{1e3 * entry['auc']:+.1f} ± {1e3 * entry['half_95']:.1f}")
        rows.append(tuple(row))
    columns = ("policy", "hit rate %", "trained %", *(f"AUC {task}" for task in data["tasks"]))
    columns += tuple(f"{task} − {base}'s, ×1000" for task, base in compared)
    best = 100 * data["min_hit_rate"][f"{share:g}"]
    title = f"Memory for {share:.0%} of the rows ({cases[0]['rows']:,}), {evicted}"
    return Table(title, columns, rows, _WORDS, f"{evicted}: {_SAYS[evicted]}. MIN's hit rate: {best:.2f} %.")


def _domain_table(data: dict[str, Any], evicted: str, share: float) -> Table:
    cases = [case for case in data["cases"] if (case["evicted"], case["share"]) == (evicted, share)]
    rows = []
    for first in cases[0]["cells"]:
        cells = (_cell(case["cells"], first["task"], first["domain"]) for case in cases)
        rows.append((first["task"], first["domain"], f"{first['positives']:,}", *map(_auc, cells)))
    columns = ("task", "domain", "positives", *(case["policy"] for case in cases))
    return Table(f"AUC by domain, {share:.0%} of the rows, {evicted}", columns, rows, _WORDS)


def _auc(cell: dict[str, Any]) -> str:
    return f"{cell['auc']:.4f}" + ("" if cell["std"] is None else f" ± {cell['std']:.4f}")


def _notes(data: dict[str, Any]) -> tuple[str, ...]:
    gset = data["gset"]
    return (
        "The log goes through the cache in time order, exposure by exposure: each looks its rows up, then those it "
        "missed come in. A miss is scored with the table's default row. Only the test days are scored.",
        "Ids that the bundle has no row for take no part: no cache could serve them.",
        f"gset: rows come with the score that training had given them by the end of the day before (from the test days "
        f"on, the bundle's), and labels follow {gset['label_delay_s']:g} s after the exposure; beta {gset['beta']}, "
        f"r {gset['r']}, a day's interval. All other policies see accesses only.",
        "± beside an AUC: standard deviation over bundles. ± beside a difference: half its 95 % interval, by "
        f"bootstrap over users ({data['resamples']} resamples).",
        "trained: found with the row that training left, not one that had to begin anew.",
    )
