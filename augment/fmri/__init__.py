"""Task fMRI: runs of any length, their responses, and TaskFMRISampler."""
