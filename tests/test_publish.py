"""Publishing sends a run, its card and its evaluation, and nothing that must stay here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("huggingface_hub", reason="the train extra is not installed")
pytest.importorskip("matplotlib", reason="the train extra is not installed")

from hypothesis import given
from hypothesis import strategies as st
from local_hub import TOKEN, LocalHub, local_hub
from safetensors.numpy import save_file

from training import hub_upload, publish, redaction
from training.publish_folder import listing

pytestmark = [pytest.mark.filterwarnings("default")]
ROOT = Path(__file__).resolve().parents[1]
EVIDENCE = ROOT / "docs" / "results" / "demo"
REPO = "ada/rounds-review-easy"
HOME = "/" + "home/ada/rounds/runs/sft/model"
KEY = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
RECORD = {
    "trained_on": [
        {
            "family": "polypharmacy",
            "task": "review_easy",
            "split": "train",
            "seed_from": 0,
            "seed_to": 9,
        }
    ],
    "style": "brief",
    "init": "tiny",
    "versions": {"polypharmacy": "1.0.0", "torch": "2.13.0"},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished GRPO run in files: small weights, a tokenizer, journals, an evaluation."""
    folder = tmp_path / "runs" / "mine"
    model = folder / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text(json.dumps({"model_type": "qwen3", "dtype": "float32"}))
    (model / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"/" + "home/x": 1}}}))
    (model / "rounds.json").write_text(json.dumps(RECORD))
    save_file({"w": np.arange(6, dtype=np.float32)}, model / "model.safetensors")
    (folder / "config.json").write_text(
        json.dumps({"num_generations": 8, "max_steps": 3, "model": HOME, "learning_rate": 1e-3})
    )
    steps = [{"step": i, "reward": i / 10, "score": 0.5, "seconds": 2.0 * i} for i in range(1, 4)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(s) + "\n" for s in steps))
    looks = [{"step": i, "score": 0.5, "return": 0.2 * i, "n": 4} for i in (0, 3)]
    (folder / "validation.jsonl").write_text("".join(json.dumps(look) + "\n" for look in looks))
    for path in EVIDENCE.iterdir():
        shutil.copyfile(path, folder / path.name)
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A real HTTP server that huggingface_hub takes for the Hub."""
    from huggingface_hub import constants, utils

    with local_hub() as server:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        utils.close_session()
        yield server
    utils.close_session()


def send(run: Path, *flags: str) -> int:
    return publish.main([str(run), "--to", REPO, *flags])


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name, _ in listing(folder)}


def front(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    return read


# -- the folder ----------------------------------------------------------------------------------


def test_a_dry_run_builds_the_folder_shows_it_and_sends_nothing(
    run: Path, hub: LocalHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert send(run, "--dry-run") == 0
    assert hub.calls == []
    names = {name for name, _ in listing(run / "publish")}
    assert {
        "README.md",
        "model.safetensors",
        "tokenizer.json",
        "config.json",
        "rounds.json",
        "reward_curve.png",
        "evaluation/before_after.json",
        "training/config.json",
        ".eval_results/rounds_review_easy.yaml",
    } <= names
    said = capsys.readouterr().out
    assert "model.safetensors" in said
    assert "dry run: nothing was sent" in said
    assert "Research only, not medical advice" in said


def test_preparing_twice_gives_the_same_bytes(run: Path) -> None:
    assert send(run, "--dry-run") == 0
    first = content(run / "publish")
    assert send(run, "--dry-run") == 0
    assert content(run / "publish") == first


def kept(run: Path) -> dict[str, float]:
    """The trained row of the evaluation that the run brings."""
    rows = json.loads((run / "before_after.json").read_text())["rows"]
    return dict(next(row for row in rows if row["agent"] == "grpo"))


def test_the_card_tells_the_score_with_its_interval_seeds_and_environment(run: Path) -> None:
    assert send(run, "--dry-run") == 0
    card = (run / "publish" / "README.md").read_text()
    row = kept(run)
    assert (
        f"score **{row['score']:.3f}** (95 % interval {row['score_low']:.3f} to {row['score_high']:.3f})"
        in card
    )
    assert "seeds 0 to 499" in card
    assert "polypharmacy 1.0.0" in card
    assert f"{100 * row['refusal_share']:.1f} % of its answers were refused" in card
    assert "![Reward during training](reward_curve.png)" in card


def test_the_model_index_reads_back_as_the_hubs_own_results(run: Path) -> None:
    from huggingface_hub import ModelCard

    assert send(run, "--dry-run") == 0
    data = ModelCard.load(run / "publish" / "README.md").data
    results = {r.metric_type: r for r in data.eval_results}
    assert results["score"].metric_value == pytest.approx(kept(run)["score"], abs=1e-4)
    assert results["score"].dataset_config == "review_easy"
    ends = {f"ci95_{end}": round(kept(run)[f"score_{end}"], 4) for end in ("low", "high")}
    assert results["score"].metric_args == ends
    assert data.license == "mit"
    assert front(run / "publish")["model-index"][0]["name"] == "rounds-review-easy"


def test_eval_results_parse_as_the_hubs_own_entries(run: Path) -> None:
    from huggingface_hub import parse_eval_result_entries

    assert send(run, "--dry-run", "--benchmark", "ada/bench") == 0
    written = (run / "publish" / ".eval_results" / "rounds_review_easy.yaml").read_text()
    (entry,) = parse_eval_result_entries(yaml.safe_load(written))
    assert (entry.dataset_id, entry.task_id) == ("ada/bench", "review_easy")
    assert entry.value == pytest.approx(kept(run)["score"], abs=1e-4)
    assert f"{kept(run)['n']} test patients" in str(entry.notes)


# -- what must not leave -------------------------------------------------------------------------


def test_keys_and_paths_in_records_are_taken_out_and_listed(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "note": f"token {KEY}"}))
    assert send(run, "--dry-run") == 0
    kept = (run / "publish" / "training" / "config.json").read_text()
    assert KEY not in kept
    assert HOME not in kept
    assert json.loads(kept)["model"] == "[path]"
    said = capsys.readouterr().out
    assert "training/config.json:1: hugging face token" in said
    assert KEY[:8] not in said


def test_a_key_in_the_tokenizer_refuses_the_whole_folder(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "model" / "tokenizer.json").write_text(json.dumps({"vocab": {KEY: 1}}))
    assert send(run, "--dry-run") == 2
    assert not (run / "publish").exists()
    assert "tokenizer.json:1: hugging face token" in capsys.readouterr().err


def test_a_key_in_the_header_of_the_weights_refuses_the_whole_folder(run: Path) -> None:
    weights = {"w": np.zeros(2, dtype=np.float32)}
    save_file(weights, run / "model" / "model.safetensors", metadata={"made_with": KEY})
    assert send(run, "--dry-run") == 2


def test_the_words_of_a_tokenizer_stay_as_they_are(run: Path) -> None:
    assert send(run, "--dry-run") == 0
    for name in ("tokenizer.json", "model.safetensors"):
        assert (run / "publish" / name).read_bytes() == (run / "model" / name).read_bytes()


SECRETS = {
    "hugging face token": KEY,
    "api key": "sk-" + "proj-abcdefghijklmnop1234",
    "github token": "ghp_" + "a1B2" * 9,
    "aws key": "AKIA" + "ABCDEFGHIJKLMNOP",
    "bearer token": "Bearer " + "abcdefghijklmnopqrstuvwx",
    "user and password": "https://ada:" + "secret@example.org/x",
    "path": HOME,
    "host": "192." + "168.7.21:8000",
}


@pytest.mark.parametrize("kind", SECRETS)
def test_each_kind_of_secret_is_found_and_gone(kind: str) -> None:
    clean, removed = redaction.redact(f"before {SECRETS[kind]} after")
    assert [one.kind for one in removed] == [kind]
    assert f"[{kind}]" in clean
    assert redaction.redact(clean)[1] == []


@pytest.mark.parametrize(
    "harmless",
    [
        "score 0.806 [0.780, 0.829]; versions 1.2.3 and 5.23.0",
        "https://huggingface.co/docs/hub/eval-results",
        "runs/sft/model and [the table](evaluation/before_after.json)",
        "risk-benefit, half_life, task-specific-hyphenated-words-in-prose",
        '{"task": "review_easy", "seed": 7, "p/q": "1/2"}',
    ],
)
def test_plain_words_are_left_alone(harmless: str) -> None:
    assert redaction.redact(harmless) == (harmless, [])


@given(st.text(max_size=80), st.text(max_size=80))
def test_a_token_in_any_text_never_survives(before: str, after: str) -> None:
    clean, _ = redaction.redact(f"{before} {KEY} {after}")
    assert KEY not in clean


def test_this_machines_name_is_a_host() -> None:
    clean, removed = redaction.redact("logged on trainbox-7 today", hosts=["trainbox-7"])
    assert clean == "logged on [host] today"
    assert removed[0].kind == "host"


# -- over the wire -------------------------------------------------------------------------------


def test_what_arrives_is_the_folder_byte_for_byte(
    run: Path, hub: LocalHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert send(run, "--private", "--message", "first") == 0
    assert hub.files(REPO) == content(run / "publish")
    assert hub.private[REPO]
    assert hub.commits[0]["header"]["summary"] == "first"
    assert f"{hub.url}/{REPO}/commit/" in capsys.readouterr().out


def test_publishing_the_same_again_sends_nothing_new(run: Path, hub: LocalHub) -> None:
    assert send(run) == 0
    sent = len(hub.put)
    assert send(run) == 0
    assert (len(hub.put), len(hub.commits)) == (sent, 1)


def test_the_way_the_hub_prefers_where_xet_is_installed_carries_small_files(
    run: Path, hub: LocalHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its commits and refusals; the Xet transfer of large files itself needs the Hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.large = ()
    hub.refuse = lambda method, path: 403 if "/commit/" in path else None
    assert send(run) == 2
    assert "HTTP 403" in capsys.readouterr().err
    hub.refuse = lambda method, path: None
    assert send(run) == 0
    assert hub.files(REPO) == content(run / "publish")
    assert hub.put == []


def test_a_branch_is_made_and_main_stays_empty(run: Path, hub: LocalHub) -> None:
    assert send(run, "--branch", "seed-1") == 0
    assert hub.files(REPO, "seed-1") == content(run / "publish")
    assert hub.files(REPO) == {}


@pytest.mark.slow
def test_after_a_failed_commit_the_second_call_sends_no_weights_again(
    run: Path, hub: LocalHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.refuse = lambda method, path: 500 if "/commit/" in path else None
    assert send(run) == 2
    assert "repeat the command later" in capsys.readouterr().err
    first = list(hub.put)
    assert first
    hub.refuse = lambda method, path: None
    assert send(run) == 0
    assert hub.put == first
    assert hub.files(REPO) == content(run / "publish")


def test_a_refused_file_is_the_only_one_sent_again(run: Path, hub: LocalHub) -> None:
    import hashlib

    weights = hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()
    hub.refuse = lambda method, path: 403 if method == "PUT" and weights in path else None
    assert send(run) == 2
    assert weights not in hub.put
    before = len(hub.put)
    hub.refuse = lambda method, path: None
    assert send(run) == 0
    assert hub.put[before:] == [weights]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as small as one can be uploaded."""
    to = tmp_path / "small"
    to.mkdir()
    (to / "README.md").write_text("---\nlicense: mit\n---\n# small\n")
    save_file({"w": np.zeros(2, dtype=np.float32)}, to / "model.safetensors")
    return to


