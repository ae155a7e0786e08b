"""PDS: fMRI from dMRI and back, ModalityCompleter."""
