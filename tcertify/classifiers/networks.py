"""Base classifiers: the residual networks of CIFAR-10 and ImageNet, named as the field names them.

Each of these is ``Sequential(Standardise, body)``: it takes images in [0, 1], to which the noise
has been added, and standardises them itself, so that radii are in the images' own units. The
parameters are then called ``1.conv1.weight``, ``1.layer1.0.conv1.weight``, ``1.fc.bias``, as in the
checkpoints of Cohen et al. (2019) and Salman et al. (2019); `load_published` reads those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class DigitsNet(nn.Sequential):
    """A small convolutional network for 8x8 digits: (B, 1, 8, 8) in [0, 1] to logits (B, 10)."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )


class Standardise(nn.Module):
    """Subtract the channels' means and divide by their standard deviations.

    The constants move with the module but are no part of its state: published files lack them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the standardised images, (N, C, H, W)."""
        return (images - self.mean) / self.std


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut around them."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's features."""
        out = self.bn1(self.conv1(x)).relu()
        out = self.bn2(self.conv2(out))
        return _add(out, x if self.downsample is None else self.downsample(x))


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 ones, and the shortcut around them."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _shortcut(inputs, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's features."""
        out = self.bn1(self.conv1(x)).relu()
        out = self.bn2(self.conv2(out)).relu()
        out = self.bn3(self.conv3(out))
        return _add(out, x if self.downsample is None else self.downsample(x))


class CifarResNet(nn.Module):
    """He et al.'s residual network for 32x32 images; `depth` is 6 n + 2."""

    def __init__(self, depth: int, num_classes: int = 10) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _layer(BasicBlock, 16, 16, blocks, stride=1)
        self.layer2 = _layer(BasicBlock, 16, 32, blocks, stride=2)
        self.layer3 = _layer(BasicBlock, 32, 64, blocks, stride=2)
        self.fc = nn.Linear(64, num_classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, num_classes)."""
        x = self.bn1(self.conv1(x)).relu()
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class ResNet50(nn.Module):
    """He et al.'s 50-layer residual network, with the stride in the 3x3 convolution."""

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _layer(Bottleneck, 64, 64, 3, stride=1)
        self.layer2 = _layer(Bottleneck, 256, 128, 4, stride=2)
        self.layer3 = _layer(Bottleneck, 512, 256, 6, stride=2)
        self.layer4 = _layer(Bottleneck, 1024, 512, 3, stride=2)
        self.fc = nn.Linear(2048, num_classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, num_classes)."""
        x = self.bn1(self.conv1(x)).relu()
        x = nn.functional.max_pool2d(x, 3, 2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


ARCHITECTURES: dict[str, Callable[[int], nn.Module]] = {
    "cifar-resnet20": lambda classes: _cifar(20, classes),
    "cifar-resnet56": lambda classes: _cifar(56, classes),
    "cifar-resnet110": lambda classes: _cifar(110, classes),
    "resnet50": lambda classes: nn.Sequential(
        Standardise(IMAGENET_MEAN, IMAGENET_STD), ResNet50(classes)
    ),
    "digits": lambda _: DigitsNet(),
}


def build(architecture: str, num_classes: int) -> nn.Module:
    """Return the named network with fresh weights, for images in [0, 1]."""
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"`architecture` must be one of {known}, got {architecture!r}.")
    return ARCHITECTURES[architecture](num_classes)


def _cifar(depth: int, num_classes: int) -> nn.Module:
    return nn.Sequential(Standardise(CIFAR10_MEAN, CIFAR10_STD), CifarResNet(depth, num_classes))


def _layer(
    block: type[BasicBlock] | type[Bottleneck], inputs: int, width: int, blocks: int, stride: int
) -> nn.Sequential:
    first = block(inputs, width, stride)
    return nn.Sequential(
        first, *(block(width * block.expansion, width, 1) for _ in range(blocks - 1))
    )


def _add(out: Tensor, shortcut: Tensor) -> Tensor:
    return (out + shortcut).relu()


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
