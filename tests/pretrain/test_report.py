"""A report is one file that loads nothing, shows what a run recorded, and runs no text of it."""

import json
import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from fabricated_run import curves, dump, fabricate, write_records

from gesso.records.metrics import Metrics
from gesso.reports.facts import NotARun
from gesso.reports.report import write_report

SECTIONS = ["training", "heldout", "samples", "corpus", "model", "experiment", "environment"]
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """What a browser would see: elements, links, ids and the text of each section."""

    def __init__(self, path):
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.tags, self.links, self.ids, self.handlers, self.open = [], [], [], [], []
        self.text = {}
        self.section = ""
        self.feed(self.html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
                self.links.append(value)
            if name == "id":
                self.ids.append(value)
            if name.startswith("on"):
                self.handlers.append((tag, name))
            if tag == "section" and name == "id":
                self.section = value

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag, f"</{tag}> out of order"

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text[self.section] = self.text.get(self.section, "") + " " + data.strip()

    @property
    def words(self):
        return " ".join(self.text.values())


def report(tmp_path, *runs):
    return Page(write_report(runs, tmp_path / "out/report.html"))


def records_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_has_all_sections_in_one_file_that_loads_nothing(tmp_path):
    page = report(tmp_path, fabricate(tmp_path / "run"))
    assert [key for key in page.ids if key in SECTIONS] == SECTIONS
    assert not page.open, "every element is closed"
    assert {link[0] for link in page.links if link != "data:,"} == {"#"}
    assert not re.search(r"https?:|@import|//cdn", page.html)
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["report.html"]
    assert len(page.html) < 500_000


def test_the_verdict_stands_at_the_top(tmp_path):
    run = fabricate(tmp_path / "run")
    top = report(tmp_path, run).text[""]
    last = records_of(run)
    bits = [r["bits_per_byte"] for r in last if r["kind"] == "evaluation"][-1]
    for words in (
        f"{bits:.3f}", "bits per byte", "3-gram over bytes", "2.356", "unigram over tokens",
        "3.412", f"{1 - bits / 2.356:.0%} less", "Finished after 2,000 steps", "16.3M",
        "tokens/s", "3m 00s", "no peak figure for cpu", "3.15M parameters",
    ):  # fmt: skip
        assert words in top, words


def test_what_is_recorded_is_shown(tmp_path):
    text = report(tmp_path, fabricate(tmp_path / "run")).text
    for section, words in {
        "training": ["Learning rate", "Gradient norm", "Throughput", "Waiting for data"],
        "heldout": ["LanguageReference", "Perplexity / word", "All"],
        "samples": ["Step 2,000", "def ", "self.subTest"],
        "corpus": ["5,666", "44.7%", "99.69%", "1.23%", "not JSON", "sentencepiece", "9f2c9f2c"],
        "model": ["blocks/attention/q", "ZDNH", "6 × 256 × 8 × 32", "393,216"],
        "experiment": ["schedule.warmup_steps", "global, local", "embedded:sentencepiece"],
        "environment": ["lab-07", "gesso quickstart", "0.10.2"],
    }.items():
        for each in words:
            assert each in text[section], f"{each} in {section}"


def test_figures_are_well_formed_named_and_have_their_own_ids(tmp_path):
    page = report(tmp_path, fabricate(tmp_path / "run"))
    figures = re.findall(r"<svg.*?</svg>", page.html, re.DOTALL)
    assert len(figures) == 8
    for svg in figures:
        assert len(ElementTree.fromstring(svg).get("aria-label")) > 20
        assert not re.search(r"#[0-9a-f]{6}\b", svg), "colours come from the page"
    assert len(page.ids) == len(set(page.ids))
    for target in re.findall(r"url\(#([^)]+)\)", page.html) + [link[1:] for link in page.links]:
        assert target in page.ids or target == "ata:,", target


HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)">\'"&lt;$x^2$ {{ 7*7 }}'


