"""Each benchmark at its smallest: it runs, and leaves behind what it says. How fast it was is not asked."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.results import table


def test_accept_counts_what_every_caller_was_told(tmp_path: Path) -> None:
    result = run("accept", tmp_path, "--seconds", "0.1", "--rounds", "1", "--folder", str(tmp_path))

    assert [(row["what"], row["callers"]) for row in result["figures"]] == [
        ("commits", 1), ("queue", 1), ("queue", 16), ("queue", 64), ("HTTP", 1), ("HTTP", 4), ("HTTP", 16), ("HTTP", 64)
    ]  # fmt: skip
    assert all(row["per second"] > 0 and row["p50 ms"] <= row["p99 ms"] for row in result["figures"])
    assert "its audit finds nothing" in result["notes"][0]


def test_first_picture_draws_the_same_pictures_on_both_sides(tmp_path: Path) -> None:
    result = run("first_picture", tmp_path, "--alone", "1", "--together", "1", "--pictures", "2", "--threads", "1")

    assert [(row["side"], row["at once"]) for row in result["figures"]] == [(256, 1), (1024, 1), (256, 2), (1024, 2)]
    assert all(row["ours s"] > 0 and row["plain s"] > 0 for row in result["figures"])
    assert "pictures of both sides are the same" in result["notes"][1]


def test_flux_full_draws_every_case_on_every_side(tmp_path: Path) -> None:
    small = ("--size", "small", "--device", "cpu", "--rounds", "1", "--most-steps", "2", "--sides", "plain,half")
    result = run("flux_full", tmp_path, *small, writes="flux_full_small")

    cases = ("schnell", "schnell, 16 waiting", "dev", "dev, 512x512, 8 at once", "dev + LoRA", "dev + ControlNet")
    assert [(row["case"], row["side"]) for row in result["figures"]] == [
        (case, side) for case in (*cases, "kontext", "fill") for side in ("plain", "half")
    ]
    assert all(0 < row["s without PNG"] < row["s"] for row in result["figures"])
    assert "the CPU, size small" in result["notes"][0]
    errors = dict(part.split(" ") for part in result["notes"][2].split(": ")[1].rstrip(".").split(", "))
    assert all(0 <= float(error) < 0.05 for error in errors.values())


def test_lora_switch_draws_with_one_lora_with_kept_ones_and_with_ones_read_anew(tmp_path: Path) -> None:
    result = run("lora_switch", tmp_path, "--jobs", "1", "--threads", "1")

    assert [row["LoRA"] for row in result["figures"]] == ["one", "kept", "read"]
    assert all(row["ours s"] > 0 and row["plain s"] > 0 for row in result["figures"])


def test_queue_takes_tasks_in_and_ends_them(tmp_path: Path) -> None:
    result = run("queue", tmp_path, "--seconds", "0.3", "--rounds", "1", "--sides", "ours-sqlite,ours-postgresql")

    assert [(row["what"], row["side"]) for row in result["figures"]] == [
        ("accepted", "ours-sqlite"), ("accepted", "ours-postgresql"),
        ("done", "ours-sqlite"), ("done", "ours-postgresql"),
    ]  # fmt: skip
    assert all(row["per second"] > 0 and row["p50 ms"] <= row["p99 ms"] for row in result["figures"])


def test_relay_asks_for_whole_answers_and_streams_of_both_sizes(tmp_path: Path) -> None:
    result = run("relay", tmp_path, "--seconds", "0.1", "--rounds", "1", "--sides", "bare,ours")

    assert [(row["what"], row["callers"], row["side"]) for row in result["figures"]] == [
        (f"{form}, {size} KB", callers, side)
        for form in ("whole", "stream") for size in (2, 1400) for callers in (1, 16) for side in ("bare", "ours")
    ]  # fmt: skip
    assert all(row["per second"] > 0 and row["p50 ms"] <= row["p99 ms"] for row in result["figures"])
    firsts = [row["first event p50 ms"] for row in result["figures"]]
    assert [first is not None for first in firsts] == 8 * [False] + 8 * [True]


def test_speeds_draws_with_each_speed_and_with_fewer_steps(tmp_path: Path) -> None:
    result = run("speeds", tmp_path, "--pictures", "1")

    alone = ("fast, float32", "fastest, float32")
    sides = {28: (*alone, "15 steps", "9 steps"), 25: (*alone, "14 steps", "8 steps"), 4: ()}
    assert [(row["steps"], row["side"]) for row in result["figures"]] == [
        (steps, side) for steps, others in sides.items() for side in ("exact", "fast", "fastest", *others)
    ]
    assert [row["computed"] for row in result["figures"]] == [28, *3 * [15, 9], 25, *3 * [14, 8], 4, 4, 4]
    assert all(row["s"] > 0 and row["all %"] in (0, 100) for row in result["figures"])
    assert all(row["PSNR dB"] > 20 for row in result["figures"] if row["steps"] > 4 and row["side"] != "exact")


def test_start_draws_the_same_first_picture_by_a_script_and_by_a_worker(tmp_path: Path) -> None:
    result = run("start", tmp_path, "--rounds", "1", "--kinds", "plain,worker", "--threads", "1")

    assert [(row["model"], row["side"]) for row in result["figures"]] == [
        (model, side) for model in ("flux1-schnell", "flux1-dev") for side in ("plain", "worker")
    ]
    assert all(0 < row["first picture s"] < row["both s"] for row in result["figures"])
    assert "pictures of a model are the same" in result["notes"][-1]


def test_a_table_is_markdown_with_its_columns_aligned() -> None:
    assert table([{"what": "one", "s": 0.123456}, {"what": "another", "s": None}]) == [
        "| what    | s      |",
        "|---------|--------|",
        "| one     | 0.1235 |",
        "| another |        |",
    ]


def run(name: str, folder: Path, *arguments: str, writes: str | None = None) -> dict[str, Any]:
    """Its result as it was written, once it is sure that the machine and the command are told and the table shown."""
    command = ["-m", f"benchmarks.{name}", *arguments, "--results", str(folder)]
    ended = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr

    result: dict[str, Any] = json.loads((folder / f"{writes or name}.json").read_text())
    assert result["command"] == " ".join(["python", *command])
    assert result["machine"]["cores"] > 0
    assert ended.stdout.strip() == (folder / f"{writes or name}.md").read_text().strip()
    return result
