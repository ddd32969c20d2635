"""What X explains: smoothing, noise scales, class probabilities, heavy tails."""

import numpy as np
import pandas as pd
import pytest
from marks import slowly
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import binom

from codec import codec_test
from codec._kernel_ridge import ALIKE, BANDWIDTHS, NARROW, PENALTIES, UNDERSMOOTHING, Smoother, logistic_ridge
from codec._residuals import SCALE_LIMIT, Residuals, embed
from codec._validation import read_table


@pytest.mark.parametrize("n", [150, 1500])
def test_smoother_finds_one_direction_in_many(n):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 8))
    signal = np.sin(1.5 * x @ np.full(8, 8**-0.5))
    residuals = Residuals(Smoother(embed(read_table(x, "given")), rng), (signal + 0.2 * rng.normal(size=n))[None, :])
    assert np.corrcoef(residuals.location[0], signal)[0, 1] > (0.85 if n == 150 else 0.98)
    again = residuals.of((residuals.location + residuals.scale * residuals.standard)[:, None, :])[:, 0]
    assert np.allclose(again, residuals.standard, atol=1e-8)


def shared_sum(d, n, seed):
    """X of d columns, and two columns with the same sum of one function of each of them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    signal = np.sin(1.5 * x).sum(axis=1)
    signal /= signal.std()
    return x, signal, signal + 0.1**0.5 * rng.normal(size=(2, n))


def smoother_of(x):
    return Smoother(embed(read_table(x, "given")), np.random.default_rng(0))


@pytest.mark.parametrize(("d", "n"), [(4, 200), (10, 200), (20, 500), (10, 2000)])
def test_a_sum_of_functions_of_one_column_each_is_followed(d, n, global_random_seed):
    """Correlation with what there is; without kernels on single columns .93 of ten and .85 of twenty columns on average."""
    x, signal, columns = shared_sum(d, n, global_random_seed)
    fit = smoother_of(x).fit(columns)
    found = fit.smooth(columns[:, None, :])[0, 0]
    assert np.corrcoef(found, signal)[0, 1] > 0.92
    assert all(len(choice.kernel.turns) >= d for choice in fit.chosen)


@pytest.mark.parametrize(("d", "n"), [(3, 200), (20, 200), (4, 79)])
def test_few_columns_and_few_rows_have_no_kernels_on_all_columns(d, n):
    x, _, columns = shared_sum(d, n, 0)
    assert all(len(choice.kernel.turns) < d for choice in smoother_of(x).fit(columns, turning=False).chosen)


@pytest.mark.filterwarnings("ignore:y and z look like the same strong function")
def test_a_shared_sum_of_functions_is_no_evidence():
    """.8 of samples were rejected at .05 without kernels on single columns."""
    rejected = 0
    for seed in range(30):
        x, _, (y, z) = shared_sum(10, 200, seed)
        rejected += codec_test(y, z, x, n_resamples=99, rng=seed).pvalue <= 0.05
    assert rejected <= binom.ppf(0.999, 30, 0.1)


def kernel_matrix(x, landmarks, width):
    """Of the rows of one column of X by way of the landmarks (Nystroem)."""
    between = (landmarks - landmarks.T) ** 2
    bandwidth = width * np.median(between[np.triu_indices(len(landmarks), 1)])
    gram = np.exp(-between / bandwidth) + 1e-6 * np.sqrt(len(landmarks)) * np.eye(len(landmarks))
    near = np.exp(-((x - landmarks.T) ** 2) / bandwidth)
    return near @ np.linalg.solve(gram, near.T)


def hat_matrix(kernel, penalty):
    """Ridge regression on a kernel, centred: the matrix of the fit of n rows."""
    n = len(kernel)
    centre = np.eye(n) - 1.0 / n
    kernel = centre @ kernel @ centre
    return np.linalg.solve(kernel + penalty * np.eye(n), kernel) + 1.0 / n


def best_penalty(kernel, column):
    """The least generalized cross-validation score, its penalty, the kernel, and how residuals of rows in a row correlate."""
    n, found = len(column), []
    for penalty in PENALTIES:
        hat = hat_matrix(kernel, penalty)
        left = column - hat @ column
        alike = sum(left[:-1] * left[1:]) / sum(left**2) * n**0.5
        found.append((left @ left / n / (1.0 - np.trace(hat) / n) ** 2, penalty, kernel, alike))
    return min(found, key=lambda choice: choice[0])


def best_hat_matrix(x, landmarks, column, undersmoothing):
    """Width and penalty of least score, a narrow kernel beside it where residuals are alike: the matrix, and the score."""
    wide = [best_penalty(kernel_matrix(x, landmarks, width) + x @ x.T, column) for width in BANDWIDTHS]
    best = min(wide, key=lambda choice: choice[0])
    if best[3] >= ALIKE:
        every_other = np.sort(x, axis=0)[np.linspace(0, len(x) - 1, len(x) // 2).round().astype(int)]
        both = [best_penalty(best[2] + kernel_matrix(x, every_other, width), column) for width in NARROW]
        best = min([best, *both], key=lambda choice: choice[0])
    return hat_matrix(best[2], undersmoothing * best[1]), best[0]


def smoothing_problem(seed):
    """One column of X, two columns on it whose noise grows with X, the smoother and its landmarks."""
    rng = np.random.default_rng(seed)
    x = np.sort(rng.normal(size=(60, 1)), axis=0)
    x = (x - x.mean()) / x.std()
    e = np.exp(0.7 * x[:, 0]) * rng.normal(size=(2, 60))
    columns = np.stack([np.sin(3.0 * x[:, 0]) + 0.3 * e[0], x[:, 0] + e[1]])
    landmarks = x[np.random.default_rng(0).permutation(60)[:30]]
    return x, columns, Smoother(x, np.random.default_rng(0)), landmarks


@pytest.mark.parametrize("undersmoothing", [1.0, 0.2])
def test_smoother_is_the_ridge_of_least_generalized_cross_validation(undersmoothing, global_random_seed):
    x, columns, smoother, landmarks = smoothing_problem(global_random_seed)
    fit = smoother.fit(columns, undersmoothing=undersmoothing)
    smooth = fit.smooth(columns[:, None, :])[:, 0]
    for column, choice, found in zip(columns, fit.choices, smooth, strict=True):
        hat, score = best_hat_matrix(x, landmarks, column, undersmoothing)
        assert choice.score == pytest.approx(score, rel=1e-4)
        assert np.allclose(found, hat @ column, rtol=0.0, atol=5e-3)  # the least eigenvalues are left out


@pytest.mark.parametrize("others", [0, 1, 3])
@pytest.mark.parametrize("cycles", [5, 10, 14])
def test_a_season_is_followed_and_noise_is_not(cycles, others, global_random_seed):
    """Of a sine that turns so often over one of the columns, and of nothing but noise, one smoother's fits; 120 rows."""
    rng = np.random.default_rng(global_random_seed)
    time = np.arange(120.0)
    season = np.sin(2.0 * np.pi * cycles * time / 120.0)
    columns = np.stack([season + 0.3 * rng.normal(size=120), rng.normal(size=120)])
    x = np.column_stack([time, rng.normal(size=(120, others))])
    fit = Smoother(embed(read_table(x, "given")), rng).fit(columns)
    location = fit.smooth(columns[:, None, :])[:, 0]
    assert np.corrcoef(location[0], season)[0, 1] > 0.9
    assert location[1].std() < 0.7 * columns[1].std()


