"""Networks of timm."""

import re

import timm
from torch import nn

from sparse_train.errors import ConfigError, closest, first_line, require


def timm_model(
    num_classes: int,
    in_channels: int,
    name: str = "resnet50",
    zero_init_last: bool = False,
    image_size: int | None = None,
    pretrained: bool = False,
) -> nn.Module:
    """One of timm's classifiers.

    timm's own function also takes weights from a file or a URL; none of its arguments passes but those named here.
    timm's ResNet50 strides in the 3x3 convolution, as in the paper's reading.

    Args:
        num_classes, in_channels: of the data set.
        name: as timm has it, such as "vgg11_bn".
        zero_init_last: start the last normalization of each block at 0. Only residual networks can; others take false.
        image_size: of the data set, for networks that are built for one size, such as vision transformers; else unused.
        pretrained: with the weights that timm has under this name, whose tag (`name.tag`) says which; downloaded unless
            Hugging Face's cache has them. The classifier is new where the data set has other classes than they have.
    """
    plain = isinstance(name, str) and re.fullmatch(r"\w+(\.\w+)?", name) is not None
    if not plain or not timm.is_model(name):
        raise ConfigError("name", name, f"timm has no such model{closest(name, timm.list_models())}")
    require(isinstance(zero_init_last, bool), "zero_init_last", zero_init_last, "must be true or false")
    trained = isinstance(pretrained, bool) and (pretrained or "." not in name)
    right = f"must be true or false; true where the name has a tag, as {name} has, which says which weights"
    require(trained, "pretrained", pretrained, right)
    known = not pretrained or timm.is_model_pretrained(name)
    require(known, "pretrained", pretrained, f"timm has no weights of {name}; false trains from scratch")
    sized = image_size is None or (type(image_size) is int and 1 <= image_size <= 10_000)
    require(sized, "image_size", image_size, "must be a whole number from 1 to 10,000, or null")
    options = {"zero_init_last": zero_init_last} | ({} if image_size is None else {"img_size": image_size})
    while True:  # timm's networks differ in what they take, and say it by refusing
        try:
            sizes = {"num_classes": num_classes, "in_chans": in_channels}
            return timm.create_model(name, pretrained=pretrained, **sizes, **options)
        except (OSError, RuntimeError) as error:
            if not pretrained:
                raise
            right = f"the weights of {name} cannot be loaded or downloaded ({first_line(error)}); see model.weights"
            raise ConfigError("pretrained", pretrained, right) from error
        except TypeError as error:
            refused = re.search(r"unexpected keyword argument(?:\(s\): \[)? ?'(\w+)'", str(error))
            if refused is None or refused[1] not in options:
                raise
            asked = options.pop(refused[1])
            require(asked is not True, "zero_init_last", True, f"timm's {name} has none: leave it false")
