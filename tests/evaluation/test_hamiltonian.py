"""Transitions against the laws they must keep: f_b, reversibility, volume. Fixed seeds."""

import pyro
import pytest
import torch
from exact import MixturePrior, ProbabilisticPCA, binary_data, small_vae
from shortened import few_pilots

import pyro_vae as pv
from pyro_vae.evaluation.annealing.hamiltonian import Path, leapfrog, transition, tune


@pytest.fixture(autouse=True)
def hasten(monkeypatch):
    few_pilots(monkeypatch)


class TestTransitions:
    @pytest.mark.thorough
    def test_they_leave_f_b_as_it_is(self):
        """N(m, P^-1) with P = (1-b) Pq + b Pp and P m = (1-b) Pq mq + b Pp mp; 8192 chains that began at r_0.

        Mean and second moments within 5 standard errors (6 comparisons, 4e-6).
        """
        truth, b = ProbabilisticPCA(), 0.4
        x, vae = truth.data(1).expand(128, 5), truth.vae(widen=1.5, shift=0.7)
        q, p = vae.posterior(x[:1]), truth.posterior(x[:1])
        precision = (1 - b) * q.precision_matrix[0] + b * p.precision_matrix[0]
        covariance = torch.linalg.inv(precision)
        pull = (1 - b) * q.mean[0] @ q.precision_matrix[0] + b * p.mean[0] @ p.precision_matrix[0]
        path = Path(vae, "guide", x)
        steps = tune(path, [b], 3)
        point = path.draw(64)
        for _ in range(25):
            point, probability = transition(path, point, b, steps.size[0][:, None] * steps.width, 3)
        assert 0.6 < probability.mean() < 0.7
        z = (point.z.reshape(-1, 2) - covariance @ pull) @ torch.linalg.cholesky(precision)  # N(0, I)
        assert (z.mean(0).abs() < 5 / 8192**0.5).all()
        second = z.T @ z / 8192 - torch.eye(2)
        assert (second.abs() < 5 * torch.tensor([[2, 1], [1, 2]]).sqrt() / 8192**0.5).all()

    def test_one_transition_moves_no_moment_of_exact_draws(self):
        """Many short steps could hide what one does: 8192 exact posterior draws, one long trajectory, half refused."""
        truth = ProbabilisticPCA()
        x = truth.data(1).expand(128, 5)
        path = Path(truth.vae(), "guide", x)
        point = path.draw(64)
        moved, probability = transition(path, point, 1.0, 1.7 * truth.covariance.diagonal().sqrt(), 3)
        assert 0.2 < probability.mean() < 0.8
        root = torch.linalg.cholesky(torch.linalg.inv(truth.covariance))
        z = (moved.z.reshape(-1, 2) - truth.posterior(x[:1]).mean) @ root
        assert (z.mean(0).abs() < 5 / 8192**0.5).all()
        assert ((z.T @ z / 8192 - torch.eye(2)).abs() < 5 * torch.tensor([[2, 1], [1, 2]]).sqrt() / 8192**0.5).all()

    @pytest.fixture
    def curved(self):
        """A path that is not linear, one point on it, and a momentum."""
        path = Path(small_vae(latent_dim=2, prior=MixturePrior(2)), "guide", binary_data(1))
        return path, path.draw(1), torch.randn(1, 1, 2).double(), torch.tensor([0.7, 0.4]).double()

    def test_trajectories_are_reversible(self, curved):
        path, point, momentum, step = curved
        end, last = leapfrog(path, point, momentum, 0.6, step, 7)
        assert (end.z - point.z).abs().max() > 0.3
        back, first = leapfrog(path, end, -last, 0.6, step, 7)
        assert torch.allclose(back.z, point.z, rtol=0, atol=1e-12)
        assert torch.allclose(-first, momentum, rtol=0, atol=1e-12)

    def test_trajectories_keep_volume(self, curved):
        """The determinant of the map (z, momentum) -> (z', momentum'), by central differences."""
        path, point, momentum, step = curved
        shifts = torch.cat([torch.eye(4), -torch.eye(4)]).double() * 1e-5
        end, last = leapfrog(path, path.at(point.z + shifts[:, None, :2]), momentum + shifts[:, None, 2:], 0.6, step, 5)
        whole = torch.cat([end.z, last], -1)[:, 0]
        slope = (whole[:4] - whole[4:]) / 2e-5
        assert torch.linalg.det(slope).item() == pytest.approx(1, abs=1e-7)
        assert (slope - torch.eye(4)).abs().max() > 0.1

    def test_slopes_are_those_of_the_densities_at_the_point(self):
        """All of r_0 and p(x, z), against the members by hand and central differences."""
        vae, x = small_vae(), binary_data(4)
        for start, first in (("guide", lambda z: vae.posterior(x).log_prob(z)), ("prior", vae.prior().log_prob)):
            path = Path(vae, start, x)
            point = path.draw(2)
            with torch.no_grad():
                joint = vae.prior().log_prob(point.z) + vae.likelihood(point.z).log_prob(x)
                assert torch.allclose(point.start, first(point.z), rtol=0, atol=1e-12)
                assert torch.allclose(point.target, joint, rtol=0, atol=1e-12)
            for d in range(3):
                shift = 1e-5 * torch.eye(3).double()[d]
                up, down = path.at(point.z + shift), path.at(point.z - shift)
                slope = (up.log_density(0.3) - down.log_density(0.3)) / 2e-5
                assert torch.allclose(point.slope(0.3)[..., d], slope, rtol=0, atol=1e-8)

    def test_a_trajectory_into_numbers_that_are_none_is_refused(self):
        vae = small_vae(likelihood=pv.likelihoods.LowRankNormal).float()
        path = Path(vae, "guide", binary_data(5).float())
        point = path.draw(4)
        for size in (1e4, 1e20, 1e38):
            with pyro.validation_enabled(False):
                moved, probability = transition(path, point, 0.9, torch.tensor(size), 5)
            assert torch.equal(moved.z, point.z)
            assert not probability.any()
