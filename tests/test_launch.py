"""The launcher brings both processes up, forwards what they say, and leaves none behind."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from configs.loader import ConfigError
from training.launch import Command, LaunchFailed, main, plan, run

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs/grpo/h200_qwen3b.yaml"

HEALTHY = """
import http.server, sys, threading, os
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *a): pass
print("serving", os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), H)
if len(sys.argv) > 2:
    threading.Timer(float(sys.argv[2]), os._exit, (7,)).start()
server.serve_forever()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def python(name: str, code: str, *words: object) -> Command:
    return Command(
        name, (sys.executable, "-c", code, *map(str, words)), {"CUDA_VISIBLE_DEVICES": "3"}
    )


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.is_file() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def test_the_last_gpus_generate_and_the_others_train() -> None:
    server, trainer = plan(CONFIG, ["0", "1", "2", "3"], 1, 8123, flags=["--max_steps", "5"])
    assert server.environment == {"CUDA_VISIBLE_DEVICES": "3"}
    assert trainer.environment == {"CUDA_VISIBLE_DEVICES": "0,1,2"}
    words = shlex.join(trainer.words)
    assert "--num_processes 3" in words and words.endswith("--max_steps 5")
    assert "--vllm_server_base_url http://127.0.0.1:8123" in words
    served = shlex.join(server.words)
    assert "--model runs/sft_qwen3b/model" in served and "--max_model_len 6144" in served


@pytest.mark.parametrize("serving", [0, 2, 3])
def test_too_few_gpus_are_named(serving: int) -> None:
    with pytest.raises(ConfigError, match=f"--serving {serving} of 2"):
        plan(CONFIG, ["0", "1"], serving, 8000)


def test_a_port_or_a_file_that_is_none_is_named() -> None:
    with pytest.raises(ConfigError, match="--port 99999"):
        plan(CONFIG, ["0", "1"], 1, 99999)
    with pytest.raises(ConfigError, match=r"nope\.yaml: no such file"):
        plan(CONFIG, ["0", "1"], 1, 8000, accelerate=Path("nope.yaml"))


def test_another_server_on_the_port_is_not_taken_for_ours() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(LaunchFailed, match=f"port {port} is taken"):
            run(python("vllm", HEALTHY, port), python("grpo", ""), f"http://127.0.0.1:{port}")


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vllm is installed here")
def test_without_vllm_nothing_is_started(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(CONFIG), "--gpus", "0,1"]) == 2
    assert "vllm is not installed: pip install" in capsys.readouterr().err


def test_another_model_can_be_served() -> None:
    server, _ = plan(CONFIG, ["0", "1"], 1, 8000, flags=["--model=runs/other/model"])
    assert "runs/other/model" in server.words


def test_the_trainers_exit_code_is_the_launchers(capfd: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    trainer = python("grpo", "import sys; print('learning'); sys.exit(5)")
    assert run(python("vllm", HEALTHY, port), trainer, f"http://127.0.0.1:{port}") == 5
    said = capfd.readouterr().err
    assert "[vllm] serving 3" in said and "[grpo] learning" in said


def test_no_process_is_left_when_the_trainer_is_over(tmp_path: Path) -> None:
    port, told = free_port(), tmp_path / "pids"
    nested = (
        "import os,subprocess,sys,pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(told)!r}).write_text(str(child.pid))\n"
    )
    assert (
        run(python("vllm", HEALTHY, port), python("grpo", nested), f"http://127.0.0.1:{port}") == 0
    )
    orphan, deadline = int(told.read_text()), time.monotonic() + 5
    while alive(orphan) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(orphan)


def test_a_server_that_ends_before_it_is_healthy_is_an_error() -> None:
    server = python("vllm", "import sys; sys.exit('no such model')")
    with pytest.raises(LaunchFailed, match="code 1 before it was healthy"):
        run(server, python("grpo", ""), f"http://127.0.0.1:{free_port()}")


def test_a_server_that_never_answers_is_given_up() -> None:
    server = python("vllm", "import time; time.sleep(600)")
    with pytest.raises(LaunchFailed, match="--wait"):
        run(server, python("grpo", ""), f"http://127.0.0.1:{free_port()}", wait_s=0.5)


def test_a_server_that_dies_takes_the_trainer_with_it() -> None:
    port = free_port()
    with pytest.raises(LaunchFailed, match="goes on from its last checkpoint"):
        run(
            python("vllm", HEALTHY, port, 1.5),
            python("grpo", "import time; time.sleep(600)"),
            f"http://127.0.0.1:{port}",
        )


def test_interrupting_the_launcher_lets_the_trainer_save(tmp_path: Path) -> None:
    port, saved = free_port(), tmp_path / "saved"
    trainer = (
        "import signal, sys, time, pathlib\n"
        "def save(*_):\n"
        f"    pathlib.Path({str(saved)!r}).write_text('yes'); sys.exit(130)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    code = (
        "import sys\nfrom training.launch import Command, run\n"
        f"serve = Command('vllm', (sys.executable, '-c', {HEALTHY!r}, '{port}'),"
        " {'CUDA_VISIBLE_DEVICES': '0'})\n"
        f"learn = Command('grpo', (sys.executable, '-c', {trainer!r}), {{}})\n"
        f"sys.exit(run(serve, learn, 'http://127.0.0.1:{port}'))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stderr is not None
        while "ready" not in child.stderr.readline():
            assert child.poll() is None
        child.terminate()
        assert child.wait(30) == 130
    assert saved.read_text() == "yes"


def test_the_commands_can_be_seen_without_starting_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(CONFIG), "--gpus", "0,1", "--dry-run"]) == 0
    server, trainer = capsys.readouterr().out.strip().splitlines()
    assert "vllm-serve" in server and "training.grpo" in trainer
    assert main(["--config", str(CONFIG), "--gpus", ""]) == 2
    assert "--gpus" in capsys.readouterr().err
