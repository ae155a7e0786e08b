"""How fast, and with how much memory? Contenders side by side.

- config: sizes, the options
- everything: all of them in one table
- figures: timing by turns, the table
- foundation: phantoms, BIDS index, imports
- maps: finished MD volumes
- training: the loop, its memory
- transforms: draws and loaders
"""