@pytest.mark.parametrize("others", [0, slowly(1)])
def test_a_shared_season_is_no_evidence(others):
    """y and z are the same ten years of months plus noise: at most 11 of 50 p-values at .05; more has chance once in 200,000.

    Without kernels on single columns it is 30 beside the time alone, and 47 beside another column.
    """
    time = np.arange(120)
    season = np.sin(2.0 * np.pi * time / 12.0)
    rejected = 0
    for i in range(50):
        rng = np.random.default_rng(i)
        y, z = season + rng.normal(size=(2, 120))
        x = np.column_stack([time, rng.normal(size=(120, others))])
        rejected += codec_test(y, z, x, n_resamples=99, rng=i).pvalue <= 0.05
    assert rejected <= 11


def test_copies_are_divided_by_noise_scales_of_their_own(global_random_seed):
    x, columns, smoother, landmarks = smoothing_problem(global_random_seed)
    rng = np.random.default_rng(global_random_seed)
    copies = np.exp(-0.7 * x[:, 0]) * rng.normal(size=(2, 3, 60))  # noise that falls with X
    found = Residuals(smoother, columns).of(copies)
    for column, rows, standard in zip(columns, copies, found, strict=True):
        location = best_hat_matrix(x, landmarks, column, UNDERSMOOTHING)[0]
        scale = best_hat_matrix(x, landmarks, np.sqrt(np.abs(column - location @ column)), 1.0)[0]
        left = rows - rows @ location.T
        roots = np.sqrt(np.abs(left)) @ scale.T
        roots /= roots.mean(axis=1, keepdims=True)
        expected = left / np.clip(roots**2, 1.0 / SCALE_LIMIT, SCALE_LIMIT)
        assert np.allclose(standard, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("noise", ["normal", "t3", "uniform"])
def test_noise_scale_is_found_whatever_the_unit(noise):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1500, 2))
    log_scale = 0.8 * np.sin(1.5 * x[:, 0])
    draws = {"normal": rng.normal(size=1500), "t3": rng.standard_t(3, 1500), "uniform": rng.uniform(-1, 1, 1500)}
    column = np.tanh(x[:, 1]) + 0.5 * np.exp(log_scale) * draws[noise]
    smoother = Smoother(embed(read_table(x, "given")), rng)
    found = Residuals(smoother.branch(), column[None, :])
    error = np.log(found.scale[0]) - log_scale
    assert np.std(error) < 0.2  # 0.57 of a constant scale
    large = Residuals(smoother.branch(), 1e9 * column[None, :])
    assert np.allclose(large.scale, found.scale, rtol=1e-6)
    assert np.allclose(large.standard, 1e9 * found.standard, rtol=1e-6, atol=1.0)


