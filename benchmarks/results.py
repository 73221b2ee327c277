"""What a benchmark leaves behind: its figures with the machine they came from, as JSON and as a table to read."""

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")
PACKAGES = ("torch", "diffusers", "pillow", "sqlalchemy", "uvicorn")


@dataclass(frozen=True, slots=True)
class Machine:
    """Where figures came from. `load` is the load average of the minute before: above 0 it was not quiet."""

    cpu: str
    cores: int
    system: str
    python: str
    packages: dict[str, str]
    load: float


@dataclass(frozen=True, slots=True)
class Result:
    """One run of one benchmark. `notes` are sentences that belong to the figures."""

    name: str
    figures: Sequence[dict[str, Any]]
    notes: Sequence[str]
    machine: Machine
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    command: str = field(default_factory=lambda: _command())

    def show_and_write(self, folder: Path) -> None:
        """Print it, and write `name`.json and `name`.md."""
        print(self.as_text())
        self.write(folder)

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.json").write_text(json.dumps(asdict(self), indent=1) + "\n")
        (folder / f"{self.name}.md").write_text(self.as_text())

    def as_text(self) -> str:
        machine = self.machine
        packages = ", ".join(f"{name} {number}" for name, number in machine.packages.items())
        return "\n".join(
            (
                f"# {self.name}",
                "",
                f"`{self.command}` on {self.date}: {machine.cpu}, {machine.cores} cores, {machine.system}, "
                f"Python {machine.python}, {packages}; load average before: {machine.load:.1f}.",
                "",
                *table(self.figures),
                "",
                *(f"* {note}" for note in self.notes),
                "",
            )
        )


def this_machine() -> Machine:
    return Machine(
        cpu=_cpu(),
        cores=os.cpu_count() or 1,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        packages={name: version(name) for name in PACKAGES if find_spec(name.replace("pillow", "PIL"))},
        load=round(os.getloadavg()[0], 2),
    )


def table(figures: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown lines, the columns aligned. All rows have the keys of the first one."""
    columns = list(figures[0])
    cells = [columns, *([_shown(row[column]) for column in columns] for row in figures)]
    widths = [max(len(row[number]) for row in cells) for number in range(len(columns))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return lines


def _shown(value: object) -> str:
    match value:
        case None:
            return ""
        case float():
            return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
        case _:
            return str(value)


def _cpu() -> str:
    """The model's name, as Linux tells it; elsewhere what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _command() -> str:
    main = sys.modules["__main__"].__spec__
    program = f"-m {main.name}" if main is not None else sys.argv[0]
    return " ".join(("python", program, *sys.argv[1:]))
