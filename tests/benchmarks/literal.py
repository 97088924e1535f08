"""The yardstick: the submission's way, written out apart from the package and without a thought for speed.

Eager networks, both transforms on every picture in every epoch, plain Adam, `.item()` after every loss. What the
submission leaves open (the discriminator's blocks, the step, the critic) is decided as the notebooks say.

    python tests/benchmarks/literal.py WEIGHTS.pth PICTURE RESULT

is its inference cell in a process of its own.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from pytorch_msssim import ssim
from torch import nn
from torch.utils.data import Dataset
from torchvision import transforms


def doubled(convolution, normalization, activation, c_in, c_out):
    layers = []
    for c in (c_in, c_out):
        layers += [convolution(c, c_out, 3, padding=1, bias=False), normalization(c_out), activation()]
    return nn.Sequential(*layers)


class VGGBlock(nn.Module):
    def __init__(self, c_in, c_out):
        super().__init__()
        self.conv = doubled(nn.Conv2d, nn.BatchNorm2d, lambda: nn.ReLU(inplace=True), c_in, c_out)

    def forward(self, x):
        return self.conv(x)


class UNet(nn.Module):
    def __init__(self, c=64):
        super().__init__()
        down = [1, c, 2 * c, 4 * c, 8 * c, 8 * c, 16 * c]
        for level in range(1, 7):
            setattr(self, f"encoder_block{level}", VGGBlock(down[level - 1], down[level]))
        below = 16 * c
        for level, c_out in ((5, 8 * c), (4, 4 * c), (3, 4 * c), (2, 2 * c), (1, c)):
            setattr(self, f"decoder_block{level}", VGGBlock(down[level] + below, c_out))
            below = c_out
        self.conv_last = nn.Conv2d(c, 3, 1)
        self.maxpool = nn.MaxPool2d(2, 2)
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)

    def forward(self, x):
        skips = [self.encoder_block1(x)]
        for level in range(2, 7):
            skips.append(getattr(self, f"encoder_block{level}")(self.maxpool(skips[-1])))
        x = skips.pop()
        for level in (5, 4, 3, 2, 1):
            x = getattr(self, f"decoder_block{level}")(torch.cat([self.upsample(x), skips.pop()], dim=1))
        return self.conv_last(x)


class Block(nn.Module):
    def __init__(self, convolution, c_in, c_out):
        super().__init__()
        self.block = nn.Sequential(convolution(c_in, c_out, 4, 2, 1), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))

    def forward(self, x):
        return self.block(x)


class WGANUNet(nn.Module):
    def __init__(self, c=64):
        super().__init__()
        down = [1, c, 2 * c, 4 * c, 8 * c, 16 * c]
        up = [(16 * c, 8 * c), (16 * c, 4 * c), (8 * c, 2 * c), (4 * c, c), (2 * c, 3)]
        for level in range(1, 6):
            setattr(self, f"encoder{level}", Block(nn.Conv2d, down[level - 1], down[level]))
        for level in range(1, 6):
            setattr(self, f"decoder{level}", Block(nn.ConvTranspose2d, *up[level - 1]))

    def forward(self, x):
        skips = []
        for level in range(1, 6):
            x = getattr(self, f"encoder{level}")(x)
            skips.append(x)
        x = self.decoder1(skips.pop())
        for level in range(2, 6):
            x = getattr(self, f"decoder{level}")(torch.cat([x, skips.pop()], dim=1))
        return x


class DiscriminatorBlock(nn.Module):
    def __init__(self, c_in, c_out):
        super().__init__()
        self.conv = doubled(nn.Conv2d, nn.InstanceNorm2d, lambda: nn.LeakyReLU(0.2, inplace=True), c_in, c_out)

    def forward(self, x):
        return self.conv(x)


class Discriminator(nn.Module):
    """Pools as long as a 4×4 map is left, which at the submission's 256×256 means six times."""

    def __init__(self, c=64):
        super().__init__()
        channels = [3, c, 2 * c, 4 * c, 8 * c, 16 * c, 16 * c]
        for level in range(1, 7):
            setattr(self, f"layer{level}", DiscriminatorBlock(channels[level - 1], channels[level]))
        self.final_conv = nn.Sequential(nn.Conv2d(16 * c, 1, 3, padding=1, bias=False))

    def scores(self, x):
        for level in range(1, 7):
            x = getattr(self, f"layer{level}")(x)
            if x.shape[-1] >= 8:
                x = F.max_pool2d(x, 2)
        return self.final_conv(x)

    def forward(self, x):
        return torch.sigmoid(self.scores(x))


class Critic(Discriminator):
    def forward(self, x):
        return self.scores(x).mean(dim=(1, 2, 3))


class Flowers(Dataset):
    """Opens and transforms a picture twice, whenever it is asked for."""

    def __init__(self, paths, size):
        self.paths = paths
        self.colour = transforms.Compose([transforms.Resize((size, size)), transforms.ToTensor()])
        self.gray = transforms.Compose(
            [transforms.Resize((size, size)), transforms.Grayscale(), transforms.ToTensor()],
        )

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        picture = Image.open(self.paths[index]).convert("RGB")
        return self.colour(picture), self.gray(picture)