def test_text_of_a_run_is_shown_never_run(tmp_path):
    calm = report(tmp_path, fabricate(tmp_path / "calm", components={"A": 1e6, "B": 1e5}))
    run = fabricate(
        tmp_path / "run", name=HOSTILE, components={HOSTILE: 1e6, "B": 1e5}, data={"store": HOSTILE}
    )
    records = records_of(run)
    for record in records:
        if record["kind"] == "sample":
            record |= {"prompt": HOSTILE, "text": HOSTILE}
    write_records(run, records)
    for name in ("environment", "corpus"):
        known = json.loads((run / f"{name}.json").read_text())
        dump(run, name, known | {"rejects": {HOSTILE: 1}, "host": {HOSTILE: HOSTILE}})
    dump(run, "parameters", [{"name": HOSTILE, "shape": [HOSTILE], "letters": HOSTILE, "count": 1}])
    page = report(tmp_path, run)
    assert page.tags.count("script") == calm.tags.count("script")
    assert "img" not in page.tags and not page.handlers
    assert {link[0] for link in page.links if link != "data:,"} == {"#"}
    for section in ("", "heldout", "samples", "corpus", "model", "experiment", "environment"):
        assert HOSTILE in page.text[section], section
    for data in re.findall(r'<script type="application/json">(.*?)</script>', page.html):
        json.loads(data)


def test_the_scripts_see_the_same_numbers_as_the_reader(tmp_path):
    page = report(tmp_path, fabricate(tmp_path / "run"))
    first = json.loads(re.findall(r'<script type="application/json">(.*?)</script>', page.html)[0])
    assert [series["label"] for series in first["series"]] == ["training", "held out"]
    for series in first["series"]:
        assert len(series["x"]) == len(series["y"]) == len(series["text"]) <= 600
        assert f"{series['y'][-1]:.3f}" == series["text"][-1]
        assert series["text"][-1] in page.text["training"]


@pytest.mark.parametrize("bad", ["NaN", "Infinity", None])
def test_losses_that_are_no_number_do_not_break_it(tmp_path, bad):
    run = fabricate(tmp_path / "run")
    records = records_of(run)
    for record in [r for r in records if r["kind"] == "train"][50:]:
        record |= {"loss": bad, "grad_norm": bad, "skipped": 1, "components": {"Stdlib": bad}}
    for record in [r for r in records if r["kind"] == "evaluation"][2:]:
        record |= {"loss": bad, "bits_per_byte": bad, "perplexity": bad}
    write_records(run, records)
    page = report(tmp_path, run)
    assert [key for key in page.ids if key in SECTIONS] == SECTIONS
    assert "150 updates were skipped" in page.text[""]
    assert "steps 510, 520," in page.text[""]


def test_every_loss_no_number(tmp_path):
    run = fabricate(tmp_path / "run", steps=200)
    records = records_of(run)
    write_records(run, [r | {"loss": "NaN"} for r in records if r["kind"] == "train"])
    assert "Gradient norm" in report(tmp_path, run).text["training"]


@pytest.mark.parametrize(
    ("removed", "section"),
    [
        ("experiment.json", "experiment"),
        ("environment.json", "environment"),
        ("corpus.json", "corpus"),
        ("parameters.json", "model"),
        ("metrics.jsonl", "training"),
    ],
)
def test_what_is_missing_is_said_and_left_out(tmp_path, removed, section):
    run = fabricate(tmp_path / "run")
    (run / removed).unlink()
    page = report(tmp_path, run)
    assert f"Not in the run folder: {removed}" in page.text[""]
    assert section not in page.ids
    assert set(SECTIONS) - set(page.ids) <= {section, "heldout", "samples"}


def test_a_damaged_record_counts_as_missing(tmp_path):
    run = fabricate(tmp_path / "run")
    (run / "corpus.json").write_text('{"components": {"Std')
    dump(run, "parameters", {"not": "a list"})
    top = report(tmp_path, run).text[""]
    assert "corpus.json, parameters.json" in top


def test_unfinished_preempted_and_resumed_runs(tmp_path):
    run = fabricate(tmp_path / "run", done=False)
    assert "Unfinished, at step 2,000 of 2,000" in report(tmp_path, run).text[""]
    records = curves(0, 2000, {"A": 1.0}, 1e-3)[:80]
    records.append({"kind": "event", "step": 700, "event": "preempted"})
    write_records(run, records)
    assert re.search(r"Preempted at step \d+ of 2,000", report(tmp_path, run).text[""])
    write_records(run, [*records, {"kind": "event", "step": 700, "event": "started"}])
    assert "in 2 starts" in report(tmp_path, run).text[""]


