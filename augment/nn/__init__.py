"""Networks, one whole network a file.

A checkpoint names its network by module path: moving a file breaks checkpoints that stand.
"""
