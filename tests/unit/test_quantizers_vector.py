"""One quantizer: learning, starting, reviving, gradients, state and errors."""

from __future__ import annotations

import copy

import pytest
import torch

from codec_lib.quantizers import VectorQuantizer
from codec_lib.quantizers.vector import LearntCodebook


def latent(batch: int = 4, dim: int = 6, frames: int = 50) -> torch.Tensor:
    return torch.randn(batch, dim, frames)


def settled(**options) -> VectorQuantizer:
    """A quantizer after a few training steps."""
    quantizer = VectorQuantizer(6, 16, **options)
    for _ in range(5):
        quantizer(latent())
    return quantizer


def test_output_shapes_types_and_values():
    quantizer = VectorQuantizer(6, 16).eval()
    out = quantizer(latent())
    assert out.z_q.shape == (4, 6, 50) and out.codes.shape == (4, 1, 50)
    assert out.codes.dtype == torch.int64 and out.losses["commitment_loss"].shape == (1,)
    assert torch.equal(out.z_q, quantizer.decode(out.codes))
    assert len(out.layers) == 1 and torch.equal(out.layers[0], out.z_q)


def test_moving_averages_by_hand():
    quantizer = VectorQuantizer(2, 2, decay=0.9, kmeans_init=False, dead_code_threshold=0)
    quantizer.codebook.copy_(torch.tensor([[0.0, 0.0], [10.0, 10.0]]))
    quantizer.cluster_size.copy_(torch.tensor([2.0, 2.0]))
    quantizer.codebook_sum.copy_(2 * quantizer.codebook)
    quantizer(torch.tensor([[[1.0, 3.0, 9.0], [1.0, 1.0, 9.0]]]))  # rows (1,1), (3,1), (9,9)
    assert torch.allclose(quantizer.cluster_size, torch.tensor([2.0, 1.9]))
    sums = torch.tensor([[0.4, 0.2], [18.9, 18.9]])
    assert torch.allclose(quantizer.codebook_sum, sums)
    assert torch.allclose(quantizer.codebook, sums / torch.tensor([[2.0], [1.9]]), rtol=1e-4)


def test_entries_approach_the_mean_of_their_rows():
    quantizer = VectorQuantizer(3, 1, decay=0.8, kmeans_init=False)
    z = latent(dim=3)
    for _ in range(60):
        quantizer(z)
    assert torch.allclose(quantizer.codebook[0], z.mean(dim=(0, 2)), atol=1e-4)


def test_kmeans_start_in_training_only_and_once():
    quantizer, z = VectorQuantizer(6, 16).eval(), latent()
    before = quantizer.codebook.clone()
    quantizer(z)
    quantizer.encode(z)
    assert torch.equal(quantizer.codebook, before) and not quantizer.initialized
    quantizer.train()
    loss = quantizer(z).losses["commitment_loss"]
    assert quantizer.initialized and not torch.equal(quantizer.codebook, before)
    assert loss < z.pow(2).mean()  # the first forward already uses the clusters
    entries = quantizer.codebook.clone()
    quantizer(latent())
    assert (quantizer.codebook - entries).abs().max() < 0.5  # averages, not a second start


def test_kmeans_start_keeps_means_through_the_first_update():
    """Sums start as mean times count: the first step does not shrink the entries."""
    correct, published = VectorQuantizer(6, 8), VectorQuantizer(6, 8, as_published=True)
    z = 5 + latent()
    lengths = {}
    for name, quantizer in {"correct": correct, "published": published}.items():
        quantizer(z)
        lengths[name] = quantizer.codebook.norm(dim=1).mean()
    assert lengths["correct"] > 10  # entries lie around (5, ..., 5), of length 12
    assert lengths["published"] < 3  # about 25 vectors per code: a mean divided by its count


def test_as_published_starts_in_eval_mode_and_encodes_zero_before():
    quantizer = VectorQuantizer(6, 16, as_published=True).eval()
    z = latent()
    assert quantizer.encode(z).eq(0).all()
    quantizer(z)
    assert quantizer.initialized and quantizer.encode(z).unique().numel() == 16


def plant_dead_codes(quantizer: VectorQuantizer, num: int = 10) -> torch.Tensor:
    """Put ``num`` entries far away, with no count to speak of."""
    far = torch.full((num, quantizer.codebook_dim), 1000.0)
    quantizer.codebook[:num] = far
    quantizer.cluster_size[:num] = 1e-3
    quantizer.codebook_sum[:num] = far * 1e-3
    return far