def test_a_run_that_has_only_begun(tmp_path):
    run = fabricate(tmp_path / "run")
    write_records(run, [{"kind": "event", "step": 0, "event": "started"}])
    page = report(tmp_path, run)
    assert "training" not in page.ids and "Unfinished, at step 0 of 2,000" in page.text[""]


def test_a_step_written_twice_counts_once(tmp_path):
    run = fabricate(tmp_path / "run", steps=200)
    before = report(tmp_path, run)
    records = records_of(run)
    wrong = [r | {"loss": 99.0, "text": "old"} for r in records if r["kind"] != "event"]
    write_records(run, [*wrong, *records])
    assert report(tmp_path, run).html == before.html


def test_it_reads_what_metrics_writes(tmp_path):
    from gesso.pretrain.config import LoggingConfig

    run = fabricate(tmp_path / "run", components={"A": 1e6})
    (run / "metrics.jsonl").unlink()
    with Metrics(run, LoggingConfig(tensorboard=False), resume_step=0) as metrics:
        for record in curves(0, 2000, {"A": 1.0}, 1e-3):
            metrics.write(record | ({"loss": math.nan} if record["step"] == 500 else {}))
    assert "NaN" in (run / "metrics.jsonl").read_text()
    page = report(tmp_path, run)
    assert "Gradient norm" in page.text["training"] and " A " in page.text["heldout"]
    assert "by component" not in page.words, "there is but one"


def test_the_same_run_gives_the_same_bytes(tmp_path):
    run = fabricate(tmp_path / "run", steps=200)
    assert report(tmp_path, run).html == report(tmp_path, run).html


def test_many_components_are_told_apart_or_gathered(tmp_path):
    pile = {f"Component {i}": 1e9 / (i + 1) for i in range(22)}
    page = report(tmp_path, fabricate(tmp_path / "run", components=pile))
    assert "14 others" in page.text["training"]
    assert all(name in page.text["heldout"] and name in page.text["corpus"] for name in pile)


def test_runs_side_by_side(tmp_path):
    runs = [
        fabricate(tmp_path / "one", name="one"),
        fabricate(tmp_path / "two", name="two", seed=5, learning_rate=3e-4, done=False),
    ]
    page = report(tmp_path, *runs)
    sections = ["differences", "curves", "components", "experiments", "environments"]
    assert [key for key in page.ids if key in sections] == sections
    assert "Finished after 2,000 steps" in page.text[""] and "Unfinished" in page.text[""]
    rows = page.text["differences"]
    assert "optimizer.learning_rate" in rows and "0.0006" in rows and "0.0003" in rows
    assert "seed" in rows and "batch" not in rows, "only what differs"
    assert len(re.findall(r'class="best"', page.html)) == 4
    assert len(page.ids) == len(set(page.ids))


def test_many_differences_stand_one_below_the_other(tmp_path):
    runs = [
        fabricate(
            tmp_path / name, name=name, steps=200, model={f"field_{i}": i * n for i in range(9)}
        )
        for n, name in enumerate(("one", "two"))
    ]
    rows = re.findall(r"<tr>(.*?)</tr>", report(tmp_path, *runs).html, re.DOTALL)
    assert any(
        re.sub(r"<[^>]+>|\s+", " ", row).split() == ["model.field_8", "0", "8"] for row in rows
    )


def test_repetitions_and_other_stores_are_called_so(tmp_path):
    runs = [fabricate(tmp_path / name, steps=200) for name in ("a", "b")]
    page = report(tmp_path, *runs)
    assert "repetitions of one experiment" in page.text["differences"]
    assert "a · b" in page.words, "equal names are told apart by their folders"
    corpus = json.loads((runs[0] / "corpus.json").read_text())
    dump(runs[0], "corpus", corpus | {"store": "other"})
    assert "different token stores" in report(tmp_path, *runs).text[""]


def test_what_is_no_run_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotARun, match="not a run folder"):
        write_report([tmp_path / "empty"], tmp_path / "x.html")
    with pytest.raises(ValueError, match="at least one"):
        write_report([], tmp_path / "x.html")
    run = fabricate(tmp_path / "run", steps=200)
    with pytest.raises(ValueError, match="named twice"):
        write_report([run, tmp_path / "empty/../run"], tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()
