import torch

from tcertify.data.dataset import TensorDataset


def test_bytes_are_scaled_to_the_unit_interval():
    data = TensorDataset(
        name="bytes",
        num_classes=2,
        images=torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1, 1),
        labels=torch.tensor([0, 1, 1]),
    )
    assert [data[i][0].item() for i in range(3)] == [0, torch.tensor(0.2).item(), 1]
    assert [data[i][1] for i in range(3)] == [0, 1, 1]
    assert len(data) == 3