class GAN:
    """GAN-L1: networks, optimizers, one step."""

    def __init__(self, c, device):
        self.generator, self.discriminator = UNet(c).to(device), Discriminator(c).to(device)
        adam = {"lr": 2e-4, "betas": (0.5, 0.999)}
        self.optimizer_g = torch.optim.Adam(self.generator.parameters(), **adam)
        self.optimizer_d = torch.optim.Adam(self.discriminator.parameters(), **adam)
        self.bce, self.l1, self.mse = nn.BCEWithLogitsLoss(), nn.L1Loss(), nn.MSELoss()

    def step(self, real, gray, random=None):
        fake = self.generator(gray)

        self.optimizer_d.zero_grad()
        real_scores, fake_scores = self.discriminator(real), self.discriminator(fake.detach())
        real_loss = self.bce(real_scores, torch.ones_like(real_scores))
        fake_loss = self.bce(fake_scores, torch.zeros_like(fake_scores))
        d_loss = (real_loss + fake_loss) / 2
        d_loss.backward()
        self.optimizer_d.step()

        self.optimizer_g.zero_grad()
        scores = self.discriminator(fake)
        adversarial = self.bce(scores, torch.ones_like(scores))
        reconstruction = self.l1(fake, real)
        g_loss = 0.01 * adversarial + 0.99 * reconstruction
        g_loss.backward()
        self.optimizer_g.step()
        mse = self.mse(fake, real)
        return [d_loss.item(), g_loss.item(), reconstruction.item(), adversarial.item(), mse.item()]


class WGAN:
    """WGAN: two critic updates on random pictures of their own, with gradient penalty, then the generator's."""

    def __init__(self, c, device, pictures, mini_batch, n_critic):
        self.generator, self.discriminator = WGANUNet(c).to(device), Critic(c).to(device)
        adam = {"lr": 1e-4, "betas": (0.0, 0.9)}
        self.optimizer_g = torch.optim.Adam(self.generator.parameters(), **adam)
        self.optimizer_d = torch.optim.Adam(self.discriminator.parameters(), **adam)
        self.pictures, self.mini_batch, self.n_critic, self.device = pictures, mini_batch, n_critic, device
        self.mse = nn.MSELoss()

    def penalty(self, real, fake, random):
        epsilon = torch.rand(len(real), 1, 1, 1, generator=random).to(self.device)
        mixed = (epsilon * real + (1 - epsilon) * fake).requires_grad_(True)
        scores = self.discriminator(mixed)
        ones = torch.ones_like(scores)
        gradient = torch.autograd.grad(scores, mixed, ones, create_graph=True, retain_graph=True)[0]
        return ((gradient.view(len(real), -1).norm(2, dim=1) - 1) ** 2).mean()

    def step(self, real, gray, random):
        for _ in range(self.n_critic):
            chosen = torch.randperm(len(self.pictures), generator=random)[: self.mini_batch]
            some_real, some_gray = (x.to(self.device) for x in self.pictures[chosen.numpy()])
            self.optimizer_d.zero_grad()
            some_fake = self.generator(some_gray)
            real_scores, fake_scores = self.discriminator(some_real), self.discriminator(some_fake.detach())
            penalty = self.penalty(some_real, some_fake.detach(), random)
            d_loss = fake_scores.mean() - real_scores.mean() + 10 * penalty
            d_loss.backward()
            self.optimizer_d.step()

        self.optimizer_g.zero_grad()
        fake = self.generator(gray)
        adversarial = -self.discriminator(fake).mean()
        reconstruction = self.mse(fake, real)
        g_loss = 0.05 * adversarial + 0.95 * reconstruction
        g_loss.backward()
        self.optimizer_g.step()
        return [d_loss.item(), g_loss.item(), reconstruction.item(), adversarial.item(), reconstruction.item()]


def validate(generator, loader, device):
    generator.eval()
    totals = [0.0, 0.0, 0.0, 0.0]
    with torch.no_grad():
        for real, gray in loader:
            real, gray = real.to(device), gray.to(device)
            fake = generator(gray)
            mse = F.mse_loss(fake, real)
            totals[0] += mse.item()
            totals[1] += (10 * torch.log10(1 / mse)).item()
            totals[2] += ssim(fake, real, data_range=1.0).item()
            totals[3] += F.l1_loss(fake, real).item()
    generator.train()
    return [total / len(loader) for total in totals]


