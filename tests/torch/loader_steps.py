"""What `test_torch_loaders.py` runs: python loader_steps.py CONTEXT, the way in which a `DataLoader` starts workers.

The parent computes on threads first; then workers drop elements. Printed is, per item, the seed of its worker and the
number of the first element that was kept, of small and of large arrays, with seeds given to the loader and again.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from normdrop.torch import BatchNorm1d, functional

LARGE = 1 << 20


def items_of(seed: int, n: int) -> list[int]:
    """The first kept elements of as many arrays, small and large by turns, that a worker of this seed draws."""
    torch.manual_seed(seed)
    return [item(i) for i in range(n)]


def item(i: int) -> int:
    y = functional.dropout(torch.ones(LARGE if i % 2 else 1000), 0.99)
    return int(y.nonzero()[0])


class Dropped(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> tuple[int, int]:
        BatchNorm1d(3)(torch.ones(LARGE, 3) if i == 1 else torch.ones(4, 3))
        return torch.initial_seed(), item(i)


def main(context: str) -> None:
    x = torch.randn(LARGE, 2, requires_grad=True)
    functional.dropout(BatchNorm1d(2)(x), 0.5).sum().backward()
    runs = []
    for _ in range(2):
        loader: Any = torch.utils.data.DataLoader(
            Dropped(),
            batch_size=4,
            num_workers=2,
            multiprocessing_context=context,
            generator=torch.Generator().manual_seed(5),
            timeout=100,
        )
        runs.append([[column.tolist() for column in batch] for batch in loader])
    functional.dropout(BatchNorm1d(2)(x), 0.5).sum().backward()  # and the parent goes on
    sys.stdout.write(json.dumps(runs))


if __name__ == "__main__":
    main(sys.argv[1])
