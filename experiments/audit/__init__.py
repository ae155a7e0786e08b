"""Is a bank or a completer fit for use?

- audit: opens a bank or a completer, and audits it
- config: its options
- base: what is asked of all; limits, verdict
- maps: banks of mean diffusivity
- runs: banks of task fMRI
- completer: completers
"""
