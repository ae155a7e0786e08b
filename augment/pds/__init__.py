"""PDS: fMRI from dMRI and back.

- completer: ModalityCompleter
- config: its settings and presets
- both_ways: two priors given the source, one network
- pairs: pairs of modalities, read and kept on disk
- published: the design of the paper
"""
