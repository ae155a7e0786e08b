"""The command ``neuromix``: a thin file a group.

- main: the table of commands, help, exit codes
- configured: commands whose options are a documented dataclass
- data: demo, phantom, cohort, who, prepare
- sampling: train, generate, complete, verify, audit
"""
