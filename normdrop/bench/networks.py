"""Networks of PyTorch whose training steps are timed, each with a batch."""

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """Two convolutions, each with batch normalization, and the way around them.

    Parameters
    ----------
    n_in, n_out : int
        Numbers of channels.
    stride : int
        Stride of the first convolution.
    """

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(n_out),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv2d(n_out, n_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(n_out),
        )
        self.around = nn.Identity()
        if stride > 1 or n_in != n_out:
            self.around = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """Compute relu(body(x) + x)."""
        return torch.relu(self.body(x) + self.around(x))


class Encoder(nn.Module):
    """Two layers of a transformer's encoder and a classifier of the mean over positions."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.classifier = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits of (N, positions, 256)."""
        return self.classifier(self.encoder(x).mean(1))


class TextCNN(nn.Module):
    """Convolutions of three widths over words, their maxima, dropout and a classifier (Kim 2014)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10_000, 128)
        self.convolutions = nn.ModuleList(nn.Conv1d(128, 100, width) for width in (3, 4, 5))
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(300, 10)

    def forward(self, words: Tensor) -> Tensor:
        """Compute logits of (N, length) numbers of words."""
        x = self.dropout(self.embedding(words)).transpose(1, 2)
        return self.classifier(self.dropout(torch.cat([c(x).relu().amax(2) for c in self.convolutions], 1)))


def perceptron() -> tuple[nn.Module, Tensor]:
    """Return a perceptron 784-1024-1024-10 with dropout, and a batch."""
    layers = [nn.Dropout(0.2), nn.Linear(784, 1024), nn.ReLU(), nn.Dropout(0.5)]
    layers += [nn.Linear(1024, 1024), nn.ReLU(), nn.Dropout(0.5), nn.Linear(1024, 10)]
    return nn.Sequential(*layers), torch.randn(128, 784)


def residual_network() -> tuple[nn.Module, Tensor]:
    """Return a small residual network with dropout, and a batch of images of 32 × 32."""
    stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    blocks = [Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 64, 2)]
    return nn.Sequential(*stem, *blocks, *_classifier(64)), torch.randn(32, 3, 32, 32)


def encoder() -> tuple[nn.Module, Tensor]:
    """Return a transformer's encoder of two layers, and a batch of 16 sequences of 64 positions."""
    return Encoder(), torch.randn(16, 64, 256)


def text_cnn() -> tuple[nn.Module, Tensor]:
    """Return a convolutional network over words, and a batch of 64 texts of 100 words."""
    return TextCNN(), torch.randint(10_000, (64, 100))


def blocks() -> tuple[nn.Module, Tensor]:
    """Return four blocks of 1 × 1 convolution, batch normalization, ReLU and dropout, and a batch."""
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Conv2d(64, 64, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.Dropout(0.1)]
    return nn.Sequential(*layers, *_classifier(64)), torch.randn(32, 64, 28, 28)


def _classifier(n_channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n_channels, 10)]


NETWORKS = {
    "perceptron 784-1024-1024-10, dropout": perceptron,
    "residual network, 32 × 32, dropout": residual_network,
    "transformer encoder, two layers": encoder,
    "text CNN": text_cnn,
    "four blocks of 1 × 1 convolution, batch norm, ReLU, dropout": blocks,
}
