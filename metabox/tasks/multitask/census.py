"""Census-Income (KDD): 299,285 people in the US current population surveys of 1994 and 1995, 42 columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from metabox.config import Unpack
from metabox.data import root
from metabox.data.readers import name_some, read_rows
from metabox.data.root import how_to_name_a_root
from metabox.seeding import hash_words, make_key
from metabox.targets import Binary, Part, Parts, TaskSpec
from metabox.tasks.named import FiniteOptions, FiniteTasks
from metabox.tasks.rows import Rows

FOLDERS = ("census-income", "census", "census+income+kdd")
COLUMNS = (
    "age", "class_of_worker", "detailed_industry", "detailed_occupation", "education", "wage_per_hour",
    "enrolled_last_week", "marital_status", "major_industry", "major_occupation", "race", "hispanic_origin", "sex",
    "union_member", "reason_for_unemployment", "full_or_part_time", "capital_gains", "capital_losses", "dividends",
    "tax_filer_status", "previous_region", "previous_state", "household_status", "household_summary",
    "instance_weight", "migration_msa", "migration_region", "migration_within_region", "same_house_last_year",
    "previous_sunbelt", "persons_worked_for_employer", "family_members_under_18", "birth_country_father",
    "birth_country_mother", "birth_country", "citizenship", "own_business", "veterans_questionnaire",
    "veterans_benefits", "weeks_worked", "year", "income",
)  # fmt: skip
NUMBERS = (
    "age", "wage_per_hour", "capital_gains", "capital_losses", "dividends", "persons_worked_for_employer",
    "weeks_worked",
)  # fmt: skip
LABELS = {
    "income": ("50000+.",),
    "education": (
        "Bachelors degree(BA AB BS)", "Masters degree(MA MS MEng MEd MSW MBA)",
        "Prof school degree (MD DDS DVM LLB JD)", "Doctorate degree(PhD EdD)",
    ),
    "marital_status": ("Never married",),
}  # fmt: skip
NO_INPUT = (*LABELS, "instance_weight")  # the weight is how many people a row represents: census-income.names

PAIRS = {"income": ("income", "marital_status"), "education": ("education", "marital_status")}

LONGEST, MOST_VALUES = 100, 1000  # letters of a value, values of a column: twice and twenty times what the survey has

Columns = Mapping[str, NDArray[np.str_]]


class CensusIncome(FiniteTasks):
    """Two tasks of the same people (Ma et al. 2018, section 5.2): one p(x), two yes/no parts, one network for both.

    The pair "income" is an income above $50,000 and never married; the pair "education" is a bachelor's degree or more
    and never married. The training file is the training split. The test file is halved into validation and test by a
    hash of the line number; in the paper at random.

    Deviations: the paper says "at least college" of education; here some college without a degree does not count, nor
    does an associate's degree. Neither pair has income, education or marital status among its inputs.

    Args:
        pair: "income" or "education".
        data_root: folder that holds `census-income/`; by default METABOX_DATA.
        **kwargs: of `FiniteTasks`.

    Raises:
        ValueError: at the first use, if the files are missing, or have another layout.
    """

    def __init__(
        self,
        pair: Literal["income", "education"] = "income",
        data_root: str | None = None,
        **kwargs: Unpack[FiniteOptions],
    ) -> None:
        super().__init__(**kwargs)
        self.pair = pair
        self.data_root = data_root

    def load(self) -> Rows:
        folder = find_census(root.data_root(self.data_root))
        train, test = (read_columns(folder / f"census-income.{part}") for part in ("data", "test"))
        inputs = Inputs(train)
        asked = [list(LABELS).index(name) for name in PAIRS[self.pair]]
        y = np.concatenate([read_labels(train), read_labels(test)])[:, asked]
        half = hash_words(np.arange(len(test["age"])), make_key("census-income"))
        x = np.concatenate([inputs(train), inputs(test)])
        parts = tuple(Part(name, Binary(1)) for name in PAIRS[self.pair])
        return Rows(
            x=torch.from_numpy(x),
            y=torch.from_numpy(y),
            split=np.concatenate([np.repeat(["train"], len(train["age"])), np.where(half & 1, "test", "val")]),
            spec=TaskSpec((x.shape[1],), Parts(parts)),
        )


def read_columns(path: Path) -> Columns:
    """The columns of census-income.data or census-income.test, each `[n]` as text.

    Raises:
        ValueError: if the file has other columns or other values, naming the lines.
    """
    rows, odd = [], []
    for number, row in enumerate(read_rows(path, errors="replace", skipinitialspace=True), 1):
        if len(row) == len(COLUMNS) and max(map(len, row)) <= LONGEST:
            rows.append([value.strip() for value in row])
        elif row:
            odd.append(f"{len(row)} in line {number}")
    if odd or not rows:
        raise ValueError(
            f"expected {len(COLUMNS)} columns of at most {LONGEST} letters in {path}, "
            f"got {name_some(odd) or 'no lines'}; get it again"
        )
    columns = {name: np.array(values) for name, values in zip(COLUMNS, zip(*rows, strict=True), strict=True)}
    if unknown := sorted(set(columns["income"]) - {"- 50000.", "50000+."}):
        raise ValueError(f"expected the incomes '- 50000.' and '50000+.' in {path}, got {name_some(unknown)}")
    return columns


def read_labels(columns: Columns) -> NDArray[np.float32]:
    """Income above $50,000, a bachelor's degree or more, never married: 0 or 1, `[n, 3]`."""
    return np.stack([np.isin(columns[name], yes) for name, yes in LABELS.items()], axis=1).astype(np.float32)


