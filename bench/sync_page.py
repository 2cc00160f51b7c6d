"""A result of `bench sync` made readable."""

from __future__ import annotations

from typing import Any

from pepnet_infer.bench.machine_table import machine_line, machine_table
from pepnet_infer.bench.report import Page, Result, Table, show_ms

#: Share of the CPUs that others may use without spoiling a measurement. The publisher counts as one of them.
QUIET = 0.05
_KINDS = {
    "idle": "nothing is published",
    "elsewhere": "to a log that nobody reads",
    "follow": "to the log that is followed",
}
_WORDS = frozenset({"requirement", "met", "what is published", "what", "p99 of", "value"})


def sync_page(result: Result, picture: bytes | None = None) -> Page:
    """Returns the page of a result of kind "sync"."""
    data, options = result.data, result.data["options"]
    return Page(
        title=f"Online sync, {data['bundle']}",
        lead=f"{options['rows_per_s']:,} changed rows a second in deltas of {options['delta_s']:g} s, dense weights "
        f"with every {options['dense_every']}th; {options['threads']} threads score batches of {options['batch']}, "
        f"each {options['load']:.0%} of the time. {machine_line(result.machine)}; {noise(data)}.",
        command=result.command,
        tables=[_claims_table(data), _scoring_table(data), _ratio_table(data), _follower_table(data)],
        details=(machine_table(result.machine),),
        notes=_notes(data),
        picture=picture,
        picture_says="Version, freshness, rows a second and scoring latency over time; the tables give the figures.",
    )


def noise(data: dict[str, Any]) -> str:
    """Says how quiet the machine was but for the publisher, for the reader to judge the figures by."""
    busiest = data["kinds"]["idle"]["others_busy"]
    warning = "" if busiest <= QUIET else ": too much for figures that are to be relied on"
    return f"other processes used {busiest:.0%} of the CPUs at most while nothing was published{warning}"


def _claims_table(data: dict[str, Any]) -> Table:
    rows = [
        (
            claim["what"],
            f"≤ {claim['bound']:g}",
            f"{claim['got']:.2f}",
            "yes" if claim["got"] <= claim["bound"] else "NO",
        )
        for claim in data["claims"]
    ]
    return Table("What was asked, and what came", ("requirement", "asked", "got", "met"), rows, _WORDS)


def _scoring_table(data: dict[str, Any]) -> Table:
    rows = [
        (
            what,
            show_ms(kind["p50_ms"]),
            show_ms(kind["p99_ms"]),
            show_ms(kind["max_ms"]),
            f"{kind['calls_per_s']:.1f}",
            f"{kind['rows_per_s']:,.0f}",
            f"{kind['publisher_cpus']:.1%}",
            f"{kind['follower_cpus']:.1%}",
            f"{kind['calls']:,}",
        )
        for order, what in _KINDS.items()
        for kind in [data["kinds"][order]]
    ]
    columns = (
        "what is published",
        "p50 ms",
        "p99 ms",
        "max ms",
        "calls/s",
        "rows/s",
        "publisher CPU",
        "follower CPU",
        "calls",
    )
    note = "CPU: of one CPU, by the process's and the thread's own clock."
    return Table("Scoring", columns, rows, _WORDS, note)


def _ratio_table(data: dict[str, Any]) -> Table:
    named = {
        "follow over idle": "followed over nothing published",
        "follow over elsewhere": "followed over published elsewhere: the follower's part",
        "elsewhere over idle": "published elsewhere over nothing published: the publisher's part",
    }
    rows = [
        (what, f"{ratio['ratio']:.2f}×", f"{ratio['low']:.2f}–{ratio['high']:.2f}")
        for name, what in named.items()
        for ratio in [data["p99"][name]]
    ]
    return Table("How p99 moves", ("p99 of", "ratio", "95 %"), rows, _WORDS)


def _follower_table(data: dict[str, Any]) -> Table:
    follower, resident = data["follower"], data["resident_bytes"]
    seconds = data["rounds"] * data["slice_s"]
    refused = ", ".join(f"{reason} {count}" for reason, count in follower["refused"].items()) or "none"
    rows = [
        *((f"{since} to visible, p50, p99, longest", f"{show_ms(took['p50'])}, {show_ms(took['p99'])}, "
           f"{show_ms(took['max'])} ms of {took['deltas']} deltas")
          for since, took in (("produced", data["freshness_ms"]), ("published", data["visible_ms"]))),
        ("longest lag seen", f"{data['lag_s'] * 1e3:.0f} ms"),
        ("deltas applied", f"{follower['applied']}, {follower['dense']} of them with weights"),
        ("rows applied", f"{follower['rows']:,}, {follower['rows'] / seconds:,.0f} a second"),
        ("bytes", f"{follower['bytes'] / 1e6:,.0f} MB, {follower['bytes'] / 1e6 / seconds:.1f} MB a second"),
        ("refused", refused),
        ("weights that nothing was scored with before", str(follower["unguarded"])),
        ("ids whose rows came after the bundle", f"{follower['layered_rows']:,}"),
        ("memory before and after", f"{resident['before'] / 2**20:.0f} and {resident['after'] / 2**20:.0f} MiB"),
    ]  # fmt: skip
    return Table("The follower", ("what", "value"), rows, _WORDS)


def _notes(data: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"{data['rounds']} rounds of slices of {data['slice_s']:g} s, each kind once a round, in balanced order. Calls "
        "that reach over the end of a slice are left out.",
        "The publisher is a process of its own that stands for another machine: it makes deltas between slices, "
        "appends them when they are due, and has the lowest priority. What it takes from the scoring threads all the "
        "same is seen in the slices in which nobody reads what it appends.",
        "The ratio of p99: all calls of one kind over all of the other; the middle 95 % when rounds are drawn with "
        "replacement.",
        "Produced to visible: from before the publisher begins to append a delta until a thread that waits for its "
        "version has woken, by the clock of one machine. Published to visible: from when it is on the disk.",
    )
