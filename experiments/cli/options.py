"""What the commands share: names of presets, and which options were given."""

from __future__ import annotations

from typing import Any, Literal

Preset = Literal["demo", "tiny", "base", "paper"]


def given_options(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a config that a command's arguments change."""
    others = ("out", "preset", "dry_run")
    return {k: v for k, v in given.items() if k not in others and v is not None}
