"""How a classifier runs fastest on this machine: tune."""

from __future__ import annotations

import click

from tcertify.cli.command import Command
from tcertify.cli.options import (
    DataOptions,
    ModelOptions,
    data_options,
    gathered,
    model_options,
)
from tcertify.cli.output import emit, json_option


@click.command(cls=Command, examples=["tcertify tune digits demo/digits.safetensors 0.5"])
@click.argument("dataset")
@click.argument("model")
@click.argument("sigma", type=float)
@click.option(
    "--batch", "batch_size", type=int, help="Noisy copies per forward pass at most.  [default: any]"
)
@data_options
@model_options
@json_option
@gathered(DataOptions, "images")
@gathered(ModelOptions, "model")
def tune(
    images: DataOptions, model: ModelOptions, sigma: float, batch_size: int | None, as_json: bool
) -> None:
    """Time a classifier in each precision, layout and form.

    On the first image of DATASET, for MODEL, which is smoothed with noise of standard deviation
    SIGMA: as it is, in bfloat16 where the hardware has it, with channels last, with BatchNorm
    folded, and the fastest of these compiled. Each is shown with the rows of its fastest forward
    pass, samples per second of the network alone, and how many of 1,000 votes (fewer where these
    take long) differ from those of the classifier as it is. `certify --execution fastest` does the
    same and takes the fastest; certificates speak of the classifier as executed.
    """
    from tcertify.sampling import tune as tuned

    device, dataset = model.found_device(), images.load()
    classes = images.num_classes or dataset.num_classes
    pixels = dataset[0][0].to(device)
    tuning = tuned(model.load(device), classes, sigma, pixels, batch_size=batch_size)
    emit(
        {
            "trials": [trial.record() for trial in tuning.trials],
            "fastest": tuning.fastest.record(),
        },
        "\n".join([*tuning.lines(), f"fastest: {tuning.fastest.name}"]),
        as_json=as_json,
    )
