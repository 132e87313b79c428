"""How long the passes take on this machine, beside a copy of the same array and beside other libraries.

`shapes`, `cases` and `settings` say what is measured; `sides` and `relatives` hold normdrop's own calls and the copies,
`peers` those of the other libraries; `protocol` is how they are timed: in turn, with medians of ratios, and quartiles.
The asv suite in `benchmarks` uses these, too, on whatever commit is installed, so they need nothing of normdrop but
public names.
`study` carries everything out; `report`, `results`, `plot` and `command` show it, and `cuda` does the same on a GPU.
The command needs its extra, ``pip install "normdrop[bench]"``, and starts with ``python -m normdrop bench``.
"""
