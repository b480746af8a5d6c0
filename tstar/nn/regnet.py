"""RegNet's bottleneck block and a stage of them, as Honeybee's C-Abstractor uses them (arXiv:2312.06742).

Radosavovic et al., "Designing Network Design Spaces", arXiv:2003.13678, with squeeze-and-excitation; parameters are
named as in timm, so that its weights load.

Letters: B pictures, C channels in, W channels out, h rows, w columns.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of every place, [B, W, h, w] to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNorm(nn.Module):
    """Convolution without a bias, norm, and SiLU unless told otherwise."""

    def __init__(self, d_in: int, d_out: int, size: int = 1, groups: int = 1, activate: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(d_in, d_out, size, padding=size // 2, groups=groups, bias=False)
        self.bn = ChannelNorm(d_out)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return F.silu(x) if self.activate else x


class SqueezeExcitation(nn.Module):
    """Channels scaled by what their means say: sigmoid(W2 silu(W1 mean))."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, reduced, 1)
        self.fc2 = nn.Conv2d(reduced, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(F.silu(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()


class RegNetBlock(nn.Module):
    """1 x 1, depthwise 3 x 3, squeeze-and-excitation, 1 x 1, and a residual: [B, C, h, w] to [B, W, h, w]."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(d_in, d_out)
        self.conv2 = ConvNorm(d_out, d_out, size=3, groups=d_out)
        self.se = SqueezeExcitation(d_out, round(d_in / 4))
        self.conv3 = ConvNorm(d_out, d_out, activate=False)
        self.downsample = ConvNorm(d_in, d_out, activate=False) if d_in != d_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.conv3(self.se(self.conv2(self.conv1(x)))) + self.downsample(x))


def regnet_stage(depth: int, d_in: int, d_out: int) -> nn.Sequential:
    """``depth`` blocks in a row; the first brings C channels to W."""
    blocks = nn.Sequential()
    for number in range(depth):
        blocks.add_module(f"b{number + 1}", RegNetBlock(d_out if number else d_in, d_out))
    return blocks
