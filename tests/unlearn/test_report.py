"""The record of a deletion and the page that shows many of them."""

import dataclasses
import json

import matplotlib as mpl
import pytest
import torch

from codec.unlearn import Unlearner
from codec.unlearn._certificate import Certificate
from codec.unlearn._deletion import Deletion
from codec.unlearn._report import Report

mpl.use("Agg")

ONE = Deletion(
    1,
    (3, 7),
    "difference",
    "lfoci",
    accepted=True,
    reason="one <damped> step",
    units=(4, 0),
    labels=("fc[4]", "fc[0]"),
    scores=(0.5, 0.25),
    captured_decrement=0.75,
    captured_by_gradient_norm=0.625,
    retain_loss=(0.1, 0.125),
    forget_loss=(0.5, 2.0),
    timings={"select": 0.25, "solve": 0.5},
)


def small():
    """An unlearner of a small linear model."""
    X, y = torch.eye(3).repeat(8, 1), torch.arange(24) % 3
    return Unlearner(torch.nn.Linear(3, 3), "cross_entropy", (X, y), weight_decay=0.1, selector="all", random_state=0)


BOUND = Certificate("a posteriori", 1e-3, 100, 2, proved=("distance to the retrained model <= 1e-3",))


@pytest.mark.parametrize("certificate", [None, BOUND])
def test_a_deletion_goes_through_json(certificate):
    one = dataclasses.replace(ONE, certificate=certificate)
    again = Deletion.from_dict(json.loads(json.dumps(one.to_dict())))
    assert again == one


def test_a_deletion_shows_itself():
    frame = ONE.to_frame()
    assert frame["label"].tolist() == ["fc[4]", "fc[0]"]
    assert frame["score"].tolist() == [0.5, 0.25]
    summary = ONE.summary()
    assert summary["seconds"] == 0.75
    assert summary["certificate"] == "empirical"
    assert "captured_decrement        0.75" in str(ONE)
    assert "one &lt;damped&gt; step" in ONE._repr_html_()
    with pytest.raises(dataclasses.FrozenInstanceError):
        ONE.accepted = False


def test_history_has_the_same_columns_without_requests():
    assert list(Report(()).to_frame()) == list(Report((ONE,)).to_frame())
    assert len(Report(()).to_frame()) == 0


def test_a_request_that_was_taken_back_does_not_stand():
    later = Certificate("a posteriori", 2e-3, 100, 5, proved=("distance to the retrained model <= 2e-3",))
    two = (
        dataclasses.replace(ONE, certificate=BOUND),
        dataclasses.replace(ONE, id=2, forgotten=(9, 11, 12), certificate=later),
    )
    report = Report(two, standing=(2,))
    assert report.to_frame()["accepted"].tolist() == [True, True]
    assert report.to_frame()["stands"].tolist() == [False, True]
    assert "2 requests, 1 stand, 3 samples" in repr(report)
    assert "&lt;= 2e-3" in Report(two).to_html()
    for standing in ((1,), (2,)):  # no certificate on record is of these weights
        page = Report(two, standing=standing).to_html()
        assert "&lt;=" not in page
        assert "taken back since" in page


def test_the_page_holds_table_plots_and_certificate(tmp_path):
    certified = dataclasses.replace(ONE, id=2, certificate=BOUND)
    report = Report((ONE, certified), title="Digits & more")
    page = report.to_html(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == page
    for piece in ("Digits &amp; more", "data:image/png;base64,", "&lt;= 1e-3", "2 requests, 2 stand, 2 samples"):
        assert piece in page
    assert "http" not in page
    assert "captured_decrement" in report._repr_html_()


def test_plots_show_the_figures():
    axes = Report((ONE,)).plot()
    assert [line.get_ydata().tolist() for line in axes[0].lines] == [[0.5], [2.0]]
    assert [line.get_ydata().tolist() for line in axes[2].lines] == [[0.75], [0.625]]
    assert [path.vertices.tolist() for path in axes[0].collections[0].get_paths()] == [[[1.0, 0.5], [1.0, 2.0]]]
    mpl.pyplot.close(axes[0].figure)


def test_refused_requests_are_crosses():
    axes = Report((ONE, dataclasses.replace(ONE, id=2, accepted=False, forget_loss=(0.7, 0.7)))).plot()
    assert [line.get_xydata().tolist() for line in axes[0].lines] == [[[1.0, 0.5]], [[1.0, 2.0]], [[2.0, 0.7]]]
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["before", "after", "refused"]
    mpl.pyplot.close(axes[0].figure)


def test_a_page_without_requests():
    assert "0 requests" in Report(()).to_html()


def test_a_report_prints_as_a_table_of_requests():
    refused = dataclasses.replace(ONE, id=2, forgotten=(9,), accepted=False)
    lines = repr(Report((ONE, refused), "Digits")).splitlines()
    assert lines[0] == "Digits: 2 requests, 1 stand, 2 samples in them."
    assert len(lines) == 4  # the line above, the names of the columns, a row each
    assert max(map(len, lines)) < 160
    assert repr(Report(())) == "Deletions: 0 requests, 0 stand, 0 samples in them."


@pytest.mark.parametrize("bound", [None, float("nan"), float("inf")])
def test_a_certificate_without_a_bound_certifies_nothing(bound):
    nothing = dataclasses.replace(ONE, certificate=Certificate("a posteriori", bound, 100, 2))
    assert nothing.summary()["certificate"] == "empirical"
    assert dataclasses.replace(ONE, certificate=BOUND).summary()["certificate"] == "certified"


def test_requests_are_drawn_wherever_their_numbers_begin():
    unlearner = small()
    for i in range(4):
        unlearner.forget([i])
    axes = Report(unlearner.deletions[2:]).plot()
    assert axes[0].get_xlim() == (2.5, 4.5)
    alike = Report((unlearner.deletions[0],) * 2).plot()
    assert alike[0].lines[0].get_xdata().tolist() == [1, 2]
    with pytest.raises(ValueError, match="axes holds 2 axes; pass three"):
        Report(unlearner.deletions).plot(axes[:2])


def test_nothing_forgotten_has_a_table_of_the_same_types():
    unlearner = small()
    before = unlearner.history
    assert before[before["stands"]]["seconds"].sum() == 0.0
    unlearner.forget([0])
    after = unlearner.history
    assert before.dtypes.to_dict() == after.dtypes.to_dict()
    assert len(set(unlearner.deletions)) == 1


def test_a_deletion_equals_what_json_gives_back():
    unlearner = small()
    for deletion in (unlearner.forget([0]), Deletion(0, (), "", "", accepted=False, reason="")):
        assert Deletion.from_dict(json.loads(json.dumps(deletion.to_dict()))) == deletion