class Inputs:
    """Converts columns to vectors: numbers shifted and scaled to mean 0 and variance 1, all others one-hot.

    Statistics and values are those of the training file. A value that it does not have becomes zeros; "?", an unknown
    value, is a value like others.
    """

    def __init__(self, columns: Columns) -> None:
        numbers = np.stack([_numbers(name, columns[name]) for name in NUMBERS], axis=1)
        scale = numbers.std(0)
        self.mean, self.scale = numbers.mean(0), np.where(scale > 0, scale, 1)
        self.values = {name: np.unique(columns[name]) for name in COLUMNS if name not in (*NUMBERS, *NO_INPUT)}
        if odd := [f"{len(values)} in {name}" for name, values in self.values.items() if len(values) > MOST_VALUES]:
            raise ValueError(f"expected at most {MOST_VALUES} different values in a column, got {name_some(odd)}")
        self.size = len(NUMBERS) + sum(len(values) for values in self.values.values())

    def __call__(self, columns: Columns) -> NDArray[np.float32]:
        """`[n, size]`."""
        x = np.zeros((len(columns["age"]), self.size), dtype=np.float32)
        for i, name in enumerate(NUMBERS):
            x[:, i] = (_numbers(name, columns[name]) - self.mean[i]) / self.scale[i]
        start = len(NUMBERS)
        for name, values in self.values.items():
            place = np.searchsorted(values, columns[name]).clip(max=len(values) - 1)
            (known,) = (values[place] == columns[name]).nonzero()
            x[known, start + place[known]] = 1
            start += len(values)
        return x


def _numbers(name: str, column: NDArray[np.str_]) -> NDArray[np.float64]:
    try:
        numbers = column.astype(np.float64)
        if not np.isfinite(numbers).all():
            raise ValueError("NaN or infinity")
        return numbers
    except ValueError as error:
        raise ValueError(f"expected numbers in the column {name}, got something else ({error})") from error


def find_census(folder: Path) -> Path:
    """The folder with census-income.data and census-income.test.

    Raises:
        ValueError: if it is missing.
    """
    for name in FOLDERS:
        if all((folder / name / f"census-income.{part}").is_file() for part in ("data", "test")):
            return folder / name
    raise ValueError(
        f"expected census-income.data and census-income.test in {FOLDERS[0]}/ under {folder}, found none; get "
        f"Census-Income (KDD) from archive.ics.uci.edu/dataset/117, unpack it there, and {how_to_name_a_root()}"
    )
