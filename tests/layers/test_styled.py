"""Styled convolutions against grouped and transposed ones of PyTorch, one frame and one clip after the other."""

import math

import pytest
import torch
import torch.nn.functional as F

from vgen_fast.layers.styled import Smooth, StyledConv, ToRGB, adapted


def shaken(layer):
    layer.double()
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return layer


def style_of(layer, style):
    return style @ layer.style.weight.T / math.sqrt(style.shape[1]) + layer.style.bias


def released(layer, image, style, noise):
    """StyleGAN2's layer for one image [1, I, H, W] (steps 1 to 6 of B2)."""
    weight = layer.weight[:, :, 0] / math.sqrt(9 * image.shape[1]) * style_of(layer, style)[0, :, None, None]
    weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
    if layer.up:
        taps = torch.tensor([1.0, 3, 3, 1]).double()
        blur = (taps[:, None] * taps / 64 * 4).expand(len(weight), 1, 4, 4)
        y = F.conv_transpose2d(image, weight.flip(2, 3).transpose(0, 1), stride=2)
        y = F.conv2d(y, blur, padding=1, groups=len(weight))
    else:
        y = F.conv2d(image, weight, padding=1)
    y = y + layer.strength * noise + layer.bias[:, None, None]
    return F.leaky_relu(y, 0.2) * math.sqrt(2)


@pytest.mark.parametrize("up", [False, True])
def test_a_styled_convolution_is_the_released_one_of_each_frame(up):
    torch.manual_seed(0)
    layer = shaken(StyledConv(3, 5, 7, up=up))
    side = 2 if up else 1
    x, style = torch.randn(2, 3, 4, 6, 5).double(), torch.randn(2, 7).double()
    noise = torch.randn(2, 1, 4, 6 * side, 5 * side).double()
    found = layer(x, style, noise)
    for b in range(2):
        for t in range(4):
            wanted = released(layer, x[b : b + 1, :, t], style[b : b + 1], noise[b, :, t])
            torch.testing.assert_close(found[b, :, t], wanted[0])


def test_smoothing_is_a_convolution_with_its_gradients():
    x = torch.randn(2, 3, 1, 6, 5).double().requires_grad_()
    taps = torch.tensor([1.0, 2, 1]).double()
    kernel = (taps[:, None] * taps).expand(3, 1, 3, 3)
    torch.testing.assert_close(Smooth.apply(x)[:, :, 0], F.conv2d(x[:, :, 0], kernel, groups=3))
    assert torch.autograd.gradcheck(Smooth.apply, x)
    assert torch.autograd.gradgradcheck(Smooth.apply, x)


def test_outputs_have_unit_variance_and_a_style_of_all_channels_alike_changes_nothing():
    torch.manual_seed(0)
    layer = StyledConv(64, 32, 8)
    x, style = torch.randn(2, 64, 3, 16, 16), torch.zeros(2, 8)
    before = F.leaky_relu(layer(x, style) / math.sqrt(2), 5.0)  # without the activation
    assert abs(float(before[..., 2:-2, 2:-2].var()) - 1) < 0.05
    with torch.no_grad():
        layer.style.bias.fill_(3.0)
    torch.testing.assert_close(F.leaky_relu(layer(x, style) / math.sqrt(2), 5.0), before, rtol=1e-4, atol=1e-4)


def test_noise_does_nothing_to_begin_with():
    layer, x, style = StyledConv(3, 4, 5), torch.randn(1, 3, 2, 4, 4), torch.randn(1, 5)
    assert layer(x, style, torch.randn(1, 1, 2, 4, 4)).equal(layer(x, style, torch.zeros(1, 1, 2, 4, 4)))


def test_adain_gives_each_channel_of_each_frame_its_mean_and_deviation():
    scale, shift = torch.rand(2, 3).double() + 0.5, torch.randn(2, 3).double()
    y = adapted(5 + 3 * torch.randn(2, 3, 4, 9, 8).double(), scale, shift)
    torch.testing.assert_close(y.mean(dim=(3, 4)), shift[:, :, None].expand(-1, -1, 4))
    torch.testing.assert_close(
        y.std(dim=(3, 4), correction=0), scale[:, :, None].expand(-1, -1, 4), rtol=1e-4, atol=1e-4
    )
    layer = StyledConv(3, 5, 7, up=True, adain=True)
    assert layer(torch.randn(2, 3, 4, 6, 5), torch.randn(2, 7)).shape == (2, 5, 4, 12, 10)


def test_to_rgb_is_not_demodulated():
    layer = shaken(ToRGB(4, 6))
    x, style = torch.randn(2, 4, 3, 5, 5).double(), torch.randn(2, 6).double()
    s = style_of(layer, style)
    wanted = torch.einsum("oi,bi,bithw->bothw", layer.weight[:, :, 0, 0, 0] / 2, s, x) + layer.bias[:, None, None, None]
    torch.testing.assert_close(layer(x, style), wanted)
