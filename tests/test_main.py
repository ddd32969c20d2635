"""The command line: every answer it can give, and that it never answers with a traceback."""

import gzip
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer

from codec import MarkovBlanketSelector, __version__, foci, lfoci
from codec import __main__ as cli


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """`y` is a function of `a` and `city`; `b` is noise, `kind` a class that follows `a`."""
    rng = np.random.default_rng(7)
    a, b = rng.normal(size=(2, 150))
    city = rng.choice(["Bergen", "Oslo", "Tromso"], size=150)
    y = a + 2.0 * (city == "Oslo")
    kind = np.select([a < -0.4, a < 0.4], ["low", "middle"], "high")
    return pd.DataFrame({"a": a, "b": b, "city": city, "kind": kind, "y": y})


@pytest.fixture
def csv(table: pd.DataFrame, tmp_path: Path) -> Path:
    path = tmp_path / "data.csv"
    table.to_csv(path, index=False)
    return path


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of `python -m codec *args`."""
    try:
        status = cli.main([str(arg) for arg in args])
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


def refused(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    """The one line on stderr of a request that cannot be carried out."""
    status, out, err = run(capsys, *args)
    assert status == 2
    assert out == ""
    assert err.startswith("codec: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err


# --------------------------------------------------------------------------- the demonstration
def test_demonstration_on_some_of_the_data(capsys, monkeypatch):
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    monkeypatch.setattr("sklearn.datasets.load_breast_cancer", lambda **_: (X.iloc[:200, 20:25], y[:200]))
    status, out, err = run(capsys)
    assert (status, err) == (0, "")
    for words in ("200 tumours, 5 measurements", "p given the others", "5-fold cross-validation", "What next"):
        assert words in out
    assert len([line for line in out.splitlines() if " +- " in line]) == 3


@pytest.mark.slow
@pytest.mark.timeout(600)  # some ten seconds on a quiet machine
def test_demonstration(capsys):
    status, out, err = run(capsys)
    assert status == 0
    assert err == ""
    assert f"codec {__version__}" in out
    assert "breast cancer" in out
    assert "p given the others" in out
    assert "cross-validation" in out
    assert "python -m codec select FILE.csv --target COLUMN" in out
    scores = [float(line.split()[-3]) for line in out.splitlines() if " +- " in line]
    assert len(scores) == 3
    assert min(scores[1:]) > scores[0] - 0.02, "the selected features are nearly as good as all of them"


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"codec {__version__}\n", "")


def test_help_says_what_the_output_file_holds(capsys):
    status, out, _ = run(capsys, "select", "--help")
    assert status == 0
    words = "step feature column statistic pvalue cumulative conditional seconds --categorical --drop --alpha"
    for word in words.split():
        assert word in out


def test_as_a_process_it_prints_no_traceback_and_stays_light():
    code = (
        "import sys, runpy; sys.argv = ['codec', 'select', 'absent.csv', '--target', 'y']\n"
        "try: runpy.run_module('codec', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as stopped: print(stopped.code)\n"
        "print([name for name in ('torch', 'matplotlib', 'statsmodels') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2\n[]\n"
    assert done.stderr == "codec: there is no file 'absent.csv'\n"


# --------------------------------------------------------------------------- selecting
def test_output_is_the_blanket(csv, table, tmp_path, capsys):
    output = tmp_path / "selected.csv"
    options = ["--categorical", "city", "--drop", "kind", "--alpha", 0.01, "--seed", 3, "--output", output]
    status, out, err = run(capsys, "select", csv, "--target", "y", *options)
    assert (status, err) == (0, "")
    X = table[["a", "b", "city"]].astype({"city": "category"})
    expected = MarkovBlanketSelector(alpha=0.01, random_state=3).fit(X, table["y"])
    found = pd.read_csv(output, index_col="step", **cli.PRECISELY)
    assert list(found.columns) == ["feature", "column", "statistic", "pvalue"]
    assert set(found["feature"]) == {"a", "city"}  # what y is made of
    assert found.index.tolist() == [1, 2]
    assert found["column"].tolist() == expected.blanket_.tolist()
    np.testing.assert_array_equal(found["statistic"], expected.scores_[expected.blanket_])
    np.testing.assert_array_equal(found["pvalue"], expected.pvalues_[expected.blanket_])
    assert "2 of 3 features from 150 rows" in out
    assert "at level 0.01" in out
    assert "descriptive" in out
    assert str(output) in out


def test_discrete_tables_show_votes(tmp_path, capsys):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, (300, 3))
    y = np.where(rng.random(300) < 0.8, codes[:, 1], 0)
    path = tmp_path / "codes.csv"
    pd.DataFrame(codes, columns=list("abc")).assign(y=y).to_csv(path, index=False)
    status, out, _ = run(capsys, "select", path, "--target", "y")
    assert status == 0
    assert out.splitlines()[2].split() == ["step", "feature", "votes", "p", "given", "the", "others"]
    assert out.splitlines()[3].split()[:2] == ["1", "b"]


def test_output_of_foci_is_the_selection_table(csv, table, tmp_path, capsys):
    output = tmp_path / "selected.csv"
    options = ["--method", "foci", "--categorical", "city,kind", "--neighbors", 3, "--output", output]
    status, out, err = run(capsys, "select", csv, "--target", "y", *options)
    assert (status, err) == (0, "")
    typed = table.astype({"city": "category", "kind": "category"})
    expected = foci(typed.drop(columns="y"), typed["y"], n_neighbors=3)
    found = pd.read_csv(output, index_col="step", **cli.PRECISELY)
    assert list(found.columns) == ["feature", "column", "cumulative", "conditional", "seconds"]
    untimed = expected.to_frame().drop(columns="seconds")
    pd.testing.assert_frame_equal(found.drop(columns="seconds"), untimed, check_exact=True)
    assert set(expected.names) >= {"a", "city"}
    for name, value in zip(expected.names, expected.cumulative, strict=True):
        assert any(name in line and f"{value:.4f}" in line for line in out.splitlines())
    assert expected.stopped in out
    assert str(output) in out


@pytest.mark.parametrize(
    "name",
    ["data.csv", "data.CSV", "data.csv.gz", "data.tsv.csv", "data.tsv", "data.TSV", "data.tsv.gz", "d.parquet", "d.pq"],
)
def test_formats_give_the_same_answer(name, csv, table, tmp_path, capsys):
    path = tmp_path / name
    if ".p" in name:
        table.to_parquet(path)
    else:
        text = table.to_csv(index=False, sep="," if ".csv" in name.lower() else "\t").encode()
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    options = ["--target", "y", "--drop", "kind", "--categorical", "city", "--output", tmp_path / "out.csv"]
    options += ["--method", "foci"]
    assert run(capsys, "select", path, *options)[0] == 0
    features = table[["a", "b", "city"]].astype({"city": "category"})
    assert pd.read_csv(tmp_path / "out.csv")["feature"].tolist() == list(foci(features, table["y"]).names)


def test_lfoci_with_a_seed(csv, table, tmp_path, capsys):
    output = tmp_path / "out.csv"
    options = ["--method", "lfoci", "--seed", 5, "--drop", "kind", "--categorical", "city", "--max-features", 1]
    assert run(capsys, "select", csv, "--target", "y", *options, "--output", output)[0] == 0
    features = table[["a", "b", "city"]].astype({"city": "category"})
    expected = lfoci(features, table["y"], max_features=1, rng=5)
    assert pd.read_csv(output, **cli.PRECISELY)["cumulative"].tolist() == expected.cumulative.tolist()


@pytest.mark.parametrize("typed", [[], ["--categorical", "kind"]], ids=["text", "categorical"])
def test_text_target_has_classes_without_order(typed, csv, table, tmp_path, capsys):
    output = tmp_path / "out.csv"
    options = ["--method", "foci", "--drop", "city", *typed, "--output", output]
    assert run(capsys, "select", csv, "--target", "kind", *options)[0] == 0
    expected = foci(table[["a", "b", "y"]], table["kind"], nominal_y=True)
    assert pd.read_csv(output, **cli.PRECISELY)["cumulative"].tolist() == expected.cumulative.tolist()


def test_categorical_makes_a_numeric_target_nominal(table, tmp_path, capsys):
    codes = table["kind"].map({"low": 2, "middle": 0, "high": 1})
    data, output = tmp_path / "data.csv", tmp_path / "out.csv"
    table[["a", "b"]].assign(kind=codes).to_csv(data, index=False)
    options = ["--method", "foci", "--categorical", "kind", "--output", output]
    assert run(capsys, "select", data, "--target", "kind", *options)[0] == 0
    expected = foci(table[["a", "b"]], codes, nominal_y=True)
    assert pd.read_csv(output, **cli.PRECISELY)["cumulative"].tolist() == expected.cumulative.tolist()


def test_true_and_false_are_numbers(table, tmp_path, capsys):
    path = tmp_path / "flags.csv"
    pd.DataFrame({"flag": table["a"] > 0, "b": table["b"], "y": (table["a"] > 0) * 1.0}).to_csv(path, index=False)
    status, out, _ = run(capsys, "select", path, "--target", "y")
    assert status == 0
    assert "flag" in out


@pytest.mark.parametrize("method", ["auto", "foci"])
def test_nothing_selected_is_an_answer(method, tmp_path, capsys):
    if method == "auto":  # every x with every y: independent in the sample itself
        x, y = np.repeat(np.arange(8.0) + 0.5, 5), np.tile(np.arange(5.0), 8)
    else:  # every value of y stands beside the opposite one: T < 0
        x = np.arange(40.0) + 0.01 * np.arange(40) ** 1.5
        y = np.where(np.arange(40) % 2 == 0, 1.0, -1.0) * (1 + 0.1 * np.arange(40))
    path, output = tmp_path / "data.csv", tmp_path / "out.csv"
    pd.DataFrame({"x": x, "y": y}).to_csv(path, index=False)
    status, out, _ = run(capsys, "select", path, "--target", "y", "--method", method, "--output", output)
    assert status == 0
    assert "Nothing was selected" in out
    assert pd.read_csv(output).empty


def test_constant_columns_and_the_row_index_are_left_out_aloud(table, tmp_path, capsys):
    path = tmp_path / "data.csv"
    table[["a", "b", "y"]].assign(one=1, two="x").to_csv(path)  # with the index
    status, out, err = run(capsys, "select", path, "--target", "y", "--categorical", "two")
    assert status == 0
    assert "left out as constant: one, two" in err
    assert "row index" in err
    assert "of 2 features" in out


@pytest.mark.parametrize("header", ["", ",Unnamed: 0", ",Unnamed: 0.1,Unnamed: 0", "Unnamed: 0"])
def test_the_row_indices_of_files_saved_again_are_left_out(header, table, tmp_path, capsys):
    path = tmp_path / "data.csv"
    text = table[["a", "b", "y"]].to_csv(index=False).splitlines()
    rows = [f"{header},{text[0]}"] + [f"{f'{i},' * (header.count(',') + 1)}{row}" for i, row in enumerate(text[1:])]
    path.write_text("\n".join(rows))
    status, out, err = run(capsys, "select", path, "--target", "y", "--max-features", 1)
    assert status == 0
    assert ("row index" if header.count(",") == 0 else f"first {header.count(',') + 1} columns") in err
    assert "of 2 features" in out


def test_a_column_called_unnamed_among_others_is_a_feature(table, tmp_path, capsys):
    path = tmp_path / "data.csv"
    table[["a", "b", "y"]].rename(columns={"b": "Unnamed: 0"}).to_csv(path, index=False)
    status, out, err = run(capsys, "select", path, "--target", "y", "--max-features", 1)
    assert (status, err) == (0, "")
    assert "of 2 features" in out


@pytest.mark.parametrize("n_missing", [1, 60])
def test_values_beside_missing_ones_are_not_constant(n_missing, tmp_path, capsys):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 50, 100)
    whole, y = pd.array(values, dtype="Int64"), values + 0.1 * rng.normal(size=100)
    whole[:n_missing] = pd.NA
    flag = pd.array([pd.NA, *[True] * 99], dtype="boolean")
    none = pd.array([pd.NA] * 100, dtype="Int64")  # is not constant either, and never selected
    path = tmp_path / "data.parquet"
    pd.DataFrame({"whole": whole, "flag": flag, "none": none, "one": 1, "y": y}).to_parquet(path)
    status, out, err = run(capsys, "select", path, "--target", "y", "--nan-policy", "keep")
    assert status == 0
    assert err == "codec: left out as constant: one\n"
    assert "1 of 3 features" in out
    assert "1  whole" in out


def test_missing_values_are_refused_or_left_out(table, tmp_path, capsys):
    path = tmp_path / "data.csv"
    holes = table[["a", "b", "y"]].copy()
    holes.loc[[3, 5], "a"] = np.nan
    holes.loc[[5, 8], "b"] = np.nan
    holes.loc[9, "y"] = np.nan
    holes.to_csv(path, index=False)
    line = refused(capsys, "select", path, "--target", "y")
    assert "'a' has 2 missing values" in line
    assert "--nan-policy keep" in line
    assert "--nan-policy omit" in line
    assert "4 of 150 rows" in line
    status, out, err = run(capsys, "select", path, "--target", "y", "--nan-policy", "keep")
    assert status == 0
    assert "left out 1 of 150 rows without a target" in err
    assert "from 149 rows" in out
    status, out, err = run(capsys, "select", path, "--target", "y", "--nan-policy", "omit")
    assert status == 0
    assert "left out 4 of 150 rows" in err
    assert "from 146 rows" in out


# --------------------------------------------------------------------------- refusals
def test_text_column_is_named_with_both_ways_out(csv, capsys):
    line = refused(capsys, "select", csv, "--target", "y", "--drop", "kind")
    assert "'city' holds text" in line
    assert "--categorical city" in line
    assert "--drop city" in line
    line = refused(capsys, "select", csv, "--target", "y")
    assert "--categorical city,kind" in line
    assert "--drop city,kind" in line


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["absent.csv", "--target", "y"], "there is no file 'absent.csv'"),
        (["data.xlsx", "--target", "y"], ".csv, .csv.gz, .tsv, .tsv.gz, .parquet, .pq"),
        (["folder.csv", "--target", "y"], "'folder.csv' is not a file"),
        (
            ["data.csv", "--target", "z"],
            "--target: there is no column 'z'; the columns are 'a', 'b', 'city', 'kind', 'y'",
        ),
        (["data.csv", "--target", "cities"], "did you mean 'city'?"),
        (["data.csv", "--target", "y", "--categorical", "town"], "--categorical: there is no column 'town'"),
        (["data.csv", "--target", "y", "--drop", "a,bb"], "--drop: there is no column 'bb'"),
        (["data.csv", "--target", "y", "--drop", "y"], "both the target and in --drop"),
        (["data.csv", "--target", "y", "--drop", "a", "--categorical", "a"], "both in --categorical and in --drop"),
        (["data.csv", "--target", "y", "--drop", "a,b,city,kind"], "no feature columns are left"),
        (["empty.csv", "--target", "y"], "'empty.csv' is empty"),
        (["header.csv", "--target", "y"], "column names but no rows"),
        (["constant.csv", "--target", "y"], "target 'y' is constant (3)"),
        (["constant.csv", "--target", "x"], "every feature column is constant"),
        (["two.csv", "--target", "y", "--method", "foci"], "2 row"),
        (["missing.csv", "--target", "y", "--nan-policy", "omit"], "column 'x' misses 4 values"),
        (["infinite.csv", "--target", "y"], "infinit"),
        (["semicolon.csv", "--target", "y"], "separated by other than commas"),
        (["decimal.csv", "--target", "y"], "2 fields, but its first row has 1 name; the file seems to be separated by"),
        (["labels.csv", "--target", "y"], "have 4 fields, but its first row has 3 names; give every column a name"),
        (
            ["labels from 1.csv", "--target", "y"],
            "have 4 fields, but its first row has 3 names; give every column a name",
        ),
        (["latin.csv", "--target", "y"], "not UTF-8"),
        (["ragged.csv", "--target", "y"], "cannot read 'ragged.csv'"),
        (["broken.csv.gz", "--target", "y"], "cannot read 'broken.csv.gz'"),
        (["cut.csv.gz", "--target", "y"], "cannot read 'cut.csv.gz'"),
        (["broken.parquet", "--target", "y"], "cannot read 'broken.parquet'"),
        (["dates.parquet", "--target", "y"], "dates"),
        (["data.csv"], "--target"),
        (["data.csv", "--target", "y", "--method", "magic"], "invalid choice: 'magic'"),
        (["data.csv", "--target", "y", "--neighbors", "0"], "'0' is not an integer of at least 1"),
        (["data.csv", "--target", "y", "--neighbors", "many"], "'many' is not an integer"),
        (["data.csv", "--target", "y", "--neighbors", "5"], "--neighbors belongs to --method foci or lfoci"),
        (["data.csv", "--target", "y", "--method", "foci", "--alpha", "0.1"], "--alpha belongs to --method auto"),
        (["data.csv", "--target", "y", "--method", "foci", "--nan-policy", "keep"], "belongs to --method auto"),
        (["data.csv", "--target", "y", "--alpha", "2", "--drop", "city,kind"], "--alpha is 2.0"),
        (
            ["data.csv", "--target", "y", "--neighbors", "150", "--method", "foci", "--drop", "city,kind"],
            "--neighbors is 150",
        ),
        (["data.csv", "--target", "y", "--max-features", "9", "--drop", "city,kind"], "--max-features is 9"),
        (["data.csv", "--target", "y", "--jobs", "0", "--drop", "city,kind"], "--jobs "),
        (["data.csv", "--target", "y", "--seed", "-1"], "'-1' is not an integer of at least 0"),
        (["data.csv", "--target", "y", "--output", "no/out.csv"], "--output: there is no folder 'no'"),
        (["data.csv", "--target", "y", "--output", "folder.csv"], "not a regular file"),
        (["data.csv", "--target", "y", "--output", "data.csv"], "--output is the input file"),
        (["data.csv", "--target", "y", "--colour"], "--colour"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals_are_one_clear_line(args, said, csv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _broken_files(tmp_path)
    assert said in refused(capsys, "select", *args)


def _broken_files(folder: Path) -> None:
    texts = {
        "data.xlsx": "x",
        "empty.csv": "",
        "header.csv": "x,y\n",
        "constant.csv": "x,y\n1,3\n2,3\n4,3\n7,3\n",
        "two.csv": "x,y\n1,3\n2,4\n",
        "missing.csv": "x,y\n,3\n,4\n,5\n,6\n2,9\n",
        "infinite.csv": "x,y\n1,3\ninf,4\n2,5\n5,6\n",
        "semicolon.csv": "x;y\n1;3\n2;4\n",
        "decimal.csv": "x;y\n1,5;3\n2,5;4\n",
        "labels.csv": "a,b,y\n" + "".join(f"{i},{i * i % 7},{i % 5},{i}\n" for i in range(30)),
        "labels from 1.csv": "a,b,y\n" + "".join(f"{i},{i * i % 7},{i % 5},{i}\n" for i in range(1, 31)),
        "ragged.csv": "x,y\n1,2\n1,2,3\n",
        "broken.csv.gz": "no gzip",
        "broken.parquet": "no parquet",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "latin.csv").write_bytes("stra\xdfe,y\n1,2\n".encode("latin-1"))
    (folder / "cut.csv.gz").write_bytes(gzip.compress(b"x,y\n" + b"1,2\n3,4\n" * 1000)[:-12])
    (folder / "folder.csv").mkdir()
    days = pd.date_range("2026-01-01", periods=5)
    pd.DataFrame({"day": days, "x": np.arange(5.0) ** 2, "y": np.arange(5.0)}).to_parquet(folder / "dates.parquet")


def test_two_columns_of_one_name(tmp_path, capsys):
    frame = pd.DataFrame(np.eye(4), columns=["a", "1", "b", "y"]).rename(columns={"b": 1})
    with pytest.raises(cli.InputError, match="two columns are called '1'"):
        cli.split_columns(frame, "y", [], [])


def test_two_headers_of_one_name(tmp_path, capsys):
    path = tmp_path / "twice.csv"
    path.write_text("a,price,price\n" + "\n".join(f"{i},{i * i},{i * i}" for i in range(20)))
    assert cli.main(["select", str(path), "--target", "price"]) == 2
    assert "two columns are called 'price'" in capsys.readouterr().err


def test_text_in_parquet_is_text(tmp_path, capsys):
    path = tmp_path / "text.parquet"
    pd.DataFrame({"a": np.arange(30.0), "word": ["x", None, "z"] * 10, "y": np.arange(30.0) ** 2}).to_parquet(path)
    assert cli.main(["select", str(path), "--target", "y"]) == 2
    assert "column 'word' holds text such as 'x'" in capsys.readouterr().err


@pytest.mark.parametrize("asked", [["--target", "y"], ["--target", "y", "--categorical", "l"], ["--target", "l"]])
def test_a_column_of_lists(tmp_path, capsys, asked):
    path = tmp_path / "lists.parquet"
    pd.DataFrame({"a": np.arange(5.0), "l": [[i, 1] for i in range(5)], "y": np.arange(5.0) ** 2}).to_parquet(path)
    assert cli.main(["select", str(path), *asked]) == 2
    assert "column 'l' holds objects such as '[0 1]', neither numbers nor text; use --drop l" in capsys.readouterr().err


def test_the_text_among_numbers_is_shown(table, tmp_path, capsys):
    path = tmp_path / "marks.csv"
    frame = table[["a", "b", "y"]].astype(str)
    frame.loc[100, ["b", "y"]] = "?", "<5"
    frame.to_csv(path, index=False)
    line = refused(capsys, "select", path, "--target", "a")
    assert "columns 'b', 'y' hold text such as '?' beside 149 numbers; use --categorical b,y for categories" in line
    assert "or --drop b,y to leave them out" in line
    line = refused(capsys, "select", path, "--target", "y", "--drop", "b")
    assert "target 'y' holds text such as '<5' beside 149 numbers; correct it, or use --categorical y for cl" in line


def test_what_decimal_commas_make_of_numbers_is_shown(table, tmp_path, capsys):
    path = tmp_path / "commas.csv"
    table[["a", "b", "y"]].map(lambda value: f"{value:.3f}".replace(".", ",")).to_csv(path, index=False)
    shown = f"hold text such as '{table.a[0]:.3f}'; use".replace(".", ",")
    assert shown in refused(capsys, "select", path, "--target", "y")


def test_a_comma_at_the_end_of_each_line_makes_no_column(table, tmp_path, capsys):
    path = tmp_path / "ends.csv"
    path.write_text(table[["a", "b", "y"]].to_csv(index=False).replace("\n", ",\n"))
    status, out, err = run(capsys, "select", path, "--target", "y", "--method", "foci")
    assert (status, err) == (0, "codec: left out as empty, without a name: column 4\n")
    assert "of 2 features" in out


def test_a_named_index_in_parquet_is_a_column(table, tmp_path, capsys):
    path = tmp_path / "indexed.parquet"
    table[["a", "b", "y"]].set_index("a").to_parquet(path)
    _, out, _ = run(capsys, "select", path, "--target", "y", "--method", "foci")
    assert "of 2 features" in out
    table[["a", "b", "y"]].set_index("a", drop=False).to_parquet(path)  # there already
    assert "of 2 features" in run(capsys, "select", path, "--target", "y", "--method", "foci")[1]
    table.set_index("y").to_parquet(path)  # also if it is the target
    assert run(capsys, "select", path, "--target", "y", "--drop", "city,kind")[0] == 0


@pytest.mark.parametrize("unit", ["datetime64[ns]", "timedelta64[ns]", "date"])
def test_dates_in_parquet_are_left_out_on_request(unit, table, tmp_path, capsys):
    path = tmp_path / "days.parquet"
    days = pd.Series(np.arange(150).astype("datetime64[ns]")).dt.date if unit == "date" else np.arange(150).astype(unit)
    table[["a", "b", "y"]].assign(day=days).to_parquet(path)
    line = refused(capsys, "select", path, "--target", "y")
    assert "column 'day' holds dates or durations, neither numbers nor text; use --drop day to leave it out" in line
    assert run(capsys, "select", path, "--target", "y", "--drop", "day", "--method", "foci")[0] == 0


def test_months_in_parquet_are_left_out_on_request(table, tmp_path, capsys):
    path = tmp_path / "months.parquet"
    table[["a", "b", "y"]].assign(month=pd.period_range("2020-01", periods=150, freq="M")).to_parquet(path)
    assert "use --drop month to leave it out" in refused(capsys, "select", path, "--target", "y")


def test_a_target_without_values_is_named(table, tmp_path, capsys):
    path = tmp_path / "data.csv"
    table[["a", "b", "y"]].assign(y=np.nan).to_csv(path, index=False)
    line = refused(capsys, "select", path, "--target", "y", "--nan-policy", "keep")
    assert "target 'y' has 0 values in 150 rows, too few" in line


def test_column_named_like_an_option_needs_quotes(table, tmp_path, capsys):
    path = tmp_path / "data.csv"
    table.rename(columns={"city": "home town"})[["a", "home town", "y"]].to_csv(path, index=False)
    line = refused(capsys, "select", path, "--target", "y")
    assert "--drop 'home town'" in line
    assert run(capsys, "select", path, "--target", "y", "--categorical", "home town")[0] == 0


def test_what_is_said_of_odd_names_works_as_typed(table, tmp_path, capsys):
    path = tmp_path / "data.csv"
    table.rename(columns={"city": "price, total", "kind": " kind"}).to_csv(path, index=False)
    line = refused(capsys, "select", path, "--target", "y")
    said = line.partition(" or ")[2].partition(" to leave")[0]
    assert shlex.split(said) == ["--drop", "price, total", "--drop", " kind"]
    options = ["--max-features", 1, *shlex.split(said)]
    assert run(capsys, "select", path, "--target", "y", *options)[0] == 0
    assert "did you mean ' kind'?" in refused(capsys, "select", path, "--target", "y", "--drop", "kind")
    assert "no column 'price'" in refused(capsys, "select", path, "--target", "y", "--drop", "price, b")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["owner's"], ["--drop", "owner's"]),
        (["-t"], ["--drop=-t"]),
        (["--drop"], ["--drop=--drop"]),
        (["-t", "owner's"], ["--drop=-t,owner's"]),
        (["-1, 2", 'a "b" c$'], ["--drop=-1, 2", "--drop", 'a "b" c$']),
    ],
)
def test_what_is_said_of_names_that_a_shell_or_a_parser_reads_works_as_typed(names, said, tmp_path, capsys):
    path = tmp_path / "data.csv"
    x = np.random.default_rng(0).normal(size=40)
    pd.DataFrame({"a": x, **dict.fromkeys(names, ["u", "v"] * 20), "y": x}).to_csv(path, index=False)
    line = refused(capsys, "select", path, "--target", "y")
    typed = shlex.split(line.partition(" or ")[2].partition(" to leave")[0])
    assert typed == said
    assert run(capsys, "select", path, "--target", "y", *typed)[0] == 0


def test_names_between_commas_are_found_with_and_without_spaces(table):
    frame = table.rename(columns={"b": " b"})
    features, _ = cli.split_columns(frame, "y", ["city, kind"], ["a, b"])
    assert features.columns.tolist() == ["city", "kind"]


def test_a_column_called_like_a_parameter_keeps_its_name(table, tmp_path, capsys):
    path = tmp_path / "data.csv"
    table.assign(alpha=np.where(table["a"] > 1, np.inf, 0.0))[["a", "alpha", "y"]].to_csv(path, index=False)
    assert "column 'alpha' has" in refused(capsys, "select", path, "--target", "y")


def test_parquet_without_pyarrow(tmp_path, monkeypatch, capsys):
    path = tmp_path / "data.parquet"
    path.touch()

    def absent(*args: object, **kwargs: object) -> None:
        raise ImportError

    monkeypatch.setattr(pd, "read_parquet", absent)
    assert "pip install 'codec[parquet]'" in refused(capsys, "select", path, "--target", "y")


# --------------------------------------------------------------------------- interruptions
def test_a_failed_write_leaves_the_old_file_and_no_parts(csv, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out.csv"
    output.write_text("old")

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("codec.__main__.os.fsync", fail)
    status, _, err = run(capsys, "select", csv, "--target", "y", "--drop", "city,kind", "--output", output)
    assert status == 2
    assert err == f"codec: cannot write '{output}': No space left on device\n"
    assert output.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.csv", "out.csv"]


@pytest.mark.skipif(sys.platform == "win32", reason="no such modes")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_a_file_that_is_there_keeps_its_mode(mode, csv, tmp_path, capsys):
    output = tmp_path / "out.csv"
    output.write_text("old")
    output.chmod(mode)
    options = ["--drop", "city,kind", "--max-features", 1, "--output", output]
    assert run(capsys, "select", csv, "--target", "y", *options)[0] == 0
    assert output.read_text().startswith("step,feature")
    assert output.stat().st_mode & 0o777 == mode


@pytest.fixture
def control_c():
    """SIGINT raises, also where the tests run in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("control_c")
def test_control_c_is_one_line_and_status_130(csv, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(MarkovBlanketSelector, "fit", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    output = tmp_path / "out.csv"
    answer = run(capsys, "select", csv, "--target", "y", "--drop", "city,kind", "--output", output)
    assert answer == (130, "", "codec: interrupted\n")
    assert not output.exists()


def test_a_reader_that_left_gets_no_traceback(csv):
    command = [sys.executable, "-m", "codec", "select", str(csv), "--target", "y", "--drop", "city,kind"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 141


def test_warnings_are_one_line(csv, monkeypatch, capsys):
    import warnings

    def warn(*args: object, **kwargs: object) -> None:
        warnings.simplefilter("always")
        warnings.warn("T is not\ndefined", RuntimeWarning, stacklevel=1)
        raise ValueError("n_neighbors is odd")

    monkeypatch.setattr(cli, "foci", warn)
    status, _, err = run(capsys, "select", csv, "--target", "y", "--method", "foci", "--drop", "city,kind")
    assert status == 2
    assert err == "codec: T is not defined\ncodec: --neighbors is odd\n"
