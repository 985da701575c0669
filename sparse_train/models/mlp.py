"""A multi-layer perceptron on flattened images."""

from collections.abc import Sequence

from torch import Tensor, nn

from sparse_train.errors import require, require_one_of

NORMS = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "none": nn.Identity}


class MLP(nn.Module):
    """Linear, normalization, ReLU for each hidden layer, then a linear classifier (Appendix E.3 has one of 64 units).

    Args:
        num_classes, in_channels, image_size: of the data set.
        hidden: units of each hidden layer.
        norm: "batch", "layer" or "none".
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: int,
        hidden: Sequence[int] = (64,),
        norm: str = "batch",
    ):
        super().__init__()
        require_one_of("norm", norm, NORMS)
        sizes = not isinstance(hidden, int) and all(isinstance(units, int) and units > 0 for units in hidden)
        require(sizes, "hidden", hidden, "must be a list of whole numbers above 0, such as [64]")
        layers: list[nn.Module] = [nn.Flatten()]
        features = in_channels * image_size**2
        for units in hidden:
            layers += [nn.Linear(features, units), NORMS[norm](units), nn.ReLU()]
            features = units
        self.layers = nn.Sequential(*layers, nn.Linear(features, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