def lab(colour):
    linear = torch.where(colour <= 0.04045, colour / 12.92, ((colour.clamp(min=0) + 0.055) / 1.055) ** 2.4)
    to_xyz = colour.new_tensor(
        [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
    )
    xyz = torch.einsum("bchw,xc->bxhw", linear, to_xyz) / colour.new_tensor([0.95047, 1.0, 1.08883])[:, None, None]
    f = torch.where(xyz > (6 / 29) ** 3, xyz.clamp(min=1e-12) ** (1 / 3), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f.unbind(dim=1)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def ciede2000(fake, real):
    """Equation by equation, hues as angles, in float64."""
    (l1, a1, b1), (l2, a2, b2) = lab(fake.double()), lab(real.double())
    saturation = lambda c: (c**7 / (c**7 + 25.0**7)).sqrt()  # noqa: E731
    g = 0.5 * (1 - saturation(0.5 * (torch.hypot(a1, b1) + torch.hypot(a2, b2))))
    a1, a2 = (1 + g) * a1, (1 + g) * a2
    c1, c2 = torch.hypot(a1, b1), torch.hypot(a2, b2)
    h1, h2 = torch.atan2(b1, a1) % (2 * torch.pi), torch.atan2(b2, a2) % (2 * torch.pi)
    gray = c1 * c2 == 0
    turn = h2 - h1
    turn = torch.where(turn > torch.pi, turn - 2 * torch.pi, turn)
    turn = torch.where(turn < -torch.pi, turn + 2 * torch.pi, turn)
    dh = 2 * (c1 * c2).sqrt() * torch.sin(torch.where(gray, torch.zeros_like(turn), turn) / 2)
    mean_l, mean_c, mean_h = 0.5 * (l1 + l2), 0.5 * (c1 + c2), 0.5 * (h1 + h2)
    far = (h1 - h2).abs() > torch.pi
    mean_h = torch.where(far, torch.where(h1 + h2 < 2 * torch.pi, mean_h + torch.pi, mean_h - torch.pi), mean_h)
    mean_h = torch.where(gray, h1 + h2, mean_h)
    degree = torch.pi / 180
    t = 1 - 0.17 * torch.cos(mean_h - 30 * degree) + 0.24 * torch.cos(2 * mean_h)
    t = t + 0.32 * torch.cos(3 * mean_h + 6 * degree) - 0.20 * torch.cos(4 * mean_h - 63 * degree)
    rotation = 30 * degree * torch.exp(-(((mean_h / degree - 275) / 25) ** 2))
    dl = (l2 - l1) / (1 + 0.015 * (mean_l - 50) ** 2 / (20 + (mean_l - 50) ** 2).sqrt())
    dc, dh = (c2 - c1) / (1 + 0.045 * mean_c), dh / (1 + 0.015 * mean_c * t)
    squared = dl**2 + dc**2 + dh**2 - 2 * saturation(mean_c) * torch.sin(2 * rotation) * dc * dh
    return squared.clamp(min=0).sqrt().mean(dim=(1, 2))


def colourfulness(colour):
    r, g, b = (255 * colour).flatten(2).unbind(dim=1)
    red_green, yellow_blue = r - g, 0.5 * (r + g) - b
    spread = (red_green.var(dim=1, correction=0) + yellow_blue.var(dim=1, correction=0)).sqrt()
    return spread + 0.3 * (red_green.mean(dim=1) ** 2 + yellow_blue.mean(dim=1) ** 2).sqrt()


@torch.no_grad()
def scoreboard(predictors, batches):
    """Every metric of every predictor, a whole batch at a time; the means over pictures, a dictionary each."""
    totals = {name: {} for name in predictors}
    pictures, original = 0, 0.0
    for real, gray in batches:
        pictures += len(real)
        original += colourfulness(real).sum().item()
        for name, predict in predictors.items():
            fake = predict(gray).clamp(0, 1)
            mse = (fake - real).square().mean(dim=(1, 2, 3))
            numbers = {
                "psnr": -10 * mse.clamp(min=1e-10).log10(),
                "ssim": ssim(fake, real, data_range=1.0, size_average=False),
                "mae": (fake - real).abs().mean(dim=(1, 2, 3)),
                "mse": mse,
                "ciede2000": ciede2000(fake, real),
                "colourfulness_ratio": colourfulness(fake),
            }
            for metric, values in numbers.items():
                totals[name][metric] = totals[name].get(metric, 0.0) + values.sum().item()
    shares = {"colourfulness_ratio": original}
    return [
        {metric: total / shares.get(metric, pictures) for metric, total in totals[name].items()} for name in predictors
    ]


def cell(generator, path, size=256):
    """The submission's last block: a square of `size` pixels, whatever the picture was."""
    transform = transforms.Compose([transforms.Resize((size, size)), transforms.Grayscale(), transforms.ToTensor()])
    gray = transform(Image.open(path)).unsqueeze(0)
    generator.eval()
    with torch.no_grad():
        colour = generator(gray)
    return transforms.ToPILImage()(colour.squeeze(0).clamp(0, 1))


if __name__ == "__main__":
    weights, picture, result = (Path(argument) for argument in sys.argv[1:])
    network = UNet()
    network.load_state_dict(torch.load(weights, map_location="cpu"))
    cell(network, picture).save(result)
