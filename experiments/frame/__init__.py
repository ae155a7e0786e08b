"""What experiments share: run folders, cells, statistics, endpoints, pages and figures.

- run: run folders that resume, cell by cell
- provenance: data, versions and commit of a folder
- cohorts: the cohort that a user names
- arms: cells: a classifier, fitted and judged
- verdict: endpoints, comparisons, did it help?
- history: was a file committed before?
- findings: what came out, in one form
- figures, pages: pictures and the page
- pace: what runs cost, before and after
"""
