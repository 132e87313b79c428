"""`warmup` compiles what its operations need, and nothing else."""

import io
import subprocess
import sys

import numpy as np
import pytest

import normdrop

pytestmark = pytest.mark.jit

LAYERS = """
import sys, numpy as np, normdrop
from normdrop._cpu.toolchain.launch import Kernel

ready = normdrop.warmup({operation!r}, np.float32, parallel={parallel})
compiled = []
compile = Kernel.compile
def spy(self, dtype, *, parallel):
    compiled.append((self.function.__name__, dtype.name, parallel))
    return compile(self, dtype, parallel=parallel)
Kernel.compile = spy

class OfSamples(normdrop.Dropout):
    def __call__(self, x):
        return self.forward(x, sample_ids=np.arange(len(x)))

class Connected(normdrop.DropConnect):
    def forward(self, x):
        return super().forward(x, np.ones((x.shape[1],) * 2, x.dtype))

class OfPositions(normdrop.BatchNorm):
    def __call__(self, x):
        mask = np.ones(x.shape[:1] + x.shape[2:], np.bool_)
        mask[0] = False
        for masked in ("zero", "normalize"):
            y = self.forward(x, mask=mask, masked=masked)
            self.backward(x)
        return self.forward(x, mask=mask)

for n in {sizes}:
    for shape in {shapes}:
        x = np.ones(shape, np.float32)
        for layer in {layers}:
            for a in (x, np.ascontiguousarray(x.T).T):
                layer.train()
                layer(a), layer.backward(a)
                layer.eval()
                layer(a), layer.backward(a)
print(ready, compiled)
"""

CASES = {
    "dropout": ("[(n, 32)]", "[normdrop.Dropout(0.5)]"),
    "channel_dropout": ("[(n, 4, 2, 4)]", "[normdrop.Dropout2d(0.5)]"),
    "sample_dropout": ("[(n, 32)]", "[OfSamples(0.5)]"),
    "drop_connect": ("[(n, 32)]", "[Connected(0.5), Connected(0.5, masks='batch')]"),
    "varied_dropout": (
        "[(n, 32)]",
        "[normdrop.Dropout(np.linspace(0, 1, 32), **how) for how in ({}, {'scaling': 'original'}, {'shared_axes': 0})]",
    ),
    "concrete_dropout": ("[(n, 32)]", "[normdrop.ConcreteDropout(0.5)]"),
    "gaussian_dropout": ("[(n, 32)]", "[normdrop.GaussianDropout(0.5)]"),
    "gaussian_noise": ("[(n, 32)]", "[normdrop.GaussianNoise(0.5)]"),
    "drop_block": ("[(n, 4, 2, 4)]", "[normdrop.DropBlock2d(0.5, 2)]"),
    "batch_norm": (
        "[(n, 32), (n, 4, 2, 4), (2, 4, n // 2, 4), (n // 2, 1, 8, 8), (n // 8, 64, 8, 8)]",
        "[normdrop.BatchNorm(x.shape[1])]",
    ),
    "masked_batch_norm": (
        "[(n, 32), (n, 4, 2, 4), (2, 4, n // 2, 4), (n // 8, 64, 8, 8)]",
        "[OfPositions(x.shape[1])]",
    ),
}


@pytest.mark.cold
@pytest.mark.slow
@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("operation", CASES)
def test_after_warmup_the_operations_compile_nothing_more(operation, parallel):
    shapes, layers = CASES[operation]
    sizes = [16, 4096] if parallel else [16]
    source = LAYERS.format(operation=operation, parallel=parallel, sizes=sizes, shapes=shapes, layers=layers)
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    ready, compiled = run.stdout.split(maxsplit=1)
    assert int(ready) > 0
    assert compiled.strip() == "[]"


FUSED = """
import numpy as np, normdrop
from normdrop._cpu.toolchain.launch import Kernel

operation = {operation!r}
print(normdrop.warmup(operation, np.float32, activations=["relu"], parallel=False))
def refuse(self, *arguments, parallel):
    raise AssertionError((self.function.__name__, arguments))
Kernel.compile = refuse
for shape in [(16, 32), (16, 4, 2, 4), (2, 1, 16, 16), (2, 3, 512)]:
    x = np.ones(shape, np.float32)
    for a in (x, np.ascontiguousarray(x.T).T):
        for residual in (None, a):
            for p in (0.0, 0.5):
                if operation == "act_dropout":
                    y, context = normdrop.functional.act_dropout(a, residual=residual, p=p)
                    normdrop.functional.act_dropout_backward(y, context)
                else:
                    layer = normdrop.BatchNormAct(shape[1], p=p)
                    layer(a, residual), layer.backward(a)
                    layer.eval()
                    layer(a, residual, keep_x=True), layer.backward(a)
"""


@pytest.mark.cold
@pytest.mark.slow
@pytest.mark.parametrize("operation", ["act_dropout", "batch_norm_act"])
def test_after_warmup_fused_operations_compile_nothing_more(operation):
    source = FUSED.format(operation=operation)
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 0


