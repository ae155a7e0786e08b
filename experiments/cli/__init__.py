"""The command ``neuromix``: a thin file a group."""