def refusal(folder: Path) -> str:
    with pytest.raises(hub_upload.NotUploaded) as raised:
        hub_upload.upload(folder, hub_upload.Target(REPO), "try")
    return str(raised.value)


@pytest.mark.parametrize(
    ("status", "where", "remedy"),
    [
        (401, "/api/repos/create", "make a new one with write access"),
        (403, "/api/repos/create", "ada must be you or an organisation of yours"),
        (404, "/preupload/", "no such repository or branch"),
        (409, "/commit/", "somebody else changed"),
        (413, "/commit/", "larger than the Hub takes"),
        (500, "/api/repos/create", "repeat the command later"),
    ],
)
def test_every_refusal_says_its_remedy(
    folder: Path, hub: LocalHub, status: int, where: str, remedy: str
) -> None:
    hub.refuse = lambda method, path: status if where in path else None
    said = refusal(folder)
    assert f"HTTP {status}" in said
    assert remedy in said
    assert TOKEN not in said


def test_without_a_token_nothing_is_sent(
    folder: Path, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no-token"))
    assert "hf auth login" in refusal(folder)
    assert hub.calls == []


def test_a_hub_that_is_not_there_is_named(
    folder: Path, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "cannot reach http://127.0.0.1:9" in refusal(folder)


def test_offline_mode_says_which_switch(
    folder: Path, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants, utils

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    utils.close_session()
    assert "unset HF_HUB_OFFLINE" in refusal(folder)


# -- what cannot be published --------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["ada", "ada/x/y", "ada/a--b", "ada/.x", "ada/x.git", "/x", "ada/" + "x" * 97]
)
def test_a_malformed_name_is_refused_before_anything_is_read(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert publish.main([str(tmp_path / "nothing"), "--to", name]) == 2
    assert "give user/name" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert send(tmp_path / "nothing", "--dry-run") == 2
    assert "is no folder" in capsys.readouterr().err
    assert send(tmp_path, "--dry-run") == 2
    assert "has no model yet" in capsys.readouterr().err


def test_without_an_evaluation_the_command_that_makes_one_is_shown(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "before_after.json").unlink()
    assert send(run, "--dry-run") == 2
    said = capsys.readouterr().err
    assert f"python -m training.evidence --sft {Path(HOME).parent} --grpo {run} --to {run}" in said
    assert "--task review_easy" in said


def test_a_table_without_this_model_names_the_agents_it_has(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert send(run, "--dry-run", "--agent", "mine") == 2
    assert (
        "no score of 'mine'; its agents: random, blind_stop, heuristic, sft, grpo"
        in capsys.readouterr().err
    )


def test_a_kept_comparison_is_an_evaluation_too(run: Path, tmp_path: Path) -> None:
    rows = json.loads((run / "before_after.json").read_text())["rows"]
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "table.json").write_text(json.dumps(rows))
    (kept / "seeds.json").write_text(
        json.dumps({"evaluated_on": [{"task": "review_easy", "seed_from": 40, "seed_to": 540}]})
    )
    assert send(run, "--dry-run", "--evidence", str(kept)) == 0
    (kept / "settings.json").write_text(json.dumps({"version": "1.2.0", "temperature": 1.0}))
    assert send(run, "--dry-run", "--evidence", str(kept)) == 0
    card = (run / "publish" / "README.md").read_text()
    assert "Patients: seeds 40 to 539; none of them was trained on. Temperature 1." in card
    assert "Environment: polypharmacy 1.2.0" in card


def test_a_table_of_other_weights_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from eval.language import fingerprint

    rows = json.loads((run / "before_after.json").read_text())["rows"]
    (tmp_path / "table.json").write_text(json.dumps(rows))
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"identities": {"grpo": "0123456789abcdef"}}))
    assert send(run, "--dry-run", "--evidence", str(tmp_path)) == 2
    assert "measured other weights" in capsys.readouterr().err
    settings.write_text(json.dumps({"identities": {"grpo": fingerprint(run / "model")}}))
    assert send(run, "--dry-run", "--evidence", str(tmp_path)) == 0


def test_an_adapter_is_asked_for_where_there_is_none(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert send(run, "--dry-run", "--what", "adapter") == 2
    assert "publish it with --what merged" in capsys.readouterr().err