SHARED = """
import numpy as np, normdrop
from normdrop._cpu.toolchain.launch import Kernel

dtypes = ["float32", "float64"]
print(normdrop.warmup(["statistics", "shared_batch_norm"], dtypes, parallel=False))
def refuse(self, *arguments, parallel):
    raise AssertionError((self.function.__name__, arguments))
Kernel.compile = refuse
for shape in [(16, 32), (16, 4, 2, 4), (2, 3, 512)]:
    for dtype in dtypes:
        x = np.ones(shape, dtype)
        for a in (x, np.ascontiguousarray(x.T).T):
            normdrop.ChannelStatistics.of(a), normdrop.ChannelStatistics.of(a, exact=True)
            normdrop.ChannelStatistics.of(a, mask=a[:, :1] > 0)
            layer = normdrop.BatchNorm(shape[1], reduce=lambda part: part, dtype=dtype)
            layer(a), layer.backward(a)
            layer.eval()
            layer(a, keep_x=True), layer.backward(a)
"""


@pytest.mark.cold
@pytest.mark.slow
def test_after_warmup_statistics_and_a_shared_batch_compile_nothing_more():
    run = subprocess.run([sys.executable, "-c", SHARED], capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 0


def test_kernels_of_statistics_and_of_a_shared_batch_are_made_ready(monkeypatch):
    from normdrop._cpu.toolchain.launch import Kernel

    asked = set()
    spy = lambda self, *kinds, parallel: asked.add((self.function.__name__, kinds[0]))  # noqa: E731
    monkeypatch.setattr(Kernel, "compile", spy)
    normdrop.warmup("statistics", ["float32", "float64"], parallel=False)
    short, long = np.dtype(np.float32), np.dtype(np.float64)
    assert asked >= {("moments", short), ("moments", long), ("exact_sums_in_lanes", short), ("exact_sums", long)}
    assert ("exact_sums", short) not in asked
    asked.clear()
    normdrop.warmup("shared_batch_norm", parallel=False)
    passes = {"moments", "gradients", "normalize", "row_gradient", "plane_gradient"}
    assert {name for name, _ in asked} == passes | {"update_running", "inference_vectors"}


def test_kernels_of_a_p_that_varies_are_made_ready(monkeypatch):
    from normdrop._cpu.toolchain.launch import Kernel

    asked = set()
    monkeypatch.setattr(Kernel, "compile", lambda self, *kinds, parallel: asked.add((self.function.__name__, kinds[0])))
    normdrop.warmup("varied_dropout", "float64", parallel=False)
    passes = {"dropout_varied", "apply_factors", "mask_planes", "mask_elements"}
    assert asked >= {(name, np.dtype(np.float64)) for name in passes} | {("keep_varied", np.dtype(np.bool_))}


@pytest.mark.parametrize("operation", ["act_dropout", "batch_norm_act"])
def test_fused_kernels_are_made_ready_for_the_activations_that_are_named(monkeypatch, operation):
    from normdrop._cpu.toolchain.launch import Kernel

    names = []
    monkeypatch.setattr(Kernel, "compile", lambda self, *_, parallel: names.append(self.function.__name__))
    counts = [
        normdrop.warmup(operation, activations=wanted, parallel=False)
        for wanted in ("gelu", ("gelu", "elu"), ("gelu", "gelu"))
    ]
    assert counts[0] == counts[2] < counts[1]
    assert {word for name in names for word in ("relu", "gelu", "elu") if f"_{word}_" in name} == {"gelu", "elu"}


def test_warmup_without_parallel_does_not_start_numbas_threads():
    source = (
        "import normdrop; normdrop.warmup('dropout', parallel=False)\n"
        "import numba.np.ufunc.parallel as p; assert not p._is_initialized"
    )
    subprocess.run([sys.executable, "-c", source], check=True, timeout=120)


def test_each_kernel_is_counted_once():
    alone = [normdrop.warmup(name, parallel=False) for name in ("dropout", "channel_dropout")]
    assert normdrop.warmup(("dropout", "channel_dropout", "dropout"), parallel=False) == sum(alone) - 1  # mask_planes
    assert normdrop.warmup("dropout", ["float32", np.float32], parallel=False) == alone[0]


def test_progress_goes_to_standard_error_and_only_on_request(monkeypatch):
    for progress in (True, False):
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        normdrop.warmup("dropout", parallel=False, progress=progress)
        assert ("compiling kernels" in stream.getvalue()) == progress


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("droput",), ValueError, ("operations", "droput", "channel_dropout")),
        ((3,), TypeError, ("operations", "3")),
        (([3],), TypeError, ("operations", "3")),
        (("dropout", "int32"), TypeError, ("dtypes", "int32", "float16")),
        (("dropout", [np.float32, ">f4"]), TypeError, ("dtypes", ">f4")),
        (("dropout", None), TypeError, ("dtypes", "None")),
    ],
)
def test_what_there_is_none_of_is_refused_by_name(arguments, error, words):
    with pytest.raises(error) as caught:
        normdrop.warmup(*arguments)
    for word in words:
        assert word in str(caught.value)


def test_an_activation_that_there_is_none_of_is_refused_by_name():
    with pytest.raises(ValueError, match=r"activations must be .*'relu'.*got 'rellu'"):
        normdrop.warmup("act_dropout", activations="rellu")
    with pytest.raises(TypeError, match="activations"):
        normdrop.warmup("act_dropout", activations=[3])
