"""How long the passes take on this machine, beside a copy of the same array and beside other libraries.

`cases` and `settings` say what is measured, and `protocol` how; `sides` holds normdrop's own calls and the copies,
`peers` those of the other libraries. `study` carries everything out; `report`, `results`, `plot` and `command` show it.
The command needs its extra, ``pip install "normdrop[bench]"``, and starts with ``python -m normdrop bench``.
"""