@pytest.mark.parametrize("case", ["smooth", "rare", "separable"])
def test_logistic_ridge_minimises_its_loss(case, monkeypatch):
    """scipy's BFGS finds no better weights for one factor; a separable class does not diverge."""
    rng = np.random.default_rng(0)
    functions = np.linalg.qr(rng.normal(size=(300, 6)))[0]
    penalty = np.geomspace(0.01, 1.0, 6)
    logits = {"smooth": 20.0, "rare": 40.0, "separable": 1000.0}[case] * functions[:, 0] - 3.0 * (case == "rare")
    member = rng.random(300) < expit(logits)
    monkeypatch.setattr("codec._kernel_ridge.PENALTY_FACTORS", ((1.0,),))
    design = np.column_stack([functions, np.full(300, 300**-0.5)])

    def loss(w):
        return np.logaddexp(0.0, np.where(member, -1.0, 1.0) * (design @ w)).sum() + 0.5 * penalty @ w[:6] ** 2

    best = minimize(loss, np.zeros(7), options={"gtol": 1e-6}).x
    chance = logistic_ridge(functions, penalty, member)
    assert np.allclose(chance, np.clip(expit(design @ best), 0.5 / 300, 1.0 - 0.5 / 300), atol=0.01)


def test_probabilities_of_a_rare_class_are_calibrated():
    """In tenths by fitted probability as many members as the probabilities say."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20_000, 2))
    chance = expit(3.0 * x[:, 0] - 5.0)
    y = (rng.random(20_000) < chance).astype(float)
    columns = embed(read_table(y, "given")).T.copy()
    fit = Smoother(embed(read_table(x, "given")), rng).fit(columns, undersmoothing=1.0)
    fitted = fit.chances(0, y == 1.0)
    for rows in np.array_split(np.argsort(fitted), 10):
        spread = 4.0 * np.sqrt(fitted[rows].sum()) + 2.0
        assert abs(fitted[rows].sum() - y[rows].sum()) < spread + 0.2 * y[rows].sum()
    assert np.mean((fitted - chance) ** 2) < 0.1 * chance.var()


def test_rare_class_shows():
    """A class of 8 % whose chance depends on |z|: ranks of its residuals hardly tell it from the others."""
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(20):
        x, z, e = rng.normal(size=(3, 400))
        y = np.abs(z) + 0.5 * x + 0.3 * e
        hits += codec_test(y > np.quantile(y, 0.92), z, x, n_resamples=99, rng=seed).pvalue <= 0.05
    assert hits >= 18


def test_embedding_gives_categories_the_distance_of_numbers():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"c": pd.Categorical(rng.choice(list("abc"), 200)), "v": rng.normal(size=200), "k": 1.0})
    points = embed(read_table(frame, "given"))
    assert points.shape == (200, 4)
    for block in (points[:, :3], points[:, 3:]):
        gaps = ((block[:, None, :] - block[None, :, :]) ** 2).sum(axis=-1)
        assert gaps.mean() == pytest.approx(2.0)


def test_embedding_draws_heavy_tails_in_and_leaves_others_alone():
    rng = np.random.default_rng(0)
    light = rng.normal(size=500)
    heavy = np.append(light[:499], 1e6)
    points = embed(read_table(np.column_stack([light, heavy, light > 1.9, np.exp(3.0 * light)]), "given"))
    assert np.allclose(points[:, 0], (light - light.mean()) / light.std())
    assert np.median(np.abs(points[:499, 1] - points[:499, 0])) < 0.1
    assert points[:, 1].max() == points[499, 1] < 4.0
    assert np.unique(points[:, 2]).size == 2
    assert (np.diff(points[np.argsort(light), 3]) > 0.0).all()
    assert np.allclose(points.std(axis=0), 1.0)


def test_two_categories_are_one_column():
    flags = np.arange(60) % 3 == 0
    points = embed(read_table(pd.DataFrame({"c": pd.Categorical(np.where(flags, "u", "v"))}), "given"))
    expected = (flags - flags.mean()) / flags.std()
    assert points.shape == (60, 1)
    assert np.allclose(np.abs(points[:, 0]), np.abs(expected))


@pytest.mark.parametrize("place", range(3))
def test_columns_as_large_as_their_squared_distances_may_be(place):
    """The same bits as in units that are a power of two smaller."""
    rng = np.random.default_rng(0)
    columns = [rng.normal(size=60), rng.normal(size=60), rng.normal(size=60)]
    columns[place] = 1.2 * rng.random(60)
    expected = codec_test(*columns, n_resamples=19, rng=0)
    columns[place] = np.ldexp(columns[place], 511)  # 8e153
    assert tuple(codec_test(*columns, n_resamples=19, rng=0)) == tuple(expected)
    columns[place] = 1.2e154 * rng.random(60)
    assert 0.0 < codec_test(*columns, n_resamples=19, rng=0).pvalue <= 1.0
