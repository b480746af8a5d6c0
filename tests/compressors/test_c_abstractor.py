"""The C-Abstractor against one put together from timm's RegNet stages."""

import pytest
import torch
from timm.layers import LayerNorm2d
from timm.models.regnet import RegStage
from torch import nn

from tstar.compressors import build_compressor

D_VISION, D_LANGUAGE = 20, 28


def ours(grid, **options):
    torch.manual_seed(0)
    sizes = {"d_vision": D_VISION, "d_language": D_LANGUAGE, "grid": grid, "preset": "tiny"}
    return build_compressor("c_abstractor", **sizes, **options)


class Honeybee(nn.Module):
    def __init__(self, grid, depth, width, kernel):
        super().__init__()
        options = {"stride": 1, "dilation": 1, "act_layer": nn.SiLU, "norm_layer": LayerNorm2d}
        self.grid = grid
        self.pos_emb = nn.Parameter(torch.zeros(1, grid[0] * grid[1], D_VISION))
        self.net = nn.Sequential(
            RegStage(depth, D_VISION, width, **options),
            nn.AdaptiveAvgPool2d((grid[0] // kernel[0], grid[1] // kernel[1])),
            RegStage(depth, width, width, **options),
        )
        self.readout = nn.Sequential(nn.Linear(width, D_LANGUAGE), nn.SiLU(), nn.Linear(D_LANGUAGE, D_LANGUAGE))

    def forward(self, features):
        pictures = (features + self.pos_emb).transpose(1, 2).reshape(len(features), D_VISION, *self.grid)
        return self.readout(self.net(pictures).flatten(2).transpose(1, 2))


@pytest.mark.parametrize(("depth", "width"), [(2, 16), (1, D_VISION)])
@pytest.mark.parametrize("kernel", [(2, 2), (4, 1), (1, 3), (4, 6)])
def test_it_is_honeybees(kernel, depth, width):
    compressor = ours((4, 6), kernel=kernel, depth=depth, width=width)
    reference = Honeybee((4, 6), depth, width, kernel)
    reference.load_state_dict(compressor.state_dict())
    x = torch.randn(3, 24, D_VISION, requires_grad=True)
    tokens, expected = compressor(x, [3])[0], reference(x).flatten(0, 1)
    torch.testing.assert_close(tokens, expected)
    weights = torch.randn_like(tokens)
    grads = [
        torch.autograd.grad((y * weights).sum(), [x, *module.parameters()])
        for y, module in ((tokens, compressor), (expected, reference))
    ]
    torch.testing.assert_close(*grads)


def test_positions_are_small_and_not_shrunk():
    compressor = ours((10, 10))
    assert 0.015 < compressor.pos_emb.std() < 0.025
    assert compressor.pos_emb._no_weight_decay
