"""A report: `report.html` (one file, no network, no script), `report.md` and `report.json`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

import metabox
from metabox.evaluation import Scores, interval_of, mean_of
from metabox.files import write_json, write_text
from metabox.reports.claims import claim_table
from metabox.reports.collect import Run, differences, protocol_of, read_runs, scores_of
from metabox.reports.compare import comparisons, headline
from metabox.reports.measure import measure
from metabox.reports.metrics import more_is_better
from metabox.reports.tables import Block, sections


def write_report(
    folders: Sequence[str | Path], out: str | Path, *, n_tasks: int = 100, plugins: Sequence[str] = ()
) -> dict[str, Any]:
    """Read runs, measure what their files do not hold, and write the report in three forms; returns the JSON content.

    Args:
        folders: of finished runs.
        out: folder of the report.
        n_tasks: test tasks of each new measurement; 0 measures nothing, and needs neither data nor time.
        plugins: command-line arguments that load the user's own modules, for the commands that repeat the runs.

    Raises:
        ValueError: if a folder holds no finished run, or runs of one claim have different protocols.
    """
    if n_tasks < 0:
        raise ValueError(f"expected n_tasks of at least 0, got {n_tasks}; 0 measures nothing anew")
    tables = read_runs(folders)
    runs = [run for table in tables for run in table]
    content = {
        "metabox": metabox.__version__,
        "claims": [claim_table(table, plugins) for table in tables],
        "comparisons": comparisons(runs),
        "runs": [_run(run, n_tasks) for run in runs],
    }
    html, markdown = as_html(content), as_markdown(content)
    write_json(Path(out) / "report.json", content)
    write_text(Path(out) / "report.md", markdown)
    write_text(Path(out) / "report.html", html)
    return content


def _run(run: Run, n_tasks: int) -> dict[str, Any]:
    """The content for one run, except its row in the table of claims."""
    measured, why = None, "Nothing was measured anew for this report."
    if n_tasks:
        try:
            measured = measure(run, n_tasks)
        except (ValueError, OSError) as error:
            why = f"Nothing could be measured anew: {error}"
    others = [
        {
            "split": other["summary"]["split"],
            "seed": other["summary"]["seed"],
            "n_tasks": other["summary"]["n_tasks"],
            "scores": str(scores_of(other)),
            "differs": differences(run.protocol, protocol_of(other)) or other.get("overridden", []),
        }
        for other in run.others
    ]
    return {
        "label": run.label,
        "folder": run.folder.name,
        "changed_files": run.changed,
        "curve": run.curve,
        "scores": [_score(run.scores.per_task[metric], metric) for metric in run.scores.means()],
        "pooled": run.scores.pooled,
        "by_task": by_task(run.scores, headline(run)),
        "others": others,
        "measured": measured,
        "not_measured": None if measured else why,
    }


def by_task(scores: Scores, metric: str) -> list[dict[str, Any]]:
    """The score on each named task, worst first."""
    rows = scores.rows_by_task(metric).items() if scores.tasks else ()
    found = [{"name": name, **_score(values, metric)} for name, values in rows if not all(map(math.isnan, values))]
    return sorted(found, key=lambda row: row["mean"], reverse=not more_is_better(metric))


def _score(values: list[float], metric: str) -> dict[str, Any]:
    interval = interval_of(values)
    return {
        "metric": metric,
        "mean": mean_of(values),
        "interval_95": interval if math.isfinite(interval) else None,
        "n_tasks": sum(not math.isnan(value) for value in values),
    }


def as_html(content: dict[str, Any]) -> str:
    """The report as one self-contained page. Whatever comes from a file of a run is escaped."""
    page: str = _template("page.html", autoescape=True).render(sections=sections(content), **content)
    return page


def as_markdown(content: dict[str, Any]) -> str:
    """The report as Markdown, without pictures. Whatever comes from a file of a run is escaped."""
    text = _template("page.md", finalize=markdown).render(sections=sections(content), **content)
    return re.sub(r"\n{3,}", "\n\n", text)


class Verbatim(str):
    """Text that is not escaped in Markdown: a block of code."""


def indented(text: str) -> Verbatim:
    """An indented block of code, which, unlike a fenced one, cannot be ended by its content."""
    return Verbatim("\n".join(f"    {line}" for line in text.splitlines()))


def markdown(value: object) -> object:
    """Text on one line, escaped so that it has no special meaning in Markdown or HTML."""
    if isinstance(value, Verbatim):
        return value
    return re.sub(r"([\\`*_{}\[\]<>()#|&~$!])", r"\\\1", " ".join(str(value).split()))


def runs_of_pictures(blocks: list[Block]) -> list[tuple[bool, list[Block]]]:
    """The blocks in order, with successive pictures grouped to be shown side by side."""
    return [(picture, list(run)) for picture, run in groupby(blocks, lambda block: block.kind == "picture")]


def _template(name: str, **options: Any) -> Any:
    environment = Environment(
        loader=PackageLoader("metabox.reports"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
    environment.filters |= {"indented": indented, "runs_of_pictures": runs_of_pictures}
    return environment.get_template(name)