def test_revival_lasts():
    quantizer = settled()
    plant_dead_codes(quantizer)
    quantizer(latent())
    assert quantizer.num_revived == 10
    for _ in range(20):
        quantizer(latent())
    assert quantizer.codebook.abs().max() < 10
    assert quantizer.cluster_size.min() > 1
    assert quantizer.eval().encode(latent(64)).unique().numel() == 16


def test_published_replacement_has_no_lasting_effect():
    quantizer = settled(as_published=True)
    plant_dead_codes(quantizer)
    quantizer(latent())
    assert quantizer.num_revived >= 10
    assert (quantizer.codebook[:10] > 900).all()  # overwritten in the same step
    for _ in range(20):
        quantizer(latent())
    assert quantizer.encode(latent(64)).unique().numel() <= 6


def test_threshold_scales_with_the_batch():
    """The same shares of codes are dead whatever the number of vectors per step."""
    for frames in (50, 500):
        quantizer = VectorQuantizer(2, 4, kmeans_init=False, dead_code_threshold=0.5, decay=0.0)
        with torch.no_grad():
            quantizer.codebook.copy_(torch.tensor([[0, 0], [9, 0], [0, 9], [9, 9.0]]))
        z = torch.zeros(1, 2, frames)
        z[:, 0, : frames // 5] = 9.0  # a fifth on the second code, nothing on the last two
        quantizer(z)
        assert quantizer.num_revived == 2
        assert torch.allclose(quantizer.cluster_size[2:], torch.tensor(frames / 4))


def test_a_threshold_of_zero_never_revives():
    quantizer = settled(dead_code_threshold=0)
    plant_dead_codes(quantizer)
    for _ in range(3):
        quantizer(latent())
    assert (quantizer.codebook[:10] > 900).all()


def test_gradient_codebook_learns_from_its_loss_only():
    quantizer = VectorQuantizer(6, 16, update="gradient")
    z = latent().requires_grad_()
    out = quantizer(z)
    out.z_q.sum().backward(retain_graph=True)
    assert quantizer.codebook.grad is None  # reconstruction does not reach the entries
    out.losses["codebook_loss"].sum().backward(retain_graph=True)
    assert quantizer.codebook.grad.norm() > 0 and torch.equal(z.grad, torch.ones_like(z))
    quantizer.codebook.grad = None
    out.losses["commitment_loss"].sum().backward()
    assert quantizer.codebook.grad is None
    assert torch.allclose(out.losses["codebook_loss"], out.losses["commitment_loss"])
    assert "codebook_sum" not in quantizer.state_dict()


def test_gradient_codebook_descends():
    quantizer, z = VectorQuantizer(6, 16, update="gradient", kmeans_init=False), latent()
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        loss = quantizer(z).losses["codebook_loss"].sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_factorised_lookup_trains_its_projections():
    quantizer = VectorQuantizer(6, 16, codebook_dim=3)
    z = latent().requires_grad_()
    out = quantizer(z)
    out.z_q.pow(2).mean().backward()
    assert quantizer.codebook.shape == (16, 3)
    assert quantizer.in_proj.weight.grad.norm() > 0 and quantizer.out_proj.weight.grad.norm() > 0
    assert z.grad.norm() > 0


def test_l2_normalised_lookup_is_the_largest_cosine():
    quantizer = VectorQuantizer(6, 16, l2_normalize=True).eval()
    with torch.no_grad():
        quantizer.codebook.mul_(torch.rand(16, 1) * 10 + 0.1)  # lengths must not matter
    z = latent()
    rows = z.transpose(1, 2).reshape(-1, 6)
    cosine = torch.cosine_similarity(rows[:, None], quantizer.codebook[None], dim=-1)
    assert torch.equal(quantizer.encode(z).flatten(), cosine.argmax(1))
    assert torch.equal(
        quantizer.decode(quantizer.encode(z))[0, :, 0], quantizer.codebook[cosine.argmax(1)[0]]
    )


@pytest.mark.parametrize("estimator", ["straight_through", "rotation"])
def test_gradient_reaches_the_encoder(estimator):
    quantizer = VectorQuantizer(6, 16, estimator=estimator)
    z = latent().requires_grad_()
    quantizer(z).z_q.sum().backward()
    identity = torch.equal(z.grad, torch.ones_like(z))
    assert z.grad.norm() > 0 and identity == (estimator == "straight_through")


def test_search_runs_in_float32_under_autocast():
    quantizer, z = settled().eval(), 100 + 0.1 * latent()
    plain = quantizer.encode(z)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer.encode(z), plain)
        assert quantizer(z.bfloat16()).z_q.dtype == torch.bfloat16
        assert quantizer.decode(plain).dtype == torch.float32


def test_encode_changes_nothing():
    quantizer = settled()
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer.encode(latent())
    for name, value in quantizer.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("normalise", [False, True])
