"""A study of policies by the quality of scores, made readable."""

from __future__ import annotations

from typing import Any

from pepnet_infer.bench.cache.policies import Policy
from pepnet_infer.bench.harness.machine import machine_line, machine_table
from pepnet_infer.bench.harness.measure import Row
from pepnet_infer.bench.harness.report import METHOD, Report, Table

#: What is compared with: these know how often an id is seen, not whether it matters.
BASES: tuple[Policy, ...] = ("lru", "lfu")
_SAYS = {
    "refilled": "an evicted row comes back with its id's next exposure",
    "lost": "an evicted row is gone: its id begins again from the default row",
}
#: How many tasks are compared with the bases, and drawn, in the order of the bundle.
_COMPARED = 2


def quality_page(data: dict[str, Any], facts: dict[str, Any]) -> Report:
    """Returns the report of what `measure_quality` found on a machine with `facts`."""
    groups: dict[tuple[str, float], list[Row]] = {}
    for case in data["cases"]:
        groups.setdefault((case["evicted"], case["share"]), []).append(case)
    ends = [{"name": f"{name} of the rows", "auc": _aucs(cells)} for name, cells in data["ends"].items()]
    tasks, after, gset = {f"AUC {task}": f"{{auc[{task}]:}}" for task in data["tasks"]}, data["exposures"], data["gset"]
    return Report(
        "cache-quality",
        f"What cached rows are worth on {data['data']}",
        f"{after['test days']:,} exposures of the test days after {after['training days']:,} to warm up on, "
        f"{data['rows']:,} rows, {data['bundles']} bundle(s). {machine_line(facts)}.",
        data,
        facts,
        [
            Table("Without a cache", ends, {"memory": "{name}", **tasks}),
            *(_table(data, *group, cases) for group, cases in groups.items()),
        ],
        [*(_domain_table(*group, cases) for group, cases in groups.items()), machine_table(facts)],
        (
            f"gset: labels follow {gset['label_delay_s']:g} s after the exposure; beta {gset['beta']}, r {gset['r']}, "
            "a day's interval. ± beside an AUC: standard deviation over bundles; beside a difference: half its 95 % "
            f"interval, by bootstrap over users ({data['resamples']} resamples). trained: found with the row that "
            "training left.",
            METHOD,
        ),
        lambda: _picture(data),
    )


def _table(data: dict[str, Any], evicted: str, share: float, cases: list[Row]) -> Table:
    columns = {"policy": "{policy}", "hit rate %": "{hit:.2f}", "trained %": "{trained:.2f}"}
    columns |= {f"AUC {task}": f"{{auc[{task}]:}}" for task in data["tasks"]}
    rows = []
    for case in cases:
        row = {"policy": case["policy"], "hit": 100 * case["hit_rate"], "trained": 100 * case["trained_rate"]}
        over: dict[str, str] = {}
        for base, entries in case["against"].items():
            for entry in (entry for entry in entries if entry["task"] in data["tasks"][:_COMPARED]):
                name = f"{entry['task']} − {base}'s, ×1000"
                columns[name] = f"{{over[{name}]:}}"
                over[name] = f"{1e3 * entry['auc']:+.1f} ± {1e3 * entry['half_95']:.1f}"
        rows.append(row | {"over": over, "auc": _aucs(case["cells"])})
    best = 100 * data["min_hit_rate"][f"{share:g}"]
    title = f"Memory for {share:.0%} of the rows ({cases[0]['rows']:,}), {evicted}"
    return Table(title, rows, columns, f"{evicted}: {_SAYS[evicted]}. MIN's hit rate: {best:.2f} %.")


def _domain_table(evicted: str, share: float, cases: list[Row]) -> Table:
    rows = [
        {**cell, "auc": {case["policy"]: _auc(case["cells"][at]) for case in cases}}
        for at, cell in enumerate(cases[0]["cells"])
    ]
    columns = {"task": "{task}", "domain": "{domain}", "positives": "{positives:,}"}
    columns |= {case["policy"]: f"{{auc[{case['policy']}]:}}" for case in cases}
    return Table(f"AUC by domain, {share:.0%} of the rows, {evicted}", rows, columns)


def _aucs(cells: list[Row]) -> dict[str, str]:
    return {cell["task"]: _auc(cell) for cell in cells if cell["domain"] == "all"}


def _auc(cell: Row) -> str:
    return f"{cell['auc']:.4f}" + ("" if cell["std"] is None else f" ± {cell['std']:.4f}")


def _picture(data: dict[str, Any]) -> bytes:
    """Returns a PNG: hit rate, and AUC of the first stable tasks, by memory."""
    from pepnet_infer.bench.harness.pictures import Chart, Line, draw_lines

    charts = []
    for evicted in dict.fromkeys(case["evicted"] for case in data["cases"]):
        by = {(case["policy"], case["share"]): case for case in data["cases"] if case["evicted"] == evicted}
        shares, policies = sorted({share for _, share in by}), list(dict.fromkeys(policy for policy, _ in by))
        xs, ticks = [100 * share for share in shares], [(100 * share, f"{share:.0%}") for share in shares]
        rate, title = ("hit_rate", "Hit rate") if evicted == "refilled" else ("trained_rate", "Trained rows found")
        lines = [Line(p, xs, [100 * by[p, share][rate] for share in shares], p) for p in policies]
        if evicted == "refilled":
            best = [100 * data["min_hit_rate"][f"{share:g}"] for share in shares]
            lines.insert(0, Line("MIN", xs, best, "MIN"))
        charts.append(Chart(title, "memory, of all rows", "%", lines, ticks, log=True))
        for task in data["tasks"][:_COMPARED]:
            lines = []
            for policy in policies:
                cells = [cell for share in shares for cell in by[policy, share]["cells"]]
                ys = [cell["auc"] for cell in cells if (cell["task"], cell["domain"]) == (task, "all")]
                lines.append(Line(policy, xs, ys, policy))
            charts.append(Chart(f"AUC of {task}, {evicted}", "memory, of all rows", "AUC", lines, ticks, log=True))
    says = "; ".join(f"{name}: {meaning}" for name, meaning in _SAYS.items())
    tested = data["exposures"]["test days"]
    subtitle = f"{tested:,} exposures of the test days, {data['bundles']} bundle(s).\n{says}."
    return draw_lines(f"What cached rows are worth on {data['data']}", subtitle, charts)
