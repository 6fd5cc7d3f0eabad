"""Two fused ops inside an ordinary PyTorch video GAN: one WGAN-GP critic step and one generator step."""

import torch
from torch import nn

from vgen_fast import ops


def taps(channels_in: int, channels_out: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(channels_out, channels_in, 3, 3, 3) / (27 * channels_in) ** 0.5)


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.start, self.style = nn.Parameter(torch.randn(16, 2, 4, 4)), nn.Linear(8, 16)
        self.w_up, self.w_rgb = taps(16, 16), taps(16, 3)

    def forward(self, z):  # [B, 8] -> [B, 3, 4, 8, 8]
        x = self.start.expand(len(z), -1, -1, -1, -1)
        x = ops.modulated_conv3d(x, self.w_up, 1 + self.style(z), up=2, slope=0.2)
        return ops.modulated_conv3d(x, self.w_rgb).tanh()


class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w_rgb, self.w_down, self.score = taps(3, 16), taps(16, 16), nn.Linear(17, 1)

    def forward(self, x):  # [B, 3, 4, 8, 8] -> [B, 1]
        x = ops.modulated_conv3d(x, self.w_rgb, slope=0.2)
        x = ops.modulated_conv3d(x, self.w_down, down=2, slope=0.2)
        return self.score(ops.minibatch_stddev(x).mean(dim=(2, 3, 4)))


torch.manual_seed(0)
generator, critic = Generator(), Critic()
optimizer_g, optimizer_c = (torch.optim.Adam(m.parameters(), 1e-3, betas=(0.0, 0.99)) for m in (generator, critic))
real, z = torch.rand(4, 3, 4, 8, 8) * 2 - 1, torch.randn(4, 8)

fake = generator(z).detach()
between = real.lerp(fake, torch.rand(4, 1, 1, 1, 1)).requires_grad_()
with ops.no_weight_gradients():  # the penalty wants the clip's gradient alone
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
loss_c = critic(fake).mean() - critic(real).mean() + 10 * penalty
loss_c.backward()
optimizer_c.step()

loss_g = -critic(generator(z)).mean()
loss_g.backward()
optimizer_g.step()
print(f"critic loss {loss_c.item():.4f}, generator loss {loss_g.item():.4f}")
