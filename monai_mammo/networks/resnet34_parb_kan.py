"""Paper A's classifier of mammogram quality: ResNet34 with PARB attention and a KAN head, and its ablations.

The trunk is own code under torchvision's parameter names, so that its ImageNet weights can be read; none are shipped.
"""

from __future__ import annotations

from os import PathLike

from torch import Tensor, nn

from monai_mammo.networks.attention import PARB
from monai_mammo.networks.kan import BilinearKAN, KANHead, LowRankBilinearKAN, RBFKANHead
from monai_mammo.networks.layers import conv, read_imagenet_weights, sides, some_of

__all__ = ["HEADS", "ResNet34PARBKAN"]

HEADS = ("linear", "mlp", "kan1", "kan2", "kan3", "rbf")
"""The heads of `ResNet34PARBKAN`; kan1 to kan3 are three readings of paper A's section 1.4."""


class BasicBlock(nn.Module):
    """ResNet's block of two 3x3 convolutions; the stride is in the first."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(conv(in_channels, channels, 1, stride), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, channels, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))


def _head(name: str, features: int, num_classes: int, gain: float) -> nn.Module:
    if name == "linear":
        return nn.Linear(features, num_classes)
    if name == "mlp":
        hidden = features // 2
        return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, num_classes))
    if name == "kan1":
        return KANHead(features, num_classes, gain=gain)
    if name == "kan2":
        return BilinearKAN(features, num_classes, gain=gain)
    if name == "kan3":
        return LowRankBilinearKAN(features, num_classes)
    if name == "rbf":
        return RBFKANHead(features, num_classes)
    raise ValueError(f"head is one of {', '.join(HEADS)}, not {name!r}")


class ResNet34PARBKAN(nn.Module):
    """Improved ResNet34 (Wang and Cai 2025): a PARB behind each of the four stages, a KAN head on the pooled map.

    With `parb=False, head="linear"` it is ResNet34. Class scores come out, not probabilities.

    Args:
        spatial_dims: 2; the S2 attention is defined on images only.
        in_channels: channels of the input; the paper's is 3, a grey mammogram repeated.
        num_classes: scores for each image.
        parb: use the attention blocks.
        head: "linear" (ResNet34's own), "mlp" (one hidden layer of half the features), "kan1" (ordinary KAN), "kan2"
            (bilinear KAN, the reading that uses the paper's whole text), "kan3" (low-rank bilinear), "rbf" (ordinary
            KAN on Gaussians).
        width: channels of the first stage, a multiple of 4; the paper's is 64, and everything scales with it.
        dropout: probability of dropping a pooled feature in front of the head.
        se_kernel_size: kernel of the convolution that leads the PARB's squeeze-and-excitation; 3 or 1.
        s2_reduce: pooling in the PARB's S2 attention; "mean" or "sum".
        kan_gain: scale of the random functions that "kan1" and "kan2" start from. At width 16 three trainings from 0.2
            were worse on another hospital's films than three from 1; at width 64 the first five epochs of two were no
            different.

    Raises:
        ValueError: an argument outside the above.

    Example:
        >>> network = ResNet34PARBKAN(spatial_dims=2, in_channels=3, num_classes=2, width=8).eval()
        >>> network(torch.zeros(1, 3, 224, 224)).shape
        torch.Size([1, 2])
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 3,
        num_classes: int = 2,
        *,
        parb: bool = True,
        head: str = "kan2",
        width: int = 64,
        dropout: float = 0.0,
        se_kernel_size: int = 3,
        s2_reduce: str = "mean",
        kan_gain: float = 1.0,
    ) -> None:
        super().__init__()
        if spatial_dims != 2:
            raise ValueError(f"ResNet34PARBKAN works on images: spatial_dims is 2, not {spatial_dims}")
        if width < 4 or width % 4:
            raise ValueError(f"width is a positive multiple of 4 (S2 attention shifts quarters), not {width}")
        if se_kernel_size not in (1, 3):
            raise ValueError(f"se_kernel_size is 1 or 3, not {se_kernel_size}")

        def attention(channels: int, averaged: bool = False) -> nn.Module:
            return PARB(channels, se_kernel_size, s2_reduce, averaged=averaged) if parb else nn.Identity()

        self.num_features = 8 * width
        self.min_side = 32
        self.conv1 = conv(in_channels, width, 7, stride=2)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(width, width, blocks=3, stride=1)
        self.parb1 = attention(width)
        self.layer2 = _stage(width, 2 * width, blocks=4, stride=2)
        self.parb2 = attention(2 * width)
        self.layer3 = _stage(2 * width, 4 * width, blocks=6, stride=2)
        self.parb3 = attention(4 * width)
        self.layer4 = _stage(4 * width, 8 * width, blocks=3, stride=2)
        self.parb4 = attention(8 * width, averaged=True)
        self.dropout = nn.Dropout(dropout)
        self.head = _head(head, self.num_features, num_classes, kan_gain)

    def forward_features(self, x: Tensor) -> Tensor:
        """The pooled features in front of dropout and head, for embeddings: (B, in_channels, H, W) to (B, 8 * width).

        Raises:
            ValueError: a side of the image is shorter than 32 pixels, or it is no batch (B, C, H, W).
        """
        height, width = sides(x)
        least = self.min_side
        if height < least or width < least:
            raise ValueError(
                f"image of {height} x {width} pixels: ResNet34PARBKAN divides each side by {least}, so both sides are "
                f"at least {least}; the next valid size is {max(height, least)} x {max(width, least)}"
            )
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.parb1(self.layer1(x))
        x = self.parb2(self.layer2(x))
        x = self.parb3(self.layer3(x))
        x = self.parb4(self.layer4(x))
        return x.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Class scores: (B, in_channels, H, W) to (B, num_classes); errors as of `forward_features`."""
        return self.head(self.dropout(self.forward_features(x)))

    def load_imagenet_weights(self, path: str | PathLike[str]) -> None:
        """Read ResNet34's trunk from a state dict file with torchvision's names; attention and head stay as they are.

        `fc.*` is dropped. Where the network takes one channel, the first convolution's weights are summed over RGB,
        which gives the same as repeating the grey image three times.

        Args:
            path: file written by `torch.save(state_dict, path)`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is no state dict, or not one of a ResNet34 of this width; it names the parameters.
        """
        weights = read_imagenet_weights(path, self.conv1.in_channels)
        trunk = {name: value for name, value in self.state_dict().items() if not name.startswith(("parb", "head."))}
        problems = {
            "missing": [name for name in trunk if name not in weights],
            "unknown": [name for name in weights if name not in trunk],
            "other shape": [n for n, value in trunk.items() if n in weights and weights[n].shape != value.shape],
        }
        found = [f"{kind}: {some_of(names)}" for kind, names in problems.items() if names]
        if found:
            raise ValueError(
                f"{path} is not a ResNet34 that fits this network ({'; '.join(found)}); give a state dict with "
                "torchvision's resnet34 names and build the network with width=64 and in_channels 1 or 3"
            )
        self.load_state_dict(weights, strict=False)