def test_the_search_follows_the_codebook_however_it_is_changed(normalise):
    quantizer, z = settled(l2_normalize=normalise).eval(), latent()
    before = quantizer.encode(z)
    quantizer.codebook.data.copy_(quantizer.codebook.flip(0))  # of which autograd counts nothing
    assert torch.equal(quantizer.encode(z), 15 - before)
    quantizer.codebook = quantizer.codebook.flip(0)
    assert torch.equal(quantizer.encode(z), before)
    quantizer.load_state_dict({"codebook": quantizer.codebook.flip(0)})
    assert torch.equal(quantizer.encode(z), 15 - before)


def test_state_resumes_to_the_same_codebook():
    quantizer = settled(dead_code_threshold=0.9)  # revives often, so that random choices matter
    steps = [latent() for _ in range(4)]
    resumed = VectorQuantizer(6, 16, dead_code_threshold=0.9)
    resumed.load_state_dict(quantizer.state_dict())
    for z in steps:
        quantizer(z)
        resumed(z)
    for name, value in quantizer.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_an_inference_file_loads_and_trains_on():
    quantizer = settled()
    slim = {"codebook": quantizer.codebook.clone()}
    loaded = VectorQuantizer(6, 16)
    loaded.load_state_dict(slim)  # strict
    assert loaded.initialized and torch.equal(loaded.codebook, quantizer.codebook)
    loaded(latent())
    assert (loaded.codebook - slim["codebook"]).abs().max() < 0.2  # neither restart nor revival
    assert loaded.num_revived == 0 and loaded.cluster_size.min() > 0


def test_an_inference_file_of_the_released_form_trains_on():
    quantizer = settled(as_published=True)
    loaded = VectorQuantizer(6, 16, as_published=True)
    loaded.load_state_dict({"codebook": quantizer.codebook.clone()})
    loaded(latent())
    assert (loaded.codebook - quantizer.codebook).abs().max() < 0.5


def test_the_start_waits_for_a_batch_that_is_finite():
    quantizer, z = VectorQuantizer(6, 16), latent()
    broken = z.clone()
    broken[0, 0, 0] = float("inf")
    quantizer(broken)
    assert not quantizer.initialized and quantizer.codebook.isfinite().all()
    quantizer(z)
    assert quantizer.initialized and quantizer.codebook.isfinite().all()
    rows = z.transpose(1, 2).reshape(-1, 6)
    assert torch.cdist(quantizer.codebook, rows).amin(1).max() < torch.cdist(rows, rows).mean()


def test_a_step_with_nan_leaves_the_codebook_alone():
    quantizer, z = settled(), latent()
    before = copy.deepcopy(quantizer.state_dict())
    z[0, 0, 0] = float("nan")
    quantizer(z)
    for name in ("codebook", "codebook_sum", "cluster_size"):
        assert torch.allclose(quantizer.state_dict()[name], before[name], rtol=1e-4), name


def test_same_seed_same_codebook():
    books = []
    for _ in range(2):
        torch.manual_seed(3)
        books.append(settled(dead_code_threshold=0.9).codebook)
    assert torch.equal(*books)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"latent_dim": 0}, "latent_dim"),
        ({"codebook_size": 0}, "codebook_size"),
        ({"codebook_dim": -1}, "codebook_dim"),
        ({"update": "adam"}, "expected one of ema, gradient"),
        ({"estimator": "gumbel"}, "straight_through, rotation"),
        ({"decay": 1.0}, "decay"),
        ({"dead_code_threshold": 2}, "as_published"),
        ({"dead_code_threshold": -1}, "dead_code_threshold"),
    ],
)
def test_wrong_arguments(options, hint):
    with pytest.raises(ValueError, match=hint):
        VectorQuantizer(**{"latent_dim": 6, "codebook_size": 16, **options})


def test_wrong_inputs():
    quantizer = VectorQuantizer(6, 16)
    with pytest.raises(ValueError, match="expected \\(B, D, F\\), D = 6"):
        quantizer(torch.zeros(2, 5, 10))
    with pytest.raises(ValueError, match="no frames"):
        quantizer(torch.zeros(2, 6, 0))
    with pytest.raises(ValueError, match="from 0 to 16, expected 0 to 15"):
        quantizer.decode(torch.tensor([[[0, 16]]]))
    with pytest.raises(TypeError, match="int64"):
        quantizer.decode(torch.zeros(1, 1, 2, dtype=torch.int32))


def test_printed_form_and_base():
    quantizer = VectorQuantizer(6, 16, codebook_dim=3)
    assert "codebook_size=16, codebook_dim=3" in repr(quantizer)
    assert isinstance(quantizer, LearntCodebook) and quantizer.is_factorised
