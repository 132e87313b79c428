"""Small networks on real data: how to use normdrop's layers, and what they do.

Read `networks` first: it shows where the layers go. `layers` holds what stands around them, `train` the training loop,
`settings` and `experiments` what is trained, `verdicts` what the numbers say about the literature; `report`, `plot`
and `command` show it. The demo needs its extra, ``pip install "normdrop[demo]"``, and starts with
``python -m normdrop demo``.
"""
