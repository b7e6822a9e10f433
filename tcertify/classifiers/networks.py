"""Base classifiers: the residual networks of CIFAR-10 and ImageNet, named as the field names them.

Each of these is ``Sequential(Standardise, body)``: it takes images in [0, 1], to which the noise
has been added, and standardises them itself, so that radii are in the images' own units. The
parameters are then called ``1.conv1.weight``, ``1.layer1.0.conv1.weight``, ``1.fc.bias``, as in the
checkpoints of Cohen et al. (2019) and Salman et al. (2019); `load_published` reads those.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from tcertify.classifiers.standardise import standardising_layer


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


class FashionNet(nn.Sequential):
    """A small convolutional network for Fashion-MNIST: (B, 1, 28, 28) in [0, 1] to (B, 10)."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 16, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 7 * 7, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )


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


class CifarDenseNet(nn.Module):
    """Huang et al.'s 40-layer densely connected network with bottlenecks and growth rate 12."""

    def __init__(self, num_classes: int = 10, growth: int = 12, layers: int = 6) -> None:
        super().__init__()
        width = 2 * growth
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(3, width, 3, padding=1, bias=False))
        for stage in (1, 2, 3):
            block = nn.Sequential()
            for layer in range(1, layers + 1):
                block.add_module(f"layer{layer}", _DenseLayer(width, growth))
                width += growth
            self.features.add_module(f"block{stage}", block)
            if stage < 3:
                self.features.add_module(f"trans{stage}", nn.AvgPool2d(2))
        self.features.add_module("norm_last", nn.BatchNorm2d(width))
        self.classifier = nn.Linear(width, num_classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, num_classes)."""
        logits: Tensor = self.classifier(self.features(x).relu().mean((2, 3)))
        return logits


class _DenseLayer(nn.Module):
    """A 1x1 and a 3x3 convolution whose features are added as further channels."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.brc_1 = _norm_relu_conv(width, 4 * growth, 1)
        self.brc_2 = _norm_relu_conv(4 * growth, growth, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.brc_2(self.brc_1(x))], 1)


class LeNet(nn.Module):
    """LeCun et al.'s network for grey images of 28x28 pixels, in its usual modern form."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(4 * 4 * 50, 500)
        self.fc2 = nn.Linear(500, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, num_classes)."""
        x = nn.functional.max_pool2d(self.conv1(x).relu(), 2)
        x = nn.functional.max_pool2d(self.conv2(x).relu(), 2)
        logits: Tensor = self.fc2(self.fc1(x.flatten(1)).relu())
        return logits


#: By name: the body, which takes standardised images, and how its images are standardised.
ARCHITECTURES: dict[str, tuple[Callable[[int], nn.Module], str]] = {
    "cifar-resnet20": (partial(CifarResNet, 20), "cifar10"),
    "cifar-resnet56": (partial(CifarResNet, 56), "cifar10"),
    "cifar-resnet110": (partial(CifarResNet, 110), "cifar10"),
    "cifar-densenet40": (CifarDenseNet, "cifar10"),
    "lenet": (LeNet, "none"),
    "resnet50": (ResNet50, "imagenet"),
}

#: By name: networks for the images of one data set as they are.
SMALL: dict[str, type[nn.Module]] = {"digits": DigitsNet, "fashion-mnist": FashionNet}


def build(architecture: str, num_classes: int, normalize: str | None = None) -> nn.Module:
    """Return the named network with fresh weights, for images in [0, 1].

    Parameters
    ----------
    architecture : str
        A name in `ARCHITECTURES` or `SMALL`.
    num_classes : int
    normalize : str, optional
        How its first layer standardises the images, as in `standardising_layer`; without it, as
        is usual for the architecture.

    Raises
    ------
    ValueError
        An unknown name.
    """
    if architecture in SMALL:
        return SMALL[architecture]()
    if architecture not in ARCHITECTURES:
        known = ", ".join((*ARCHITECTURES, *SMALL))
        raise ValueError(f"`architecture` must be one of {known}, got {architecture!r}.")
    body, usual = ARCHITECTURES[architecture]
    return nn.Sequential(standardising_layer(normalize or usual), body(num_classes))


def _norm_relu_conv(inputs: int, outputs: int, size: int) -> nn.Sequential:
    layers = nn.Sequential()
    layers.add_module("norm", nn.BatchNorm2d(inputs))
    layers.add_module("relu", nn.ReLU())
    layers.add_module("conv", nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False))
    return layers


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
