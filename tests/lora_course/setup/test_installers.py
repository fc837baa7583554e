"""What installs: uv with the tested versions and with what pip was told, or pip; what goes wrong is one sentence."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest

from lora_course.setup import installers

VERSIONS = Path("tested-versions.txt")


@pytest.fixture
def answering(monkeypatch):
    """Runs nothing: takes down each command, and answers with what it is given, in order; then with success."""

    def play(*answers):
        waiting, commands = list(answers), []

        def run(command, **options):
            commands.append(command)
            code, said = waiting.pop(0) if waiting else (0, "")
            return subprocess.CompletedProcess(command, code, stdout="", stderr=said)

        monkeypatch.setattr(installers.subprocess, "run", run)
        return commands

    monkeypatch.setattr(installers, "torch_backend", list)
    return play


def uv(settings=()):
    return installers.Uv("uv", Path("python"), dict(settings))


def test_uv_looks_for_versions_first_and_then_installs_them(answering):
    commands = answering()
    uv().install("clone[test]", VERSIONS, anew=False, upgrade=False)
    tried, installed = commands
    assert tried == [*installed, "--dry-run"]
    assert installed == ["uv", "pip", "install", "--python", "python", "--editable", "clone[test]",
                         "--constraints", "tested-versions.txt"]  # fmt: skip


def test_where_the_tested_versions_cannot_be_had_the_ranges_decide(answering, capsys):
    commands = answering((1, "No solution found when resolving dependencies"))
    uv().install("clone", VERSIONS, anew=False, upgrade=False)
    assert "tested-versions.txt" in commands[0] and "tested-versions.txt" not in commands[-1]
    assert "the tested versions cannot be had here" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("error: Failed to fetch: `https://index/torch/`\n  cause: dns error", "no network, or no way through it"),
        ("error: something else", "uv cannot install the course: error: something else"),
    ],
)
def test_what_uv_cannot_do_is_a_sentence_and_nothing_is_installed(answering, said, sentence):
    commands = answering((2, said))
    with pytest.raises(installers.SetupError, match=sentence):
        uv().install("clone", VERSIONS, anew=False, upgrade=False)
    assert len(commands) == 1


def test_an_installation_that_fails_half_way_says_where_the_reason_stands(answering):
    answering((0, ""), (1, ""))
    with pytest.raises(installers.SetupError, match="its last lines above say why"):
        uv().install("clone", VERSIONS, anew=False, upgrade=False)


def test_the_newest_releases_know_no_constraint(answering):
    told = {"constraint": ["/etc/pip/constraints.txt"], "find-links": ["/wheels"]}
    commands = answering()
    uv(told).install("clone", VERSIONS, anew=True, upgrade=False)
    assert {"--reinstall", "--constraints=/etc/pip/constraints.txt", "--find-links=/wheels"} <= set(commands[-1])
    uv(told).install("clone", None, anew=False, upgrade=True)
    assert "--upgrade" in commands[-1] and not [word for word in commands[-1] if "constraints" in word]


def test_what_pip_was_told_uv_is_told(tmp_path, monkeypatch):
    """From a file of pip's and from the environment, through the real pip."""
    settings = tmp_path / "pip.conf"
    settings.write_text(
        "[global]\nindex-url = https://index.example/simple\nextra-index-url =\n  https://one.example\n"
        "  https://two.example\ntrusted-host = index.example\ncert = /certificate.pem\n"
        "[install]\nfind-links = /wheels\n"
    )
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(settings))
    monkeypatch.setenv("PIP_INDEX_URL", "https://nearer.example/simple")
    told = installers.pip_settings()
    options = installers.uv_options(told)
    assert [option for option in options if option.startswith("--index=")] == [
        "--index=https://one.example", "--index=https://two.example",
    ]  # fmt: skip
    assert {"--index-strategy=unsafe-best-match", "--allow-insecure-host=index.example"} <= set(options)
    assert "--find-links=/wheels" in options
    assert [option for option in options if option.startswith("--default-index")] == [
        "--default-index=https://nearer.example/simple"
    ]
    assert installers.Uv("uv", Path("python"), told).environ["SSL_CERT_FILE"] == "/certificate.pem"


def test_without_uv_pip_takes_the_same_versions(answering, monkeypatch):
    monkeypatch.setattr(installers.shutil, "which", lambda name: None)
    commands = answering((1, "no wheel for this platform"), (1, ""))  # pip install uv; uv --version
    installer = installers.find_installer(Path("no/python"), None)
    installer.install("clone", VERSIONS, anew=False, upgrade=False)
    assert isinstance(installer, installers.Pip)
    assert commands[-1][-2:] == ["--constraint", "tested-versions.txt"]


def test_neither_uv_nor_pip_is_a_sentence(monkeypatch):
    monkeypatch.setattr(installers.shutil, "which", lambda name: None)
    monkeypatch.setattr(installers, "_runs", lambda command: False)
    monkeypatch.setattr(installers.subprocess, "run", Mock(return_value=Mock(returncode=1, stdout="", stderr="")))
    with pytest.raises(installers.SetupError, match="has no pip, and there is no uv"):
        installers.find_installer(Path("no/python"), None)


@pytest.mark.parametrize(
    ("platform", "answers", "options"),
    [("linux", True, ["--torch-backend=auto"]), ("linux", False, []), ("darwin", True, [])],
)
def test_torch_comes_from_its_own_index_if_that_answers(monkeypatch, platform, answers, options):
    monkeypatch.delenv("UV_TORCH_BACKEND", raising=False)
    monkeypatch.setattr(installers.sys, "platform", platform)
    monkeypatch.setattr(installers, "answers", lambda url: answers)
    assert installers.torch_backend() == options
    monkeypatch.setenv("UV_TORCH_BACKEND", "cpu")
    assert installers.torch_backend() == []  # uv reads it itself


def test_a_server_that_does_not_answer_costs_little(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes the call, and says nothing
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        start = time.monotonic()
        monkeypatch.setattr(installers, "PATIENCE", 0.3)
        assert not installers.answers(address)
        assert time.monotonic() - start < 20
    monkeypatch.setattr(installers, "PATIENCE", 60)
    assert not installers.answers(address)  # nobody is there
    assert installers.answers(Path(__file__).as_uri())


def test_a_real_environment_of_uv_keeps_our_mark(tmp_path):
    uv = installers.shutil.which("uv") or Path(sys.executable).with_name("uv")
    if not Path(uv).exists():
        pytest.skip("there is no uv here")
    (tmp_path / "made-by-lora-edu").touch()
    installers._make_venv(tmp_path, str(uv))
    assert (tmp_path / "made-by-lora-edu").exists() and (tmp_path / "pyvenv.cfg").exists()
