"""Single steps of small networks, and whether two networks are the same."""

import torch
import torch.nn.functional as F


def gradients(model, batch):
    """Those of the loss on a batch of images and labels, anew; returns the loss."""
    model.zero_grad()
    loss = F.cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    return loss


def take_step(model, optimizer, batch):
    """One step on a batch of images and labels; returns the loss before it."""
    loss = gradients(model, batch)
    optimizer.step()
    return loss.item()


def train(model, optimizer, batch, steps):
    """These steps, each on its own batch."""
    for step in steps:
        take_step(model, optimizer, batch(step))


def same(first, second):
    """Whether two sequences of tensors are the same to the bit."""
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def same_parameters(first, second):
    """Whether two models have the same parameters to the bit."""
    return same(first.parameters(), second.parameters())
