"""What runs cost: time and memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neuromix.experiments.frame.run import Run


def spent(run: Run) -> dict[str, Any]:
    """What the finished cells took, and the share of it that went into loading data.

    Loading is the time in which images were read before a fit, and in which a fit waited for a
    batch. A cell that was interrupted counts from its last start.
    """
    parts: dict[str, float] = {}
    loading = 0.0
    for record in run.records():
        cell = record["cell"]
        named = next((name for name in ("sampler", "bank", "check") if name in cell), None)
        part = f"{named}s" if named else f"fits, {cell['setting']}"
        parts[part] = parts.get(part, 0.0) + record["seconds"]
        loading += record.get("loading", 0.0) + record.get("waiting", 0.0)
    total = sum(parts.values())
    return {
        "seconds": total,
        "loading share": loading / total if total else 0.0,
        "seconds by part": parts,
    }


def own_memory(name: str) -> float:
    """A figure of this process from Linux, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(name))
