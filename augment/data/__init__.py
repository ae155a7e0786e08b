"""Who, what and where: cohorts, labels, splits, files, grids, and who had a part in what."""
