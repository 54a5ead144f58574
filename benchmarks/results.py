"""The rows of a run, on disk as they come, so that a run that was cut off can go on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.plan import Measurement

Row = dict[str, Any]


class Results:
    """A folder's results.json: what the run was made with, and its finished rows by their keys."""

    def __init__(self, folder: Path, made_with: Row, *, resume: bool) -> None:
        self.path = folder / "results.json"
        self.made_with = made_with
        self.rows: dict[str, Row] = {}
        if resume and self.path.exists():
            stored = json.loads(self.path.read_text(encoding="utf-8"))
            if stored["made_with"] != made_with:
                raise ValueError(
                    f"{self.path} was made with {stored['made_with']}, not with {made_with}: "
                    "start afresh without --resume, or in another folder"
                )
            self.rows = stored["rows"]

    def missing(self, plan: list[Measurement]) -> list[Measurement]:
        """What has no row yet."""
        return [measurement for measurement in plan if measurement.key not in self.rows]

    def add(self, measurement: Measurement, row: Row) -> None:
        """Keep a row; whoever reads the file finds it whole, with the row or without."""
        self.rows[measurement.key] = json.loads(json.dumps({**asdict(measurement), **row}))
        self.save()

    def save(self) -> None:
        """Write the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        text = json.dumps({"made_with": self.made_with, "rows": self.rows}, indent=2)
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(self.path)

    def of(self, section: str, mode: str | None = None) -> list[Row]:
        """The rows of a section, in the plan's order."""
        return [
            row for row in self.rows.values() if row["section"] == section and mode in (None, row["mode"])
        ]
