"""Losses and gradients of three methods for average velocities in PyTorch, for training's tests.

    python scripts/golden/training/flowmaps.py      writes training/testdata/{soflow,alphaflow,imf}.safetensors

SoFlow (Luo et al. 2025, arXiv 2512.15657), α-Flow (Zhang et al. 2025, arXiv 2510.20771, eq. 8) and improved MeanFlow (Geng et al. 2025,
arXiv 2512.02012, algorithm 1), written out from their formulas in float64, so that differences are differences of formulas and not of
rounding. SoFlow's loss is written for the solution function f and checked against the gradient that its authors' program computes
without the loss; the program under test computes it from average velocities.
"""
import os
import sys

import torch

ROOT = os.path.abspath(__file__).partition("/scripts/golden/")[0]
sys.path += [os.path.join(ROOT, "scripts", "golden", "training"), os.path.join(ROOT, "scripts", "golden", "models", "mlp")]
import ctm  # noqa: E402
from ctm import MLP, batch, col, gradients, weights, write  # noqa: E402
from mlp import MLP as Conditional  # noqa: E402

torch.set_default_dtype(torch.float64)
ctm.SEED = 20261129


def start(offset, *nets):
    torch.manual_seed(ctm.SEED + offset)
    return [make() for make in nets]


def average(net):
    return lambda y, r, tau: net(y, tau, r)


def points(x, z, tau):
    return (1 - col(tau)) * x + col(tau) * z, z - x


def soflow():
    (net,), out = start(0, lambda: MLP(True)), {}
    weights(out, "model", net)
    x, z = batch(out)
    u = average(net)
    end, mid, tau = torch.tensor([0, 0.2, 0.5, 0.6]), torch.tensor([0.5, 0.75, 0.5, 0.6]), torch.tensor([0.9, 0.8, 0.8, 0.6])
    out |= {"end": end, "mid": mid, "tau": tau}  # the third step goes all the way; the fourth sample is one of flow matching
    y, v = points(x, z, tau)

    def f(y, t, s):
        return y - col(t - s) * u(y, s, t)

    for case, p, c in (("cifar", 0.75, 1e-3), ("imagenet", 1.0, 1e-2)):
        jump, velocity = slice(0, 3), slice(3, 4)
        a, t, l, s = y[jump], tau[jump], mid[jump], end[jump]
        with torch.no_grad():
            next_f = f(a + v[jump] * col(l - t), l, s)
        got = f(a, t, s)
        quotient = ((got - next_f) / col(t - l)).detach()
        w = 1 / (quotient.square().mean(1) + c) ** p
        losses = 0.5 * (got - next_f).square().mean(1) / ((t - l) * (t - s)) * w
        # The authors' program: sign(b)·mean(NN·δ·w) has the gradient of their loss, with b = s - t.
        theirs = (-(u(a, s, t) * quotient).mean(1) * w).sum()
        for g, h in zip(torch.autograd.grad(losses.sum(), net.parameters(), retain_graph=True),
                        torch.autograd.grad(theirs, net.parameters(), retain_graph=True)):
            # f = y - (t-s)·NN, and b/|b| is -1 where NN predicts a velocity of f(x, t, s) = x + (s-t)·NN
            assert (g - h).abs().max() < 1e-12 * (1 + h.abs().max()), "not the published gradient"
        d = u(y[velocity], tau[velocity], tau[velocity]) - v[velocity]
        square = d.square().mean(1)
        flow = square / (square.detach() + c) ** p
        gradients(out, case, torch.cat([losses, flow]).mean(), net)
    write("soflow", out)


def alphaflow():
    (net,), out = start(1, lambda: MLP(True)), {}
    weights(out, "model", net)
    x, z = batch(out)
    u = average(net)
    r, tau = torch.tensor([0, 0.2, 0.5, 0.7]), torch.tensor([0.9, 0.2, 0.8, 0.75])
    out |= {"r": r, "tau": tau}
    y, v = points(x, z, tau)
    differ = r < tau
    for case, alpha, p, c, shortcut in (("third", 0.3, 0.75, 1e-3, False), ("small", 0.01, 1.0, 1e-2, False), ("one", 1.0, 0.5, 1e-3, False),
                                        ("shortcut", 0.5, 0.75, 1e-3, True)):
        part = torch.where(differ, alpha, 1.0)
        with torch.no_grad():
            s = part * r + (1 - part) * tau
            velocity = torch.where(col(differ), u(y, s, tau), v) if shortcut else v
            below = y - col(tau - s) * velocity
            target = col(part) * velocity + (1 - col(part)) * u(below, r, s)
        square = (u(y, r, tau) - target).square().sum(1)
        gradients(out, case, (square / part / (square.detach() / part**2 + c) ** p).mean(), net)
    # Shortcut models' own loss, of the samples with two times: half of that at α = 1/2 without adaptive weights.
    y, r, tau = y[differ], r[differ], tau[differ]
    with torch.no_grad():
        half = (r + tau) / 2
        first = u(y, half, tau)
        second = u(y - col(tau - half) * first, r, half)
    gradients(out, "frans", (u(y, r, tau) - first / 2 - second / 2).square().sum(1).mean(), net)
    write("alphaflow", out)


CLASSES, NULL = 2, 2


def imf():
    (net, head), out = start(2, lambda: MLP(True), lambda: MLP(True)), {}
    guided = Conditional(shape=[2], width=8, depth=2, classes=CLASSES, until=True, guidance=True)
    weights(out, "model", net)
    weights(out, "head", head)
    weights(out, "guided", guided)
    x, z = batch(out)
    r, tau = torch.tensor([0, 0.2, 0.5, 0.7]), torch.tensor([0.9, 0.2, 0.8, 0.75])
    label, omega = torch.tensor([1, 0, NULL, 1]), torch.tensor([1.0, 4.0, 2.5, 7.0])
    out |= {"r": r, "tau": tau, "label": label, "omega": omega}
    y, v = points(x, z, tau)
    h = tau - r

    def weighted(d, p, c):
        square = d.square().sum(1)
        return square / (square.detach() + c) ** p

    def compound(u, direction):
        got, du = torch.func.jvp(u, (y, r, tau), (direction, torch.zeros(4), torch.ones(4)))
        return got + col(h) * du.detach()

    p, c = 0.75, 0.01
    u = average(net)
    gradients(out, "boundary", weighted(compound(u, u(y, tau, tau).detach()) - v, p, c).mean(), net)
    predicted = average(head)(y, tau, tau)
    gradients(out, "headed", (weighted(compound(u, predicted.detach()) - v, p, c) + weighted(predicted - v, p, c)).mean(), net)
    gradients(out, "of head", (weighted(compound(u, predicted.detach()) - v, p, c) + weighted(predicted - v, p, c)).mean(), head)

    def conditional(y, r, tau, label=label, omega=omega):
        return guided(y, tau, r, omega, label)

    with torch.no_grad():
        v_c = conditional(y, tau, tau)
        v_u = conditional(y, tau, tau, torch.full((4,), NULL), torch.ones(4))
        v_g = v + col(1 - 1 / omega) * (v_c - v_u)
        v_g = torch.where(col(label == NULL), v, v_g)
    gradients(out, "guided", weighted(compound(conditional, v_c) - v_g, p, c).mean(), guided)
    write("imf", out)


if __name__ == "__main__":
    soflow()
    alphaflow()
    imf()
