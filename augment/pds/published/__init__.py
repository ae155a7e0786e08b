"""The published design: PDM (a U-Net from noise), TR, MR and the pattern-aware module."""
