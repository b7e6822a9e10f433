"""BatchNorm folded into the convolutions before it: one pass over memory less."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

_CONVOLUTIONS = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class _Pair(NamedTuple):
    """The names of a convolution's module and of the BatchNorm that alone reads it, and whether
    the convolution adds a bias.
    """

    convolution: str
    norm: str
    biased: bool


class _Tracer(fx.Tracer):
    """Looks into convolutions, so that what inherits from them is seen as what it computes."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return super().is_leaf_module(m, module_qualified_name) and not isinstance(
            m, nn.modules.conv._ConvNd
        )


def folded(module: nn.Module) -> nn.Module:
    """Return a copy, in eval mode, with each BatchNorm that follows a convolution folded into it.

    The copy is still the module's own class: its forward pass runs as it did, over other weights,
    and what was a BatchNorm passes on what it is given. Logits differ by float rounding.

    Raises
    ------
    ValueError
        ``torch.fx`` cannot trace the module, or there is nothing to fold.
    """
    result = copy.deepcopy(module).eval()
    pairs = [*_pairs(result)]
    if not pairs:
        raise ValueError(
            f"`fold` found no BatchNorm in {type(module).__name__} that follows a convolution."
        )
    for pair in pairs:
        _fold(result, pair)
    if unheard := {pair.convolution for pair in pairs} - {*_heard(result)}:
        raise ValueError(
            f"`fold` cannot fold into `{min(unheard)}`: its forward pass does not read what was"
            " replaced."
        )
    return result


def _trace(module: nn.Module) -> fx.Graph:
    try:
        return _Tracer().trace(module)
    except Exception as error:  # whatever the user's forward pass does with a proxy
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"`fold` needs a network that torch.fx can trace, and {type(module).__name__} is none:"
            f" {reason}"
        ) from None


def _convolutions(graph: fx.Graph) -> Iterator[fx.Node]:
    """Yield the convolutions whose weight is a parameter as it stands, read there alone."""
    read = Counter(node.target for node in graph.nodes if node.op == "get_attr")
    for node in graph.nodes:
        if node.op == "call_function" and node.target in _CONVOLUTIONS:
            weight: Any = node.args[1] if len(node.args) > 1 else None
            if _is_parameter(weight) and read[weight.target] == len(weight.users) == 1:
                yield node


def _bias(node: fx.Node) -> Any:
    return node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")


def _is_parameter(value: Any) -> bool:
    return isinstance(value, fx.Node) and value.op == "get_attr"


def _pairs(module: nn.Module) -> Iterator[_Pair]:
    graph, modules = _trace(module), dict(module.named_modules())
    called = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in _convolutions(graph):
        (weight, bias), users = (node.args[1], _bias(node)), [*node.users]
        owner, _, name = str(weight.target).rpartition(".")  # type: ignore[union-attr]
        own = bias is None or (_is_parameter(bias) and bias.target == f"{owner}.bias")
        if name != "weight" or not own or len(users) != 1 or users[0].op != "call_module":
            continue
        norm = str(users[0].target)
        if called[norm] == 1 and _is_plain(modules[norm]):
            yield _Pair(owner, norm, bias is not None)


def _heard(module: nn.Module) -> Iterator[str]:
    """Yield the convolutions that do add a bias, and whose BatchNorm is gone."""
    for node in _convolutions(graph := _trace(module)):
        (reader,) = node.users or [graph.output_node()]
        gone = reader.op == "call_module" and isinstance(
            module.get_submodule(str(reader.target)), nn.Identity
        )
        if gone and _is_parameter(_bias(node)):
            yield str(node.args[1].target).rpartition(".")[0]  # type: ignore[union-attr]


def _is_plain(norm: nn.Module) -> bool:
    """Whether a module is a BatchNorm that scales and shifts by its own statistics, and no more."""
    hooks = norm._forward_hooks or norm._forward_pre_hooks
    return type(norm) in _NORMS and norm.running_mean is not None and not hooks


def _fold(module: nn.Module, pair: _Pair) -> None:
    convolution: Any = module.get_submodule(pair.convolution)
    norm: Any = module.get_submodule(pair.norm)
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias if pair.biased else None,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    module.set_submodule(pair.norm, nn.Identity())
