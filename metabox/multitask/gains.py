"""What tasks gain from each other, group by group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from metabox.episodes import Split
from metabox.multitask.grouping import Group
from metabox.multitask.transfer import table

Row = dict[str, Any]


@dataclass(frozen=True)
class TransferTable:
    """What tasks gain from each other, of `transfer_table`.

    tasks: K names
    metric: of each task
    scores: by split ("val" or "test"), group and task, the score of each seed
    affinity: `[K, K]` of task i to task j in the joint run, the mean over steps and seeds; NaN on the diagonal
    groupings: divisions of the tasks into groups: "alone", "together", chosen by "affinity" and by "pairs", and the
        "best", if all groups are trained. They are chosen on the validation split
    """

    tasks: tuple[str, ...]
    metric: dict[str, str]
    scores: dict[Split, dict[Group, dict[str, list[float]]]]
    affinity: Tensor
    groupings: dict[str, tuple[Group, ...]]

    def gains(self, group: Sequence[str], split: Split = "test") -> list[Row]:
        """The relative change of each task in a group against training it alone, in %, with its interval over seeds.

        The rows are those of `metabox.multitask.transfer.table`, the last one the average.

        Raises:
            ValueError: if this group was not trained.
        """
        known = self.scores[split]
        if (group := tuple(group)) not in known:
            raise ValueError(f"expected a group that was trained, among {[list(one) for one in known]}, got {group}")
        alone = {name: known[(name,)][name] for name in group}
        return table(known[group], alone, self.metric)

    def negative(self) -> list[Row]:
        """Negative transfer: tasks that a group hurts on the test split, the interval being below 0; worst first."""
        found = [
            {"group": group, **row}
            for group in self.scores["test"]
            if len(group) > 1
            for row in self.gains(group)[:-1]
            if row["interval_95"] is not None and row["delta"] + row["interval_95"] < 0
        ]
        return sorted(found, key=lambda row: row["delta"])

    def compared(self) -> list[Row]:
        """For each of the groupings the average gain over all tasks on the test split, with its interval over seeds."""
        known, rows = self.scores["test"], []
        alone = {name: known[(name,)][name] for name in self.tasks}
        for how, groups in self.groupings.items():
            multi = {name: scores for group in groups for name, scores in known[group].items()}
            average = table(multi, alone, self.metric)[-1]
            rows.append(
                {"chosen": how, "groups": groups, "delta": average["delta"], "interval_95": average["interval_95"]}
            )
        return rows

    def pairs(self, split: Split = "test") -> Tensor:
        """`[K, K]`, what task j gains in % if it is trained with task i; NaN if this pair was not trained."""
        found = torch.full([len(self.tasks)] * 2, torch.nan)
        for i, j in combinations(range(len(self.tasks)), 2):
            if (pair := (self.tasks[i], self.tasks[j])) in self.scores[split]:
                onto_i, onto_j, _ = self.gains(pair, split)
                found[j, i], found[i, j] = onto_i["delta"], onto_j["delta"]
        return found

    def markdown(self) -> str:
        """Two Markdown tables: the gains of every group, and the groupings."""
        lines = ["| group | task | alone | in the group | Δ % |", "| --- | --- | ---: | ---: | ---: |"]
        for group in self.scores["test"]:
            for row in self.gains(group)[:-1] if len(group) > 1 else []:
                numbers = f"{row['single']:.4g} | {row['multi']:.4g} | {_with_interval(row)}"
                lines.append(f"| {' + '.join(group)} | {row['task']} | {numbers} |")
        lines += ["", "| chosen | groups | Δ % |", "| --- | --- | ---: |"]
        for row in self.compared():
            groups = "; ".join(" + ".join(group) for group in row["groups"])
            lines.append(f"| {row['chosen']} | {groups} | {_with_interval(row)} |")
        return "\n".join(lines) + "\n"

    def as_json(self) -> dict[str, Any]:
        gains = [{"group": list(group), "gains": self.gains(group)} for group in self.scores["test"] if len(group) > 1]
        rows = [[None if value != value else round(value, 6) for value in row] for row in self.affinity.tolist()]
        return {
            "tasks": list(self.tasks),
            "metric": self.metric,
            "groups": gains,
            "affinity": rows,
            "groupings": [row | {"groups": [list(group) for group in row["groups"]]} for row in self.compared()],
            "scores": {
                split: [{"group": list(group), "scores": scores} for group, scores in known.items()]
                for split, known in self.scores.items()
            },
        }


def _with_interval(row: Row) -> str:
    spread = "" if row["interval_95"] is None else f" ± {row['interval_95']:.2f}"
    return f"{row['delta']:+.2f}{spread}{' ▼' if row['delta'] < 0 else ''}"
