import pytest
import torch

from robopolicy.core.errors import ConfigError
from robopolicy.nets.embeddings import StepEmbedding, batch_times, sinusoid


def test_sinusoid_oracle():
    # Spec 3.1: d=8, t=10, computed with the published class.
    want = [-0.5440, 0.4477, 0.0215, 0.0010, -0.8391, 0.8942, 0.9998, 1.0000]
    got = sinusoid(torch.tensor([10]), 8)[0]
    torch.testing.assert_close(got, torch.tensor(want), atol=6e-5, rtol=0)


def test_frequencies_run_from_one_to_one_ten_thousandth():
    t = torch.tensor([1.0])
    got = sinusoid(t, 256)[0]
    assert got[0] == torch.sin(t)[0]
    assert got[127].item() == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.parametrize("dim", [0, 2, 7])
def test_dims_without_two_halves_are_refused(dim):
    with pytest.raises(ConfigError, match="even number"):
        StepEmbedding(dim)


def test_times_may_be_scalar_or_one_per_row():
    device = torch.device("cpu")
    assert batch_times(3, 4, device).tolist() == [3, 3, 3, 3]
    assert batch_times(torch.tensor(3.5), 2, device).tolist() == [3.5, 3.5]
    assert batch_times(torch.tensor([1, 2]), 2, device).tolist() == [1, 2]
    with pytest.raises(ConfigError, match="one time per row"):
        batch_times(torch.tensor([1, 2]), 3, device)
